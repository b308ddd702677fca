//! Answers administrators.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use reeve_lifecycle::{VmInput, VmRecord};
use reeve_ports::{AdminService, BusError, DeadLetter};
use reeve_protocol::admin::{
    ActorView, AdminReply, AdminRequest, DeadView, EventView, MAX_LIMIT, NodeView, Principal, VmView, permit,
};
use reeve_protocol::command::{Command, Refusal, RefusalCode};
use reeve_protocol::{ShardId, Timestamp, VmId};
use tokio::sync::oneshot;

use super::NodeHandle;
use super::consumer::{answer_of, resolve_policy};
use super::root::ToRoot;
use super::router::Sending;
use super::shard::{Found, ToShard};
use crate::actor::{ToVm, Told, VmHandle};
use crate::masking::masked;
use crate::view;

/// How long an administrator waits. What was asked for may still be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many events are looked through for one page of a filtered list.
const MAX_SCANNED: usize = 10_000;

type Answer = Result<AdminReply, Refusal>;

#[async_trait]
impl AdminService for NodeHandle {
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply {
        if let Err(refusal) = permit(by, &request) {
            return AdminReply::Refused(refusal);
        }
        // Real time, as in `stop`.
        match tokio::time::timeout(PATIENCE, Box::pin(self.answer(request))).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(refusal)) => AdminReply::Refused(refusal),
            Err(_) => AdminReply::Refused(unavailable("no answer in time; it may still be done")),
        }
    }
}

fn unavailable(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Unavailable, message)
}

fn bus_failed(error: &BusError) -> Refusal {
    match error {
        BusError::Unavailable(why) => unavailable(why.as_str()),
        BusError::Refused(why) => Refusal::new(RefusalCode::NotFound, why.as_str()),
    }
}

impl NodeHandle {
    async fn answer(&self, request: AdminRequest) -> Answer {
        match request {
            AdminRequest::VmList { limit, marker, lease } => self.list(limit, marker, lease).await,
            AdminRequest::VmShow(vm) => self.show(vm).await,
            AdminRequest::VmHistory(vm) => Ok(AdminReply::History(self.of(vm, view::history).await?)),
            AdminRequest::BackupList(vm) => Ok(AdminReply::Backups(self.of(vm, view::backups).await?)),
            AdminRequest::Command(command) => self.command(command).await,
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
            AdminRequest::ActorTree(Some(vm)) => {
                let handle = self.live(vm).await?;
                let (sender, receiver) = oneshot::channel();
                handle.send(ToVm::Tree(sender));
                let tree = receiver.await.map_err(|_| unavailable("its supervisor is being restarted"))?;
                Ok(AdminReply::Actors(Box::new(tree)))
            }
            AdminRequest::ActorKill { vm, child } => {
                let (reply, told) = oneshot::channel();
                self.end(vm, ToVm::Kill(child, reply), told).await
            }
            AdminRequest::ActorRestart { vm, child } => {
                let (reply, told) = oneshot::channel();
                self.end(vm, ToVm::Restart(child, reply), told).await
            }
            AdminRequest::Node => Ok(AdminReply::Node(Box::new(self.node().await))),
            AdminRequest::NodeList
            | AdminRequest::NodeShow(_)
            | AdminRequest::NodeDrain(_)
            | AdminRequest::NodeUndrain(_)
            | AdminRequest::ShardList
            | AdminRequest::ActorTreeOf(_)
            | AdminRequest::Forwarded { .. }
            | AdminRequest::Cancel(_) => Err(unavailable("this node runs without a cluster")),
        }
    }

    async fn find(&self, vm: VmId) -> Result<Found, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let shard = self.shared.router.shard_of(vm);
        if !self.shared.owns(shard) {
            return Err(unavailable("another node owns its shard"));
        }
        let owner = self.shared.router.owner(shard).ok_or_else(|| unavailable("its shard is being started"))?;
        owner
            .send_message(ToShard::Find { vm, reply: sender })
            .map_err(|_| unavailable("its shard is being restarted"))?;
        let found = receiver.await.map_err(|_| unavailable("its shard is being restarted"))?;
        found.ok_or_else(|| Refusal::new(RefusalCode::NotFound, format!("no VM {vm} is known")))
    }

    async fn live(&self, vm: VmId) -> Result<VmHandle, Refusal> {
        match self.find(vm).await? {
            Found::Live(handle) => Ok(handle),
            Found::Loading => Err(unavailable("its supervisor is being restarted")),
            Found::Parked(reason) => Err(unavailable(format!("its stored record cannot be read: {reason}"))),
        }
    }

    async fn of<T: Send + 'static>(
        &self,
        vm: VmId,
        look: impl FnOnce(&VmRecord) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let seen = self.live(vm).await?.look(look).await;
        seen.ok_or_else(|| unavailable("its supervisor is being restarted"))
    }

    async fn show(&self, vm: VmId) -> Answer {
        let shard = self.shared.router.shard_of(vm);
        let node = self.shared.config.node.clone();
        let shown = self.of(vm, move |record| view::vm(record, shard, &node)).await?;
        Ok(AdminReply::Vm(Box::new(shown)))
    }

    async fn list(&self, limit: u32, marker: Option<VmId>, lease: Option<String>) -> Answer {
        let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or_default();
        let mut views: Vec<VmView> = Vec::new();
        let mut after = marker;
        while views.len() < limit {
            let page = self.page(after, limit).await;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let asked = page.into_iter().map(|(vm, found)| self.row(vm, found, lease.clone()));
            views.extend(join_all(asked).await.into_iter().flatten());
        }
        views.truncate(limit);
        Ok(AdminReply::Vms(views))
    }

    /// The next VMs of all shards, in the order of their ids.
    async fn page(&self, after: Option<VmId>, limit: usize) -> Vec<(VmId, Found)> {
        let mut asked = Vec::new();
        for shard in 0..self.shared.config.runtime.shards {
            let (sender, receiver) = oneshot::channel();
            if let Some(owner) = self.shared.router.owner(ShardId(shard))
                && owner.send_message(ToShard::After { after, limit, reply: sender }).is_ok()
            {
                asked.push(receiver);
            }
        }
        let mut page: Vec<(VmId, Found)> = join_all(asked).await.into_iter().flatten().flatten().collect();
        page.sort_by_key(|(vm, _)| *vm);
        page.truncate(limit);
        page
    }

    async fn row(&self, vm: VmId, found: Found, lease: Option<String>) -> Option<VmView> {
        let shard = self.shared.router.shard_of(vm);
        let node = self.shared.config.node.clone();
        match found {
            Found::Live(handle) => {
                let row = move |record: &VmRecord| {
                    let wanted = lease.is_none_or(|lease| lease == view::lease_state(&record.lease));
                    wanted.then(|| view::vm(record, shard, &node))
                };
                handle.look(row).await.flatten()
            }
            Found::Parked(_) if lease.is_none() => Some(view::parked(vm, shard, &node)),
            Found::Parked(_) | Found::Loading => None,
        }
    }

    async fn command(&self, command: Command) -> Answer {
        let policy = resolve_policy(&self.shared.policies, &command)?;
        let input = VmInput::Commanded { command: command.clone(), policy };
        let delivered = self.shared.router.deliver(Sending { vm: command.vm, cloud: None, input }).await;
        match answer_of(&command, delivered) {
            Some(answer) => answer.map(AdminReply::Accepted),
            None => Err(unavailable("its supervisor ended each time it was told")),
        }
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

    async fn end(&self, vm: VmId, message: ToVm, told: oneshot::Receiver<Told>) -> Answer {
        self.live(vm).await?.send(message);
        match told.await.map_err(|_| unavailable("its supervisor is being restarted"))? {
            Told::Yes => Ok(AdminReply::Done),
            Told::NoSuchChild => {
                Err(Refusal::new(RefusalCode::NotFound, format!("VM {vm} has no such child now; see its actor tree")))
            }
        }
    }

    async fn tree(&self) -> Result<ActorView, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let gone = || unavailable("the node stops");
        self.root.send_message(ToRoot::Tree(sender)).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }

    async fn node(&self) -> NodeView {
        let mut vms = 0;
        for shard in 0..self.shared.config.runtime.shards {
            let (sender, receiver) = oneshot::channel();
            if let Some(owner) = self.shared.router.owner(ShardId(shard))
                && owner.send_message(ToShard::Count(sender)).is_ok()
            {
                vms += receiver.await.unwrap_or(0);
            }
        }
        let counters = &self.shared.counters;
        let load = std::sync::atomic::Ordering::Relaxed;
        NodeView {
            id: self.shared.config.node.clone(),
            cluster: self.shared.config.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.shared.since,
            vms: u64::try_from(vms).unwrap_or(u64::MAX),
            shards: self.shared.config.runtime.shards,
            child_restarts: counters.child_restarts.load(load),
            outbox: u64::try_from(counters.outbox.load(load)).unwrap_or(0),
        }
    }
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
