//! Which nodes have been silent for so long that their right to act is over, whatever etcd says of their leases.
//!
//! ```text
//! peer:   sent   heard                              its right ends    counts as gone
//!          │───────│───────────────────────────────────│─── margin ───────│
//!                  └───────────────────────── TTL ────────────────────────┘
//! here:    our own signs of life come back all the while, else the count begins anew
//! ```
//!
//! etcd renews every lease when another of its members begins to lead, so a dead node would keep its shards for up to
//! two TTLs. But a node extends its right only by a sign of life that etcd has confirmed ([`super::fence`]), and that
//! was heard no sooner than it was sent: a TTL after the last one was heard, the right of its sender has ended.
//!
//! Silence proves nothing while nothing can be heard. Whoever listens writes signs of life of its own and hears them
//! the same way; if they fail to come for a part of the TTL, everybody gets a whole TTL from when they come again.

use std::time::Duration;

/// How long this node's own signs of life may fail to come back before all silence is forgiven: longer than between two
/// of which the second was lost once and sent again, shorter than the TTL.
#[must_use]
pub fn deaf_after(ttl: Duration) -> Duration {
    ttl * 3 / 4
}

/// Since when this node hears what there is. All times are of the boot-time clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silence {
    own: Option<Duration>,
    listening_since: Option<Duration>,
}

impl Silence {
    /// Takes note of when this node's own last sign of life was heard, if there is one. To be told at least as often as
    /// they are written.
    pub fn heard_own(&mut self, at: Option<Duration>, now: Duration, ttl: Duration) {
        let deaf = deaf_after(ttl);
        let Some(at) = at.filter(|at| now.saturating_sub(*at) <= deaf) else {
            self.listening_since = None;
            return;
        };
        if self.own.is_none_or(|before| at.saturating_sub(before) > deaf) {
            self.listening_since = None;
        }
        self.own = Some(at);
        self.listening_since.get_or_insert(at);
    }

    /// How long a node has been silent whose last sign of life was heard then; `None` while nothing can be said.
    #[must_use]
    pub fn of(&self, heard_at: Duration, now: Duration) -> Option<Duration> {
        self.listening_since.map(|since| now.saturating_sub(since.max(heard_at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(4);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Hears its own signs of life each second from `from` to `to`.
    fn listen(silence: &mut Silence, from: u64, to: u64) {
        for at in (from..=to).step_by(1_000) {
            silence.heard_own(Some(ms(at)), ms(at), TTL);
        }
    }

    #[test]
    fn a_node_that_stopped_is_silent_since_it_was_heard() {
        let mut silence = Silence::default();
        assert_eq!(silence.of(ms(900), ms(1_000)), None);
        listen(&mut silence, 1_000, 9_000);
        assert_eq!(silence.of(ms(5_500), ms(9_500)), Some(ms(4_000)));
    }

    #[test]
    fn who_has_just_begun_to_listen_knows_of_no_longer_silence() {
        let mut silence = Silence::default();
        listen(&mut silence, 8_000, 9_000);
        assert_eq!(silence.of(ms(100), ms(9_000)), Some(ms(1_000)));
    }

    #[test]
    fn after_an_outage_everybody_gets_a_whole_ttl_again() {
        let mut silence = Silence::default();
        listen(&mut silence, 1_000, 5_000);
        // Nothing is heard of anybody for half a minute.
        silence.heard_own(Some(ms(5_000)), ms(8_001), TTL);
        assert_eq!(silence.of(ms(5_000), ms(8_001)), None);
        silence.heard_own(Some(ms(35_000)), ms(35_100), TTL);
        assert_eq!(silence.of(ms(5_000), ms(35_100)), Some(ms(100)));
    }

    #[test]
    fn an_outage_in_which_nobody_looked_counts_too() {
        let mut silence = Silence::default();
        listen(&mut silence, 1_000, 5_000);
        // The process was stopped, and looks again only when it has heard its next sign of life.
        silence.heard_own(Some(ms(20_000)), ms(20_000), TTL);
        assert_eq!(silence.of(ms(5_000), ms(20_000)), Some(Duration::ZERO));
    }

    #[test]
    fn a_session_that_ended_listens_no_longer() {
        let mut silence = Silence::default();
        listen(&mut silence, 1_000, 5_000);
        silence.heard_own(None, ms(5_100), TTL);
        assert_eq!(silence.of(ms(1_000), ms(5_100)), None);
    }

    #[test]
    fn a_pause_within_bounds_changes_nothing() {
        let mut silence = Silence::default();
        listen(&mut silence, 1_000, 3_000);
        silence.heard_own(Some(ms(5_000)), ms(5_000), TTL);
        assert_eq!(silence.of(ms(2_000), ms(5_000)), Some(ms(3_000)));
    }
}
