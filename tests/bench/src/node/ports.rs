//! The clock, the probe, the bus and the ownership of a measured node.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::bus::{Nothing, PastEvent};
use reeve_ports::coordination::CoordinationError;
use reeve_ports::{
    Address, Bus, BusError, Clock, Consumer, Coordination, DeadLetter, Freshness, GuestProbe, Message, Queue, Sleep,
    SystemClock,
};
use reeve_protocol::{Epoch, HostName, ShardId, Timestamp, VmId};

/// The longest sleep of a lease timer: who sleeps this long has been armed with a deadline that is further away.
pub(crate) const CHUNK: Duration = Duration::from_secs(600);

pub(crate) static SYSTEM: SystemClock = SystemClock;

/// The machine's clock, or one that goes so many times as fast, that counts who sleeps.
pub(crate) struct CountingClock {
    speed: u32,
    began: (Timestamp, Duration),
    /// How many sleeps of a lease timer were begun.
    pub(crate) chunks: AtomicU64,
    /// How many shorter ones: a poller's, for the most part.
    pub(crate) shorter: AtomicU64,
}

impl CountingClock {
    pub(super) fn new(speed: u32) -> Self {
        let began = (SystemClock.now(), SystemClock.elapsed());
        Self { speed, began, chunks: AtomicU64::new(0), shorter: AtomicU64::new(0) }
    }

    fn gone(&self) -> Duration {
        SystemClock.elapsed().saturating_sub(self.began.1) * self.speed
    }
}

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        if self.speed == 1 { SystemClock.now() } else { self.began.0 + self.gone() }
    }

    fn elapsed(&self) -> Duration {
        if self.speed == 1 { SystemClock.elapsed() } else { self.began.1 + self.gone() }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let counter = if duration == CHUNK { &self.chunks } else { &self.shorter };
        counter.fetch_add(1, Ordering::Relaxed);
        SYSTEM.sleep(duration / self.speed)
    }
}

/// A probe that costs nothing and says that all is well.
#[derive(Default)]
pub(crate) struct FreeProbe {
    /// How often it was asked.
    pub(crate) asked: AtomicU64,
}

#[async_trait]
impl GuestProbe for FreeProbe {
    async fn probe(&self, _: VmId, _: Option<&HostName>, _: ProbeKind, _: Freshness, _: Duration) -> ProbeVerdict {
        self.asked.fetch_add(1, Ordering::Relaxed);
        ProbeVerdict::Up
    }

    async fn connects(&self, _: IpAddr, _: u16, _: Duration) -> bool {
        true
    }
}

/// The ownership of a node that is alone.
pub(crate) struct Alone;

#[async_trait]
impl Coordination for Alone {
    async fn claim(&self, _: ShardId) -> Result<Epoch, CoordinationError> {
        Ok(Epoch(1))
    }

    async fn confirm(&self, _: ShardId, _: Epoch) -> Result<(), CoordinationError> {
        Ok(())
    }
}

/// A bus that takes everything and has nothing to say.
#[derive(Default)]
pub(crate) struct CountingBus {
    /// How many messages it took.
    pub(crate) published: AtomicU64,
}

#[async_trait]
impl Bus for CountingBus {
    async fn publish(&self, _: &Address, _: Message) -> Result<(), BusError> {
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn consume(&self, _: &Queue, _: u16) -> Result<Consumer, BusError> {
        Ok(Box::new(Nothing))
    }

    async fn dead(&self, _: u64, _: usize) -> Result<Vec<DeadLetter>, BusError> {
        Ok(Vec::new())
    }

    async fn replay_dead(&self, number: u64) -> Result<(), BusError> {
        Err(BusError::Refused(format!("there is no dead letter {number}")))
    }

    async fn drop_dead(&self, number: u64) -> Result<(), BusError> {
        self.replay_dead(number).await
    }

    async fn history(&self, _: Timestamp, _: Option<u64>, _: usize) -> Result<Vec<PastEvent>, BusError> {
        Ok(Vec::new())
    }
}
