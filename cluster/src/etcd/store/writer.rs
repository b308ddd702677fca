//! The writer of one shard: one transaction under way at a time, and what came meanwhile goes with the next.
//!
//! ```text
//! idle ──a write is queued──► writing ──the queue is empty──► idle
//!                               │ ▲
//!                               └─┘ the next group
//! ```
//!
//! The task runs only while there is work, so that shards of other nodes cost nothing. The queue is bounded: who finds
//! it full waits for room. A write that was not sent in its time is taken back, which is certain; one that was sent has
//! the transaction's own answer, and that may be "unknown".

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reeve_ports::store::{StoreError, Write};
use reeve_protocol::{Epoch, ShardId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::Backend;
use super::group::{self, Grouped};

/// Writes of one shard that wait. A supervisor has one at a time, so this is reached only by an outage.
const MAX_WAITING: usize = 4_096;
/// How long a write waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

type Answer = Result<(), StoreError>;

struct Job {
    number: u64,
    epoch: Epoch,
    write: Write,
    answer: oneshot::Sender<Answer>,
    /// The room that it takes in the queue, until it is answered.
    _room: OwnedSemaphorePermit,
}

impl Grouped for Job {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn write(&self) -> &Write {
        &self.write
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    writing: bool,
    numbers: u64,
}

/// The writer of one shard.
pub(super) struct Writer {
    shard: ShardId,
    backend: Arc<Backend>,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
}

/// The task. It leaves the writer idle whatever ends it: a runtime that stops, or a panic.
struct Writing {
    writer: Arc<Writer>,
    idle: bool,
}

impl Writing {
    async fn run(mut self) {
        while let Some(group) = self.writer.next() {
            self.writer.write(group).await;
        }
        self.idle = true;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.idle {
            let mut queue = self.writer.queue();
            queue.writing = false;
            // Their senders go with them, and those who wait are told that nothing is known.
            queue.jobs.clear();
        }
    }
}

impl Writer {
    pub(super) fn new(shard: ShardId, backend: Arc<Backend>) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(MAX_WAITING));
        Arc::new(Self { shard, backend, queue: Mutex::default(), room })
    }

    /// Writes as one of a group.
    pub(super) async fn commit(self: &Arc<Self>, epoch: Epoch, write: Write) -> Answer {
        let room = match timeout(PATIENCE, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) | Err(_) => {
                return Err(StoreError::Unavailable(format!("the queue of shard {} is full", self.shard)));
            }
        };
        let (number, mut answer) = self.push(epoch, write, room);
        let waited = match timeout(PATIENCE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) if self.take_back(number) => {
                return Err(StoreError::Unavailable(format!("shard {}: etcd is behind", self.shard)));
            }
            // It is under way, and the transaction has a time limit.
            Err(_) => answer.await,
        };
        waited.unwrap_or_else(|_| Err(StoreError::Unknown("the writer ended".to_owned())))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Self>,
        epoch: Epoch,
        write: Write,
        room: OwnedSemaphorePermit,
    ) -> (u64, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue();
        queue.numbers += 1;
        let number = queue.numbers;
        queue.jobs.push_back(Job { number, epoch, write, answer: sender, _room: room });
        let start = !std::mem::replace(&mut queue.writing, true);
        drop(queue);
        if start {
            // Not on the caller's runtime: its thread may be busy or end, and the others' writes wait here as well.
            let writing = Writing { writer: Arc::clone(self), idle: false };
            self.backend.client.runtime().spawn(writing.run());
        }
        (number, receiver)
    }

    /// Takes a write out of the queue; false when it is under way.
    fn take_back(&self, number: u64) -> bool {
        let mut queue = self.queue();
        let before = queue.jobs.len();
        queue.jobs.retain(|job| job.number != number);
        queue.jobs.len() < before
    }

    /// The next group; none leaves the writer idle.
    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue();
        loop {
            let mut group = group::take(&mut queue.jobs);
            // Nobody waits for these any more, and they were not sent: decisions that were given up.
            group.retain(|job| !job.answer.is_closed());
            if !group.is_empty() {
                return Some(group);
            }
            if queue.jobs.is_empty() {
                queue.writing = false;
                return None;
            }
        }
    }

    async fn write(&self, jobs: Vec<Job>) {
        let epoch = jobs.first().expect("a group is never empty").epoch;
        let writes: Vec<&Write> = jobs.iter().map(|job| &job.write).collect();
        let results = self.backend.write(self.shard, epoch, &writes).await;
        for (job, result) in jobs.into_iter().zip(results) {
            // Who no longer waits does not want to know.
            let _ = job.answer.send(result);
        }
    }
}
