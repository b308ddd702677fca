//! Links: values that actors own and whose `Drop` tells the parent how the actor ended. A value is dropped however its
//! owner ends, so no end goes unnoticed.

use std::sync::Arc;

use reeve_protocol::VmId;
use reeve_protocol::event::Child;

use super::{ShardTerm, ToVm, VmHandle};

/// How a supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It panicked.
    Panicked,
    /// It went down with its arbiter, or gave up because its record and the store disagreed.
    Lost,
    /// It was killed on request.
    Killed,
    /// It was stopped in order.
    Halted,
    /// It was stopped in order, to be started again.
    Restart,
    /// Nothing came of the VM that it was started for.
    Idle,
    /// Its record was removed.
    Purged,
    /// Another owner writes to the shard.
    Fenced,
    /// Its stored record cannot be read.
    Parked(String),
}

/// The link of a supervisor to the owner of its shard.
pub(crate) struct VmLink {
    term: Arc<ShardTerm>,
    vm: VmId,
    incarnation: u64,
    /// Nothing while there is no word of an end.
    end: Option<Box<End>>,
}

impl VmLink {
    pub(crate) fn new(term: Arc<ShardTerm>, vm: VmId, incarnation: u64) -> Self {
        Self { term, vm, incarnation, end: None }
    }

    /// What is told when the supervisor ends now.
    pub(super) fn ending(&mut self, end: End) {
        self.end = Some(Box::new(end));
    }
}

impl Drop for VmLink {
    fn drop(&mut self) {
        let end = match self.end.take() {
            _ if std::thread::panicking() => End::Panicked,
            Some(end) => *end,
            None => End::Lost,
        };
        self.term.owner.down(self.vm, self.incarnation, end);
    }
}

/// The link of a child to its supervisor.
pub(super) struct ChildLink {
    supervisor: VmHandle,
    child: Child,
    incarnation: u32,
    armed: bool,
}

impl ChildLink {
    pub(super) fn new(supervisor: VmHandle, child: Child, incarnation: u32) -> Self {
        Self { supervisor, child, incarnation, armed: true }
    }

    /// The supervisor asked for the end and need not be told.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    /// A way to the supervisor.
    pub(super) fn supervisor(&self) -> VmHandle {
        self.supervisor.clone()
    }

    /// Tells the supervisor something that comes again by itself, unless its mailbox is full: while it waits for the
    /// store, wake-ups and probes must not pile up.
    pub(super) fn offer(&self, message: ToVm) {
        // Full or gone: it is told again, or nobody needs to know.
        let _ = self.supervisor.offer(message);
    }

    /// Tells the supervisor something, if it is still there.
    pub(super) fn tell(&self, message: ToVm) {
        self.supervisor.send(message);
    }
}

impl Drop for ChildLink {
    fn drop(&mut self) {
        if self.armed {
            self.tell(ToVm::ChildDown { child: self.child, incarnation: self.incarnation });
        }
    }
}
