//! A clock that stands still until the simulation moves it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use reeve_ports::{Clock, Sleep};
use reeve_protocol::Timestamp;

/// When every simulation begins: 2026-01-05T00:00:00Z, a Monday.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_767_571_200_000);

#[derive(Default)]
struct State {
    /// Since [`BEGIN`].
    elapsed: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    made: u64,
}

/// The virtual clock. Clones show the same time.
#[derive(Clone, Default)]
pub(super) struct SimClock(Arc<Mutex<State>>);

impl SimClock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while the clock is locked")
    }

    /// When the next sleeper is to be woken.
    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.lock().timers.first_key_value().map(|((at, _), _)| BEGIN + *at)
    }

    /// Moves the time, and wakes whoever slept until then. Time never goes back.
    pub(super) fn advance(&self, to: Timestamp) {
        let due = {
            let mut state = self.lock();
            state.elapsed = state.elapsed.max(to.since(BEGIN));
            let after = state.elapsed + Duration::from_nanos(1);
            let later = state.timers.split_off(&(after, 0));
            std::mem::replace(&mut state.timers, later)
        };
        due.into_values().for_each(Waker::wake);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        BEGIN + self.lock().elapsed
    }

    fn elapsed(&self) -> Duration {
        self.lock().elapsed
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        // Whole milliseconds, rounded up: the resolution of a `Timestamp`.
        let rounded = Duration::from_millis(u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        let until = self.elapsed().saturating_add(rounded);
        Box::pin(Asleep { clock: self.clone(), until, timer: None })
    }
}

struct Asleep {
    clock: SimClock,
    until: Duration,
    timer: Option<u64>,
}

impl Future for Asleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        let clock = self.clock.clone();
        let mut state = clock.lock();
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&(until, timer));
        }
        if state.elapsed >= until {
            return Poll::Ready(());
        }
        state.made += 1;
        let timer = state.made;
        state.timers.insert((until, timer), context.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.clock.lock().timers.remove(&(self.until, timer));
        }
    }
}
