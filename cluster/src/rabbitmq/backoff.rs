//! How long to wait between attempts: from 100 ms, doubling, at most 5 s, and each a random part shorter, so that the
//! nodes of a cluster do not all come at the same moment.

use std::time::Duration;

const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 5_000;

/// The waits between attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next_ms: FIRST_MS }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The next wait: half of it fixed, half of it random.
    pub(crate) fn next(&mut self) -> Duration {
        let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
        self.after(random)
    }

    /// Waits for the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    fn after(&mut self, random: u64) -> Duration {
        let half = self.next_ms / 2;
        self.next_ms = (self.next_ms * 2).min(LONGEST_MS);
        Duration::from_millis(half + random % (half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_seconds_and_start_again_after_a_success() {
        let mut backoff = Backoff::new();
        let longest: Vec<u64> = (0..8)
            .map(|_| {
                let half = backoff.next_ms / 2;
                u64::try_from(backoff.after(half).as_millis()).unwrap()
            })
            .collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.after(0), Duration::from_millis(50));
    }
}
