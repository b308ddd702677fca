//! Reads a history and says which safety rules it breaks. Pure: the same history gives the same judgement.
//!
//! ```text
//! entries ─► Case (what is known of each VM, command and shard) ─► one function a rule ─► Judgement
//! ```
//!
//! A rule judges by what can be proven from the outside: times are those of the machine's clock, never those of a node
//! whose clock may have been stepped. Where a node's own word is all there is, it is set right by the steps of the clocks.

mod alerts;
mod case;
mod clocks;
mod commands;
mod destroyed;
mod effects;
mod end;
mod events;
mod hands_off;
mod leases;
mod once;
mod owners;
mod repairs;
#[cfg(test)]
mod tale;

use std::fmt;

use reeve_protocol::VmId;
use serde::Serialize;

use super::history::Entry;

use case::Case;

/// A safety rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// 1: destroyed only when a lease or a command asked for it, after a verified backup where the policy wants one.
    Destroyed,
    /// 2: no lease ends early, none is lost, none grows past its caps.
    Lease,
    /// 3: nothing is done twice for one decision.
    Once,
    /// 3: never two owners.
    OneOwner,
    /// 4: every repair step ends with a retest.
    Retest,
    /// 5: a human is told once an episode.
    Alert,
    /// 6: every command is answered, always with the same answer, and accepted ones have their effect.
    Command,
    /// 7: a locked VM, or one under maintenance, is left alone.
    HandsOff,
    /// Events are unique, and gapless per subject.
    Events,
    /// At the end everything is attended, owned, and as the cloud has it.
    End,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which.
    pub rule: Rule,
    /// Where, if it concerns one VM.
    pub vm: Option<VmId>,
    /// What was seen.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vm {
            Some(vm) => write!(f, "{:?}: VM {vm}: {}", self.rule, self.why),
            None => write!(f, "{:?}: {}", self.rule, self.why),
        }
    }
}

/// What the history shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Every rule that was broken, as often as it was.
    pub broken: Vec<Broken>,
    /// Different commands that were sent.
    pub commands_sent: u64,
    /// Those that were answered for good.
    pub commands_answered: u64,
    /// Those that were accepted.
    pub commands_accepted: u64,
    /// Those that were sent a second time because no answer came.
    pub resent: u64,
    /// Those that were sent again because the answer said that later it may be granted.
    pub retried: u64,
    /// Those that were sent again because the broker had not confirmed them.
    pub unconfirmed: u64,
    /// How many times a shard went from one node to another.
    pub handovers: u64,
    /// The longest that no node answered for a VM.
    pub longest_unattended_ms: u64,
    /// Calls that did something a second time, or for a stale owner.
    pub double_actions: u64,
    /// VMs, leases and commands that nobody knows of any more.
    pub lost: u64,
    /// VMs that nodes destroyed.
    pub destroyed: u64,
    /// Different events.
    pub events: u64,
}

/// Judges a history.
#[must_use]
pub fn check(entries: &[Entry]) -> Judgement {
    let case = Case::read(entries);
    let mut verdict = Judgement::default();
    events::check(&case, &mut verdict);
    destroyed::check(&case, &mut verdict);
    leases::check(&case, &mut verdict);
    once::check(&case, &mut verdict);
    owners::check(&case, &mut verdict);
    repairs::check(&case, &mut verdict);
    alerts::check(&case, &mut verdict);
    commands::check(&case, &mut verdict);
    effects::check(&case, &mut verdict);
    hands_off::check(&case, &mut verdict);
    end::check(&case, &mut verdict);
    verdict
}

impl Judgement {
    fn broke(&mut self, rule: Rule, vm: impl Into<Option<VmId>>, why: impl Into<String>) {
        self.broken.push(Broken { rule, vm: vm.into(), why: why.into() });
    }
}
