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
//! side. A crash after a confirm publishes again: the same event has the same id.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reeve_lifecycle::VmInput;
use reeve_ports::{Address, Message};
use reeve_protocol::VmId;
use reeve_protocol::event::Event;
use tokio::sync::Notify;

use crate::actor::{Envelope, ToVm, VmHandle};
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
    let mut under_way = FuturesUnordered::new();
    let mut failures: u32 = 0;
    loop {
        // While the bus is away, one VM at a time finds out whether it is back.
        let most = if failures == 0 { shared.config.runtime.caps.publishing.max(1) } else { 1 };
        while under_way.len() < most
            && let Some((vm, handle)) = shared.unpublished.take()
        {
            let batch = Batch { queue: &shared.unpublished, vm, handle: Some(handle) };
            under_way.push(publish(&shared, batch));
        }
        let published = tokio::select! {
            published = under_way.next(), if !under_way.is_empty() => published.unwrap_or(true),
            () = shared.unpublished.added.notified() => continue,
        };
        if published {
            failures = 0;
        } else {
            failures = failures.saturating_add(1);
            let wait = (FIRST_WAIT * 2u32.pow(failures.min(10))).min(LAST_WAIT);
            let mut waited = shared.clock.sleep(wait);
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
    let Some(events) = handle.look(|record| record.outbox.clone()).await else {
        // Its successor announces again.
        batch.handle = None;
        return true;
    };
    let mut through = None;
    let mut failed = false;
    for event in &events {
        let to = Address::Events(event.routing_key().to_owned());
        let publishing = shared.bus.publish(&to, message(shared, event));
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
        let input = VmInput::Published { through };
        handle.send(ToVm::Input(Box::new(Envelope::new(input, None))));
    } else if !failed {
        // An announcement whose events were published meanwhile.
        batch.handle = None;
    }
    !failed
}

fn message(shared: &Shared, event: &Event) -> Message {
    let cloud_event = event.to_cloud_event(&shared.source);
    let body = serde_json::to_vec(&cloud_event).expect("an event is plain data with text keys");
    Message {
        body: Bytes::from(body),
        content_type: Some("application/cloudevents+json".to_owned()),
        kind: Some(cloud_event.kind),
        message_id: Some(cloud_event.id.0),
        ..Message::default()
    }
}
