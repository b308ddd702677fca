//! The ways in which OpenStack writes a time; a time without a zone is UTC.
//!
//! `2026-11-21 22:48:09.344651` (oslo.messaging, whose fraction is missing when it is 0), `2012-10-29T13:42:11Z`
//! (versioned payloads), `2012-10-29 13:42:11+00:00` and `2012-10-29T13:42:11.000000` (both in one legacy payload).

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::Timestamp;

/// What an error says was expected.
pub(super) const EXPECTED: &str = "a time such as 2026-11-21 22:48:09.344651 or 2012-10-29T13:42:11Z";

/// `YYYY-MM-DD?hh:mm:ss` is the least, nanoseconds with an offset in seconds the most that anyone writes.
const LENGTHS: std::ops::RangeInclusive<usize> = 19..=40;

/// Microseconds since the Unix epoch, `None` if the text is no time.
pub(super) fn micros(text: &str) -> Option<i64> {
    instant(text).map(jiff::Timestamp::as_microsecond)
}

/// A [`Timestamp`], `None` if the text is no time.
pub(super) fn millis(text: &str) -> Option<Timestamp> {
    micros(text).map(|micros| Timestamp::from_millis(micros.div_euclid(1000)))
}

fn instant(text: &str) -> Option<jiff::Timestamp> {
    if !LENGTHS.contains(&text.len()) || text.contains('[') {
        return None;
    }
    if let Ok(zoned) = text.parse::<jiff::Timestamp>() {
        return Some(zoned);
    }
    let naive: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(naive).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_one_instant_is_the_same() {
        let forms = [
            "2012-10-29T13:42:11Z",
            "2012-10-29 13:42:11+00:00",
            "2012-10-29T13:42:11.000000",
            "2012-10-29 13:42:11",
            "2012-10-29T13:42:11",
            "2012-10-29T14:42:11+01:00",
            "2012-10-29T13:42:11.000000Z",
            "2012-10-29 13:42:11.000000+00:00",
        ];
        for form in forms {
            assert_eq!(micros(form), Some(1_351_518_131_000_000), "{form}");
        }
        assert_eq!(micros("2026-11-21 22:48:09.344651"), Some(1_795_301_289_344_651));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "yesterday", "2012-10-29", "2012-13-29T13:42:11Z", "2012-10-29T13:42:11Z[Europe/Oslo]"] {
            assert_eq!(micros(text), None, "{text}");
        }
        assert_eq!(micros(&"2".repeat(1000)), None);
    }
}
