//! Wakes its supervisor at the next deadline that the record names.
//!
//! ```text
//! Idle ─ Arm(deadline) ─► Asleep (at most CHUNK) ─ clock read: not yet ─► Asleep
//!                              └─ due ─► Tick ─► Fired ─ Arm ─► …
//! ```
//!
//! It is told everything by the supervisor and decides nothing: a wake-up too many changes nothing. The wall clock is
//! read again after every chunk, so a month's sleep or a clock that was set is noticed within one; the node's clock
//! watch makes it sooner.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Context, Handler, Message};
use reeve_lifecycle::VmInput;
use reeve_lifecycle::input::Reason;
use reeve_ports::Sleep;
use reeve_protocol::Timestamp;

use super::link::ChildLink;
use super::sleeping::{Sleeper, sleeping};
use super::{Envelope, ToVm};
use crate::shared::Shared;

/// The longest sleep without a look at the clock.
const CHUNK: Duration = Duration::from_secs(600);
/// The wait before a deadline that was told is told again, if the supervisor did not move it (it may be busy).
const REPEAT: Duration = Duration::from_secs(1);

/// What the timer is told.
pub(super) enum ToTimer {
    /// The next deadline, from now on.
    Arm(Option<(Timestamp, Reason)>),
    /// The clock was set: look again.
    Rearm,
    /// End, as if by a fault.
    Kill,
    /// End in order.
    Halt,
}

impl Message for ToTimer {
    type Result = ();
}

/// The timer.
pub(super) struct LeaseTimer {
    shared: Arc<Shared>,
    link: ChildLink,
    deadline: Option<(Timestamp, Reason)>,
    fired: Option<Timestamp>,
    sleep: Option<Sleep>,
}

impl LeaseTimer {
    /// A timer for this deadline.
    pub(super) fn new(shared: Arc<Shared>, link: ChildLink, deadline: Option<(Timestamp, Reason)>) -> Self {
        Self { shared, link, deadline, fired: None, sleep: None }
    }

    /// Sleeps until the deadline, or a chunk of the way.
    fn rearm(&mut self) {
        self.sleep = None;
        let Some((deadline, _)) = self.deadline else { return };
        let mut wait = deadline.since(self.shared.trust.now()).min(CHUNK);
        if self.fired == Some(deadline) {
            wait = wait.max(REPEAT);
        }
        if wait.is_zero() {
            return self.wake();
        }
        self.sleep = Some(self.shared.clock.sleep(wait));
    }

    fn wake(&mut self) {
        let Some((deadline, reason)) = self.deadline else { return };
        if self.shared.trust.now() < deadline {
            return self.rearm();
        }
        tracing::debug!(?reason, %deadline, "a deadline has come");
        self.fired = Some(deadline);
        self.link.offer(ToVm::Input(Box::new(Envelope::new(VmInput::Tick, None))));
        // If it is lost or the supervisor is busy, it is told again.
        self.rearm();
    }
}

impl Actor for LeaseTimer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        sleeping(self, ctx);
    }
}

impl Sleeper for LeaseTimer {
    fn begin(&mut self) {
        self.rearm();
    }

    fn awaited(&mut self) -> &mut Option<Sleep> {
        &mut self.sleep
    }

    fn woken(&mut self) {
        self.wake();
    }
}

impl Handler<ToTimer> for LeaseTimer {
    type Result = ();

    fn handle(&mut self, message: ToTimer, ctx: &mut Context<Self>) {
        match message {
            ToTimer::Arm(deadline) => {
                self.deadline = deadline;
                self.rearm();
            }
            ToTimer::Rearm => self.rearm(),
            ToTimer::Kill => ctx.stop(),
            ToTimer::Halt => {
                self.link.disarm();
                ctx.stop();
            }
        }
    }
}
