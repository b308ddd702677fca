//! Supervisors that start together: their arbiter is told once, and each reads its own record there.
//!
//! ```text
//! shard owner: NewVm ─ Starting::add ─► OwnedVm, whose mailbox is open   ─ Starting::on ─► one message
//! arbiter:     a mailbox, a supervisor ─► polled: reads its record, hears what was sent to it
//! ```

use std::sync::Arc;

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Addr, Context};
use reeve_lifecycle::VmRecord;
use reeve_ports::store::Stored;
use reeve_protocol::VmId;

use super::arbiters::ArbiterRef;
use super::link::VmLink;
use super::supervisor::{Kept, VmSupervisor};
use super::{Depth, MAX_OFFERED, OwnedVm, ShardTerm, ToVm, VmHandle};

/// A VM whose supervisor is to start.
pub(crate) struct NewVm {
    vm: VmId,
    record: Kept,
}

impl NewVm {
    /// One that is stored. If its record cannot be read, the supervisor ends with that.
    pub(crate) fn stored(stored: Stored) -> Self {
        Self { vm: stored.vm, record: Kept::unread(stored) }
    }

    /// One that nothing is known of yet.
    pub(crate) fn unseen(record: VmRecord) -> Self {
        Self { vm: record.vm, record: Kept::new(record) }
    }

    pub(crate) fn vm(&self) -> VmId {
        self.vm
    }
}

/// A supervisor on its way to its arbiter.
struct Start {
    mailbox: AddressReceiver<VmSupervisor>,
    term: Arc<ShardTerm>,
    record: Kept,
    link: VmLink,
    depth: Depth,
}

impl Start {
    fn run(self) {
        let Self { mailbox, term, record, link, depth } = self;
        let supervisor = VmSupervisor::new(term, record, link, depth);
        actix_rt::spawn(Context::with_receiver(mailbox).into_future(supervisor));
    }
}

/// Supervisors that are to start on an arbiter.
pub(crate) struct Starting(Vec<Start>);

impl Starting {
    /// Room for so many.
    pub(crate) fn of(vms: usize) -> Self {
        Self(Vec::with_capacity(vms))
    }

    /// Adds one, which hears these first.
    pub(crate) fn add(
        &mut self,
        term: &Arc<ShardTerm>,
        new: NewVm,
        incarnation: u64,
        first: impl IntoIterator<Item = ToVm>,
    ) -> OwnedVm {
        // What it bounds is not used: a mailbox is bounded by its depth.
        let (sender, mailbox) = channel(MAX_OFFERED as usize);
        let (address, depth) = (Addr::new(sender), Depth::default());
        for message in first {
            depth.sent();
            address.do_send(message);
        }
        let handle = VmHandle { address: address.downgrade(), depth: depth.clone() };
        let link = VmLink::new(Arc::clone(term), new.vm, incarnation);
        self.0.push(Start { mailbox, term: Arc::clone(term), record: new.record, link, depth });
        OwnedVm(handle)
    }

    /// Starts them. If the arbiter dies before it runs, their links tell so.
    pub(crate) fn on(self, arbiter: &ArbiterRef) {
        arbiter.handle().spawn_fn(move || self.0.into_iter().for_each(Start::run));
    }
}
