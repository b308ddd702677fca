//! What a run tells at its end: in words, and as one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::checker::Judgement;
use super::history::{Entry, What};

/// How many broken rules are told in words.
const TOLD: usize = 40;

/// The numbers of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many times a rule was broken.
    pub rules_broken: usize,
    /// How many faults there were.
    pub faults: u64,
    /// How many of each kind.
    pub faults_by_kind: BTreeMap<&'static str, u64>,
    /// Faults that could not be made.
    pub faults_failed: u64,
    /// Different commands that were sent.
    pub commands_sent: u64,
    /// Those that were answered.
    pub commands_answered: u64,
    /// Those that were accepted.
    pub commands_accepted: u64,
    /// How many times a shard went to another node.
    pub handovers: u64,
    /// The longest that no node answered for a VM, in milliseconds.
    pub longest_unattended_ms: u64,
    /// What was done a second time, or by a stale owner.
    pub double_actions: u64,
    /// VMs, leases and commands that nobody knows of any more.
    pub lost: u64,
    /// VMs that nodes destroyed.
    pub destroyed: u64,
    /// Different events.
    pub events: u64,
    /// Calls that reached the cloud and change something.
    pub calls: u64,
    /// How many times each rule was broken.
    pub broken_by_rule: BTreeMap<String, u64>,
}

impl Report {
    /// The report of a history and its judgement.
    #[must_use]
    pub fn new(entries: &[Entry], verdict: &Judgement) -> Self {
        let mut report = Self {
            seed: 0,
            rules_broken: verdict.broken.len(),
            faults: 0,
            faults_by_kind: BTreeMap::new(),
            faults_failed: 0,
            commands_sent: verdict.commands_sent,
            commands_answered: verdict.commands_answered,
            commands_accepted: verdict.commands_accepted,
            handovers: verdict.handovers,
            longest_unattended_ms: verdict.longest_unattended_ms,
            double_actions: verdict.double_actions,
            lost: verdict.lost,
            destroyed: verdict.destroyed,
            events: verdict.events,
            calls: 0,
            broken_by_rule: BTreeMap::new(),
        };
        for broken in &verdict.broken {
            *report.broken_by_rule.entry(format!("{:?}", broken.rule)).or_default() += 1;
        }
        for entry in entries {
            if let What::Begun { seed, .. } = entry.what {
                report.seed = seed;
            } else if let What::FaultBegan { kind, .. } = entry.what {
                report.faults += 1;
                *report.faults_by_kind.entry(kind.name()).or_default() += 1;
            } else if let What::FaultFailed { .. } = entry.what {
                report.faults_failed += 1;
            } else if let What::Call(_) = entry.what {
                report.calls += 1;
            }
        }
        report
    }

    /// In words.
    #[must_use]
    pub fn words(&self, verdict: &Judgement) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "seed {}: {} faults", self.seed, self.faults);
        for (kind, count) in &self.faults_by_kind {
            let _ = writeln!(text, "  {kind:<18} {count}");
        }
        if self.faults_failed > 0 {
            let _ = writeln!(text, "  could not be made  {}", self.faults_failed);
        }
        let _ = writeln!(
            text,
            "commands: {} sent, {} answered, {} accepted",
            self.commands_sent, self.commands_answered, self.commands_accepted
        );
        let _ = writeln!(
            text,
            "{} events, {} calls, {} VMs destroyed, {} hand-overs, longest unattended {} ms",
            self.events, self.calls, self.destroyed, self.handovers, self.longest_unattended_ms
        );
        let _ = writeln!(
            text,
            "rules broken: {}, done twice: {}, lost: {}",
            self.rules_broken, self.double_actions, self.lost
        );
        for broken in verdict.broken.iter().take(TOLD) {
            let _ = writeln!(text, "  {broken}");
        }
        if verdict.broken.len() > TOLD {
            let _ = writeln!(text, "  and {} more", verdict.broken.len() - TOLD);
        }
        text
    }
}
