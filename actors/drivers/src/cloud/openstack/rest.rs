//! `Retry-After` (RFC 9110, section 10.2.3): how long a service wants to be left alone, in seconds or until a date.

use std::time::Duration;

use reeve_protocol::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::time;

/// The longest rest that is granted: whoever asks for more is asked again after it.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// What a header that cannot be read means.
const UNREADABLE: Duration = Duration::from_secs(1);

/// How long the service wants to be left alone, bounded; `None` if it does not say. A date is taken by the service's own
/// clock if it tells it, else by this one.
pub(super) fn wanted(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let wanted = headers.get(RETRY_AFTER)?.to_str().unwrap_or_default().trim();
    if !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are more than the longest.
        return Some(wanted.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let rest = time::http_date(wanted).map(|until| until.since(text(DATE).and_then(time::http_date).unwrap_or(now)));
    Some(rest.unwrap_or(UNREADABLE).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now: Timestamp = "1994-11-06T09:00:00Z".parse().unwrap();
        let service = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (text, date, seconds) in [
            ("0", None, 0),
            ("7", None, 7),
            (" 120 ", None, 120),
            ("86400", None, 300),
            ("99999999999999999999999", None, 300),
            ("Sun, 06 Nov 1994 08:50:37 GMT", service, 60),
            ("Sun, 06 Nov 1994 09:00:30 GMT", None, 30),
            ("Sun, 06 Nov 1994 08:00:00 GMT", service, 0),
            ("Mon, 07 Nov 1994 08:49:37 GMT", service, 300),
            ("soon", None, 1),
            ("-5", None, 1),
            ("", None, 1),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            assert_eq!(wanted(&headers, now), Some(Duration::from_secs(seconds)), "{text:?}");
        }
        assert_eq!(wanted(&HeaderMap::new(), now), None);
    }
}
