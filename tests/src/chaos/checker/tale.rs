//! Histories made by hand: a whole life that breaks nothing, and the words to break it with.

use std::collections::BTreeMap;

use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::Policy;
use reeve_protocol::admin::{LeaseView, VmView};
use reeve_protocol::event::{About, Category, CloudEvent};
use reeve_protocol::{
    CloudName, Epoch, EventId, Generation, MessageId, NodeId, ShardId, Span, Timestamp, UserId, VmId,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Judgement, Rule, check};
use crate::chaos::history::{Call, Caller, Entry, Sent, What};

const START_MS: i64 = 1_800_000_000_000;

pub(super) fn vm(number: u128) -> VmId {
    VmId::new(Uuid::from_u128(number))
}

/// A history that is being made. Each line comes a millisecond after the one before.
#[derive(Clone)]
pub(super) struct Tale {
    entries: Vec<Entry>,
    now: Timestamp,
    /// By how much the time that a node writes into its next event is off.
    off_ms: i64,
    sequences: BTreeMap<VmId, u64>,
    calls: u64,
}

impl Tale {
    pub(super) const SHARDS: u16 = 8;
    pub(super) const BACKUP: &'static str = "5f0c3f0a-9f0e-5e83-8a53-1d6a3c1c1a11";

    /// A run with the policy `short`: a minute, two extensions, backed up and destroyed.
    pub(super) fn new() -> Self {
        let mut policy = Policy::default();
        policy.lease.duration = Span::from_secs(60);
        policy.lease.extension = Span::from_secs(20);
        policy.lease.max_extensions = 2;
        policy.lease.max_total = Span::from_secs(600);
        let policies = BTreeMap::from([("short".to_owned(), policy)]);
        let now = Timestamp::from_millis(START_MS);
        let mut tale = Self { entries: Vec::new(), now, off_ms: 0, sequences: BTreeMap::new(), calls: 0 };
        tale.say(What::Begun { seed: 1, shards: Self::SHARDS, policies });
        tale
    }

    /// A VM's lease ends, it is backed up and destroyed, and nothing is wrong with it. Its events: 1 created, 2 expired,
    /// 3 terminating, 4 backup started, 5 verified, 6 ended.
    pub(super) fn whole_life() -> Self {
        let mut tale = Self::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        let ends_at = tale.lease(vm(1), 0, 60);
        tale.pass(61);
        tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        tale.event(vm(1), "backup.started", json!({"backup": Self::BACKUP, "purpose": "final", "late": false}));
        tale.event(vm(1), "backup.verified", json!({"backup": Self::BACKUP, "bytes": 5}));
        tale.call(vm(1), "n1", CallKind::DeleteServer, "");
        tale.event(vm(1), "lease.ended", json!({"reason": "destroyed"}));
        tale.last(vm(1), "n1", "deleted");
        tale.say(What::Healed);
        tale.say(What::InVault { vm: vm(1), backup: Self::BACKUP.parse().unwrap() });
        tale
    }

    pub(super) fn say(&mut self, what: What) {
        self.now = Timestamp::from_millis(self.now.as_millis() + 1);
        self.entries.push(Entry { at: self.now, what });
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now = self.now + Span::from_secs(seconds);
    }

    /// A time this many seconds from now, as events write it.
    pub(super) fn time(&self, seconds: i64) -> String {
        Timestamp::from_millis(self.now.as_millis() + seconds * 1_000).to_string()
    }

    /// The next event carries a time this many seconds from when it is heard.
    pub(super) fn written_at(&mut self, seconds: i64) {
        self.off_ms = seconds * 1_000;
    }

    pub(super) fn made(&mut self, vm: VmId, policy: &str) {
        self.say(What::VmMade { vm, policy: policy.to_owned(), user: "u".to_owned() });
    }

    pub(super) fn owned(&mut self, vm: VmId, node: &str, epoch: u64) {
        let shard = ShardId::of(vm, Self::SHARDS);
        self.say(What::Owned { shard, node: NodeId::new(node).unwrap(), epoch: Epoch(epoch) });
    }

    pub(super) fn disowned(&mut self, vm: VmId) {
        self.say(What::Disowned { shard: ShardId::of(vm, Self::SHARDS) });
    }

    pub(super) fn stepped(&mut self, node: &str, offset_ms: i64) {
        self.say(What::Stepped { node: NodeId::new(node).unwrap(), offset_ms });
    }

    /// A lease begins; says when it ends.
    pub(super) fn lease(&mut self, vm: VmId, from: i64, to: i64) -> String {
        let ends_at = self.time(to);
        let data = json!({"started_at": self.time(from), "ends_at": ends_at, "policy": "short"});
        self.event(vm, "lease.created", data);
        ends_at
    }

    pub(super) fn event(&mut self, vm: VmId, kind: &str, data: Value) {
        let sequence = self.sequences.entry(vm).or_default();
        *sequence += 1;
        let sequence = *sequence;
        self.event_as(vm, sequence, kind, data);
    }

    pub(super) fn event_as(&mut self, vm: VmId, sequence: u64, kind: &str, data: Value) {
        let event = CloudEvent {
            specversion: "1.0".to_owned(),
            id: EventId::of_vm(vm, sequence),
            source: "/reeve/test/n1".to_owned(),
            kind: format!("reeve.{kind}"),
            subject: format!("vm/{vm}"),
            time: Timestamp::from_millis(self.now.as_millis() + std::mem::take(&mut self.off_ms)),
            sequence,
            datacontenttype: "application/json".to_owned(),
            category: Category::default(),
            about: About::default(),
            data,
        };
        self.say(What::Event { event: Box::new(event) });
    }

    pub(super) fn call(&mut self, vm: VmId, node: &str, call: CallKind, detail: &str) {
        self.calls += 1;
        let by = Caller::Node(NodeId::new(node).unwrap());
        let detail = detail.to_owned();
        self.say(What::Call(Call { seq: self.calls, by, call, vm: Some(vm), detail, applied: true }));
    }

    pub(super) fn sent(&mut self, id: &str, vm: VmId, kind: &str, body: Value) {
        self.say(What::Sent(Sent { id: MessageId::new(id).unwrap(), vm, kind: kind.to_owned(), body }));
    }

    pub(super) fn answered(&mut self, id: &str, answer: &Value) {
        self.say(What::Answered { id: MessageId::new(id).unwrap(), answer: answer.clone() });
    }

    pub(super) fn in_cloud(&mut self, vm: VmId) {
        self.say(What::InCloud { vm, state: "active".to_owned() });
    }

    pub(super) fn last(&mut self, vm: VmId, node: &str, state: &str) {
        let lease = LeaseView {
            state: if state == "deleted" { "ended" } else { "active" }.to_owned(),
            started_at: None,
            ends_at: None,
            extensions: 0,
            max_extensions: 2,
            delegates: Vec::new(),
            ended: None,
        };
        let view = VmView {
            id: vm,
            name: "a".to_owned(),
            project: None,
            user: Some(UserId::new("u").unwrap()),
            cloud: CloudName::new("lab").unwrap(),
            host: None,
            state: state.to_owned(),
            task: None,
            health: "up".to_owned(),
            policy: "short".to_owned(),
            shard: ShardId::of(vm, Self::SHARDS),
            node: NodeId::new(node).unwrap(),
            locked: false,
            lease,
            backups: Vec::new(),
            operation: None,
            holds: Vec::new(),
            alerts: Vec::new(),
            revived_from: None,
            generation: Generation(1),
        };
        self.say(What::LastVm { view: Box::new(view) });
    }

    /// The event of this sequence comes once more.
    pub(super) fn again(&mut self, sequence: u64) {
        let at = self.place(sequence);
        let what = self.entries[at].what.clone();
        self.say(what);
    }

    pub(super) fn forget_event(&mut self, sequence: u64) {
        let at = self.place(sequence);
        self.entries.remove(at);
    }

    pub(super) fn replace_event(&mut self, sequence: u64, kind: &str, data: Value) {
        let at = self.place(sequence);
        let What::Event { event } = &mut self.entries[at].what else { unreachable!("`place` finds events") };
        event.kind = format!("reeve.{kind}");
        event.data = data;
    }

    pub(super) fn empty_vault(&mut self) {
        self.entries.retain(|entry| !matches!(entry.what, What::InVault { .. }));
    }

    pub(super) fn policy(&mut self, name: &str, change: impl Fn(&mut Policy)) {
        let What::Begun { policies, .. } = &mut self.entries[0].what else { unreachable!("the first line") };
        change(policies.get_mut(name).unwrap());
    }

    fn place(&self, sequence: u64) -> usize {
        let is = |entry: &Entry| matches!(&entry.what, What::Event { event } if event.sequence == sequence);
        self.entries.iter().position(is).unwrap()
    }

    pub(super) fn judge(&self) -> Judgement {
        check(&self.entries)
    }

    pub(super) fn judge_at_end(&self) -> Judgement {
        let mut ended = self.clone();
        ended.say(What::Healed);
        ended.judge()
    }

    pub(super) fn broken(&self) -> Vec<Rule> {
        self.judge().broken.iter().map(|broken| broken.rule).collect()
    }

    pub(super) fn broken_at_end(&self) -> Vec<Rule> {
        self.judge_at_end().broken.iter().map(|broken| broken.rule).collect()
    }
}
