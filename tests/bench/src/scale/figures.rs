//! The figures of a run, as `reeve-bench all --json` writes them: the machine first, then one figure a line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The machine of a run.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Machine {
    pub(super) cores: u64,
    pub(super) cpu: String,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    pub(super) rustc: String,
    pub(super) etcd: String,
    pub(super) rabbitmq: String,
    pub(super) erlang: String,
}

/// A figure.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    pub(super) goal: String,
    pub(super) met: Option<bool>,
    #[serde(default)]
    pub(super) baselines: BTreeMap<String, f64>,
    pub(super) ratio: Option<f64>,
    pub(super) n: u64,
    pub(super) spread: f64,
    #[serde(default)]
    pub(super) notes: BTreeMap<String, Value>,
}

impl Line {
    /// A number among what else was seen.
    pub(super) fn note(&self, name: &str) -> Option<f64> {
        self.notes.get(name).and_then(Value::as_f64)
    }

    /// The benchmark that it is of: `footprint` of `footprint/10000`, `rpc` of `rpc, 1 connection`.
    pub(super) fn benchmark(&self) -> &str {
        self.name.split(['/', ',']).next().unwrap_or(&self.name)
    }
}

/// What one run measured.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) machine: Machine,
    pub(super) lines: Vec<Line>,
}

impl Run {
    /// Reads a file of them.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("the figures {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the figures {}", path.display()))
    }

    /// Reads them from the text of such a file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut machine = None;
        let mut lines: Vec<Line> = Vec::new();
        for (number, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let at = || format!("line {}", number + 1);
            let value: Value = serde_json::from_str(text).with_context(at)?;
            if value.get("kind").and_then(Value::as_str) == Some("machine") {
                ensure!(machine.is_none(), "{}: a second machine; the figures are to be of one run", at());
                machine = Some(serde_json::from_value(value).with_context(at)?);
                continue;
            }
            let line: Line = serde_json::from_value(value).with_context(at)?;
            if lines.iter().any(|known| known.name == line.name) {
                bail!("{}: {} a second time; the figures are to be of one run", at(), line.name);
            }
            lines.push(line);
        }
        Ok(Self { machine: machine.context("no line tells the machine")?, lines })
    }

    /// The first figure of a benchmark.
    pub(super) fn first(&self, benchmark: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.benchmark() == benchmark)
    }

    /// The figure of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name)
    }

    /// The first figure of a benchmark that has such a note.
    fn noting(&self, benchmark: &str, note: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.benchmark().starts_with(benchmark) && line.note(note).is_some())
    }

    /// The figure of a benchmark that was measured at the largest size.
    fn largest(&self, benchmark: &str) -> Option<&Line> {
        let sized = self.lines.iter().filter(|line| line.benchmark() == benchmark && line.note("size").is_some());
        sized.max_by_key(|line| line.n)
    }
}

/// What the model takes from a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Readings {
    /// Resident bytes of a VM, at the largest size measured.
    pub(super) bytes_per_vm: f64,
    /// What of them is the record.
    pub(super) record_in_memory: f64,
    /// Bytes of the measured record in the store.
    pub(super) stored_bytes: f64,
    /// Bytes that etcd's database has for each of them, where that was measured.
    pub(super) database_bytes: Option<f64>,
    /// VMs per second from etcd into live trees, by one node.
    pub(super) loads_per_second: f64,
    /// VMs per second of a core from bytes into live trees.
    pub(super) activations_per_core: f64,
    /// Record writes per second into one etcd.
    pub(super) commits_per_second: f64,
    /// Notifications per second of a node that change a record, with their events.
    pub(super) intake_per_second: f64,
    /// Messages per second that a bare consumer takes out of one queue.
    pub(super) bare_per_second: f64,
    /// Seconds of a node's processor for each notification that changes a record.
    pub(super) intake_core_seconds: f64,
    /// The share of a core that one idle VM takes.
    pub(super) idle_cores_per_vm: f64,
    /// Probes per second of a core.
    pub(super) probes_per_core: f64,
    /// Calls of a cloud's API for 1,000 VMs and round of one node, with the probe that the cloud's listing answers.
    pub(super) calls_per_thousand: f64,
    /// Calls per second that a node answers.
    pub(super) rpc_per_second: f64,
    /// Milliseconds until the last VM of a killed node was answered for again, the TTL of that run, and its VMs.
    pub(super) takeover: (f64, f64, u64),
}

impl Readings {
    /// Out of a run, or which figures it lacks.
    pub(super) fn of(run: &Run) -> Result<Self> {
        let mut lacking = Vec::new();
        let mut need = |what: &'static str, found: Option<f64>| {
            found.filter(|value| *value > 0.0).unwrap_or_else(|| {
                lacking.push(what);
                f64::NAN
            })
        };
        let value = |line: Option<&Line>| line.map(|line| line.value);
        let (peers, idle) = (run.named("footprint/peers"), run.named("timers/idle"));
        let (loads, intake) = (run.noting("activate", "vms_per_second"), run.first("intake"));
        let takeover = run.first("takeover");
        let stored = peers.and_then(|line| line.note("stored_bytes"));
        let stored = stored.or_else(|| run.first("commit").and_then(|line| line.note("bytes_per_record")));
        let readings = Self {
            bytes_per_vm: need("footprint, of some size", value(run.largest("footprint"))),
            record_in_memory: need(
                "footprint/peers, the record alone",
                peers.and_then(|line| line.baselines.get("the record alone").copied()),
            ),
            stored_bytes: need("footprint/peers, stored_bytes", stored),
            database_bytes: loads.and_then(|line| line.note("database_bytes_per_vm")),
            loads_per_second: need("activate from etcd, vms_per_second", loads.and_then(|l| l.note("vms_per_second"))),
            activations_per_core: need("activate", value(run.named("activate"))),
            commits_per_second: need("commit", value(run.first("commit"))),
            intake_per_second: need("intake", value(intake)),
            bare_per_second: need(
                "intake, bare consumer",
                intake.and_then(|line| line.baselines.get("bare consumer").copied()),
            ),
            intake_core_seconds: need(
                "intake, node_processor_us_per_message",
                intake.and_then(|line| line.note("node_processor_us_per_message")),
            ) / 1e6,
            idle_cores_per_vm: need("timers/idle", idle.map(|line| line.value / 100.0 / line.n.max(1) as f64)),
            probes_per_core: need("poll", value(run.named("poll"))),
            calls_per_thousand: need("poll/calls", value(run.named("poll/calls"))),
            rpc_per_second: need("rpc", value(run.first("rpc"))),
            takeover: (
                need("takeover", value(takeover)),
                need("takeover, lease_ttl_ms", takeover.and_then(|line| line.note("lease_ttl_ms"))),
                takeover.map_or(0, |line| line.n),
            ),
        };
        ensure!(lacking.is_empty(), "the run lacks: {}", lacking.join("; "));
        Ok(readings)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Invented figures, round enough to compute with by hand.
    pub(in crate::scale) const INVENTED: &str = include_str!("invented.jsonl");

    #[test]
    fn a_run_is_read_and_what_the_model_needs_is_found() {
        let run = Run::parse(INVENTED).unwrap();
        assert_eq!(run.machine.cores, 2);
        let readings = Readings::of(&run).unwrap();
        assert_eq!(readings.bytes_per_vm, 4000.0, "the largest size counts");
        assert_eq!((readings.loads_per_second, readings.activations_per_core), (50_000.0, 100_000.0));
        assert_eq!((readings.intake_per_second, readings.bare_per_second), (2_000.0, 5_000.0));
        assert_eq!(readings.idle_cores_per_vm, 1e-8);
        assert_eq!(readings.takeover, (5_500.0, 5_000.0, 100_000));
    }

    #[test]
    fn a_figure_that_is_missing_is_named() {
        let without: Vec<&str> = INVENTED.lines().filter(|line| !line.contains("\"poll\"")).collect();
        let error = Readings::of(&Run::parse(&without.join("\n")).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the run lacks: poll");
    }

    #[test]
    fn two_runs_in_one_file_are_refused() {
        let machine = INVENTED.lines().next().unwrap();
        assert!(Run::parse(&format!("{INVENTED}\n{machine}")).is_err());
        let figure = INVENTED.lines().nth(1).unwrap();
        assert!(Run::parse(&format!("{INVENTED}\n{figure}")).is_err());
    }
}
