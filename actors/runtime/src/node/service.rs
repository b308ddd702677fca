//! The node's endless loops, each as an actor: it runs the loop as a task and fails when the loop ends, so that the
//! node starts it again.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use reeve_protocol::{CloudName, ShardId};

use super::{clock_watch, consumer, load_report, outbox, reconciler};
use crate::performer::Task;
use crate::shared::Shared;

/// A loop of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// Publishes events.
    Outbox,
    /// Tells the other nodes how busy this one is.
    LoadReport,
    /// Watches the clock.
    ClockWatch,
    /// Lists a cloud.
    Reconciler(CloudName),
    /// Takes in a cloud's notifications.
    Intake(CloudName),
    /// Takes in producers' commands.
    Requests,
    /// Does what rules say of events.
    Rules,
    /// Takes in what was routed to a shard.
    ShardQueue(ShardId),
}

impl Service {
    /// Its name in the tree.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Outbox => "outbox".to_owned(),
            Self::LoadReport => "load-report".to_owned(),
            Self::ClockWatch => "clock-watch".to_owned(),
            Self::Reconciler(cloud) => format!("reconciler/{cloud}"),
            Self::Intake(cloud) => format!("intake/{cloud}"),
            Self::Requests => "requests".to_owned(),
            Self::Rules => "rules".to_owned(),
            Self::ShardQueue(shard) => format!("shard-queue/{shard}"),
        }
    }

    fn run(self, shared: Arc<Shared>) -> BoxFuture<'static, ()> {
        match self {
            Self::Outbox => outbox::run(shared).boxed(),
            Self::LoadReport => load_report::run(shared).boxed(),
            Self::ClockWatch => clock_watch::run(shared).boxed(),
            Self::Reconciler(cloud) => reconciler::run(shared, cloud).boxed(),
            Self::Intake(cloud) => consumer::intake(shared, cloud).boxed(),
            Self::Requests => consumer::requests(shared).boxed(),
            Self::Rules => consumer::rules(shared).boxed(),
            Self::ShardQueue(shard) => consumer::shard_queue(shared, shard).boxed(),
        }
    }
}

/// The actor of a loop.
pub(super) struct ServiceActor;

/// What it is told.
pub(super) enum ToService {
    /// The loop ended; it never should.
    Ended,
}

/// The loop's task; it ends with the actor.
pub(super) struct ServiceState {
    name: String,
    _task: Task,
}

/// Tells the actor that the loop ended, also when it panicked.
struct Alarm(ActorRef<ToService>);

impl Drop for Alarm {
    fn drop(&mut self) {
        // An actor that has ended aborted the loop itself.
        let _ = self.0.send_message(ToService::Ended);
    }
}

impl Actor for ServiceActor {
    type Msg = ToService;
    type State = ServiceState;
    type Arguments = (Service, Arc<Shared>);

    async fn pre_start(
        &self,
        myself: ActorRef<ToService>,
        (service, shared): (Service, Arc<Shared>),
    ) -> Result<ServiceState, ActorProcessingErr> {
        let name = service.name();
        let alarm = Alarm(myself);
        let running = service.run(shared);
        let task = tokio::spawn(async move {
            let _alarm = alarm;
            running.await;
        });
        Ok(ServiceState { name, _task: Task::new(&task) })
    }

    async fn handle(
        &self,
        _: ActorRef<ToService>,
        message: ToService,
        state: &mut ServiceState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ToService::Ended => Err(format!("{} ended", state.name).into()),
        }
    }
}
