//! Answers administrators, on any node for any VM.
//!
//! ```text
//! request ─ about a VM ─► here? ─ yes ─► answered
//!    │                      └ no ─► its owner is asked; "not the owner": again, until patience ends
//!    ├─ a list ─► every owner is asked, or there is no list
//!    └─ forwarded by a node ─► answered from what is here, nobody else is asked
//! ```

mod cluster;
mod vms;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use reeve_ports::{AdminService, BusError, Clock, DeadLetter, SystemClock};
use reeve_protocol::Timestamp;
use reeve_protocol::admin::{
    ActorView, AdminReply, AdminRequest, DeadView, EventView, MAX_LIMIT, NodeView, Principal, permit,
};
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::{NodeId, ShardId};
use tokio::sync::oneshot;

use super::NodeHandle;
use super::root::ToRoot;
use super::router::Standing;
use super::shard::ToShard;
use crate::masking::masked;

/// How long an administrator waits. What was asked for may still be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many events are looked through for one page of a filtered list.
const MAX_SCANNED: usize = 10_000;
/// What a node says that is asked for what it does not have. Nothing was done then.
const NOT_OWNER: &str = "not the owner: another node owns its shard";
/// What it says of what it is about to have. Nothing was done then.
const LOADING: &str = "its supervisor is being started";

type Answer = Result<AdminReply, Refusal>;

/// Until when somebody waits, in real time: an operator's patience does not follow a simulated clock.
#[derive(Debug, Clone, Copy)]
struct Deadline(Duration);

impl Deadline {
    fn after(patience: Duration) -> Self {
        Self(SystemClock.elapsed() + patience)
    }

    fn left(self) -> Duration {
        self.0.saturating_sub(SystemClock.elapsed())
    }
}

#[async_trait]
impl AdminService for NodeHandle {
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply {
        if let Err(refusal) = permit(by, &request) {
            return AdminReply::Refused(refusal);
        }
        let deadline = Deadline::after(PATIENCE);
        match tokio::time::timeout(PATIENCE, Box::pin(self.answer(by, request, deadline))).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => AdminReply::Refused(refusal),
            Err(_) => AdminReply::Refused(unavailable("no answer in time; it may still be done")),
        }
    }
}

fn unavailable(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Unavailable, message)
}

fn not_found(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::NotFound, format!("no {what} is known"))
}

fn bus_failed(error: &BusError) -> Refusal {
    match error {
        BusError::Unavailable(why) => unavailable(why.as_str()),
        BusError::Refused(why) => Refusal::new(RefusalCode::NotFound, why.as_str()),
    }
}

/// Whether a refusal says that nothing was done and that it will pass by itself.
fn is_passing(refusal: &Refusal) -> bool {
    refusal.code == RefusalCode::Unavailable && (refusal.message == NOT_OWNER || refusal.message == LOADING)
}

impl NodeHandle {
    /// Answers for the whole cluster.
    async fn answer(&self, by: &Principal, request: AdminRequest, deadline: Deadline) -> Answer {
        match request {
            AdminRequest::VmList { limit, marker, lease } => self.list_all(by, limit, marker, lease, deadline).await,
            AdminRequest::VmShow(vm)
            | AdminRequest::VmHistory(vm)
            | AdminRequest::BackupList(vm)
            | AdminRequest::LeaseOffer(vm)
            | AdminRequest::ActorTree(Some(vm))
            | AdminRequest::ActorKill { vm, .. }
            | AdminRequest::ActorRestart { vm, .. } => self.at_owner(by, vm, request, deadline).await,
            AdminRequest::Command(ref command) => self.at_owner(by, command.vm, request, deadline).await,
            AdminRequest::NodeShow(ref node) | AdminRequest::ActorTreeOf(ref node) => {
                let node = node.clone();
                self.at_node(by, &node, request, deadline).await
            }
            AdminRequest::Forwarded { by, request } => {
                permit(&by, &request)?;
                self.local(&by, *request).await
            }
            AdminRequest::Events { .. }
            | AdminRequest::DeadList { .. }
            | AdminRequest::DeadReplay(_)
            | AdminRequest::DeadDrop(_)
            | AdminRequest::ActorTree(None)
            | AdminRequest::Node
            | AdminRequest::NodeList
            | AdminRequest::NodeDrain(_)
            | AdminRequest::NodeUndrain(_)
            | AdminRequest::ShardList
            | AdminRequest::Cancel(_) => self.local(by, request).await,
        }
    }

    /// Answers from what is here, and asks nobody else.
    async fn local(&self, by: &Principal, request: AdminRequest) -> Answer {
        match request {
            AdminRequest::VmList { limit, marker, lease } => self.list(by, limit, marker, lease).await,
            AdminRequest::VmShow(vm) => self.show(by, vm).await,
            AdminRequest::VmHistory(vm) => self.history(by, vm).await,
            AdminRequest::BackupList(vm) => self.backups(by, vm).await,
            AdminRequest::LeaseOffer(vm) => self.offer(by, vm).await,
            AdminRequest::Command(command) => self.command(by, command).await,
            AdminRequest::Events { since, after, subject, limit } => self.events(since, after, subject, limit).await,
            AdminRequest::DeadList { from, limit } => {
                let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or_default();
                let letters = self.shared.bus.dead(from, limit).await.map_err(|error| bus_failed(&error))?;
                Ok(AdminReply::Dead(letters.into_iter().map(dead).collect()))
            }
            AdminRequest::DeadReplay(number) => {
                self.shared.bus.replay_dead(number).await.map_err(|error| bus_failed(&error))?;
                Ok(AdminReply::Done)
            }
            AdminRequest::DeadDrop(number) => {
                self.shared.bus.drop_dead(number).await.map_err(|error| bus_failed(&error))?;
                Ok(AdminReply::Done)
            }
            AdminRequest::ActorTree(None) => Ok(AdminReply::Actors(Box::new(self.tree().await?))),
            AdminRequest::ActorTree(Some(vm)) => self.vm_tree(by, vm).await,
            AdminRequest::ActorKill { vm, child } => self.kill(by, vm, child).await,
            AdminRequest::ActorRestart { vm, child } => self.restart(by, vm, child).await,
            AdminRequest::Node => Ok(AdminReply::Node(Box::new(self.node().await?))),
            AdminRequest::NodeList => Ok(AdminReply::Nodes(self.members().await?)),
            AdminRequest::ShardList => Ok(AdminReply::Shards(self.shards())),
            AdminRequest::NodeShow(node) => {
                self.is_me(&node)?;
                Ok(AdminReply::Node(Box::new(self.node().await?)))
            }
            AdminRequest::ActorTreeOf(node) => {
                self.is_me(&node)?;
                Ok(AdminReply::Actors(Box::new(self.tree().await?)))
            }
            AdminRequest::NodeDrain(node) => self.drain(&node).await,
            AdminRequest::NodeUndrain(node) => self.undrain(&node).await,
            AdminRequest::Cancel(_) => Ok(AdminReply::Done),
            AdminRequest::Forwarded { .. } => {
                Err(Refusal::new(RefusalCode::Invalid, "what a node forwards is not forwarded again"))
            }
        }
    }

    fn is_me(&self, node: &NodeId) -> Result<(), Refusal> {
        if *node == self.shared.config.node { Ok(()) } else { Err(not_found(format!("node {node}"))) }
    }

    async fn events(&self, since: Timestamp, after: Option<u64>, subject: Option<String>, limit: u32) -> Answer {
        let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or_default();
        let mut position = after;
        let mut scanned = 0;
        let mut views = Vec::new();
        while views.len() < limit && scanned < MAX_SCANNED {
            let page = self.shared.bus.history(since, position, limit).await.map_err(|error| bus_failed(&error))?;
            scanned += page.len();
            let last = page.len() < limit;
            position = page.last().map(|past| past.position).or(position);
            let wanted =
                page.iter().filter(|past| subject.as_ref().is_none_or(|subject| *subject == past.event.subject));
            views.extend(wanted.map(|past| EventView::new(past.position, &past.event)));
            if last {
                break;
            }
        }
        views.truncate(limit);
        Ok(AdminReply::Events(views))
    }

    async fn tree(&self) -> Result<ActorView, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let gone = || unavailable("the node stops");
        self.root.send_message(ToRoot::Tree(sender)).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }

    /// How the node is, asked of its own actors: the root, every arbiter thread and every owner of a shard has to
    /// answer, so that this answer is a sign of life.
    async fn node(&self) -> Result<NodeView, Refusal> {
        lively("the root", self.tree()).await??;
        lively("an arbiter thread", self.arbiters.answer()).await?.map_err(|error| unavailable(error.to_string()))?;
        let (mut vms, mut shards) = (0, 0);
        for shard in (0..self.shared.config.runtime.shards).map(ShardId) {
            let (sender, receiver) = oneshot::channel();
            if let Some(owner) = self.shared.router.owner(shard)
                && owner.send_message(ToShard::Count(sender)).is_ok()
            {
                vms += lively(&format!("the owner of shard {shard}"), receiver).await?.unwrap_or(0);
            }
            shards += u16::from(matches!(self.shared.router.standing(shard), Standing::Owned | Standing::Leaving));
        }
        let counters = &self.shared.counters;
        let load = std::sync::atomic::Ordering::Relaxed;
        Ok(NodeView {
            id: self.shared.config.node.clone(),
            cluster: self.shared.config.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.shared.since,
            vms: u64::try_from(vms).unwrap_or(u64::MAX),
            shards,
            child_restarts: counters.child_restarts.load(load),
            outbox: u64::try_from(counters.outbox.load(load)).unwrap_or(0),
        })
    }
}

/// An answer that takes this long is no sign of life. Real time, as in `ask`.
const LIVELY: Duration = Duration::from_secs(5);

/// Awaits an answer of one of the node's own actors, and says who it is that does not answer.
async fn lively<T>(who: &str, answer: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::time::timeout(LIVELY, answer).await.map_err(|_| {
        tracing::error!(who, "a part of the node does not answer");
        unavailable(format!("{who} does not answer"))
    })
}

fn dead(letter: DeadLetter) -> DeadView {
    DeadView {
        number: letter.number,
        reason: letter.reason,
        source: letter.source,
        at: letter.at,
        message_id: letter.message.message_id,
        kind: letter.message.kind,
        bytes: u64::try_from(letter.message.body.len()).unwrap_or(u64::MAX),
        body: masked(&letter.message.body),
    }
}
