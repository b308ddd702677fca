//! What a notice offers, as long as it still stands: a link in it extends that lease period and no other.

use reeve_protocol::event::{LeaseEndReason, Offer};
use reeve_protocol::{Span, Timestamp, UserId};

use crate::effect::Notice;
use crate::record::{Lease, LeasePhase, VmRecord};

/// How long a lease that ended without anything being done may be extended by the link of its last notice.
const AFTER_NOTIFIED: Span = Span::from_days(30);

/// An extension that a notice offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extendable {
    /// The end of the lease period that it is about.
    pub ends_at: Timestamp,
    /// In whose name it is taken.
    pub owner: UserId,
    /// Until when it can be taken, as far as is known now: the end, and the grace after it.
    pub until: Timestamp,
}

/// What a notice offers, if the offer still stands. A notice that comes late, because a channel was down, may be about a
/// lease that was extended meanwhile: it offers nothing any more. A VM without an owner has nobody to offer it to.
#[must_use]
pub fn offered(record: &VmRecord, notice: &Notice) -> Option<Extendable> {
    let (ends_at, until) = match (notice, &record.lease) {
        (Notice::Expiring { ends_at, offer: Offer::Extend { .. } }, Lease::Running { term, phase })
            if term.ends_at == *ends_at =>
        {
            match phase {
                LeasePhase::Active | LeasePhase::Warned => {
                    (term.ends_at, term.ends_at + record.policy.terms.lease.grace)
                }
                LeasePhase::Grace { until } => (term.ends_at, *until),
                LeasePhase::Ending { .. } => return None,
            }
        }
        (
            Notice::Expired { grace_until: Some(told), offer: Offer::Extend { .. } },
            Lease::Running { term, phase: LeasePhase::Grace { until } },
        ) if told == until => (term.ends_at, *until),
        (
            Notice::Expired { grace_until: None, offer: Offer::Extend { .. } },
            Lease::Ended { term, reason: LeaseEndReason::Notified, .. },
        ) => (term.ends_at, term.ends_at + AFTER_NOTIFIED),
        (
            Notice::LeaseCreated { .. }
            | Notice::Expiring { .. }
            | Notice::Expired { .. }
            | Notice::Extended { .. }
            | Notice::Ended
            | Notice::Revived { .. }
            | Notice::Alert { .. }
            | Notice::Delivered(_)
            | Notice::ProvisionFailed { .. },
            _,
        ) => return None,
    };
    Some(Extendable { ends_at, owner: record.facts.user.clone()?, until })
}
