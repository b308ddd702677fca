//! Faults: ordered for a call to come, or by chance.

use std::collections::BTreeMap;

use reeve_protocol::{Span, VmId};
use serde::{Deserialize, Serialize};

use super::audit::CallKind;
use super::chance::Dice;

/// The most faults that may be on order.
pub const MAX_ORDERED: usize = 10_000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// `Unavailable`, no effect.
    Error,
    /// `Refused`, no effect.
    Refused,
    /// `Refused` as over quota, no effect.
    Quota,
    /// `Unknown`, no effect.
    TimeoutBefore,
    /// `Unknown`, although it had its effect.
    TimeoutAfter,
    /// Takes so long, then does what it should.
    Slow(Span),
    /// Waits for `hang` of the configuration, then `Unknown`, no effect.
    Hang,
    /// The VM is gone before the call is looked at. Only for calls on a VM.
    Vanish,
    /// The snapshot is accepted and ends as failed. Only for [`CallKind::Snapshot`].
    FailedSnapshot,
    /// The snapshot becomes ready with its full size, but reads only half of it. Only for [`CallKind::Snapshot`].
    TruncatedSnapshot,
    /// The content breaks off with an error half-way. Only for [`CallKind::ReadSnapshot`].
    BrokenStream,
    /// A server or a volume is accepted and ends as failed. Only for [`CallKind::MakePart`].
    FailedPart,
}

/// A fault on order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    call: CallKind,
    vm: Option<VmId>,
    skip: u32,
    kind: FaultKind,
}

impl Fault {
    /// For the next call of this kind.
    #[must_use]
    pub const fn next(call: CallKind, kind: FaultKind) -> Self {
        Self { call, vm: None, skip: 0, kind }
    }

    /// Only for calls on this VM.
    #[must_use]
    pub const fn on(mut self, vm: VmId) -> Self {
        self.vm = Some(vm);
        self
    }

    /// For the call after so many that it would have matched.
    #[must_use]
    pub const fn after(mut self, calls: u32) -> Self {
        self.skip = calls;
        self
    }
}

/// A fault was not taken on order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// It means nothing for that call.
    #[error("{kind:?} cannot happen to {call:?}")]
    Pointless {
        /// The fault.
        kind: FaultKind,
        /// The call.
        call: CallKind,
    },
    /// [`MAX_ORDERED`] are on order already.
    #[error("{MAX_ORDERED} faults are on order already")]
    TooMany,
}

/// Faults by chance: how often, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomFaults {
    /// How many of 1,000 calls.
    pub per_mille: u16,
    /// Which; those that mean nothing for a call are left out for it.
    pub kinds: Vec<FaultKind>,
}

impl RandomFaults {
    /// Errors, lost answers and slowness, which whoever calls must survive without help.
    #[must_use]
    pub fn transient(per_mille: u16) -> Self {
        Self {
            per_mille,
            kinds: vec![
                FaultKind::Error,
                FaultKind::TimeoutBefore,
                FaultKind::TimeoutAfter,
                FaultKind::Slow(Span::from_millis(200)),
                FaultKind::FailedSnapshot,
                FaultKind::TruncatedSnapshot,
                FaultKind::BrokenStream,
            ],
        }
    }
}

/// What is on order, and the count of calls that chance goes by.
#[derive(Debug)]
pub(super) struct FaultPlan {
    ordered: Vec<Fault>,
    random: RandomFaults,
    calls: BTreeMap<(CallKind, Option<VmId>), u64>,
}

impl FaultPlan {
    pub(super) fn new(per_mille: u16) -> Self {
        Self { ordered: Vec::new(), random: RandomFaults::transient(per_mille), calls: BTreeMap::new() }
    }

    pub(super) fn order(&mut self, fault: Fault) -> Result<(), FaultError> {
        if !can_happen(fault.kind, fault.call) {
            return Err(FaultError::Pointless { kind: fault.kind, call: fault.call });
        }
        if self.ordered.len() >= MAX_ORDERED {
            return Err(FaultError::TooMany);
        }
        self.ordered.push(fault);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.ordered.clear();
    }

    pub(super) fn set_random(&mut self, random: RandomFaults) {
        self.random = random;
    }

    pub(super) fn ordered(&self) -> usize {
        self.ordered.len()
    }

    /// What happens to this call. One that waits its turn counts every call that it matches.
    pub(super) fn pick(&mut self, seed: u64, run: u64, call: CallKind, vm: Option<VmId>) -> Option<FaultKind> {
        let mut chosen = None;
        for (index, fault) in self.ordered.iter_mut().enumerate() {
            if fault.call != call || (fault.vm.is_some() && fault.vm != vm) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if chosen.is_none() {
                chosen = Some(index);
            }
        }
        if let Some(index) = chosen {
            return Some(self.ordered.remove(index).kind);
        }
        self.by_chance(seed, run, call, vm)
    }

    /// The throw is named by the call, the VM and how many such calls came before, so that other VMs do not change it.
    fn by_chance(&mut self, seed: u64, run: u64, call: CallKind, vm: Option<VmId>) -> Option<FaultKind> {
        if self.random.per_mille == 0 {
            return None;
        }
        let count = self.calls.entry((call, vm)).or_default();
        *count += 1;
        let mut dice = Dice::new(seed, &format!("fault/{run}/{call:?}/{vm:?}/{count}"));
        if !dice.per_mille(self.random.per_mille) {
            return None;
        }
        let kinds: Vec<_> = self.random.kinds.iter().copied().filter(|kind| can_happen(*kind, call)).collect();
        let which = dice.within([0, kinds.len().saturating_sub(1) as u64]);
        kinds.get(usize::try_from(which).ok()?).copied()
    }
}

const fn can_happen(kind: FaultKind, call: CallKind) -> bool {
    if matches!(call, CallKind::Event) {
        return false;
    }
    match kind {
        FaultKind::Error
        | FaultKind::Refused
        | FaultKind::Quota
        | FaultKind::TimeoutBefore
        | FaultKind::TimeoutAfter
        | FaultKind::Slow(_)
        | FaultKind::Hang => true,
        FaultKind::FailedSnapshot | FaultKind::TruncatedSnapshot => matches!(call, CallKind::Snapshot),
        FaultKind::BrokenStream => matches!(call, CallKind::ReadSnapshot),
        FaultKind::FailedPart => matches!(call, CallKind::MakePart),
        FaultKind::Vanish => !matches!(
            call,
            CallKind::List
                | CallKind::CheckPlan
                | CallKind::FindPart
                | CallKind::MakePart
                | CallKind::RemoveParts
                | CallKind::RemoveRemains
                | CallKind::Hosts
                | CallKind::Launch
                | CallKind::FindLaunched
                | CallKind::VolumeExists
                | CallKind::DeleteVolume
                | CallKind::AddressHeld
                | CallKind::ReleaseAddress
        ),
    }
}
