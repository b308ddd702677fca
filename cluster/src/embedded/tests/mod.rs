//! Tests of the embedded half, beside those of its pure queue.

mod bus;
mod conformance;
mod crash;
mod failure;
mod file;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reeve_ports::store::{Change, Write};
use reeve_ports::{Clock, Message, Sleep};
use reeve_protocol::{Generation, Timestamp, VmId};
use uuid::Uuid;

use super::{BusLimits, EmbeddedBus, EmbeddedDb};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A clock whose wall time stands still.
struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

async fn open_bus(db: &EmbeddedDb, limits: BusLimits) -> EmbeddedBus {
    let bus = EmbeddedBus::open(db.clone(), Arc::new(StillClock), limits).await.unwrap();
    bus.route_to_rules(vec!["backup.*".to_owned()]);
    bus
}

fn vm(n: u128) -> VmId {
    VmId::new(Uuid::from_u128(n))
}

fn put(n: u128, expected: u64, value: &[u8]) -> Write {
    let change = Change::Put { generation: Generation(expected + 1), value: Bytes::copy_from_slice(value) };
    Write { vm: vm(n), expected: Generation(expected), change }
}

fn message(body: &str) -> Message {
    Message { body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() }
}
