//! Takes messages from the bus, hands them to their VMs, and settles each after its effect is committed.
//!
//! ```text
//! delivery ─► decode ─ not readable ─► dead letter with the reason (a command with `reply_to` is answered)
//!               └► post to the VM's owner, in the order of arrival ─► await the commit ─► answer ─► acknowledge
//! ```
//!
//! What is in flight is bounded by the prefetch. A delivery that is dropped on the way out goes back to its queue.

mod command;
mod introduction;
mod notification;
mod rules;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use reeve_ports::{Bus, Consumer, Delivery, Queue, Settlement};
use reeve_protocol::{CloudName, ShardId};
use tokio::task::JoinSet;

pub(super) use self::command::{answer_of, sending};
pub(super) use self::introduction::ClusterIntroducer;
use crate::node::router::Standing;
use crate::shared::Shared;

/// Property `type` of a notification that travels in a shard's queue.
const NOTIFICATION: &str = "notification";
/// Property `type` of the introduction of a new VM that travels in a shard's queue.
const INTRODUCTION: &str = "introduction";
/// Header of such a message: the cloud that it is from.
const HEADER_CLOUD: &str = "x-reeve-cloud";
/// A message that was delivered this often without an end takes others down with it. A node that is killed returns
/// messages too, so the limit is far above what restarts bring about.
const MAX_REDELIVERIES: u32 = 100;
/// The most events that rules are acting on at once.
const MAX_RULED: u16 = 64;
/// The wait before the bus is asked again for a queue.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes in a cloud's notifications.
pub(super) async fn intake(shared: Arc<Shared>, cloud: CloudName) {
    let queue = Queue::Intake(cloud.clone());
    pump(Arc::clone(&shared), queue, move |delivery| notification::take(Arc::clone(&shared), cloud.clone(), delivery))
        .await;
}

/// Takes in producers' commands.
pub(super) async fn requests(shared: Arc<Shared>) {
    pump(Arc::clone(&shared), Queue::Requests, move |delivery| command::take(Arc::clone(&shared), delivery)).await;
}

/// Does what rules say of events.
pub(super) async fn rules(shared: Arc<Shared>) {
    let runner = Arc::new(rules::Runner::new(Arc::clone(&shared)));
    pump(shared, Queue::Rules, move |delivery| rules::take(Arc::clone(&runner), delivery)).await;
}

/// Takes in what other nodes routed to a shard.
pub(super) async fn shard_queue(shared: Arc<Shared>, shard: ShardId) {
    loop {
        // The queue is its owner's to consume: here its messages would only go round.
        shared.router.until(shard, |now| now == Standing::Owned).await;
        let consuming = std::pin::pin!(consume_shard(&shared, shard));
        let left = std::pin::pin!(shared.router.until(shard, |now| now != Standing::Owned));
        match select(consuming, left).await {
            Either::Left(((), _)) => return,
            // What is unsettled goes back with the consumer.
            Either::Right(((), _)) => tracing::debug!(%shard, "the shard's queue is left to its next owner"),
        }
    }
}

async fn consume_shard(shared: &Arc<Shared>, shard: ShardId) {
    pump(Arc::clone(shared), Queue::Shard(shard), |delivery| {
        let shared = Arc::clone(shared);
        let cloud = delivery.message.headers.get(HEADER_CLOUD).and_then(|cloud| CloudName::new(cloud.as_str()).ok());
        let taken: futures::future::BoxFuture<'static, ()> = match (delivery.message.kind.as_deref(), cloud) {
            (Some(INTRODUCTION), Some(cloud)) => Box::pin(introduction::take(shared, cloud, delivery)),
            (Some(NOTIFICATION), Some(cloud)) => Box::pin(notification::take(shared, cloud, delivery)),
            (Some(_) | None, _) => Box::pin(command::take(shared, delivery)),
        };
        taken
    })
    .await;
}

/// Consumes a queue. `take` is called in the order of arrival and posts at once; the future that it returns awaits the
/// rest.
async fn pump<F, T>(shared: Arc<Shared>, queue: Queue, take: T)
where
    F: Future<Output = ()> + Send + 'static,
    T: Fn(Delivery) -> F,
{
    let mut consumer = consume(&shared, &queue).await;
    let mut in_flight = JoinSet::new();
    loop {
        tokio::select! {
            delivery = consumer.next() => match delivery {
                None => return,
                Some(delivery) if delivery.redelivered >= MAX_REDELIVERIES => {
                    let why = format!("delivered {} times without an end", delivery.redelivered);
                    in_flight.spawn(settle(delivery, Settlement::Dead(why)));
                }
                Some(delivery) => { in_flight.spawn(take(delivery)); }
            },
            ended = in_flight.join_next(), if !in_flight.is_empty() => {
                if let Some(Err(error)) = ended && error.is_panic() {
                    tracing::error!(queue = %queue.name(), "taking a message panicked; it is delivered again");
                }
            }
        }
    }
}

async fn consume(shared: &Shared, queue: &Queue) -> Consumer {
    loop {
        match shared.bus.consume(queue, prefetch(shared, queue)).await {
            Ok(consumer) => return consumer,
            Err(error) => {
                tracing::warn!(queue = %queue.name(), %error, "a queue cannot be consumed; it is tried again");
            }
        }
        shared.clock.sleep(AGAIN).await;
    }
}

fn prefetch(shared: &Shared, queue: &Queue) -> u16 {
    let most = shared.config.runtime.prefetch;
    match queue {
        // Each may wait for a channel to people for minutes.
        Queue::Rules if most > MAX_RULED => MAX_RULED,
        Queue::Rules | Queue::Requests | Queue::Shard(_) | Queue::Intake(_) => most,
    }
}

async fn settle(delivery: Delivery, settlement: Settlement) {
    if let Settlement::Dead(reason) = &settlement {
        tracing::warn!(message_id = delivery.message.message_id.as_deref(), %reason, "a message goes to the dead letters");
    }
    if let Err(error) = delivery.settle.settle(settlement).await {
        // It is delivered again, and recognised.
        tracing::debug!(%error, "a message was not settled");
    }
}

/// Publishes a message to the queue of a shard that another node owns.
async fn forward(bus: &dyn Bus, shard: ShardId, delivery: Delivery, message: reeve_ports::Message) {
    match bus.publish(&reeve_ports::Address::Shard(shard), message).await {
        Ok(()) => settle(delivery, Settlement::Ack).await,
        Err(error) => {
            tracing::warn!(%shard, %error, "a message cannot be forwarded; it goes back");
            settle(delivery, Settlement::Return).await;
        }
    }
}
