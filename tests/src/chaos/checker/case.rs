//! What a history says of each VM, command and shard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::Policy;
use reeve_protocol::admin::VmView;
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{BackupId, Epoch, MessageId, NodeId, ShardId, Timestamp, VmId};
use serde_json::Value;

use super::clocks::{Clocks, Decided};
use crate::chaos::history::{Again, Call, Caller, Entry, Sent, What};

/// How far two times that are taken by different processes may disagree: who writes a line may have waited for a core.
pub(super) const SLACK: Duration = Duration::from_secs(1);
/// How much later than it happened something of a node that has lost its shard may be seen. Its right to act ends before
/// anybody can claim the shard, so what it sent was sent before the claim, and what a stopped process had sent is in the
/// machine's buffers and arrives without it. What is left is the time on the way through a busy machine, against which the
/// claim itself is heard of later, never earlier. As long again must the watch of claims have been deaf before a call
/// of a node that just claimed the shard again could be taken for one of a stale owner.
pub(super) const ON_ITS_WAY: Duration = Duration::from_secs(3);

/// An event, when it was first heard, and when it was decided.
#[derive(Debug)]
pub(super) struct Heard<'a> {
    pub(super) at: Timestamp,
    pub(super) decided: Decided,
    pub(super) event: &'a CloudEvent,
}

/// A call that changed something, or tried to.
#[derive(Debug)]
pub(super) struct Made<'a> {
    pub(super) at: Timestamp,
    pub(super) call: &'a Call,
}

impl Made<'_> {
    /// The node that called, if one did.
    pub(super) fn node(&self) -> Option<&NodeId> {
        match &self.call.by {
            Caller::Node(node) => Some(node),
            Caller::Others => None,
        }
    }

    /// Whether a node called and something changed.
    pub(super) fn is_done(&self, kind: CallKind) -> bool {
        self.call.call == kind && self.call.applied && self.node().is_some()
    }
}

/// A command and its answers.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) sent: &'a Sent,
    pub(super) first_at: Timestamp,
    /// The answers that are for good, in the order in which they came.
    pub(super) answers: Vec<(Timestamp, &'a Value)>,
    /// Whether it was told that the VM is not known: an answer, though not for good.
    pub(super) not_found: bool,
    /// Why it was sent again, if it was.
    pub(super) again: BTreeSet<Again>,
}

impl<'a> Asked<'a> {
    fn new(at: Timestamp, sent: &'a Sent) -> Self {
        Self { sent, first_at: at, answers: Vec::new(), not_found: false, again: BTreeSet::new() }
    }

    /// After `unavailable` it is sent again; and a VM that is not known may be known later.
    fn take(&mut self, at: Timestamp, answer: &'a Value) {
        match answer["error"]["code"].as_str() {
            Some("unavailable") => {}
            Some("not_found") => self.not_found = true,
            _ => self.answers.push((at, answer)),
        }
    }

    /// Whether it was refused for good. An unanswered command may have had its effect.
    pub(super) fn was_refused(&self) -> bool {
        match self.answers.first() {
            Some((_, answer)) => !is_accepted(answer),
            None => self.not_found,
        }
    }

    /// Whether somebody answered.
    pub(super) fn is_answered(&self) -> bool {
        self.not_found || !self.answers.is_empty()
    }

    /// Whether it was accepted.
    pub(super) fn was_accepted(&self) -> bool {
        self.answers.first().is_some_and(|(_, answer)| is_accepted(answer))
    }
}

/// Everything about one VM.
#[derive(Debug, Default)]
pub(super) struct Story<'a> {
    /// When a user made it, and under which policy.
    pub(super) made: Option<(Timestamp, &'a str)>,
    /// When a user deleted it in the cloud.
    pub(super) removed: Option<Timestamp>,
    /// Its events by sequence.
    pub(super) events: BTreeMap<u64, Heard<'a>>,
    /// Events whose number was taken by another event.
    pub(super) forged: Vec<&'a CloudEvent>,
    pub(super) calls: Vec<Made<'a>>,
    pub(super) asked: Vec<&'a MessageId>,
    /// From when until when nobody was to touch it.
    pub(super) hands_off: Vec<(Timestamp, Timestamp)>,
    pub(super) last: Option<&'a VmView>,
    pub(super) in_cloud: Option<&'a str>,
    pub(super) in_vault: Vec<BackupId>,
}

impl<'a> Story<'a> {
    /// The events in their order.
    pub(super) fn told(&self) -> impl Iterator<Item = &Heard<'a>> {
        self.events.values()
    }

    /// How many events are of this type.
    pub(super) fn count(&self, kind: &str) -> usize {
        self.of(kind).count()
    }

    /// The events of this type, in their order.
    pub(super) fn of<'b>(&'b self, kind: &'b str) -> impl Iterator<Item = &'b Heard<'a>> {
        self.told().filter(move |heard| heard.event.kind == kind)
    }

    /// Whether it is gone, by whosever hand.
    pub(super) fn is_gone(&self) -> bool {
        let gone = ["reeve.vm.terminated", "reeve.vm.vanished"];
        self.removed.is_some() || gone.iter().any(|kind| self.count(kind) > 0)
    }

    fn date(&mut self, clocks: &Clocks) {
        let mut after = None;
        for heard in self.events.values_mut() {
            heard.decided = clocks.decided(heard.event.time, heard.at, after);
            after = Some(heard.decided.earliest);
        }
    }
}

/// A claim of a shard.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) at: Timestamp,
    pub(super) node: &'a NodeId,
    pub(super) epoch: Epoch,
    /// When it was heard that the node owns the shard no more; a later claim of another ends this one too.
    pub(super) ended: Option<Timestamp>,
}

/// Everything that a history says.
#[derive(Debug, Default)]
pub(super) struct Case<'a> {
    pub(super) shards: u16,
    policies: BTreeMap<&'a str, &'a Policy>,
    pub(super) vms: BTreeMap<VmId, Story<'a>>,
    pub(super) commands: BTreeMap<&'a MessageId, Asked<'a>>,
    pub(super) claims: BTreeMap<ShardId, Vec<Claim<'a>>>,
    /// Calls that name no VM.
    pub(super) loose: Vec<Made<'a>>,
    pub(super) unattended_ms: Vec<u64>,
    pub(super) clocks: Clocks,
    pub(super) restless: Vec<&'a str>,
    pub(super) nodes: Vec<(&'a NodeId, u64, u64)>,
    pub(super) last_owner: BTreeMap<ShardId, Option<&'a NodeId>>,
    /// Whether the run came to its end.
    pub(super) healed: bool,
}

impl<'a> Case<'a> {
    pub(super) fn read(entries: &'a [Entry]) -> Self {
        let mut case = Self::default();
        for entry in entries {
            case.take(entry.at, &entry.what);
        }
        case.take_launches_home();
        for story in case.vms.values_mut() {
            story.date(&case.clocks);
            story.calls.sort_by_key(|made| made.call.seq);
        }
        case
    }

    /// A launch is an act of the VM that is revived, and names the VM that it made.
    fn take_launches_home(&mut self) {
        let mut ancestors: BTreeMap<VmId, VmId> = BTreeMap::new();
        for (vm, story) in &self.vms {
            let revived = story.told().filter(|heard| heard.event.kind == "reeve.vm.revived");
            let made = revived.filter_map(|heard| heard.event.data["new_vm"].as_str()?.parse().ok());
            ancestors.extend(made.map(|new_vm: VmId| (new_vm, *vm)));
        }
        let mut launches = Vec::new();
        for (vm, story) in &mut self.vms {
            let is_launch = |made: &mut Made<'_>| made.call.call == CallKind::Launch;
            launches.extend(story.calls.extract_if(.., is_launch).map(|made| (ancestors.get(vm).copied(), made)));
        }
        for (ancestor, made) in launches {
            match ancestor {
                Some(ancestor) => self.vm(ancestor).calls.push(made),
                None => self.loose.push(made),
            }
        }
    }

    /// The policy of this name.
    pub(super) fn policy(&self, name: &str) -> Option<&'a Policy> {
        self.policies.get(name).copied()
    }

    /// The shard of a VM.
    pub(super) fn shard(&self, vm: VmId) -> ShardId {
        ShardId::of(vm, self.shards.max(1))
    }

    /// The commands of a type about a VM that were not refused.
    pub(super) fn granted<'b>(&'b self, story: &'b Story<'a>, kind: &'b str) -> impl Iterator<Item = &'b Asked<'a>> {
        let asked = story.asked.iter().filter_map(|id| self.commands.get(*id));
        asked.filter(move |asked| asked.sent.kind == kind && !asked.was_refused())
    }

    /// The commands of a type about a VM that were accepted.
    pub(super) fn accepted<'b>(&'b self, story: &'b Story<'a>, kind: &'b str) -> impl Iterator<Item = &'b Asked<'a>> {
        self.granted(story, kind).filter(|asked| asked.was_accepted())
    }

    fn vm(&mut self, vm: VmId) -> &mut Story<'a> {
        self.vms.entry(vm).or_default()
    }

    fn take(&mut self, at: Timestamp, what: &'a What) {
        match what {
            What::Begun { shards, policies, .. } => {
                self.clocks.begin(at);
                self.shards = *shards;
                self.policies = policies.iter().map(|(name, policy)| (name.as_str(), policy)).collect();
            }
            What::VmMade { vm, policy, .. } => self.vm(*vm).made = Some((at, policy)),
            What::VmRemoved { vm } => self.vm(*vm).removed = Some(at),
            What::HandsOff { vm } => self.vm(*vm).hands_off.push((at, Timestamp::MAX)),
            What::HandsOn { vm } => {
                if let Some(last) = self.vm(*vm).hands_off.last_mut() {
                    last.1 = last.1.min(at);
                }
            }
            What::Sent(sent) => {
                if !self.commands.contains_key(&sent.id) {
                    self.vm(sent.vm).asked.push(&sent.id);
                    self.commands.insert(&sent.id, Asked::new(at, sent));
                }
            }
            What::Resent { id, why } => {
                if let Some(asked) = self.commands.get_mut(id) {
                    asked.again.insert(*why);
                }
            }
            What::Answered { id, answer } => {
                if let Some(asked) = self.commands.get_mut(id) {
                    asked.take(at, answer);
                }
            }
            What::Call(call) => match call.vm {
                Some(vm) => self.vm(vm).calls.push(Made { at, call }),
                None => self.loose.push(Made { at, call }),
            },
            What::Event { event } => self.hear(at, event),
            What::Stepped { node, offset_ms } => self.clocks.step(at, node, *offset_ms),
            What::Owned { shard, node, epoch } => {
                self.claims.entry(*shard).or_default().push(Claim { at, node, epoch: *epoch, ended: None });
            }
            What::Disowned { shard } => {
                if let Some(last) = self.claims.get_mut(shard).and_then(|claims| claims.last_mut()) {
                    last.ended.get_or_insert(at);
                }
            }
            What::Unattended { ms, .. } => self.unattended_ms.push(*ms),
            What::Healed => self.healed = true,
            What::Restless { why } => self.restless.push(why),
            What::LastVm { view } => self.vm(view.id).last = Some(view),
            What::LastNode { node, vms, outbox } => self.nodes.push((node, *vms, *outbox)),
            What::LastShard { shard, owner } => {
                self.last_owner.insert(*shard, owner.as_ref());
            }
            What::InCloud { vm, state } => self.vm(*vm).in_cloud = Some(state),
            What::InVault { vm, backup } => self.vm(*vm).in_vault.push(*backup),
            What::FaultBegan { .. } | What::FaultEnded { .. } | What::FaultFailed { .. } => {}
        }
    }

    fn hear(&mut self, at: Timestamp, event: &'a CloudEvent) {
        let Some(vm) = event.subject.strip_prefix("vm/").and_then(|vm| vm.parse().ok()) else { return };
        let story = self.vm(vm);
        match story.events.get(&event.sequence) {
            None => {
                // Dated once the events before it are known, which may be heard of later.
                let decided = Decided { earliest: event.time, latest: event.time };
                story.events.insert(event.sequence, Heard { at, decided, event });
            }
            Some(known) if is_same(known.event, event) => {}
            Some(_) => story.forged.push(event),
        }
    }
}

/// Whether two messages are one event. Who published it may differ: a new owner publishes what the old one had committed.
fn is_same(one: &CloudEvent, other: &CloudEvent) -> bool {
    let told = |event: &CloudEvent| (event.id.clone(), event.kind.clone(), event.time, event.data.clone());
    told(one) == told(other)
}

fn is_accepted(answer: &Value) -> bool {
    answer["ok"] == true
}

/// A time among the data of an event.
pub(super) fn time(data: &Value, key: &str) -> Option<Timestamp> {
    data.get(key)?.as_str()?.parse().ok()
}
