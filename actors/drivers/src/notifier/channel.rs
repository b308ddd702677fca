//! What the channels that talk to a server have in common.

use std::time::Duration;

use futures::future::{Either, select};
use futures::pin_mut;
use reeve_ports::Clock;

/// The most characters kept of what a server says of a failure.
const MAX_WHY: usize = 300;

/// The future's result, or nothing when it took longer; the future is dropped then.
pub(super) async fn within<F: Future>(clock: &dyn Clock, limit: Duration, future: F) -> Option<F::Output> {
    let until = clock.elapsed().saturating_add(limit);
    let timer = async {
        // A sleep may end early.
        loop {
            let left = until.saturating_sub(clock.elapsed());
            if left.is_zero() {
                return;
            }
            clock.sleep(left).await;
        }
    };
    pin_mut!(future, timer);
    match select(future, timer).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

/// What a server says, on one line and not too long.
pub(super) fn brief(why: &str) -> String {
    why.chars().take(MAX_WHY).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// An error with what it came from.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some errors show their source already.
        if !why.contains(&more) {
            why = format!("{why}: {more}");
        }
        source = error.source();
    }
    brief(&why)
}
