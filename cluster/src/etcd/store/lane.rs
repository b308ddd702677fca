//! The writers of a node's shards, which share a few lanes: one transaction under way in each, and what came meanwhile,
//! of any of its shards, goes with the next.
//!
//! ```text
//!        idle ──a write is queued──► writing ──the queue is empty──► idle
//!                                      │ ▲
//!                                      └─┘ the next group
//! ```
//!
//! A shard is in the same lane as long as there are lanes, so its writes are never under way twice and keep the order of
//! a record. A request costs etcd and its client about as much processor time as four writes inside one (190 µs and 50 µs
//! on the machine of the measurements); by shards, nearly every write would be a request.
//!
//! What shards of a lane mean to each other:
//!
//! * A fence, a conflict or a damaged record is the answer of those it concerns, never of a neighbour.
//! * A transaction without an answer delays the lane, at most [`super::ATTEMPTS`] times [`super::ATTEMPT`], and is
//!   unknown to all in it. Shards share the connection and etcd too, so lanes of their own would be as slow.
//! * The last commit of a shard that is handed over waits for the transaction under way and for its turn, and so does
//!   whoever is patient: shards take turns ([`super::queue`]). Alone it is in the next group, and where every neighbour
//!   has a backlog in one of the next eight.
//! * Room is the shard's own: a neighbour whose writes pile up takes none of it.
//!
//! The task runs only while there is work. The queue is bounded: who finds the shard's room taken waits. A write that was
//! not sent in its time is taken back, which is certain; one that was sent has the transaction's own answer, and that may
//! be "unknown".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reeve_ports::store::{StoreError, Write};
use reeve_protocol::{Epoch, ShardId, VmId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::Backend;
use super::group::{Names, OfShard};
use super::queue::{Part, Queue, Waiting};

/// Lanes of a node: while etcd carries out the one's transaction, the other's answers are handed out and its next is made.
/// More of them make smaller groups, each of which costs etcd and this node a request.
pub(super) const LANES: usize = 2;
/// Writes of one shard that wait. A supervisor has one at a time, so this is reached only by an outage.
const MAX_WAITING: usize = 4_096;
/// How long a write waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lane of a shard. A plan draws a node's shards as if by lot, so a remainder spreads them.
pub(super) fn of(shard: ShardId) -> usize {
    usize::from(shard.0) % LANES
}

type Answer = Result<(), StoreError>;

struct Job {
    number: u64,
    names: Arc<Names>,
    epoch: Epoch,
    write: Write,
    answer: oneshot::Sender<Answer>,
    /// The room that it takes in the queue, until it is answered.
    _room: OwnedSemaphorePermit,
}

impl Waiting for Job {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn vm(&self) -> VmId {
        self.write.vm
    }

    fn bytes(&self) -> usize {
        self.names.bytes(&self.write)
    }

    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }
}

#[derive(Default)]
struct State {
    queue: Queue<Job>,
    writing: bool,
    numbers: u64,
}

/// The writer of one shard.
pub(super) struct Writer {
    names: Arc<Names>,
    lane: Arc<Lane>,
    room: Arc<Semaphore>,
}

/// What carries the writes of some shards.
pub(super) struct Lane {
    backend: Arc<Backend>,
    state: Mutex<State>,
}

/// The task. It leaves the lane idle whatever ends it: a runtime that stops, or a panic.
struct Writing {
    lane: Arc<Lane>,
    idle: bool,
}

impl Writing {
    async fn run(mut self) {
        while let Some(group) = self.lane.next() {
            self.lane.write(group).await;
        }
        self.idle = true;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.idle {
            let mut state = self.lane.state();
            state.writing = false;
            // Their senders go with them, and those who wait are told that nothing is known.
            state.queue.clear();
        }
    }
}

impl Writer {
    pub(super) fn new(names: Names, lane: Arc<Lane>) -> Self {
        Self { names: Arc::new(names), lane, room: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// Writes as one of a group.
    pub(super) async fn commit(&self, epoch: Epoch, write: Write) -> Answer {
        let shard = self.names.shard;
        let room = self.room().await?;
        let (number, mut answer) = self.push(epoch, write, room);
        let waited = match timeout(PATIENCE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) if self.lane.take_back(shard, number) => {
                return Err(StoreError::Unavailable(format!("shard {shard}: etcd is behind")));
            }
            // It is under way, and the transaction has a time limit.
            Err(_) => answer.await,
        };
        waited.unwrap_or_else(|_| Err(StoreError::Unknown("the writer ended".to_owned())))
    }

    async fn room(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        // As a rule there is some, and then writes are queued in the order in which they were begun.
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(room);
        }
        match timeout(PATIENCE, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => {
                Err(StoreError::Unavailable(format!("the queue of shard {} is full", self.names.shard)))
            }
        }
    }

    fn push(&self, epoch: Epoch, write: Write, room: OwnedSemaphorePermit) -> (u64, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let names = Arc::clone(&self.names);
        let mut state = self.lane.state();
        state.numbers += 1;
        let number = state.numbers;
        state.queue.push(self.names.shard, Job { number, names, epoch, write, answer: sender, _room: room });
        let start = !std::mem::replace(&mut state.writing, true);
        drop(state);
        if start {
            // Not on the caller's runtime: its thread may be busy or end, and the others' writes wait here as well.
            let writing = Writing { lane: Arc::clone(&self.lane), idle: false };
            self.lane.backend.client.runtime().spawn(writing.run());
        }
        (number, receiver)
    }
}

impl Lane {
    pub(super) fn new(backend: Arc<Backend>) -> Arc<Self> {
        Arc::new(Self { backend, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a write out of the queue; false when it is under way.
    fn take_back(&self, shard: ShardId, number: u64) -> bool {
        self.state().queue.take_back(shard, |job| job.number == number)
    }

    /// The next group; none leaves the lane idle.
    fn next(&self) -> Option<Vec<Part<Job>>> {
        let mut state = self.state();
        loop {
            let group = state.queue.take();
            if !group.is_empty() {
                return Some(group);
            }
            if state.queue.is_empty() {
                state.writing = false;
                return None;
            }
        }
    }

    async fn write(&self, group: Vec<Part<Job>>) {
        let results = self.backend.write(&parts(&group)).await;
        for (job, result) in group.into_iter().flat_map(|part| part.writes).zip(results.into_iter().flatten()) {
            // Who no longer waits does not want to know.
            let _ = job.answer.send(result);
        }
    }
}

fn parts(group: &[Part<Job>]) -> Vec<OfShard<'_>> {
    group.iter().map(of_shard).collect()
}

fn of_shard(part: &Part<Job>) -> OfShard<'_> {
    let names = &part.writes.first().expect("a part is never empty").names;
    OfShard { names, epoch: part.epoch, writes: part.writes.iter().map(|job| &job.write).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_share_of_the_shards() {
        let mut lanes = [0; LANES];
        (0..1_024).for_each(|shard| lanes[of(ShardId(shard))] += 1);
        assert_eq!(lanes, [1_024 / LANES; LANES]);
    }
}
