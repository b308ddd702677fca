//! The cloud's clock, as its answers tell it.
//!
//! What a cloud says has to be put into one order with its notifications, which carry the cloud's own time. The wall
//! clock of a node may be wrong, so the time of a look is told by the cloud: by the latest moment that is proven to have
//! been before it. `Date` (RFC 9110, section 6.6.1) has whole seconds; many answers together tell more than one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reeve_protocol::Timestamp;

/// How much later than its own `Date` an answer may have been made: whole seconds, and servers that keep the header for
/// a while. Past that the cloud's clock was set back.
const MAX_STALE_US: i64 = 3_000_000;

/// What is known of the cloud's clock.
#[derive(Debug, Default)]
pub(super) struct CloudTime {
    /// At least so many microseconds is the cloud's clock ahead of the node's elapsed time.
    ahead_us: Mutex<Option<i64>>,
}

impl CloudTime {
    /// An answer with this `Date` came in; asked and answered by the clock that never steps.
    pub(super) fn note(&self, date: &str, asked: Duration, answered: Duration) {
        let Some(date) = http_date(date) else { return };
        let date_us = date.as_millis().saturating_mul(1_000);
        let least = date_us - micros(answered);
        let most = date_us + MAX_STALE_US - micros(asked);
        let mut ahead = self.ahead_us.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead = Some(match *ahead {
            Some(known) if known <= most => known.max(least),
            Some(_) | None => least,
        });
    }

    /// The cloud's time in microseconds at this moment, or somewhat earlier; `None` before any answer told a time.
    pub(super) fn at_us(&self, elapsed: Duration) -> Option<i64> {
        self.ahead_us.lock().unwrap_or_else(PoisonError::into_inner).map(|ahead| ahead + micros(elapsed))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day}T{time}Z").parse().ok()
}

/// A time as OpenStack writes it, `2017-10-10T15:49:08Z` or without a zone, which is UTC.
pub(super) fn openstack(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn times_are_read_in_every_form() {
        let at = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(at, openstack("1994-11-06T08:49:37Z").unwrap());
        assert_eq!(at, openstack("1994-11-06T08:49:37.000000").unwrap());
        for text in ["", "Sun, 06 Nov", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn the_time_is_never_later_than_the_clouds_and_comes_near_it() {
        let time = CloudTime::default();
        assert_eq!(time.at_us(MS(5)), None);
        let second = 784_111_777_000_000;
        let error = |time: &CloudTime, elapsed: u64| {
            // The cloud's clock: 300 ms past the second when the node's shows 0.
            second + 300_000 + i64::try_from(elapsed).unwrap() * 1_000 - time.at_us(MS(elapsed)).unwrap()
        };
        time.note("Sun, 06 Nov 1994 08:49:37 GMT", MS(0), MS(100));
        assert_eq!(error(&time, 100), 400_000);
        time.note("Sun, 06 Nov 1994 08:49:38 GMT", MS(700), MS(720));
        assert_eq!(error(&time, 800), 20_000, "just after a new second little is unknown");
        time.note("Sun, 06 Nov 1994 08:49:38 GMT", MS(1_400), MS(1_500));
        assert_eq!(error(&time, 1_500), 20_000, "what was proven stays");
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed() {
        let time = CloudTime::default();
        time.note("Sun, 06 Nov 1994 09:49:37 GMT", MS(0), MS(0));
        time.note("Sun, 06 Nov 1994 08:49:37 GMT", MS(0), MS(0));
        assert_eq!(time.at_us(MS(0)), Some(784_111_777_000_000));
    }
}
