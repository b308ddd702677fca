//! The same tree in Erlang/OTP.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::{number, told};

const SOURCE: &str = include_str!("../../erlang/tree.erl");
/// Three processes a VM, and room.
const PROCESSES_PER_VM: u64 = 4;

/// Bytes a VM.
pub(super) struct Erlang {
    /// After every VM was probed once.
    pub(super) running: f64,
    /// After a full collection of garbage in every process.
    pub(super) collected: f64,
    /// What its allocators have given out then, whatever the operating system has given them.
    pub(super) allocated: f64,
}

/// Compiles the tree and measures it with so many VMs, after this long.
pub(super) async fn measure(vms: u64, round: Duration) -> Result<Erlang> {
    let folder = tempfile::tempdir().context("a folder for the compiled tree")?;
    let source = folder.path().join("tree.erl");
    std::fs::write(&source, SOURCE)?;
    let compiled = Command::new("erlc").arg("-o").arg(folder.path()).arg(&source).output();
    let compiled = compiled.context("erlc (it comes with the erlang-base of rabbitmq-server)")?;
    ensure!(compiled.status.success(), "erlc: {}", String::from_utf8_lossy(&compiled.stdout));
    let mut command = Command::new("erl");
    let processes = (vms * PROCESSES_PER_VM).max(262_144).to_string();
    command.args(["-noshell", "+P", &processes, "-pa"]).arg(folder.path());
    command.args(["-run", "tree", "main", &vms.to_string(), &round.as_millis().to_string()]);
    let answer = told(command).await.context("erl")?;
    let per_vm = |name| Ok::<f64, anyhow::Error>((number(&answer, name)? - number(&answer, "base")?) / vms as f64);
    Ok(Erlang {
        running: per_vm("running")?,
        collected: per_vm("collected")?,
        allocated: number(&answer, "allocated")? / vms as f64,
    })
}
