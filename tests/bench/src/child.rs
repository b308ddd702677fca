//! A measurement in a process of its own, so that nothing measured before is in its memory, and what `/proc` tells of
//! a process.
//!
//! ```text
//! reeve-bench ─ spawns ─► reeve-bench child NAME ARGUMENT… ─ last line of stdout: JSON ─► reeve-bench
//! ```

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{activate, backup, footprint, poll, restart, step, timers};

/// What runs in a process of its own.
struct Part {
    name: &'static str,
    /// It starts what runtime it needs by itself.
    run: fn(&[String]) -> Result<Value>,
}

const PARTS: &[Part] = &[
    Part { name: footprint::CHILD, run: footprint::child },
    Part { name: footprint::RECORDS, run: footprint::records },
    Part { name: footprint::ractor_tree::CHILD, run: footprint::ractor_tree::child },
    Part { name: activate::CHILD, run: activate::child },
    Part { name: timers::CHILD, run: timers::child },
    Part { name: timers::IDLE, run: timers::idle },
    Part { name: poll::CHILD, run: poll::child },
    Part { name: poll::calls::CHILD, run: poll::calls::child },
    Part { name: restart::CHILD, run: restart::child },
    Part { name: backup::CHILD, run: backup::child },
    Part { name: step::CHILD, run: step::child },
    Part { name: crate::activate_etcd::CHILD, run: crate::activate_etcd::child },
];

/// The longest that a part may take.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Answers as a child.
pub(crate) fn answer(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let part = PARTS.iter().find(|part| part.name == name).with_context(|| format!("there is no part {name}"))?;
    let value = (part.run)(arguments)?;
    let mut out = std::io::stdout();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Asks a child for a measurement.
pub(crate) async fn ask(name: &str, arguments: &[String]) -> Result<Value> {
    let myself = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(myself);
    // What a backtrace costs at every panic is not the product's doing.
    command.env_remove("RUST_BACKTRACE").arg("child").arg(name).args(arguments);
    told(command).await.with_context(|| format!("child {name} {}", arguments.join(" ")))
}

/// A process that does not outlive whoever asked it.
struct Asked(Child);

impl Drop for Asked {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last line that a program says, as JSON.
pub(crate) async fn told(mut command: Command) -> Result<Value> {
    let mut trouble = tempfile::tempfile().context("a file for its errors")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(trouble.try_clone()?);
    let mut asked = Asked(command.spawn().context("it does not start")?);
    let mut stdout = asked.0.stdout.take().context("it has no stdout")?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        stdout.read_to_end(&mut said).map(|_| said)
    });
    let said = tokio::time::timeout(PATIENCE, reading).await.context("it does not end")???;
    let status = asked.0.wait().context("its end")?;
    if !status.success() {
        bail!("{status}: {}", end_of(&mut trouble)?);
    }
    let text = String::from_utf8_lossy(&said);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).context("it says nothing")?;
    serde_json::from_str(last).with_context(|| format!("its last line is no JSON: {last}"))
}

/// The end of what a program complained of.
fn end_of(file: &mut std::fs::File) -> Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A number of an answer.
pub(crate) fn number(answer: &Value, name: &str) -> Result<f64> {
    answer.get(name).and_then(Value::as_f64).with_context(|| format!("{name} is missing in {answer}"))
}

/// Resident bytes of a process (`VmRSS`); `self` is this one.
pub(crate) fn resident(process: &str) -> Result<u64> {
    status(process, "VmRSS:")
}

/// The most resident bytes that a process has had (`VmHWM`); `self` is this one.
pub(crate) fn peak(process: &str) -> Result<u64> {
    status(process, "VmHWM:")
}

/// From now on the peak of this process is counted anew (proc(5), `clear_refs`).
pub(crate) fn forget_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("the peak of the memory")
}

fn status(process: &str, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the status of the process")?;
    let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("there is no {name}"))?;
    let kib: u64 = line.split_whitespace().nth(1).with_context(|| format!("{name} has no number"))?.parse()?;
    Ok(kib * 1024)
}

/// The processor time that this process has had, in all its threads.
pub(crate) fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// An argument of a part, by its place.
pub(crate) fn argument<T: std::str::FromStr>(arguments: &[String], place: usize) -> Result<T> {
    let given = arguments.get(place).with_context(|| format!("argument {place} is missing"))?;
    ensure!(!given.is_empty(), "argument {place} is empty");
    given.parse().ok().with_context(|| format!("argument {place} is not understood: {given}"))
}
