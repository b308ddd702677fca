//! Points in time, for people: how long until or since, and exactly.

use reeve_protocol::Timestamp;

const UNITS: [(u64, &str); 5] = [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];

/// A length of time by its two largest units: `3d 4h`; less than a second is `0s`.
fn length(seconds: u64) -> String {
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".into() };
    let (unit, name) = UNITS[first];
    let rest = UNITS.get(first + 1).map(|(next, name)| ((seconds % unit) / next, *name)).filter(|(n, _)| *n > 0);
    match rest {
        Some((n, next)) => format!("{}{name} {n}{next}", seconds / unit),
        None => format!("{}{name}", seconds / unit),
    }
}

/// How far `at` is from `now`: `in 3d 4h`, `2h 5m ago`, `now`.
#[must_use]
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.since(now).as_secs(), now.since(at).as_secs());
    match (ahead, behind) {
        (0, 0) => "now".into(),
        (0, seconds) => format!("{} ago", length(seconds)),
        (seconds, _) => format!("in {}", length(seconds)),
    }
}

/// Both: `in 3d 4h (2026-12-01 10:00:00Z)`.
#[must_use]
pub(super) fn both(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", relative(at, now), absolute(at))
}

/// `2026-12-01 10:00:00Z`: to the second, UTC.
#[must_use]
pub(super) fn absolute(at: Timestamp) -> String {
    let text = at.to_string();
    let (date, time) = text.split_once('T').expect("RFC 3339 has a T between date and time");
    format!("{date} {}Z", time.split('.').next().unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_by_its_two_largest_units() {
        let now: Timestamp = "2026-11-27T06:00:00Z".parse().unwrap();
        let say = |text: &str| both(text.parse().unwrap(), now);
        assert_eq!(say("2026-12-01T10:00:00Z"), "in 4d 4h (2026-12-01 10:00:00Z)");
        assert_eq!(say("2026-11-27T05:58:30.5Z"), "1m 29s ago (2026-11-27 05:58:30Z)");
        assert_eq!(say("2026-11-28T06:00:30Z"), "in 1d (2026-11-28 06:00:30Z)");
        assert_eq!(relative(now, now), "now");
        assert_eq!(relative("2029-11-27T06:00:00Z".parse().unwrap(), now), "in 3y 1d");
    }
}
