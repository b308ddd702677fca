//! What a supervisor has while something happens to its VM: an idle one has none of it.

use std::collections::VecDeque;
use std::time::Duration;

use reeve_lifecycle::EffectKey;
use reeve_protocol::event::Child;

use crate::actor::seldom::Blank;
use crate::actor::{Envelope, ToVm};

/// What is performed and what waits.
#[derive(Default)]
pub(super) struct Queues {
    /// Effects that are being performed, by which child.
    pub(super) running: Vec<(EffectKey, Child)>,
    /// Inputs to be decided before the next message.
    pub(super) next: VecDeque<Box<Envelope>>,
    /// What came while a commit was awaited, in its order.
    pub(super) later: VecDeque<ToVm>,
    /// Inputs that wait until events are published.
    pub(super) held: VecDeque<Box<Envelope>>,
    /// What it missed waits for its slot, until this time of the boot-time clock.
    pub(super) slot: Option<Duration>,
}

impl Blank for Queues {
    const BLANK: &'static Self =
        &Self { running: Vec::new(), next: VecDeque::new(), later: VecDeque::new(), held: VecDeque::new(), slot: None };

    fn is_blank(&self) -> bool {
        let Self { running, next, later, held, slot } = self;
        running.is_empty() && next.is_empty() && later.is_empty() && held.is_empty() && slot.is_none()
    }
}
