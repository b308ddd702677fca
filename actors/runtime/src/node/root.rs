//! The root of the node's own tree: starts everything in order, restarts what fails, stops everything in order.
//!
//! ```text
//! NodeRoot ─┬─ outbox, load-report
//!           ├─ shard owners ── (the VMs, on arbiters)
//!           ├─ clock-watch
//!           ├─ reconciler/<cloud>
//!           ├─ shard-queue/<n>, intake/<cloud>, requests, rules
//! ```
//!
//! Strategy: one for one. What one of them needs of another is in the store, in the records or on the bus, never in the
//! other's memory, so none has to fall with another. Intensity: `Limit::NODE`; past it the tries go on, further apart,
//! because a node without one of them is of no use and a node that ends itself is of less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use reeve_protocol::admin::ActorView;
use reeve_protocol::{ShardId, Timestamp};
use tokio::sync::oneshot;

use super::Readiness;
use super::service::{Service, ServiceActor};
use super::shard::{ShardArguments, ShardOwner};
use crate::actor::{ArbiterPool, Intensity, Limit};
use crate::shared::Shared;

/// A child of the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A loop.
    Service(Service),
    /// The owner of a shard.
    Shard(ShardId),
}

impl Part {
    fn name(&self) -> String {
        match self {
            Self::Service(service) => service.name(),
            Self::Shard(shard) => format!("shard/{shard}"),
        }
    }

    /// Whether it takes anything in from outside.
    const fn is_intake(&self) -> bool {
        match self {
            Self::Service(service) => match service {
                Service::Reconciler(_)
                | Service::Intake(_)
                | Service::Requests
                | Service::Rules
                | Service::ShardQueue(_)
                | Service::ClockWatch => true,
                Service::Outbox | Service::LoadReport => false,
            },
            Self::Shard(_) => false,
        }
    }
}

/// What the root is told.
pub(super) enum ToRoot {
    /// Start what takes in from outside: every shard is loaded.
    Open,
    /// Start this again.
    Again(Part),
    /// Stop what takes in from outside; answered when it has stopped.
    CloseIntake(oneshot::Sender<()>),
    /// Show the tree.
    Tree(oneshot::Sender<ActorView>),
}

/// The root.
pub(super) struct NodeRoot;

struct Child {
    part: Part,
    cell: ActorCell,
    since: Timestamp,
}

/// The root's state.
pub(super) struct RootState {
    shared: Arc<Shared>,
    arbiters: Arc<ArbiterPool>,
    ready: Arc<Readiness>,
    children: BTreeMap<ActorId, Child>,
    restarts: BTreeMap<Part, (u64, Intensity)>,
    closing: bool,
}

/// What the root is started with.
pub(super) struct RootArguments {
    pub(super) shared: Arc<Shared>,
    pub(super) arbiters: Arc<ArbiterPool>,
    pub(super) ready: Arc<Readiness>,
}

impl RootState {
    /// The order of the start: what others lean on comes first. The stop is the other way round.
    fn inner(&self) -> Vec<Part> {
        let shards = (0..self.shared.config.runtime.shards).map(|shard| Part::Shard(ShardId(shard)));
        [Service::Outbox, Service::LoadReport].into_iter().map(Part::Service).chain(shards).collect()
    }

    /// What takes in from outside, started when every shard is loaded.
    fn intake(&self) -> Vec<Part> {
        let clouds = || self.shared.ports.cloud.keys().cloned();
        let shards = (0..self.shared.config.runtime.shards).map(ShardId);
        std::iter::once(Service::ClockWatch)
            .chain(clouds().map(Service::Reconciler))
            .chain(shards.map(Service::ShardQueue))
            .chain(clouds().map(Service::Intake))
            .chain(std::iter::once(Service::Requests))
            .chain(self.rules())
            .map(Part::Service)
            .collect()
    }

    /// Without rules there is nothing to take, and perhaps no queue.
    fn rules(&self) -> Option<Service> {
        (!self.shared.config.runtime.rules.is_empty()).then_some(Service::Rules)
    }

    async fn start(&mut self, part: Part, myself: &ActorRef<ToRoot>) {
        if self.closing && part.is_intake() {
            return;
        }
        let supervisor = myself.get_cell();
        let shared = Arc::clone(&self.shared);
        let started = match part.clone() {
            Part::Service(service) => ServiceActor::spawn_linked(None, ServiceActor, (service, shared), supervisor)
                .await
                .map(|(actor, _)| actor.get_cell()),
            Part::Shard(shard) => {
                let arbiters = Arc::clone(&self.arbiters);
                let ready = Arc::clone(&self.ready);
                let arguments = ShardArguments { shared, arbiters, shard, ready };
                ShardOwner::spawn_linked(None, ShardOwner, arguments, supervisor)
                    .await
                    .map(|(actor, _)| actor.get_cell())
            }
        };
        match started {
            Ok(cell) => {
                let since = self.shared.clock.now();
                self.children.insert(cell.get_id(), Child { part, cell, since });
            }
            Err(error) => {
                tracing::error!(part = %part.name(), %error, "a part of the node does not start");
                self.again(part, myself);
            }
        }
    }

    /// Starts a part again after a wait.
    fn again(&mut self, part: Part, myself: &ActorRef<ToRoot>) {
        if self.shared.stopping.has_begun() || (self.closing && part.is_intake()) {
            return;
        }
        let elapsed = self.shared.clock.elapsed();
        let (restarts, intensity) = self.restarts.entry(part.clone()).or_default();
        *restarts += 1;
        // Every end is logged, so nobody has to be told that it is over.
        let _ = intensity.recovers(Limit::NODE, elapsed);
        let attempt = intensity.ended(Limit::NODE, elapsed);
        let clock = Arc::clone(&self.shared.clock);
        let root = myself.clone();
        tokio::spawn(async move {
            clock.sleep(attempt.wait.max(Duration::from_millis(1))).await;
            // A root that has ended starts nothing.
            let _ = root.send_message(ToRoot::Again(part));
        });
    }

    fn ended(&mut self, who: ActorId, why: &str, myself: &ActorRef<ToRoot>) {
        let Some(Child { part, .. }) = self.children.remove(&who) else { return };
        if self.shared.stopping.has_begun() || (self.closing && part.is_intake()) {
            return;
        }
        tracing::error!(part = %part.name(), %why, "a part of the node ended; it is started again");
        self.again(part, myself);
    }

    async fn close_intake(&mut self) {
        self.closing = true;
        // The other way round than they were started.
        let mut parts: Vec<&Child> = self.children.values().filter(|child| child.part.is_intake()).collect();
        parts.sort_by_key(|child| std::cmp::Reverse(child.since));
        for child in parts {
            child.cell.stop(Some("the node stops".to_owned()));
        }
        self.children.retain(|_, child| !child.part.is_intake());
    }

    fn tree(&self) -> ActorView {
        let children = self.children.values().map(|child| ActorView {
            name: child.part.name(),
            state: format!("{:?}", child.cell.get_status()).to_lowercase(),
            restarts: self.restarts.get(&child.part).map_or(0, |(restarts, _)| *restarts),
            since: child.since,
            mailbox: None,
            children: Vec::new(),
        });
        let mut children: Vec<ActorView> = children.collect();
        children.sort_by(|a, b| a.name.cmp(&b.name));
        ActorView {
            name: format!("node/{}", self.shared.config.node),
            state: if self.closing { "stopping" } else { "running" }.to_owned(),
            restarts: 0,
            since: self.shared.since,
            mailbox: None,
            children,
        }
    }
}

impl Actor for NodeRoot {
    type Msg = ToRoot;
    type State = RootState;
    type Arguments = RootArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ToRoot>,
        arguments: RootArguments,
    ) -> Result<RootState, ActorProcessingErr> {
        let RootArguments { shared, arbiters, ready } = arguments;
        let children = BTreeMap::new();
        let restarts = BTreeMap::new();
        let mut state = RootState { shared, arbiters, ready, children, restarts, closing: false };
        for part in state.inner() {
            state.start(part, &myself).await;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<ToRoot>,
        message: ToRoot,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ToRoot::Open => {
                for part in state.intake() {
                    state.start(part, &myself).await;
                }
            }
            ToRoot::Again(part) => state.start(part, &myself).await,
            ToRoot::CloseIntake(done) => {
                state.close_intake().await;
                let _ = done.send(());
            }
            ToRoot::Tree(reply) => {
                let _ = reply.send(state.tree());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ToRoot>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(who, _, why) => {
                state.ended(who.get_id(), why.as_deref().unwrap_or("it stopped"), &myself);
            }
            SupervisionEvent::ActorFailed(who, why) => state.ended(who.get_id(), &why.to_string(), &myself),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}
