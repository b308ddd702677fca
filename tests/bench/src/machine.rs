//! The machine, and the versions of what is measured beside: figures mean nothing without them.

use std::fmt;
use std::process::{Command, Stdio};

use serde::Serialize;

/// The machine.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename = "machine", rename_all = "snake_case")]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    memory_mib: u64,
    kernel: String,
    rustc: &'static str,
    etcd: String,
    rabbitmq: String,
    erlang: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn look() -> Self {
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()).trim().to_owned(),
            rustc: env!("REEVE_BENCH_RUSTC"),
            etcd: told("etcd", &["--version"]),
            rabbitmq: rabbitmq(),
            erlang: told("erl", &["-noshell", "-eval", ERLANG]),
        }
    }
}

/// Says the release and the emulator's version, and ends.
const ERLANG: &str =
    r#"io:format("OTP ~s, erts ~s~n", [erlang:system_info(otp_release), erlang:system_info(version)]), halt()."#;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The first line that a program says; `absent` where there is none of it.
fn told(program: &str, arguments: &[&str]) -> String {
    let said = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let said = said.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(|| "absent".to_owned())
}

/// By the name of its folder: asking the program takes seconds.
fn rabbitmq() -> String {
    let folders = std::fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().find(|name| name.starts_with("rabbitmq_server")).unwrap_or_else(|| "absent".to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores, {}, {} MiB, Linux {}; {}; {}; {}; {}",
            self.cores, self.cpu, self.memory_mib, self.kernel, self.rustc, self.etcd, self.rabbitmq, self.erlang
        )
    }
}
