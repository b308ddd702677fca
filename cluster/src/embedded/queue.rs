//! One queue in memory: pure, no lock, no clock, no disk.
//!
//! ```text
//!            take                    settle
//! ready ─────────────► held by one ─────────► gone
//!   ▲                   consumer
//!   └── given back: dropped, returned, or its consumer is gone (redelivered + 1)
//! ```
//!
//! `ready` is always in the order of publishing, so what is given back comes before what follows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use reeve_ports::Message;
use tokio::sync::Notify;

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place: grows with every message of the bus.
    pub(super) order: u64,
    /// Its number in the file, if it is there.
    pub(super) number: Option<u64>,
    /// How many times it was delivered before.
    pub(super) redelivered: u32,
    /// The message.
    pub(super) message: Message,
}

/// Who holds an entry that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A consumer, until it settles.
    Consumer(u64),
    /// The bus, while it becomes a dead letter.
    Burial,
}

/// What there is for a consumer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// An entry, which it now holds under its order.
    Entry(Entry),
    /// An entry that was delivered too often: it is held for burial.
    Exhausted(Entry),
    /// Nothing now: the queue is empty, the consumer is full, or another one is active.
    Nothing,
}

/// A queue.
#[derive(Default)]
pub(super) struct QueueState {
    ready: VecDeque<Entry>,
    held: BTreeMap<u64, (Holder, Entry)>,
    /// In the order of their coming. Of an exclusive queue only the first is active.
    consumers: Vec<u64>,
    exclusive: bool,
    /// Messages in the queue, held, or on their way into it.
    pub(super) messages: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    /// Told when there may be something for a consumer.
    pub(super) changed: Arc<Notify>,
}

impl QueueState {
    pub(super) fn new(exclusive: bool) -> Self {
        Self { exclusive, ..Self::default() }
    }

    pub(super) fn add_consumer(&mut self, consumer: u64) {
        self.consumers.push(consumer);
    }

    /// Removes a consumer and puts back what it held.
    pub(super) fn remove_consumer(&mut self, consumer: u64) {
        self.consumers.retain(|other| *other != consumer);
        let held: Vec<u64> = self
            .held
            .iter()
            .filter(|(_, (holder, _))| *holder == Holder::Consumer(consumer))
            .map(|(o, _)| *o)
            .collect();
        for order in held {
            self.give_back(order, consumer);
        }
        self.changed.notify_waiters();
    }

    /// Puts an entry in its place.
    pub(super) fn push(&mut self, entry: Entry) {
        let place = self.ready.partition_point(|other| other.order < entry.order);
        self.ready.insert(place, entry);
        self.changed.notify_waiters();
    }

    /// Takes the next entry for a consumer.
    pub(super) fn take(&mut self, consumer: u64, prefetch: u16, delivery_limit: u32) -> Taken {
        if self.exclusive && self.consumers.first() != Some(&consumer) {
            return Taken::Nothing;
        }
        let holds = self.held.values().filter(|(holder, _)| *holder == Holder::Consumer(consumer)).count();
        if holds >= usize::from(prefetch) {
            return Taken::Nothing;
        }
        let Some(entry) = self.ready.pop_front() else { return Taken::Nothing };
        let exhausted = entry.redelivered > delivery_limit;
        let holder = if exhausted { Holder::Burial } else { Holder::Consumer(consumer) };
        self.held.insert(entry.order, (holder, entry.clone()));
        if exhausted { Taken::Exhausted(entry) } else { Taken::Entry(entry) }
    }

    /// Puts an entry back that this consumer holds, one delivery more. Whether it held it.
    pub(super) fn give_back(&mut self, order: u64, consumer: u64) -> bool {
        let Some(mut entry) = self.release(order, Holder::Consumer(consumer)) else { return false };
        entry.redelivered = entry.redelivered.saturating_add(1);
        self.push(entry);
        true
    }

    /// Takes an entry out for good that this consumer holds.
    pub(super) fn settle(&mut self, order: u64, consumer: u64) -> Option<Entry> {
        let entry = self.release(order, Holder::Consumer(consumer))?;
        self.changed.notify_waiters();
        Some(entry)
    }

    /// Holds an entry for burial that this consumer holds.
    pub(super) fn begin_burial(&mut self, order: u64, consumer: u64) -> Option<Entry> {
        let (holder, entry) = self.held.get_mut(&order)?;
        if *holder != Holder::Consumer(consumer) {
            return None;
        }
        *holder = Holder::Burial;
        let entry = entry.clone();
        self.changed.notify_waiters();
        Some(entry)
    }

    /// The burial is done: the entry is gone.
    pub(super) fn end_burial(&mut self, order: u64) -> Option<Entry> {
        self.release(order, Holder::Burial)
    }

    /// The burial failed: the entry is where it was, one delivery more.
    pub(super) fn cancel_burial(&mut self, order: u64) {
        if let Some(mut entry) = self.release(order, Holder::Burial) {
            entry.redelivered = entry.redelivered.saturating_add(1);
            self.push(entry);
        }
    }

    fn release(&mut self, order: u64, by: Holder) -> Option<Entry> {
        if self.held.get(&order).is_none_or(|(holder, _)| *holder != by) {
            return None;
        }
        self.held.remove(&order).map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(order: u64) -> Entry {
        Entry { order, number: None, redelivered: 0, message: Message::default() }
    }

    fn taken(queue: &mut QueueState, consumer: u64) -> Option<u64> {
        match queue.take(consumer, 10, 3) {
            Taken::Entry(entry) => Some(entry.order),
            Taken::Exhausted(entry) => panic!("exhausted {entry:?}"),
            Taken::Nothing => None,
        }
    }

    #[test]
    fn what_two_consumers_give_back_is_in_its_old_order() {
        let mut queue = QueueState::new(false);
        (1..=5).for_each(|order| queue.push(entry(order)));
        queue.add_consumer(1);
        queue.add_consumer(2);
        let order = [1, 2, 1, 2].map(|consumer| taken(&mut queue, consumer));
        assert_eq!(order, [Some(1), Some(2), Some(3), Some(4)]);
        queue.remove_consumer(2);
        queue.remove_consumer(1);
        queue.add_consumer(3);
        let again: Vec<_> = std::iter::from_fn(|| taken(&mut queue, 3)).collect();
        assert_eq!(again, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_delivery_of_a_consumer_that_is_gone_cannot_be_settled() {
        let mut queue = QueueState::new(true);
        queue.push(entry(1));
        queue.add_consumer(1);
        assert_eq!(taken(&mut queue, 1), Some(1));
        queue.remove_consumer(1);
        queue.add_consumer(2);
        assert_eq!(taken(&mut queue, 2), Some(1));
        assert_eq!(queue.settle(1, 1), None);
        assert!(!queue.give_back(1, 1));
        assert_eq!(queue.begin_burial(1, 1), None);
        assert_eq!(queue.settle(1, 2).map(|entry| entry.redelivered), Some(1));
    }

    #[test]
    fn an_entry_over_the_limit_is_buried_and_not_given_back_with_its_consumer() {
        let mut queue = QueueState::new(false);
        queue.push(Entry { redelivered: 4, ..entry(1) });
        queue.add_consumer(1);
        assert!(matches!(queue.take(1, 10, 3), Taken::Exhausted(_)));
        queue.remove_consumer(1);
        queue.add_consumer(2);
        assert_eq!(queue.take(2, 10, 3), Taken::Nothing);
        assert!(queue.end_burial(1).is_some());
        assert!(queue.end_burial(1).is_none());
    }
}
