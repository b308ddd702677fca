//! The acknowledgements of one consumer, those of neighbours together.
//!
//! ```text
//!   delivered ──► settled by the application ──► sent
//!                    │ everything before it is settled: one frame for all of them
//!                    │ something before it is not: with them, or by itself after HOLD, or when many wait
//!                    └ the channel ended: told so; the broker delivers it again
//! ```
//!
//! An acknowledgement is an entry in a quorum queue's log, whether it is for one message or for all up to it. Messages are
//! settled when their records are committed, which happens to many at once and not quite in their order, so that some
//! milliseconds of waiting make one entry of dozens.
//!
//! Bounds: what the prefetch lets the broker deliver, and [`HOLD`].

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use reeve_ports::BusError;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ack::{gone, within_limits};

/// While other messages are with the application, so long is waited for neighbours.
const GATHER: Duration = Duration::from_millis(1);

/// The longest wait for a message before it that is not settled.
const HOLD: Duration = Duration::from_millis(50);

/// Tells whoever settled that it is on its way, or that it never will be.
type Told = oneshot::Sender<Result<(), BusError>>;

/// The acknowledgements of the deliveries of one channel, which has one consumer.
#[derive(Debug)]
pub(crate) struct Acks {
    ledger: Mutex<Ledger<Told>>,
    settled: Notify,
}

/// Which deliveries of a channel are settled, and which the broker knows to be.
#[derive(Debug)]
struct Ledger<T> {
    /// All before it have been sent.
    next: u64,
    /// The newest delivery.
    newest: u64,
    /// Settled and not sent.
    waiting: BTreeMap<u64, (Instant, T)>,
    /// Sent by themselves, while one before them was not settled.
    alone: BTreeSet<u64>,
    /// More than these do not wait for one before them.
    most: usize,
    over: bool,
}

/// What is sent: one delivery, or all up to it.
#[derive(Debug)]
struct Frame<T> {
    tag: u64,
    multiple: bool,
    told: Vec<T>,
}

impl Acks {
    /// For a channel whose consumer has this prefetch.
    pub(crate) fn new(prefetch: u16) -> Self {
        Self { ledger: Mutex::new(Ledger::new(usize::from(prefetch) / 2)), settled: Notify::new() }
    }

    /// A delivery has come.
    pub(crate) fn delivered(&self, tag: u64) {
        self.locked().newest = tag;
    }

    /// A delivery is settled; returns when the broker is told. An error means that it may be delivered again.
    pub(crate) async fn settle(&self, tag: u64) -> Result<(), BusError> {
        let (told, is_told) = oneshot::channel();
        if !self.locked().settle(tag, Instant::now(), told) {
            return Err(gone());
        }
        self.settled.notify_one();
        is_told.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Whether the broker takes no acknowledgement any more: it delivers again what it was not told.
    pub(crate) fn is_over(&self) -> bool {
        self.locked().over
    }

    /// Sends what is settled, until the channel ends.
    pub(crate) async fn send(&self, channel: &Channel) {
        while channel.status().connected() {
            self.something().await;
            let frames = self.locked().take(Instant::now());
            deliver(channel, frames).await;
        }
    }

    /// Sends what is settled now. Nothing is taken afterwards.
    pub(crate) async fn finish(&self, channel: &Channel) {
        let frames = {
            let mut ledger = self.locked();
            ledger.over = true;
            ledger.most = 0;
            ledger.take(Instant::now())
        };
        deliver(channel, frames).await;
    }

    /// The channel is gone: whoever waits is told.
    pub(crate) fn end(&self) {
        let mut ledger = self.locked();
        ledger.over = true;
        ledger.waiting.clear();
    }

    /// Returns when there is something to send.
    async fn something(&self) {
        loop {
            let due = self.locked().due();
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => return,
                    () = self.settled.notified() => {}
                },
                None => self.settled.notified().await,
            }
            if !self.locked().is_idle() {
                tokio::time::sleep(GATHER).await;
            }
            if self.locked().has_next() {
                return;
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Ledger<Told>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn deliver(channel: &Channel, frames: Vec<Frame<Told>>) {
    for Frame { tag, multiple, told } in frames {
        let sending = async { channel.basic_ack(tag, BasicAckOptions { multiple }).await.is_ok() };
        let sent = within_limits(sending, || !channel.status().connected()).await;
        for told in told {
            // Whoever settled it may not be interested any more.
            let _ = told.send(sent.clone());
        }
    }
}

impl<T> Ledger<T> {
    fn new(most: usize) -> Self {
        Self { next: 1, newest: 0, waiting: BTreeMap::new(), alone: BTreeSet::new(), most, over: false }
    }

    /// Whether it was taken.
    fn settle(&mut self, tag: u64, now: Instant, told: T) -> bool {
        if !self.over {
            self.waiting.insert(tag, (now, told));
        }
        !self.over
    }

    /// Whether nothing is with the application, so that no neighbour can come.
    fn is_idle(&self) -> bool {
        self.next + (self.waiting.len() + self.alone.len()) as u64 > self.newest
    }

    fn has_next(&self) -> bool {
        self.waiting.contains_key(&self.next) || self.waiting.len() > self.most
    }

    /// When something is sent even though one before it is not settled.
    fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|(since, _)| *since + HOLD).min()
    }

    /// What is to be sent now.
    fn take(&mut self, now: Instant) -> Vec<Frame<T>> {
        let mut frames = Vec::new();
        let mut together = Frame { tag: 0, multiple: true, told: Vec::new() };
        loop {
            if let Some((_, told)) = self.waiting.remove(&self.next) {
                together.tag = self.next;
                together.told.push(told);
            } else if !self.alone.remove(&self.next) {
                break;
            }
            self.next += 1;
        }
        if !together.told.is_empty() {
            frames.push(together);
        }
        let crowded = self.waiting.len() > self.most;
        let (send, wait) =
            mem::take(&mut self.waiting).into_iter().partition(|(_, (since, _))| crowded || *since + HOLD <= now);
        self.waiting = wait;
        let send: BTreeMap<u64, (Instant, T)> = send;
        for (tag, (_, told)) in send {
            self.alone.insert(tag);
            frames.push(Frame { tag, multiple: false, told: vec![told] });
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ledger(delivered: u64) -> Ledger<u64> {
        Ledger { newest: delivered, ..Ledger::new(8) }
    }

    fn settle(ledger: &mut Ledger<u64>, tags: impl IntoIterator<Item = u64>, now: Instant) {
        for tag in tags {
            assert!(ledger.settle(tag, now, tag));
        }
    }

    fn sent(frames: Vec<Frame<u64>>) -> Vec<(u64, bool)> {
        frames.into_iter().map(|frame| (frame.tag, frame.multiple)).collect()
    }

    #[test]
    fn neighbours_are_one_frame_in_whatever_order_they_were_settled() {
        let (mut ledger, now) = (ledger(5), Instant::now());
        settle(&mut ledger, [3, 1, 2], now);
        assert!(!ledger.is_idle());
        let frames = ledger.take(now);
        assert_eq!(frames.iter().map(|frame| frame.told.clone()).collect::<Vec<_>>(), [[1, 2, 3]]);
        assert_eq!(sent(frames), [(3, true)]);
        settle(&mut ledger, [5, 4], now);
        assert!(ledger.is_idle());
        assert_eq!(sent(ledger.take(now)), [(5, true)]);
    }

    #[test]
    fn one_that_is_slow_is_waited_for_and_not_for_long() {
        let (mut ledger, now) = (ledger(4), Instant::now());
        settle(&mut ledger, [2, 3], now);
        assert!(!ledger.has_next());
        assert_eq!(sent(ledger.take(now)), []);
        assert_eq!(ledger.due(), Some(now + HOLD));
        assert_eq!(sent(ledger.take(now + HOLD)), [(2, false), (3, false)]);
        settle(&mut ledger, [1], now);
        assert_eq!(sent(ledger.take(now)), [(1, true)], "the frame names one that the broker still waits for");
        settle(&mut ledger, [4], now);
        assert_eq!(sent(ledger.take(now)), [(4, true)]);
    }

    #[test]
    fn when_many_wait_for_one_they_are_sent_without_it() {
        let (mut ledger, now) = (ledger(20), Instant::now());
        settle(&mut ledger, 2..=9, now);
        assert_eq!(sent(ledger.take(now)), []);
        settle(&mut ledger, [10], now);
        assert!(ledger.has_next());
        assert_eq!(sent(ledger.take(now)).len(), 9);
    }

    #[test]
    fn what_has_ended_takes_nothing() {
        let acks = Acks::new(16);
        acks.end();
        assert!(acks.is_over());
        assert!(!acks.locked().settle(1, Instant::now(), oneshot::channel().0));
    }

    proptest! {
        /// As a broker would: a frame names a delivery that is not acknowledged, and none is acknowledged unsettled.
        #[test]
        fn each_is_acknowledged_once_and_none_before_it_is_settled(
            order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(),
            pauses in proptest::collection::vec(0..30u64, 40),
        ) {
            let (mut ledger, mut now) = (ledger(40), Instant::now());
            let (mut unacked, mut unsettled) = ((1..=40u64).collect::<BTreeSet<_>>(), (1..=40u64).collect::<BTreeSet<_>>());
            for (tag, pause) in order.into_iter().zip(pauses) {
                now += Duration::from_millis(pause);
                settle(&mut ledger, [tag], now);
                unsettled.remove(&tag);
                for frame in ledger.take(now) {
                    prop_assert!(unacked.contains(&frame.tag), "{} is acknowledged already", frame.tag);
                    let covered: BTreeSet<u64> =
                        if frame.multiple { unacked.range(..=frame.tag).copied().collect() } else { [frame.tag].into() };
                    prop_assert!(covered.is_disjoint(&unsettled));
                    prop_assert_eq!(&covered, &frame.told.iter().copied().collect());
                    unacked.retain(|tag| !covered.contains(tag));
                }
            }
            prop_assert!(unacked.is_empty());
        }
    }
}
