//! Which call of which port fails, and how.
//!
//! Every call of every port is counted here, the store's and the bus's too, so that a run can be repeated with a fault
//! at its first call, at its second, and so on to its last.

use std::sync::{Arc, Mutex};

use reeve_drivers::cloud::sim::{CallKind, FaultKind};
use reeve_protocol::Span;

use super::chance::Chance;

/// What goes wrong at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Fails without effect; the same again may work.
    Unavailable,
    /// Refused without effect.
    Refused,
    /// Over quota.
    Quota,
    /// No answer, no effect.
    LostBefore,
    /// Had its effect, no answer.
    LostAfter,
    /// Answers late.
    Slow,
    /// Never answers.
    Hang,
    /// The snapshot fails.
    FailedSnapshot,
    /// The snapshot holds half.
    HalfSnapshot,
    /// The content breaks off.
    BrokenStream,
}

impl Trouble {
    /// The same in the words of the simulated cloud.
    pub(super) const fn in_cloud(self) -> FaultKind {
        match self {
            Self::Unavailable => FaultKind::Error,
            Self::Refused => FaultKind::Refused,
            Self::Quota => FaultKind::Quota,
            Self::LostBefore => FaultKind::TimeoutBefore,
            Self::LostAfter => FaultKind::TimeoutAfter,
            Self::Slow => FaultKind::Slow(Span::from_secs(20)),
            Self::Hang => FaultKind::Hang,
            Self::FailedSnapshot => FaultKind::FailedSnapshot,
            Self::HalfSnapshot => FaultKind::TruncatedSnapshot,
            Self::BrokenStream => FaultKind::BrokenStream,
        }
    }
}

/// Which port a call is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The cloud, or the probe of its guests.
    Cloud(CallKind),
    /// The vault.
    Vault,
    /// The store of records.
    Store,
    /// The bus, outwards.
    Bus,
    /// Letters to people.
    Notifier,
    /// The confirmation of ownership.
    Coordination,
}

impl Port {
    /// The troubles that mean something different for a call of this port.
    #[must_use]
    pub const fn troubles(self) -> &'static [Trouble] {
        use Trouble::{
            BrokenStream, FailedSnapshot, HalfSnapshot, Hang, LostAfter, LostBefore, Quota, Refused, Slow, Unavailable,
        };
        match self {
            // Whatever keeps a probe from answering, it says the same.
            Self::Cloud(CallKind::Probe) => &[Unavailable],
            Self::Cloud(CallKind::List) => &[Unavailable, Hang],
            Self::Cloud(CallKind::Snapshot) => {
                &[Unavailable, Refused, LostBefore, LostAfter, Slow, Hang, FailedSnapshot, HalfSnapshot]
            }
            Self::Cloud(CallKind::ReadSnapshot) => &[Unavailable, Refused, LostBefore, Slow, Hang, BrokenStream],
            Self::Cloud(CallKind::Launch) => &[Unavailable, Refused, Quota, LostBefore, LostAfter, Slow, Hang],
            Self::Cloud(_) => &[Unavailable, Refused, LostBefore, LostAfter, Slow, Hang],
            Self::Vault => &[Unavailable, Refused, LostAfter, Slow, Hang],
            Self::Store | Self::Notifier | Self::Bus => &[Unavailable, LostAfter],
            Self::Coordination => &[Unavailable],
        }
    }
}

/// When faults happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Never.
    None,
    /// At this call of the run, counted from 1.
    At(u64, Trouble),
    /// At so many of 1,000 calls.
    Random(u64),
}

#[derive(Debug)]
struct State {
    faults: Faults,
    chance: Chance,
    calls: Vec<Port>,
    over: bool,
}

/// Decides for every call of a run.
#[derive(Debug, Clone)]
pub(super) struct FaultPlan(Arc<Mutex<State>>);

impl FaultPlan {
    pub(super) fn new(faults: Faults, seed: u64) -> Self {
        let chance = Chance::new(seed, "faults");
        Self(Arc::new(Mutex::new(State { faults, chance, calls: Vec::new(), over: false })))
    }

    /// Counts a call, and says what goes wrong with it.
    pub(super) fn next(&self, port: Port) -> Option<Trouble> {
        let mut state = self.0.lock().expect("nothing panics while the plan is locked");
        state.calls.push(port);
        if state.over {
            return None;
        }
        match state.faults {
            Faults::None => None,
            Faults::At(call, trouble) => (call == state.calls.len() as u64).then_some(trouble),
            Faults::Random(share) => state.chance.per_mille(share).then(|| *state.chance.pick(port.troubles())),
        }
    }

    /// The calls that there were.
    pub(super) fn calls(&self) -> Vec<Port> {
        self.0.lock().expect("nothing panics while the plan is locked").calls.clone()
    }

    /// From now on nothing goes wrong.
    pub(super) fn end(&self) {
        self.0.lock().expect("nothing panics while the plan is locked").over = true;
    }
}
