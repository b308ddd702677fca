//! Asks a VM's probe at its interval, one probe at a time, and tells the supervisor what was seen.
//!
//! ```text
//! Waiting (spread over the interval at first, then the interval ± jitter) ─► Probing ─► Waiting
//! ```
//!
//! It is told everything by the supervisor, judges nothing and exists only while the VM's health is judged.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::record::{Health, Presence};
use reeve_lifecycle::{ProbeVerdict, VmInput, VmRecord};
use reeve_ports::Freshness;
use reeve_protocol::{CloudName, HostName, VmId};

use super::link::ChildLink;
use super::{Envelope, ToVm};
use crate::perform::wait::within;
use crate::shared::Shared;

/// What is probed, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    vm: VmId,
    cloud: CloudName,
    host: Option<HostName>,
    kind: ProbeKind,
    interval: Duration,
    timeout: Duration,
    /// Whether it is known to be well.
    up: bool,
}

impl Target {
    /// What a record wants probed; nothing while its health is not judged.
    pub(super) fn of(record: &VmRecord) -> Option<Self> {
        let health = &record.policy.terms.health;
        let judged = health.enabled
            && matches!(record.presence, Presence::Present { .. })
            && !matches!(record.health, Health::Paused { .. });
        judged.then(|| Self {
            vm: record.vm,
            cloud: record.cloud.clone(),
            host: record.facts.host.clone(),
            kind: health.probe,
            interval: health.interval.duration(),
            timeout: health.timeout.duration(),
            up: record.health == Health::Up,
        })
    }

    /// Misses and answers are counted, so each of them is a look of its own. That a VM is well may be seen with others.
    const fn freshness(&self) -> Freshness {
        if self.up { Freshness::Within(self.interval) } else { Freshness::Now }
    }

    /// Evenly spread over `0..1` by the VM's id and the number of the probe, so that a fleet that starts at once does
    /// not probe at once, and the same VM probes at the same times again.
    fn spread(&self, probe: u32) -> f64 {
        let (high, low) = self.vm.uuid().as_u64_pair();
        let mut z = (high ^ low).wrapping_add(u64::from(probe).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let top = u32::try_from((z ^ (z >> 31)) >> 32).expect("32 bits are left");
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }
}

/// What the poller is told.
pub(super) enum ToPoller {
    /// Probe this from the next time on.
    Retarget(Box<Target>),
    /// End, as if by a fault.
    Kill,
    /// End in order.
    Halt,
}

impl Message for ToPoller {
    type Result = ();
}

/// The poller.
pub(super) struct Poller {
    shared: Arc<Shared>,
    link: ChildLink,
    target: Box<Target>,
    probes: u32,
}

impl Poller {
    pub(super) fn new(shared: Arc<Shared>, link: ChildLink, target: Box<Target>) -> Self {
        Self { shared, link, target, probes: 0 }
    }

    fn wait(&mut self, ctx: &mut Context<Self>) {
        let spread = self.target.spread(self.probes);
        let share = if self.probes == 0 { spread } else { 0.9 + 0.2 * spread };
        self.probes = self.probes.wrapping_add(1).max(1);
        let pause = self.target.interval.mul_f64(share);
        let clock = Arc::clone(&self.shared.clock);
        let sleep = async move { clock.sleep(pause).await };
        ctx.spawn(sleep.into_actor(self).map(|(), poller, ctx| poller.probe(ctx)));
    }

    fn probe(&mut self, ctx: &mut Context<Self>) {
        let target = self.target.clone();
        let shared = Arc::clone(&self.shared);
        let kind = target.kind;
        let probing = async move { ask(&shared, &target).await };
        ctx.spawn(probing.into_actor(self).map(move |verdict, poller, ctx| {
            let input = VmInput::Probed { probe: kind, verdict };
            poller.link.offer(ToVm::Input(Box::new(Envelope::new(input, None))));
            poller.wait(ctx);
        }));
    }
}

async fn ask(shared: &Shared, target: &Target) -> ProbeVerdict {
    let Some(probe) = shared.ports.probe.get(&target.cloud) else {
        return ProbeVerdict::Inconclusive { why: format!("cloud {} has no probe on this node", target.cloud) };
    };
    let asking = probe.probe(target.vm, target.host.as_ref(), target.kind, target.freshness(), target.timeout);
    // A probe keeps its own time; one that does not is no reason to believe that the VM is down.
    let limit = target.timeout + shared.ports.timeouts.call;
    match within(shared.clock.as_ref(), limit, asking).await {
        Some(verdict) => verdict,
        None => ProbeVerdict::Inconclusive { why: "the probe did not end".to_owned() },
    }
}

impl Actor for Poller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.wait(ctx);
    }
}

impl Handler<ToPoller> for Poller {
    type Result = ();

    fn handle(&mut self, message: ToPoller, ctx: &mut Context<Self>) {
        match message {
            ToPoller::Retarget(target) => self.target = target,
            ToPoller::Kill => ctx.stop(),
            ToPoller::Halt => {
                self.link.disarm();
                ctx.stop();
            }
        }
    }
}
