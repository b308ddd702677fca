//! The clock. Shells read it; the core is told the time.

use std::time::Duration;

use async_trait::async_trait;
use reeve_protocol::Timestamp;

/// A source of time.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May step forward and back.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment that never steps back and goes on during suspend (`CLOCK_BOOTTIME`).
    fn elapsed(&self) -> Duration;

    /// Returns after about `duration`. May return early or late: whoever sleeps looks at the clock again.
    async fn sleep(&self, duration: Duration);
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + since
    }

    fn elapsed(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }

    async fn sleep(&self, duration: Duration) {
        // tokio's timer wheel ends after two years; nobody relies on one long sleep.
        tokio::time::sleep(duration.min(Duration::from_secs(30 * 86_400))).await;
    }
}
