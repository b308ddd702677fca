//! The bus of a simulation: what waits to be taken in, and what came out. It outlives the node; what was delivered and
//! not acknowledged is delivered again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use reeve_protocol::command::Command;
use reeve_protocol::event::Event;

/// A message that waits for the node.
#[derive(Debug, Clone)]
pub(super) enum Incoming {
    /// The body of a notification.
    Notification(Vec<u8>),
    /// Somebody asks.
    Command(Command),
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The first stays until it is acknowledged.
    pub(super) incoming: VecDeque<Incoming>,
    /// What the node published since the simulation last looked, in this order.
    pub(super) outgoing: Vec<Event>,
}

/// The bus. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct SimBus(Arc<Mutex<Queues>>);

impl SimBus {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().expect("nothing panics while the bus is locked")
    }

    pub(super) fn push(&self, message: Incoming) {
        self.lock().incoming.push_back(message);
    }

    pub(super) fn first(&self) -> Option<Incoming> {
        self.lock().incoming.front().cloned()
    }

    /// The first message is settled.
    pub(super) fn acknowledge(&self) {
        self.lock().incoming.pop_front();
    }
}
