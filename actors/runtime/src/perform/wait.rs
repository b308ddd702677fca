//! Waiting on the clock port. A sleep of the port may end early, so both functions look at the clock again.

use std::future::Future;
use std::time::Duration;

use futures::future::{Either, select};
use futures::pin_mut;
use reeve_ports::Clock;

/// Sleeps at least this long.
pub(crate) async fn pause(clock: &dyn Clock, duration: Duration) {
    let until = clock.elapsed().saturating_add(duration);
    loop {
        let left = until.saturating_sub(clock.elapsed());
        if left.is_zero() {
            return;
        }
        clock.sleep(left).await;
    }
}

/// The future's result, or nothing when it took longer; the future is dropped then.
pub(crate) async fn within<F: Future>(clock: &dyn Clock, limit: Duration, future: F) -> Option<F::Output> {
    let timer = pause(clock, limit);
    pin_mut!(future, timer);
    match select(future, timer).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

/// The end of a series of looks.
pub(super) struct Patience<'a> {
    clock: &'a dyn Clock,
    until: Duration,
    every: Duration,
}

impl<'a> Patience<'a> {
    /// Looks for `limit`, once in `every`.
    pub(super) fn new(clock: &'a dyn Clock, limit: Duration, every: Duration) -> Self {
        Self { clock, until: clock.elapsed().saturating_add(limit), every }
    }

    /// Waits for the next look; false when there is to be none.
    pub(super) async fn again(&self) -> bool {
        let left = self.until.saturating_sub(self.clock.elapsed());
        if left.is_zero() {
            return false;
        }
        pause(self.clock, left.min(self.every)).await;
        true
    }
}
