//! A consumer of the embedded bus and its deliveries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reeve_ports::bus::{Consume, Settle};
use reeve_ports::{BusError, Delivery, Settlement};
use tokio::sync::{Notify, oneshot};

use super::error::WriteError;
use super::ledger;
use super::queue::{Entry, Taken};
use super::shared::Shared;

/// How long a consumer waits when a dead letter could not be written: the disk is full or failing.
const BURIAL_PAUSE: Duration = Duration::from_secs(1);

/// A consumer.
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    queue: String,
    id: u64,
    prefetch: u16,
    changed: Arc<Notify>,
    /// A redelivery whose count is not yet on disk. Kept here, so that a `next` that is dropped loses nothing.
    noting: Option<(Delivery, oneshot::Receiver<Result<(), WriteError>>)>,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, queue: String, prefetch: u16) -> Self {
        let mut state = shared.state();
        let id = state.new_consumer();
        let found = state.queue(&queue);
        found.add_consumer(id);
        let changed = Arc::clone(&found.changed);
        drop(state);
        Self { shared, queue, id, prefetch, changed, noting: None }
    }

    fn delivery(&self, entry: Entry) -> Delivery {
        let held = Held {
            shared: Arc::clone(&self.shared),
            queue: self.queue.clone(),
            order: entry.order,
            consumer: self.id,
            settled: false,
        };
        Delivery { message: entry.message, redelivered: entry.redelivered, settle: Box::new(held) }
    }

    /// Begins to note on disk that a message is delivered once more, so that one that kills the process is recognised.
    fn note(&self, number: u64, count: u32) -> oneshot::Receiver<Result<(), WriteError>> {
        let (answer, answered) = oneshot::channel();
        self.shared.db.write_now(
            move |tables| ledger::note_deliveries(tables, number, count),
            move |result| {
                // The consumer may have gone.
                let _ = answer.send(result);
            },
        );
        answered
    }

    async fn noted(&mut self) -> Option<Delivery> {
        let (_, noting) = self.noting.as_mut()?;
        if !matches!(noting.await, Ok(Ok(()))) {
            tracing::warn!(queue = self.queue, "the count of a redelivery could not be written");
        }
        self.noting.take().map(|(delivery, _)| delivery)
    }
}

#[async_trait]
impl Consume for EmbeddedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.noted().await {
                return Some(delivery);
            }
            let changed = Arc::clone(&self.changed).notified_owned();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.db.closed().is_cancelled() {
                return None;
            }
            let taken =
                self.shared.state().queue(&self.queue).take(self.id, self.prefetch, self.shared.limits.delivery_limit);
            match taken {
                Taken::Entry(entry) => match entry.number {
                    Some(number) if entry.redelivered > 0 => {
                        let noting = self.note(number, entry.redelivered);
                        self.noting = Some((self.delivery(entry), noting));
                    }
                    Some(_) | None => return Some(self.delivery(entry)),
                },
                Taken::Exhausted(entry) => {
                    let deliveries = entry.redelivered;
                    tracing::warn!(queue = self.queue, deliveries, "a message passed the delivery limit");
                    let buried = self.shared.bury(&self.queue, entry, "delivery limit").await;
                    if !matches!(buried, Ok(Ok(()))) {
                        self.shared.clock.sleep(BURIAL_PAUSE).await;
                    }
                }
                Taken::Nothing => {
                    tokio::select! {
                        () = changed => {}
                        () = self.shared.db.closed().cancelled() => return None,
                    }
                }
            }
        }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.shared.state().queue(&self.queue).remove_consumer(self.id);
    }
}

/// A delivery that is not settled yet.
struct Held {
    shared: Arc<Shared>,
    queue: String,
    order: u64,
    consumer: u64,
    settled: bool,
}

#[async_trait]
impl Settle for Held {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BusError> {
        self.settled = true;
        let gone = || BusError::Unavailable("the consumer of this delivery is gone: the message went back".into());
        match settlement {
            Settlement::Ack => {
                let entry = self.shared.state().queue(&self.queue).settle(self.order, self.consumer);
                self.shared.forget(&self.queue, &entry.ok_or_else(gone)?);
                Ok(())
            }
            Settlement::Dead(reason) => {
                let entry = self.shared.state().queue(&self.queue).begin_burial(self.order, self.consumer);
                let buried = self.shared.bury(&self.queue, entry.ok_or_else(gone)?, &reason).await;
                match buried {
                    Ok(result) => result.map_err(|error| BusError::Unavailable(error.to_string())),
                    Err(_) => Err(BusError::Unavailable("the writer failed".into())),
                }
            }
            Settlement::Return => {
                let held = self.shared.state().queue(&self.queue).give_back(self.order, self.consumer);
                if held { Ok(()) } else { Err(gone()) }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.state().queue(&self.queue).give_back(self.order, self.consumer);
        }
    }
}
