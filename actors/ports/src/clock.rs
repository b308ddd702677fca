//! The clock. Shells read it; the core is told the time.

use std::pin::Pin;
use std::time::Duration;

use reeve_protocol::Timestamp;

/// A sleep. It borrows nothing of its clock, so that whoever sleeps can keep it: a node has two for each VM.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May step forward and back.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment that never steps back and goes on during suspend (`CLOCK_BOOTTIME`).
    fn elapsed(&self) -> Duration;

    /// Ends after about `duration` from now. May end early or late: whoever sleeps looks at the clock again.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

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

    fn sleep(&self, duration: Duration) -> Sleep {
        // tokio's timer wheel ends after two years; nobody relies on one long sleep.
        Box::pin(tokio::time::sleep(duration.min(Duration::from_secs(30 * 86_400))))
    }
}
