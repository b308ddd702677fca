//! What every [`Notifier`] must do.

use reeve_lifecycle::Extendable;
use reeve_lifecycle::effect::{Audience, Delivery, EffectKey, Notice};
use reeve_protocol::event::{Alert, Offer};
use reeve_protocol::{Generation, Span, Timestamp, UserId, VmId};
use uuid::Uuid;

use crate::notifier::{Letter, Notifier};

/// A letter about this VM with this notice.
#[must_use]
pub fn letter(vm: VmId, index: u16, notice: Notice) -> Letter {
    let user = UserId::new("conformance").expect("a plain name");
    Letter {
        vm,
        vm_name: "a VM \u{1f600} with a\ttab".to_owned(),
        key: EffectKey { generation: Generation(7), index },
        extendable: offer(&notice, &user),
        to: Audience::Owner { users: vec![user] },
        notice,
        at: Timestamp::from_millis(1_699_990_000_000),
    }
}

/// As if what the notice offers still stood.
fn offer(notice: &Notice, owner: &UserId) -> Option<Extendable> {
    let ends_at = match notice {
        Notice::Expiring { ends_at, offer: Offer::Extend { .. } } => *ends_at,
        Notice::Expired { grace_until: Some(until), offer: Offer::Extend { .. } } => *until - Span::from_days(2),
        Notice::Expiring { .. }
        | Notice::Expired { .. }
        | Notice::LeaseCreated { .. }
        | Notice::Extended { .. }
        | Notice::Ended
        | Notice::Revived { .. }
        | Notice::Alert { .. }
        | Notice::Delivered(_)
        | Notice::ProvisionFailed { .. } => return None,
    };
    Some(Extendable { ends_at, owner: owner.clone(), until: ends_at + Span::from_days(2) })
}

/// One notice of each kind, and of each with what it may say.
#[must_use]
pub fn notices() -> Vec<Notice> {
    let at = Timestamp::from_millis(1_700_000_000_000);
    vec![
        Notice::LeaseCreated { ends_at: at },
        Notice::Expiring { ends_at: at, offer: Offer::Extend { by: Span::from_days(30), left: 1 } },
        Notice::Expiring { ends_at: at, offer: Offer::No { why: "all 3 extensions are used".to_owned() } },
        Notice::Expired { grace_until: Some(at), offer: Offer::Extend { by: Span::from_days(30), left: 1 } },
        Notice::Expired { grace_until: None, offer: Offer::No { why: "the lease is over".to_owned() } },
        Notice::Extended { ends_at: at },
        Notice::Ended,
        Notice::Revived { new_vm: VmId::new(Uuid::nil()) },
        Notice::Alert { alert: Alert::RepairExhausted, message: "in words".to_owned() },
        Notice::Delivered(Delivery {
            vm: VmId::new(Uuid::nil()),
            name: "web".to_owned(),
            addresses: vec!["203.0.113.7".to_owned()],
            key: None,
        }),
        Notice::ProvisionFailed { reason: "no quota".to_owned() },
    ]
}

/// Runs the whole suite: a working channel takes every notice, for owners and operators, and the same again.
///
/// # Panics
/// When the notifier breaks a rule; the message says which.
pub async fn run(notifier: &dyn Notifier) {
    let vm = VmId::new(Uuid::new_v4());
    for (index, notice) in (0..).zip(notices()) {
        let to_owner = letter(vm, index, notice);
        for attempt in 0..2 {
            let delivered = notifier.deliver(&to_owner).await;
            assert_eq!(delivered, Ok(()), "attempt {attempt} of {:?}", to_owner.notice);
        }
        let key = EffectKey { index: index + 100, ..to_owner.key };
        let to_operators = Letter { to: Audience::Operators, key, extendable: None, ..to_owner };
        assert_eq!(notifier.deliver(&to_operators).await, Ok(()), "to operators: {:?}", to_operators.notice);
    }
}
