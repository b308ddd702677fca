//! The acknowledgements of one consumer, those of neighbours together.
//!
//! ```text
//!   delivered ──► settled by the application ──► sent
//!                    │ everything before it is settled: one frame for all of them
//!                    │ something before it is not: with them, or by itself after HOLD, or when many wait, or at once
//!                    │   when that is a laggard
//!                    └ the channel ended: told so; the broker delivers it again
//! ```
//!
//! An acknowledgement is an entry in a quorum queue's log, whether it is for one message or for all up to it. Messages are
//! settled when their records are committed, which happens to many at once and not quite in their order, so that some
//! milliseconds of waiting make one entry of dozens.
//!
//! Bounds: what is not acknowledged is bounded by the prefetch, and how long a settled message waits by [`HOLD`]. One that
//! is not settled for long ([`LAGGARD`]) is not waited for: the others must not run into the prefetch because of it.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
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

/// A message that is with the application for so long.
const LAGGARD: Duration = Duration::from_secs(1);

/// Tells whoever settled that it is on its way, or that it never will be.
type Told = oneshot::Sender<Result<(), BusError>>;

/// The acknowledgements of the deliveries of one channel, which has one consumer.
#[derive(Debug)]
pub(crate) struct Acks {
    ledger: Mutex<Ledger<Told>>,
    settled: Notify,
}

/// The deliveries of a channel that the broker has no acknowledgement of. Each is in one of the two.
#[derive(Debug)]
struct Ledger<T> {
    /// With the application, since when.
    unsettled: BTreeMap<u64, Instant>,
    /// Settled and not sent, since when.
    waiting: BTreeMap<u64, (Instant, T)>,
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
        self.locked().delivered(tag, Instant::now());
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

    /// Sends what is settled, until the channel ends. Given up at any moment, it has handed over all that it took.
    pub(crate) async fn send(&self, channel: &Channel) {
        while channel.status().connected() {
            self.something().await;
            let frames = self.locked().take(Instant::now());
            hand_over(channel, frames).await;
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
        hand_over(channel, frames).await;
    }

    /// The channel is gone: whoever waits is told.
    pub(crate) fn end(&self) {
        let mut ledger = self.locked();
        ledger.over = true;
        ledger.unsettled.clear();
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
            if !self.locked().unsettled.is_empty() {
                tokio::time::sleep(GATHER).await;
            }
            if self.locked().is_ready(Instant::now()) {
                return;
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Ledger<Told>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands all frames over when it is first polled, in their order, and waits until they are on their way.
async fn hand_over(channel: &Channel, frames: Vec<Frame<Told>>) {
    let handing = frames.into_iter().map(|Frame { tag, multiple, told }| async move {
        let sending = async { channel.basic_ack(tag, BasicAckOptions { multiple }).await.is_ok() };
        let sent = within_limits(sending, || !channel.status().connected()).await;
        for told in told {
            // Whoever settled it may not be interested any more.
            let _ = told.send(sent.clone());
        }
    });
    join_all(handing).await;
}

impl<T> Ledger<T> {
    fn new(most: usize) -> Self {
        Self { unsettled: BTreeMap::new(), waiting: BTreeMap::new(), most, over: false }
    }

    fn delivered(&mut self, tag: u64, now: Instant) {
        if !self.over {
            self.unsettled.insert(tag, now);
        }
    }

    /// Whether it was taken.
    fn settle(&mut self, tag: u64, now: Instant, told: T) -> bool {
        let taken = !self.over && self.unsettled.remove(&tag).is_some();
        if taken {
            self.waiting.insert(tag, (now, told));
        }
        taken
    }

    /// Whether there is something to send before one that waits is due.
    fn is_ready(&self, now: Instant) -> bool {
        let Some((first, _)) = self.waiting.first_key_value() else { return false };
        let is_next = self.unsettled.first_key_value().is_none_or(|(unsettled, _)| first < unsettled);
        is_next || self.is_in_haste(now)
    }

    /// Whether nothing waits for one before it.
    fn is_in_haste(&self, now: Instant) -> bool {
        let lags = self.unsettled.first_key_value().is_some_and(|(_, since)| *since + LAGGARD <= now);
        lags || self.waiting.len() > self.most
    }

    /// When something is sent even though one before it is not settled.
    fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|(since, _)| *since + HOLD).min()
    }

    /// What is to be sent now.
    fn take(&mut self, now: Instant) -> Vec<Frame<T>> {
        let rest = match self.unsettled.first_key_value() {
            Some((unsettled, _)) => self.waiting.split_off(unsettled),
            None => BTreeMap::new(),
        };
        let neighbours = mem::replace(&mut self.waiting, rest);
        let mut frames = Vec::new();
        if let Some((&tag, _)) = neighbours.last_key_value() {
            let told = neighbours.into_values().map(|(_, told)| told).collect();
            frames.push(Frame { tag, multiple: true, told });
        }
        let in_haste = self.is_in_haste(now);
        for (tag, (since, told)) in mem::take(&mut self.waiting) {
            if in_haste || since + HOLD <= now {
                frames.push(Frame { tag, multiple: false, told: vec![told] });
            } else {
                self.waiting.insert(tag, (since, told));
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ledger(delivered: u64, now: Instant) -> Ledger<u64> {
        let mut ledger = Ledger::new(8);
        (1..=delivered).for_each(|tag| ledger.delivered(tag, now));
        ledger
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
        let now = Instant::now();
        let mut ledger = ledger(5, now);
        settle(&mut ledger, [3, 1, 2], now);
        assert!(ledger.is_ready(now));
        let frames = ledger.take(now);
        assert_eq!(frames.iter().map(|frame| frame.told.clone()).collect::<Vec<_>>(), [[1, 2, 3]]);
        assert_eq!(sent(frames), [(3, true)]);
        settle(&mut ledger, [5, 4], now);
        assert_eq!(sent(ledger.take(now)), [(5, true)]);
        assert!(ledger.unsettled.is_empty() && ledger.waiting.is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn one_that_is_slow_is_waited_for_and_not_for_long() {
        let now = Instant::now();
        let mut ledger = ledger(4, now);
        settle(&mut ledger, [2, 3], now);
        assert!(!ledger.is_ready(now));
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
        let now = Instant::now();
        let mut ledger = ledger(20, now);
        settle(&mut ledger, 2..=9, now);
        assert_eq!(sent(ledger.take(now)), []);
        settle(&mut ledger, [10], now);
        assert!(ledger.is_ready(now));
        assert_eq!(sent(ledger.take(now)).len(), 9);
    }

    #[test]
    fn a_laggard_is_not_waited_for_and_nothing_piles_up_behind_it() {
        let began = Instant::now();
        let (mut ledger, now) = (ledger(1, began), began + LAGGARD);
        for tag in 2..1_000 {
            ledger.delivered(tag, now);
            settle(&mut ledger, [tag], now);
            assert!(ledger.is_ready(now));
            assert_eq!(sent(ledger.take(now)), [(tag, false)]);
            assert_eq!((ledger.unsettled.len(), ledger.waiting.len()), (1, 0));
        }
    }

    #[test]
    fn what_has_ended_takes_nothing() {
        let acks = Acks::new(16);
        acks.delivered(1);
        acks.end();
        assert!(acks.is_over());
        assert!(!acks.locked().settle(1, Instant::now(), oneshot::channel().0));
    }

    proptest! {
        /// As a broker would: a frame names a delivery that is not acknowledged, and none is acknowledged unsettled.
        #[test]
        fn each_is_acknowledged_once_and_none_before_it_is_settled(
            order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(),
            pauses in proptest::collection::vec(0..60u64, 40),
        ) {
            let mut now = Instant::now();
            let mut ledger = ledger(40, now);
            let all = || (1..=40u64).collect::<BTreeSet<_>>();
            let (mut unacked, mut unsettled) = (all(), all());
            for (tag, pause) in order.into_iter().zip(pauses) {
                now += Duration::from_millis(pause);
                settle(&mut ledger, [tag], now);
                unsettled.remove(&tag);
                for frame in ledger.take(now) {
                    prop_assert!(unacked.contains(&frame.tag), "{} is acknowledged already", frame.tag);
                    let covered: BTreeSet<u64> = match frame.multiple {
                        true => unacked.range(..=frame.tag).copied().collect(),
                        false => [frame.tag].into(),
                    };
                    prop_assert!(covered.is_disjoint(&unsettled));
                    prop_assert_eq!(&covered, &frame.told.iter().copied().collect());
                    unacked.retain(|tag| !covered.contains(tag));
                }
            }
            prop_assert!(unacked.is_empty());
        }
    }
}
