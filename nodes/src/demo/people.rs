//! The people of the demo: owners who answer notices, or do not; and fate, which hangs guests and kills actors.
//!
//! They see what everybody sees, the events on the bus, and act as everybody may: commands over the bus, each sent twice
//! under one key, and calls to the cloud past Reeve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reeve_drivers::cloud::sim::{Cure, SimCloud};
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::event::{Child, CloudEvent};
use reeve_protocol::{Span, VmId};

use super::cast::Role;

/// One VM of the demo.
pub(super) struct Actor {
    /// What becomes of it.
    pub(super) role: Role,
    /// Whether fate has struck already.
    struck: bool,
    /// How many commands were sent about it.
    sent: u32,
}

/// Everybody.
pub(super) struct People {
    cloud: Arc<SimCloud>,
    pub(super) cast: BTreeMap<VmId, Actor>,
    over: BTreeSet<VmId>,
}

impl People {
    pub(super) fn new(cloud: Arc<SimCloud>) -> Self {
        Self { cloud, cast: BTreeMap::new(), over: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, vm: VmId, role: Role) {
        self.cast.entry(vm).or_insert(Actor { role, struck: false, sent: 0 });
    }

    /// How many VMs have come to their end, of how many.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.over.len(), self.cast.len())
    }

    /// Whether every VM has come to its end, and every one that is to be revived was.
    pub(super) fn all_over(&self) -> bool {
        let revived_waits = self.cast.values().any(|actor| actor.role == Role::Revived && !actor.struck);
        self.over.len() == self.cast.len() && !revived_waits
    }

    /// Reacts to an event.
    pub(super) async fn see(&mut self, bus: &dyn Bus, event: &CloudEvent) {
        let Some(vm) = event.subject.strip_prefix("vm/").and_then(|vm| vm.parse::<VmId>().ok()) else { return };
        if event.kind == "reeve.vm.revived"
            && let Some(new_vm) = event.data["new_vm"].as_str().and_then(|id| id.parse().ok())
        {
            self.cast.entry(vm).and_modify(|actor| actor.struck = true);
            self.add(new_vm, Role::Forgotten);
        }
        if event.kind == "reeve.lease.ended" {
            self.over.insert(vm);
        }
        let Some(actor) = self.cast.get_mut(&vm) else { return };
        match (actor.role, event.kind.as_str()) {
            (Role::Extended, "reeve.lease.expiring") | (Role::Answered, "reeve.lease.expired") if actor.sent == 0 => {
                extend(bus, vm, actor, "owner", None).await;
            }
            (Role::Greedy, "reeve.lease.expiring") => extend(bus, vm, actor, "owner", None).await,
            (Role::Delegated, "reeve.lease.expiring") if actor.sent == 0 => {
                let delegates = serde_json::json!({"delegates": ["delegate"]});
                send(bus, vm, actor, "lease.set-delegates", "owner", delegates).await;
                extend(bus, vm, actor, "stranger", None).await;
                extend(bus, vm, actor, "delegate", None).await;
                // More than one extension may give.
                extend(bus, vm, actor, "owner", Some(Span::from_secs(100))).await;
            }
            (Role::Revived, "reeve.lease.ended") if actor.sent == 0 => {
                send(bus, vm, actor, "vm.revive", "owner", serde_json::json!({})).await;
            }
            (Role::Hung | Role::Broken | Role::Deleted, "reeve.backup.verified") if !actor.struck => {
                actor.struck = true;
                self.strike(vm);
            }
            _ => {}
        }
    }

    /// Fate strikes a VM, or its owner does. What the cloud refuses did not happen: the VM is then one of the forgotten.
    fn strike(&self, vm: VmId) {
        let Some(actor) = self.cast.get(&vm) else { return };
        let struck = match actor.role {
            Role::Hung => self.cloud.hang_guest(vm, Cure::Reboot),
            Role::Broken => self.cloud.hang_guest(vm, Cure::Restore),
            Role::Deleted => self.cloud.owner_delete(vm),
            Role::Forgotten
            | Role::Extended
            | Role::Greedy
            | Role::Revived
            | Role::Answered
            | Role::Unanswered
            | Role::Delegated => Ok(()),
        };
        if let Err(error) = struck {
            tracing::debug!(%vm, %error, "fate missed");
        }
    }

    /// The actors that are killed in the middle of it: of some VMs a child, of some the supervisor itself.
    pub(super) fn victims(&self) -> Vec<(VmId, Option<Child>)> {
        let kinds =
            [Some(Child::LeaseTimer), Some(Child::Poller), None, Some(Child::BackupWorker), Some(Child::ActionWorker)];
        self.cast.keys().filter(|vm| !self.over.contains(vm)).copied().zip(kinds.into_iter().cycle()).take(20).collect()
    }
}

async fn extend(bus: &dyn Bus, vm: VmId, actor: &mut Actor, by: &str, span: Option<Span>) {
    let body = match span {
        Some(span) => serde_json::json!({"for": span}),
        None => serde_json::json!({}),
    };
    send(bus, vm, actor, "lease.extend", by, body).await;
}

/// Sends a command twice under one key: the second changes nothing.
async fn send(bus: &dyn Bus, vm: VmId, actor: &mut Actor, kind: &str, by: &str, mut body: serde_json::Value) {
    actor.sent += 1;
    body["vm"] = serde_json::json!(vm);
    body["by"] = serde_json::json!(by);
    let message = Message {
        body: body.to_string().into(),
        content_type: Some("application/json".into()),
        kind: Some(kind.to_owned()),
        message_id: Some(format!("demo-{vm}-{}", actor.sent)),
        ..Message::default()
    };
    for _ in 0..2 {
        if let Err(error) = bus.publish(&Address::Requests, message.clone()).await {
            tracing::warn!(%vm, kind, %error, "a command could not be sent");
        }
    }
}
