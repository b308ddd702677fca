//! What a run tells at its end: in words, and as one JSON object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use reeve_protocol::{MessageId, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::checker::Judgement;
use super::faults::FaultKind;
use super::history::{Entry, What};

/// How many broken rules are told in words.
const TOLD: usize = 40;

/// The kinds of fault that every usual run of two minutes draws.
const USUAL: [FaultKind; 14] = [
    FaultKind::KillNode,
    FaultKind::KillLeader,
    FaultKind::StopNode,
    FaultKind::CutEtcd,
    FaultKind::CutRabbit,
    FaultKind::CutPeers,
    FaultKind::SlowEtcd,
    FaultKind::RestartBroker,
    FaultKind::RestartEtcd,
    FaultKind::MoveEtcdLeader,
    FaultKind::ClockAhead,
    FaultKind::ClockBehind,
    FaultKind::BrokerDiskFull,
    FaultKind::VaultFull,
];
/// Beyond the lease TTL, for as long a VM may be unattended after its node has died: until somebody has claimed the shard
/// and loaded its records.
pub const TAKE_OVER: Duration = Duration::from_secs(1);

/// What was to be reached, and what was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Goal {
    /// The bound.
    pub goal: u64,
    /// The number of the run.
    pub measured: u64,
    /// Whether it keeps to the bound.
    pub met: bool,
}

/// The goals of a run by name; a name ends with the unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Goals(BTreeMap<&'static str, Goal>);

impl Goals {
    /// A number that is to be no more than this.
    pub fn at_most(&mut self, name: &'static str, goal: u64, measured: u64) {
        self.0.insert(name, Goal { goal, measured, met: measured <= goal });
    }

    /// A number that is to be no less than this.
    pub fn at_least(&mut self, name: &'static str, goal: u64, measured: u64) {
        self.0.insert(name, Goal { goal, measured, met: measured >= goal });
    }

    /// Whether every one is met.
    #[must_use]
    pub fn are_met(&self) -> bool {
        self.0.values().all(|goal| goal.met)
    }

    /// Adds them to those of a report that was written already.
    pub fn add_to(&self, report: &mut Value) {
        for (name, goal) in &self.0 {
            report["goals"][*name] = json!(goal);
        }
    }

    /// In words, one line each.
    #[must_use]
    pub fn words(&self) -> String {
        let mut text = String::new();
        for (name, Goal { goal, measured, met }) in &self.0 {
            let _ = writeln!(text, "goal {name} {goal}: {measured}, {}", if *met { "met" } else { "not met" });
        }
        text
    }
}

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
    /// The usual kinds that were not drawn.
    pub kinds_not_drawn: Vec<&'static str>,
    /// Faults that could not be made.
    pub faults_failed: u64,
    /// Different commands that were sent.
    pub commands_sent: u64,
    /// Those that were answered.
    pub commands_answered: u64,
    /// Those that were accepted.
    pub commands_accepted: u64,
    /// Those that were sent a second time because no answer came.
    pub resent: u64,
    /// Those that were sent again because they might be granted later.
    pub retried: u64,
    /// Those that were sent again because the broker had not confirmed them.
    pub unconfirmed: u64,
    /// Different commands a second, from the first to the last.
    pub rate_per_s: u64,
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
    /// What the run was to reach.
    pub goals: Goals,
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
            kinds_not_drawn: Vec::new(),
            faults_failed: 0,
            commands_sent: verdict.commands_sent,
            commands_answered: verdict.commands_answered,
            commands_accepted: verdict.commands_accepted,
            resent: verdict.resent,
            retried: verdict.retried,
            unconfirmed: verdict.unconfirmed,
            rate_per_s: rate(entries),
            handovers: verdict.handovers,
            longest_unattended_ms: verdict.longest_unattended_ms,
            double_actions: verdict.double_actions,
            lost: verdict.lost,
            destroyed: verdict.destroyed,
            events: verdict.events,
            calls: 0,
            broken_by_rule: BTreeMap::new(),
            goals: Goals::default(),
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
        if report.faults > 0 {
            let names = USUAL.iter().map(|kind| kind.name());
            report.kinds_not_drawn = names.filter(|name| !report.faults_by_kind.contains_key(name)).collect();
        }
        report
    }

    /// No VM is to be unattended for longer than a take-over takes.
    pub fn expect_attended(&mut self, ttl: Duration) {
        let goal = u64::try_from((ttl + TAKE_OVER).as_millis()).unwrap_or(u64::MAX);
        self.goals.at_most("longest_unattended_ms", goal, self.longest_unattended_ms);
    }

    /// In words.
    #[must_use]
    pub fn words(&self, verdict: &Judgement) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "seed {}: {} faults", self.seed, self.faults);
        for (kind, count) in &self.faults_by_kind {
            let _ = writeln!(text, "  {kind:<18} {count}");
        }
        if !self.kinds_not_drawn.is_empty() {
            let _ = writeln!(text, "  not drawn          {}", self.kinds_not_drawn.join(", "));
        }
        if self.faults_failed > 0 {
            let _ = writeln!(text, "  could not be made  {}", self.faults_failed);
        }
        let _ = writeln!(
            text,
            "commands: {} sent ({}/s), {} answered, {} accepted",
            self.commands_sent, self.rate_per_s, self.commands_answered, self.commands_accepted
        );
        let _ = writeln!(
            text,
            "sent again: {} without an answer, {} to be granted later, {} not confirmed",
            self.resent, self.retried, self.unconfirmed
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
        text.push_str(&self.goals.words());
        for broken in verdict.broken.iter().take(TOLD) {
            let _ = writeln!(text, "  {broken}");
        }
        if verdict.broken.len() > TOLD {
            let _ = writeln!(text, "  and {} more", verdict.broken.len() - TOLD);
        }
        text
    }
}

/// Different commands a second, from the first to the last.
fn rate(entries: &[Entry]) -> u64 {
    let mut seen: BTreeSet<&MessageId> = BTreeSet::new();
    let mut times: Vec<Timestamp> = Vec::new();
    for entry in entries {
        if let What::Sent(sent) = &entry.what
            && seen.insert(&sent.id)
        {
            times.push(entry.at);
        }
    }
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return 0 };
    let millis = u64::try_from(last.since(*first).as_millis()).unwrap_or(u64::MAX);
    let pauses = u64::try_from(times.len() - 1).unwrap_or(0);
    // To the nearest.
    (pauses * 1_000 + millis / 2).checked_div(millis).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use reeve_protocol::VmId;
    use uuid::Uuid;

    use super::super::checker::check;
    use super::super::faults::{Lane, Mix, Schedule};
    use super::super::history::Sent;
    use super::*;

    /// The kinds that begin within this time in either lane.
    fn drawn(seed: u64, lasts: Duration) -> BTreeSet<FaultKind> {
        let mut kinds = BTreeSet::new();
        for lane in [Lane::Nodes, Lane::World] {
            let mut schedule = Schedule::new(seed, lane, Mix::Usual, Duration::from_secs(5));
            let mut now = Duration::ZERO;
            loop {
                let planned = schedule.draw();
                now += planned.after;
                if now >= lasts {
                    break;
                }
                kinds.insert(planned.kind);
                now += planned.lasts;
            }
        }
        kinds
    }

    #[test]
    fn three_seeds_of_two_minutes_draw_every_usual_kind() {
        let kinds: BTreeSet<FaultKind> = (1..=3).flat_map(|seed| drawn(seed, Duration::from_secs(120))).collect();
        assert_eq!(kinds, BTreeSet::from(USUAL));
    }

    fn entry(ms: i64, what: What) -> Entry {
        Entry { at: Timestamp::from_millis(ms), what }
    }

    fn report(entries: &[Entry]) -> Report {
        Report::new(entries, &check(entries))
    }

    #[test]
    fn the_rate_counts_each_command_once() {
        let sent = |number: i64| {
            let id = MessageId::new(format!("c-{number}")).unwrap();
            What::Sent(Sent { id, vm: VmId::new(Uuid::from_u128(1)), kind: "vm.stop".to_owned(), body: json!({}) })
        };
        let mut entries: Vec<Entry> = (0..=100).map(|number| entry(number * 5, sent(number))).collect();
        assert_eq!(report(&entries).rate_per_s, 200);
        entries.push(entry(501, sent(7)));
        assert_eq!(report(&entries).rate_per_s, 200);
        assert_eq!(report(&entries[..1]).rate_per_s, 0);
    }

    #[test]
    fn a_report_names_the_kinds_that_were_not_drawn() {
        let began = USUAL[1..].iter().map(|kind| What::FaultBegan { number: 1, kind: *kind, target: "n1".to_owned() });
        let entries: Vec<Entry> = began.map(|what| entry(0, what)).collect();
        assert_eq!(report(&entries).kinds_not_drawn, ["kill_node"]);
    }

    #[test]
    fn a_goal_says_the_bound_the_figure_and_whether_it_was_met() {
        let unattended = entry(0, What::Unattended { vm: VmId::new(Uuid::from_u128(1)), ms: 7_000 });
        let mut report = report(&[unattended]);
        report.expect_attended(Duration::from_secs(5));
        let mut goals = Goals::default();
        goals.at_least("rate_per_s", 190, 200);
        assert!(goals.are_met() && !report.goals.are_met());
        let mut told = serde_json::to_value(&report).unwrap();
        goals.add_to(&mut told);
        assert_eq!(
            told["goals"],
            json!({
                "longest_unattended_ms": {"goal": 6_000, "measured": 7_000, "met": false},
                "rate_per_s": {"goal": 190, "measured": 200, "met": true},
            })
        );
        assert!(report.goals.words().contains("goal longest_unattended_ms 6000: 7000, not met"));
    }
}
