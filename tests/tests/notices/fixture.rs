//! Letters, words and a clock that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reeve_drivers::{Links, Templates, Wording};
use reeve_lifecycle::effect::Audience;
use reeve_ports::conformance::notifier::{letter, notices};
use reeve_ports::notifier::Letter;
use reeve_ports::{Clock, Sleep, SystemClock};
use reeve_protocol::link::LinkKey;
use reeve_protocol::{Timestamp, UserId, VmId};
use uuid::Uuid;

/// The machine's clock, set forward.
#[derive(Default)]
pub(crate) struct Ahead(AtomicU64);

impl Ahead {
    pub(crate) fn by(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.ahead()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed() + self.ahead()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        SystemClock.sleep(duration)
    }
}

pub(crate) fn clock() -> Arc<Ahead> {
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Arc::new(Ahead::default())
}

pub(crate) fn key() -> LinkKey {
    LinkKey::new(&[3; 32]).unwrap()
}

pub(crate) fn wording() -> Arc<Wording> {
    let links = Links { url: "https://reeve.example/extend".to_owned(), key: key() };
    Arc::new(Wording::new(Templates::built_in(), Some(links)))
}

pub(crate) fn vm() -> VmId {
    VmId::new(Uuid::from_u128(7))
}

/// That the end comes near, with the offer to extend, for these users.
pub(crate) fn expiring(users: &[&str]) -> Letter {
    let users = users.iter().map(|user| UserId::new(*user).unwrap()).collect();
    Letter { to: Audience::Owner { users }, ..letter(vm(), 1, notices().remove(1)) }
}
