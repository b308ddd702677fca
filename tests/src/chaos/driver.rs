//! Makes the faults of a schedule, and heals each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::disk;
use super::faults::{FaultKind, Lane, Mix, Planned, Schedule};
use super::history::What;
use super::member::{Link, Member};
use super::stage::Stage;
use crate::harness::Mode;

const HOUR_MS: i64 = 3_600_000;
/// How late answers of a slow etcd are, each way.
const SLOW: Duration = Duration::from_millis(300);

/// Numbers the faults of all lanes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Runs one lane for so long. The last fault is healed before it returns.
///
/// # Errors
/// When a fault cannot be healed: the run can prove nothing then.
pub async fn run(stage: &Stage, lane: Lane, mix: Mix, counter: &Counter, lasts: Duration) -> Result<()> {
    let mut schedule = Schedule::new(stage.seed, lane, mix, stage.ttl);
    let over = tokio::time::sleep(lasts);
    tokio::pin!(over);
    loop {
        let planned = schedule.draw();
        tokio::select! {
            () = &mut over => return Ok(()),
            () = tokio::time::sleep(planned.after) => {}
        }
        meet(stage, planned, counter).await?;
    }
}

async fn meet(stage: &Stage, planned: Planned, counter: &Counter) -> Result<()> {
    // One that ended by itself would look like one that was killed.
    for member in &stage.members {
        member.alive().await?;
    }
    let number = counter.0.fetch_add(1, Ordering::Relaxed) + 1;
    let Planned { kind, lasts, .. } = planned;
    let target = Target::choose(stage, planned);
    let name = target.name(kind);
    tracing::info!(number, fault = kind.name(), target = name, lasts_ms = lasts.as_millis(), "a fault begins");
    stage.history.write(What::FaultBegan { number, kind, target: name });
    if let Err(error) = begin(stage, kind, &target).await {
        tracing::warn!(number, error = format!("{error:#}"), "the fault could not be made");
        stage.history.write(What::FaultFailed { number, why: format!("{error:#}") });
    }
    tokio::time::sleep(lasts).await;
    heal(stage, kind, &target).await.with_context(|| format!("{} cannot be healed", kind.name()))?;
    stage.history.write(What::FaultEnded { number });
    Ok(())
}

/// What a fault meets.
struct Target {
    node: Arc<Member>,
    etcd: usize,
    broker: usize,
}

impl Target {
    fn choose(stage: &Stage, planned: Planned) -> Self {
        let leader = || {
            let leader = stage.ownership.now().leader?;
            stage.members.iter().find(|member| member.id == leader)
        };
        let drawn = &stage.members[planned.target % stage.members.len()];
        let node = match planned.kind {
            FaultKind::KillLeader => leader().unwrap_or(drawn),
            _ => drawn,
        };
        Self {
            node: Arc::clone(node),
            etcd: planned.target % stage.etcd_size,
            broker: planned.target % stage.broker_size,
        }
    }

    fn name(&self, kind: FaultKind) -> String {
        match kind {
            FaultKind::KillNode
            | FaultKind::KillLeader
            | FaultKind::StopNode
            | FaultKind::CutEtcd
            | FaultKind::CutRabbit
            | FaultKind::CutPeers
            | FaultKind::SlowEtcd
            | FaultKind::ClockAhead
            | FaultKind::ClockBehind => self.node.id.to_string(),
            FaultKind::RestartEtcd => format!("etcd {}", self.etcd),
            FaultKind::MoveEtcdLeader | FaultKind::EtcdOutage => "etcd".to_owned(),
            FaultKind::RestartBroker | FaultKind::BrokerDiskFull => format!("broker {}", self.broker),
            FaultKind::VaultFull => "vault".to_owned(),
        }
    }
}

async fn begin(stage: &Stage, kind: FaultKind, target: &Target) -> Result<()> {
    let node = &target.node;
    match kind {
        FaultKind::KillNode | FaultKind::KillLeader => node.kill().await,
        FaultKind::StopNode => node.hold().await?,
        FaultKind::CutEtcd => node.link(Link::Etcd, Mode::Cut),
        FaultKind::CutRabbit => node.link(Link::Rabbit, Mode::Cut),
        FaultKind::CutPeers => node.link(Link::Peers, Mode::Cut),
        FaultKind::SlowEtcd => node.link(Link::Etcd, Mode::Slow(SLOW)),
        FaultKind::RestartBroker => stage.rabbit.lock().await.kill(target.broker),
        FaultKind::RestartEtcd => stage.etcd.lock().await.kill(target.etcd),
        FaultKind::MoveEtcdLeader => stage.etcd.lock().await.move_leader().await.map(drop)?,
        FaultKind::ClockAhead => node.step(HOUR_MS)?,
        FaultKind::ClockBehind => node.step(-HOUR_MS)?,
        FaultKind::BrokerDiskFull => stage.rabbit.lock().await.fill_disk(target.broker).await?,
        FaultKind::VaultFull => disk::fill(&stage.vault)?,
        FaultKind::EtcdOutage => {
            let mut etcd = stage.etcd.lock().await;
            for member in 0..stage.etcd_size {
                etcd.kill(member);
            }
        }
    }
    Ok(())
}

async fn heal(stage: &Stage, kind: FaultKind, target: &Target) -> Result<()> {
    let node = &target.node;
    match kind {
        FaultKind::KillNode | FaultKind::KillLeader => node.start().await?,
        FaultKind::StopNode => node.go_on().await?,
        FaultKind::CutEtcd | FaultKind::SlowEtcd => node.link(Link::Etcd, Mode::Pass),
        FaultKind::CutRabbit => node.link(Link::Rabbit, Mode::Pass),
        FaultKind::CutPeers => node.link(Link::Peers, Mode::Pass),
        FaultKind::RestartBroker => stage.rabbit.lock().await.restart_those_down().await?,
        FaultKind::RestartEtcd | FaultKind::EtcdOutage => stage.etcd.lock().await.restart_those_down().await?,
        FaultKind::MoveEtcdLeader => {}
        FaultKind::ClockAhead | FaultKind::ClockBehind => node.step(0)?,
        FaultKind::BrokerDiskFull => stage.rabbit.lock().await.free_disk(target.broker).await?,
        FaultKind::VaultFull => disk::free(&stage.vault)?,
    }
    Ok(())
}
