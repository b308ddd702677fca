//! Asks a VM's probe at its interval, one probe at a time, and tells the supervisor what was seen.
//!
//! ```text
//! Waiting (spread over the interval at first, then the interval ± jitter) ─► Probing ─► Waiting
//! ```
//!
//! It is told everything by the supervisor, judges nothing and exists only while the VM's health is judged.

use std::sync::Arc;

use actix::{Actor, ActorContext, Context, Handler, Message};
use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::record::{Health, Presence};
use reeve_lifecycle::{ProbeVerdict, VmInput, VmRecord};
use reeve_ports::{Freshness, Sleep};
use reeve_protocol::{CloudName, HostName, Span, VmId};

use super::link::ChildLink;
use super::sleeping::{Sleeper, sleeping};
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
    interval: Span,
    timeout: Span,
    /// Whether it is well for all that is known.
    calm: bool,
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
            interval: health.interval,
            timeout: health.timeout,
            calm: match record.health {
                Health::Up => true,
                // Old news must not end an alert.
                Health::Unknown { misses } => misses == 0 && record.alerts.is_empty(),
                Health::Suspect { .. } | Health::Down { .. } | Health::NeedsOperator { .. } | Health::Paused { .. } => {
                    false
                }
            },
        })
    }

    /// Misses and answers are counted, so each of them is a look of its own. That a VM is well may be seen with others.
    const fn freshness(&self) -> Freshness {
        if self.calm { Freshness::Within(self.interval.duration()) } else { Freshness::Now }
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

/// What the poller is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for the next probe.
    Waiting,
    /// It awaits an answer.
    Probing,
}

/// The poller.
pub(super) struct Poller {
    shared: Arc<Shared>,
    link: ChildLink,
    target: Box<Target>,
    probes: u32,
    stage: Stage,
    /// The wait, or the probe that is under way.
    awaited: Option<Sleep>,
}

impl Poller {
    pub(super) fn new(shared: Arc<Shared>, link: ChildLink, target: Box<Target>) -> Self {
        Self { shared, link, target, probes: 0, stage: Stage::Waiting, awaited: None }
    }

    fn wait(&mut self) {
        let spread = self.target.spread(self.probes);
        let share = if self.probes == 0 { spread } else { 0.9 + 0.2 * spread };
        self.probes = self.probes.wrapping_add(1).max(1);
        let pause = self.target.interval.duration().mul_f64(share);
        self.stage = Stage::Waiting;
        self.awaited = Some(self.shared.clock.sleep(pause));
    }

    fn probe(&mut self) {
        let (shared, target, supervisor) = (Arc::clone(&self.shared), self.target.clone(), self.link.supervisor());
        self.stage = Stage::Probing;
        self.awaited = Some(Box::pin(async move {
            let input = VmInput::Probed { probe: target.kind, verdict: ask(&shared, &target).await };
            // Full or gone: the next probe tells more.
            let _ = supervisor.offer(ToVm::Input(Box::new(Envelope::new(input, None))));
        }));
    }
}

async fn ask(shared: &Shared, target: &Target) -> ProbeVerdict {
    let Some(probe) = shared.ports.probe.get(&target.cloud) else {
        return ProbeVerdict::Inconclusive { why: format!("cloud {} has no probe on this node", target.cloud) };
    };
    let timeout = target.timeout.duration();
    let asking = probe.probe(target.vm, target.host.as_ref(), target.kind, target.freshness(), timeout);
    // A probe keeps its own time; one that does not is no reason to believe that the VM is down.
    let limit = timeout + shared.ports.timeouts.call;
    match within(shared.clock.as_ref(), limit, asking).await {
        Some(verdict) => verdict,
        None => ProbeVerdict::Inconclusive { why: "the probe did not end".to_owned() },
    }
}

impl Actor for Poller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        sleeping(self, ctx);
    }
}

impl Sleeper for Poller {
    fn begin(&mut self) {
        self.wait();
    }

    fn awaited(&mut self) -> &mut Option<Sleep> {
        &mut self.awaited
    }

    fn woken(&mut self) {
        match self.stage {
            Stage::Waiting => self.probe(),
            Stage::Probing => self.wait(),
        }
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
