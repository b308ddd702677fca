//! A child process that cannot outlive the test.
//!
//! The child leads a process group of its own, so that one signal reaches whatever it starts, and a Ctrl-C meant for
//! the test runner does not reach it half-way. Only groups started here are ever signalled.
//!
//! ```text
//! test process ──spawns──► child (group leader) ──► its own children
//!      └──pipe──► watcher: reads until the pipe closes, then kills the child's group
//! ```
//!
//! The watcher is for the ends that run no destructor: a test process killed, or a server kept in a `static`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Lines of the log shown with a failure.
const TAIL_LINES: usize = 60;

/// How often [`ChildGuard::wait`] looks whether the child has ended.
const EXIT_POLL: Duration = Duration::from_millis(25);

/// Kills a process group when its standard input closes. `$1` is the group.
const WATCHER: &str = r#"read -r _; kill -s KILL -- "-$1""#;

/// A running child process; dropping it kills the child and all it started.
#[derive(Debug)]
pub struct ChildGuard {
    name: String,
    log: PathBuf,
    child: Child,
    watcher: Child,
    exit: Option<ExitStatus>,
}

impl ChildGuard {
    /// Starts `command` with its output appended to the file `log`; `name` is what messages call it.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let (name, log) = (name.into(), log.into());
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        match watch(child.id()) {
            Ok(watcher) => Ok(Self { name, log, child, watcher, exit: None }),
            Err(error) => {
                child.kill().and_then(|()| child.wait()).context("cannot end an unwatched child")?;
                Err(error)
            }
        }
    }

    /// The process id, which is also the id of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the child's output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of the child's output, for a failure message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("---- the end of {}'s log ----\n{}\n----", self.name, tail.join("\n"))
    }

    /// The status with which the child has ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the operating system refuses the question.
    pub fn try_exit(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().with_context(|| format!("cannot ask about {}", self.name))?;
        }
        Ok(self.exit)
    }

    /// Asks the child (not its group) to end, with SIGTERM, and waits for it.
    ///
    /// # Errors
    /// When it has not ended after `patience`; it still runs then.
    pub async fn terminate(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        if self.try_exit()?.is_none() {
            kill_process(pid_of(&self.child), Signal::TERM).with_context(|| format!("cannot signal {}", self.name))?;
        }
        match tokio::time::timeout(patience, self.wait()).await {
            Ok(status) => status,
            Err(_) => bail!("{} did not end {patience:?} after SIGTERM\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until the child ends.
    ///
    /// # Errors
    /// As [`ChildGuard::try_exit`].
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_exit()? {
                return Ok(status);
            }
            tokio::time::sleep(EXIT_POLL).await;
        }
    }

    /// Sends SIGKILL to the child's group and reaps the child.
    pub fn kill(&mut self) {
        // Once reaped, the group's id may belong to a stranger.
        if self.exit.is_none() {
            // Fails only when the group is gone, which is what we want.
            let _ = kill_process_group(pid_of(&self.child), Signal::KILL);
            self.exit = self.child.wait().ok();
        }
    }
}

impl Drop for ChildGuard {
    #[expect(clippy::print_stderr, reason = "the test harness shows a failed test's standard error")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        // The watcher first: it must not signal a group whose id is free again.
        let _ = self.watcher.kill().and_then(|()| self.watcher.wait());
        self.kill();
    }
}

fn watch(group: u32) -> anyhow::Result<Child> {
    Command::new("/bin/sh")
        .args([OsStr::new("-c"), OsStr::new(WATCHER), OsStr::new("watcher"), OsStr::new(&group.to_string())])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the watcher of a child process")
}

fn pid_of(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("Linux process ids fit an i32");
    Pid::from_raw(raw).expect("a child's process id is not zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, ChildGuard) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let guard = ChildGuard::spawn("a shell", command, folder.path().join("log")).unwrap();
        (folder, guard)
    }

    fn runs(pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(EXIT_POLL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition holds within ten seconds");
    }

    #[tokio::test]
    async fn dropping_the_guard_ends_the_child_and_its_children() {
        let (_folder, guard) = shell("sleep 1000 & echo $!; wait");
        until(|| std::fs::read_to_string(guard.log_path()).unwrap().ends_with('\n')).await;
        let grandchild: u32 = std::fs::read_to_string(guard.log_path()).unwrap().trim().parse().unwrap();
        let child = guard.pid();
        assert!(runs(child) && runs(grandchild));
        drop(guard);
        until(|| !runs(child) && !runs(grandchild)).await;
    }

    #[tokio::test]
    async fn a_child_ends_when_the_pipe_to_its_watcher_closes() {
        let (_folder, mut guard) = shell("sleep 1000");
        drop(guard.watcher.stdin.take());
        let status = tokio::time::timeout(Duration::from_secs(10), guard.wait()).await.unwrap().unwrap();
        assert!(!status.success());
    }

    #[tokio::test]
    async fn a_child_that_ignores_sigterm_is_named_with_its_log() {
        let (_folder, mut guard) = shell("trap '' TERM; echo deaf; while :; do sleep 1; done");
        until(|| std::fs::read_to_string(guard.log_path()).unwrap() == "deaf\n").await;
        let error = guard.terminate(Duration::from_millis(200)).await.unwrap_err().to_string();
        assert!(error.contains("a shell did not end") && error.contains("deaf"), "{error}");
    }
}
