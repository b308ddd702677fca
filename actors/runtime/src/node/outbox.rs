//! Publishes events that are committed and waits for the bus to take responsibility for each.
//!
//! ```text
//! supervisor announces ─► Unpublished (VMs) ─► ask the supervisor for its outbox ─► publish in order ─► Published
//!                             ▲                                                        │ bus away
//!                             └───────────── again, after a wait ◄─────────────────────┘
//! ```
//!
//! The events stay in the records; only the VMs that have some are remembered here, so memory stays bounded however
//! long the bus is away. One batch per VM is under way at a time, which keeps the order; VMs are published side by
//! side. A crash after a confirm, and before the record without the event is written ([`unrecorded`]), publishes again: the
//! same event has the same id.

mod unrecorded;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reeve_lifecycle::VmRecord;
use reeve_ports::{Address, Clock, Message};
use reeve_protocol::VmId;
use reeve_protocol::event::{About, CloudEvent, Event};
use tokio::sync::Notify;

pub(crate) use self::unrecorded::Unrecorded;
use crate::actor::{ToVm, VmHandle};
use crate::perform::wait::within;
use crate::shared::Shared;

/// The wait after a failure; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait: a bus that is back is noticed within it.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The VMs that have unpublished events and are not being published, in the order of their announcements.
#[derive(Default)]
pub(crate) struct Unpublished {
    waiting: Mutex<VecDeque<(VmId, VmHandle)>>,
    added: Notify,
}

impl Unpublished {
    /// A VM has events. Its supervisor announces once until it is told `Published`.
    pub(crate) fn add(&self, vm: VmId, handle: VmHandle) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((vm, handle));
        self.added.notify_one();
    }

    fn take(&self) -> Option<(VmId, VmHandle)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// A VM that is being published: dropped before its end, it is remembered again.
struct Batch<'a> {
    queue: &'a Unpublished,
    vm: VmId,
    handle: Option<VmHandle>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.queue.add(self.vm, handle);
        }
    }
}

/// Publishes for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let most = shared.config.runtime.caps.publishing.max(1);
    let next = || {
        let (vm, handle) = shared.unpublished.take()?;
        Some(publish(&shared, Batch { queue: &shared.unpublished, vm, handle: Some(handle) }))
    };
    let publishing = publish_all(shared.clock.as_ref(), most, &shared.unpublished.added, next);
    futures::future::join(publishing, unrecorded::remind(&shared)).await;
}

/// Begins what there is to publish, this many at a time, and sees to it until it is over; waits after a failure. What
/// is begun answers whether the bus took it.
async fn publish_all<P: Future<Output = bool>>(
    clock: &dyn Clock,
    most: usize,
    added: &Notify,
    mut next: impl FnMut() -> Option<P>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut failures: u32 = 0;
    loop {
        // While the bus is away, one VM at a time finds out whether it is back.
        let most = if failures == 0 { most } else { 1 };
        while under_way.len() < most
            && let Some(publishing) = next()
        {
            under_way.push(publishing);
        }
        let published = tokio::select! {
            published = under_way.next(), if !under_way.is_empty() => published.unwrap_or(true),
            () = added.notified() => continue,
        };
        if published {
            failures = 0;
        } else {
            failures = failures.saturating_add(1);
            let wait = (FIRST_WAIT * 2u32.pow(failures.min(10))).min(LAST_WAIT);
            let mut waited = clock.sleep(wait);
            // Those under way go on meanwhile: nobody looking at them, each would run into its timeout.
            loop {
                tokio::select! {
                    () = &mut waited => break,
                    Some(published) = under_way.next() => {
                        if published {
                            failures = 0;
                        }
                    }
                }
            }
        }
    }
}

/// Publishes the outbox of one VM in order; false when the bus failed.
async fn publish(shared: &Shared, mut batch: Batch<'_>) -> bool {
    let Some(handle) = batch.handle.clone() else { return true };
    let Some((events, about)) = handle.look(|record| (record.outbox.clone(), about(record))).await else {
        // Its successor announces again.
        batch.handle = None;
        return true;
    };
    let mut through = None;
    let mut failed = false;
    for event in &events {
        let to = Address::Events(event.routing_key().to_owned());
        let publishing = shared.bus.publish(&to, message(shared, event, &about));
        match within(shared.clock.as_ref(), shared.ports.timeouts.call, publishing).await {
            Some(Ok(())) => through = Some(event.sequence),
            Some(Err(error)) => {
                tracing::warn!(vm = %batch.vm, %error, "an event is not published; it is tried again");
                failed = true;
                break;
            }
            None => {
                tracing::warn!(vm = %batch.vm, "the bus does not confirm an event; it is tried again");
                failed = true;
                break;
            }
        }
    }
    if let Some(through) = through {
        // The supervisor announces again if events are left.
        batch.handle = None;
        handle.send(ToVm::Published { through });
    } else if !failed {
        // What was announced is not there any more: another record was read. The supervisor may announce again.
        batch.handle = None;
        handle.send(ToVm::Published { through: 0 });
    }
    !failed
}

/// Where a VM belongs now: an event that is published again, later, may say otherwise.
fn about(record: &VmRecord) -> About {
    About {
        cloud: Some(record.cloud.clone()),
        project: record.facts.project.clone(),
        policy: Some(record.policy.name.clone()),
    }
}

fn message(shared: &Shared, event: &Event, about: &About) -> Message {
    let cloud_event = CloudEvent { about: about.clone(), ..event.to_cloud_event(&shared.source) };
    let body = serde_json::to_vec(&cloud_event).expect("an event is plain data with text keys");
    Message {
        body: Bytes::from(body),
        content_type: Some("application/cloudevents+json".to_owned()),
        kind: Some(cloud_event.kind),
        message_id: Some(cloud_event.id.0),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use reeve_ports::Sleep;
    use reeve_protocol::Timestamp;
    use tokio::sync::oneshot;

    use super::*;

    /// A clock whose sleeps end when told.
    #[derive(Default)]
    struct Standing(Arc<Notify>);

    impl Clock for Standing {
        fn now(&self) -> Timestamp {
            Timestamp::EPOCH
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> Sleep {
            let told = Arc::clone(&self.0);
            Box::pin(async move { told.notified().await })
        }
    }

    /// A bus: what it was asked to take, in this order, and how it answers each.
    #[derive(Default)]
    struct FakeBus(RefCell<Vec<(&'static str, oneshot::Sender<bool>)>>);

    impl FakeBus {
        async fn take(&self, event: &'static str) -> bool {
            let (answer, answered) = oneshot::channel();
            self.0.borrow_mut().push((event, answer));
            answered.await.unwrap()
        }

        /// The events of one VM in their order, until one is not taken.
        async fn take_all(&self, events: &[&'static str]) -> bool {
            for event in events {
                if !self.take(event).await {
                    return false;
                }
            }
            true
        }

        fn asked(&self) -> Vec<&'static str> {
            self.0.borrow().iter().map(|(event, _)| *event).collect()
        }

        fn answer(&self, event: &str, taken: bool) {
            let at = self.asked().iter().position(|asked| *asked == event).unwrap();
            self.0.borrow_mut().remove(at).1.send(taken).unwrap();
        }
    }

    #[test]
    fn what_is_under_way_when_one_fails_goes_on_during_the_wait_and_nothing_else_begins() {
        let (clock, bus, added) = (Standing::default(), FakeBus::default(), Notify::new());
        let vms: [&[&str]; 4] = [&["a1", "a2"], &["b1", "b2"], &["c1"], &["d1"]];
        let mut waiting: VecDeque<&[&str]> = vms.into();
        let next = || Some(bus.take_all(waiting.pop_front()?));
        let mut publishing = pin!(publish_all(&clock, 3, &added, next));
        let mut go_on = || assert!(publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        go_on();
        assert_eq!(bus.asked(), ["a1", "b1", "c1"]);
        bus.answer("a1", false);
        go_on();
        // The wait stands still; those under way are seen to all the same.
        bus.answer("b1", true);
        bus.answer("c1", true);
        go_on();
        assert_eq!(bus.asked(), ["b2"], "the next event of a VM follows as soon as the bus took the one before");
        bus.answer("b2", true);
        go_on();
        assert!(bus.asked().is_empty(), "nothing new is begun before the wait is over");
        clock.0.notify_one();
        go_on();
        assert_eq!(bus.asked(), ["d1"]);
    }
}
