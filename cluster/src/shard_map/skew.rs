//! Clock sanity: a wall clock is compared with the median of all, this one among them.

use reeve_ports::coordination::Skew;

/// The offset that the clocks agree on: the median, and for an even number of clocks the middle one that is farther
/// away. Of two that differ neither is to be trusted, as nobody can say which is right.
///
/// `others` are how far the others' clocks are ahead of this one, in milliseconds; this one's own offset is 0.
#[must_use]
pub fn median(others: &[i64]) -> i64 {
    let mut all: Vec<i64> = others.iter().copied().chain([0]).collect();
    all.sort_unstable();
    let upper = all[all.len() / 2];
    if all.len() % 2 == 1 {
        return upper;
    }
    let lower = all[all.len() / 2 - 1];
    if lower.unsigned_abs() > upper.unsigned_abs() { lower } else { upper }
}

/// How this clock compares with all. Alone it cannot be compared, and is trusted.
#[must_use]
pub fn skew(others: &[i64], max_ms: u64) -> Skew {
    if others.is_empty() {
        return Skew::default();
    }
    let by_ms = median(others).saturating_neg();
    Skew { by_ms: Some(by_ms), exceeded: by_ms.unsigned_abs() > max_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_nothing_can_be_said() {
        assert_eq!(skew(&[], 5000), Skew { by_ms: None, exceeded: false });
    }

    #[test]
    fn one_of_three_is_outvoted_and_knows_it() {
        const HOUR: i64 = 3_600_000;
        // This one is right, another is an hour ahead.
        assert_eq!(skew(&[3, HOUR], 5000), Skew { by_ms: Some(-3), exceeded: false });
        // This one is an hour ahead.
        assert_eq!(skew(&[-HOUR, 4 - HOUR], 5000), Skew { by_ms: Some(HOUR - 4), exceeded: true });
    }

    #[test]
    fn of_two_that_differ_neither_is_trusted() {
        assert_eq!(skew(&[6000], 5000), Skew { by_ms: Some(-6000), exceeded: true });
        assert_eq!(skew(&[-6000], 5000), Skew { by_ms: Some(6000), exceeded: true });
        assert_eq!(skew(&[5000], 5000), Skew { by_ms: Some(-5000), exceeded: false });
    }

    #[test]
    fn an_even_number_takes_the_middle_one_that_is_farther() {
        assert_eq!(median(&[10, 8000, 9000]), 8000);
        assert_eq!(median(&[-10, -8000, -9000]), -8000);
        assert_eq!(median(&[10, -20, 9000]), 10);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(skew(&[i64::MIN, i64::MIN], 5000), Skew { by_ms: Some(i64::MAX), exceeded: true });
    }
}
