//! Who the VMs of a shard are: changed by the shard's owner alone, looked up by whoever wants to look at a VM.
//!
//! ```text
//! ShardOwner ── Vms (keeps) ──► slots ◄── Roster (does not keep) ── router ── whoever looks
//! ```
//!
//! No VM's state is in here, only the ways to the supervisors. An owner that ends takes its VMs along: a roster keeps
//! nothing. Nobody waits, commits or decides while a guard is held.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use reeve_protocol::VmId;

use super::Slot;
use crate::actor::VmHandle;

type Slots = BTreeMap<VmId, Slot>;

/// The VMs of a shard, as their owner has them.
#[derive(Default)]
pub(crate) struct Vms(Arc<RwLock<Slots>>);

impl Vms {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remove(&self, vm: VmId) -> Option<Slot> {
        self.write().remove(&vm)
    }

    /// Lets go of all. Their supervisors are told after the guard is gone: there may be many.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.write());
        drop(all);
    }

    /// For whoever looks.
    pub(crate) fn roster(&self) -> Roster {
        Roster(Arc::downgrade(&self.0))
    }
}

/// A way to look up supervisors that does not keep them.
#[derive(Clone, Default)]
pub(crate) struct Roster(Weak<RwLock<Slots>>);

impl Roster {
    /// The supervisor of a VM, if one runs. The owner of the shard knows more about any other VM.
    pub(crate) fn live(&self, vm: VmId) -> Option<VmHandle> {
        let slots = self.0.upgrade()?;
        let slots = slots.read().unwrap_or_else(PoisonError::into_inner);
        match slots.get(&vm)? {
            Slot::Live { vm, .. } => Some(vm.handle().clone()),
            Slot::Loading { .. } | Slot::Parked { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_shows_only_what_runs_and_keeps_nothing() {
        let vm: VmId = "00000000-0000-4000-8000-000000000007".parse().unwrap();
        let vms = Vms::default();
        let roster = vms.roster();
        assert!(roster.live(vm).is_none());
        vms.write().insert(vm, Slot::Parked { reason: "unreadable".to_owned() });
        assert!(roster.live(vm).is_none());
        vms.clear();
        assert!(vms.read().is_empty());
        drop(vms);
        assert!(roster.0.upgrade().is_none(), "the owner alone keeps its VMs");
        assert!(roster.live(vm).is_none());
    }
}
