//! How long VMs are without a supervisor: a node is killed, until each of its VMs is answered for by a new owner; and a
//! node is drained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::stream;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::{NodeId, ShardId, VmId};
use serde_json::json;

use super::asker::Door;
use super::member::Member;
use super::options::Options;
use super::report::{Goals, TAKE_OVER};
use super::run::Outcome;
use super::settings::SHARDS;
use super::settle::node_view;
use super::stage::{Keep, Stage};

/// The goal of a drain: no VM is unattended for longer.
const DRAIN: Duration = Duration::from_millis(250);
/// Calls under way at one door.
const PIPELINED: usize = 64;
const CALL: Duration = Duration::from_secs(2);
const KNOWN: Duration = Duration::from_secs(600);
const ROUND: Duration = Duration::from_secs(120);
/// Until shards are even again after a node has come back: a node that has just come gets none for a while.
const BALANCED: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);
/// VMs of each shard that are asked for while a node is drained: the first that is loaded and the last. More questions
/// would measure themselves.
const SAMPLE: usize = 2;
/// The fleet's first commits and events are written within this time.
const SETTLED: Duration = Duration::from_secs(600);

/// Kills and drains for so many rounds.
///
/// # Errors
/// When a part does not come up, or VMs are not attended again in time.
pub async fn failover(options: &Options) -> Result<Outcome> {
    let stage = Stage::start(options, options.fleet()).await?;
    stage.all_known(KNOWN).await?;
    settled(&stage).await?;
    let mut vms: BTreeMap<ShardId, Vec<VmId>> = BTreeMap::new();
    for (vm, _) in stage.note_fleet().await? {
        vms.entry(ShardId::of(vm, SHARDS)).or_default().push(vm);
    }
    vms.values_mut().for_each(|vms| vms.sort_unstable());
    let (mut failover_ms, mut drain_ms) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        balanced(&stage).await?;
        let victim = Arc::clone(&stage.members[round % stage.members.len()]);
        failover_ms.push(kill(&stage, &victim, &vms).await?);
        victim.start().await?;
        victim.answers().await?;
        balanced(&stage).await?;
        let drained = Arc::clone(&stage.members[(round + 1) % stage.members.len()]);
        drain_ms.push(drain(&stage, &drained, &vms).await?);
        tracing::info!(round, failover_ms = failover_ms.last(), drain_ms = drain_ms.last(), "a round is over");
    }
    let ttl_ms = options.ttl().as_millis();
    let mut json = json!({
        "seed": options.seed,
        "vms": options.fleet(),
        "ttl_ms": ttl_ms,
        "failover_ms": numbers(&failover_ms),
        "drain_unattended_ms": numbers(&drain_ms),
    });
    let mut words = format!(
        "{} VMs, TTL {ttl_ms} ms\nfailover: {failover_ms:?} ms\ndrain, longest unattended: {drain_ms:?} ms\n",
        options.fleet()
    );
    let mut goals = Goals::default();
    let worst = |all: &[u64]| all.iter().copied().max().unwrap_or(0);
    goals.at_most("failover_ms", millis(options.ttl() + TAKE_OVER), worst(&failover_ms));
    goals.at_most("drain_unattended_ms", millis(DRAIN), worst(&drain_ms));
    goals.add_to(&mut json);
    words.push_str(&goals.words());
    stage.end(if options.keep { Keep::Yes } else { Keep::No });
    Ok(Outcome { words, json, good: true })
}

fn numbers(all: &[u64]) -> serde_json::Value {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2);
    json!({"median": median, "max": sorted.last(), "rounds": all})
}

/// Waits until nothing is left to publish: what is measured is a cluster that supervises, not one that discovers.
async fn settled(stage: &Stage) -> Result<()> {
    let began = SystemClock.elapsed();
    loop {
        let mut waiting = 0;
        for door in stage.doors() {
            waiting += node_view(&door).await?.outbox;
        }
        if waiting == 0 {
            return Ok(());
        }
        if SystemClock.elapsed().saturating_sub(began) > SETTLED {
            bail!("{waiting} events are not published after {SETTLED:?}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until every node has about its share, and nothing moves any more.
async fn balanced(stage: &Stage) -> Result<()> {
    let began = SystemClock.elapsed();
    let least = usize::from(SHARDS) / stage.members.len() - usize::from(SHARDS) / 8;
    loop {
        let owners = stage.ownership.now();
        let even = stage.members.iter().all(|member| owners.of(&member.id).len() >= least);
        if even && owners.shards.len() == usize::from(SHARDS) {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let later = stage.ownership.now().shards;
            if later == owners.shards {
                return Ok(());
            }
        }
        let shares: Vec<usize> = stage.members.iter().map(|member| owners.of(&member.id).len()).collect();
        if SystemClock.elapsed().saturating_sub(began) > BALANCED {
            bail!("the shards are not even after {BALANCED:?}: {shares:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Kills a node; how long until each of its VMs is answered for by another.
async fn kill(stage: &Stage, victim: &Member, vms: &BTreeMap<ShardId, Vec<VmId>>) -> Result<u64> {
    let shards = stage.ownership.now().of(&victim.id);
    let mut waiting: BTreeMap<ShardId, Vec<VmId>> =
        shards.iter().filter_map(|shard| Some((*shard, vms.get(shard)?.clone()))).collect();
    let count: usize = waiting.values().map(Vec::len).sum();
    let began = SystemClock.elapsed();
    victim.kill().await;
    while !waiting.is_empty() {
        if SystemClock.elapsed().saturating_sub(began) > ROUND {
            let left: usize = waiting.values().map(Vec::len).sum();
            bail!("{left} of {count} VMs of {} are unattended after {ROUND:?}", victim.id);
        }
        let owners = stage.ownership.now();
        let mut asking = Vec::new();
        for (shard, left) in &waiting {
            let Some((owner, _)) = owners.shards.get(shard).filter(|(owner, _)| *owner != victim.id) else { continue };
            let door = &stage.member(owner).context("an owner that is none of ours")?.door;
            asking.push(answered(*shard, Arc::clone(door), left.clone()));
        }
        if asking.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let mut asked = stream::iter(asking).buffer_unordered(usize::from(SHARDS));
        while let Some((shard, left)) = asked.next().await {
            if left.is_empty() {
                waiting.remove(&shard);
            } else {
                waiting.insert(shard, left);
            }
        }
    }
    Ok(millis(SystemClock.elapsed().saturating_sub(began)))
}

/// Asks for the VMs of a shard at its new owner, and returns those for which it does not answer yet. One that is not
/// answered for stands for those after it: they are asked for in the next turn.
async fn answered(shard: ShardId, door: Arc<Door>, vms: Vec<VmId>) -> (ShardId, Vec<VmId>) {
    let mut left = Vec::new();
    for chunk in vms.chunks(PIPELINED) {
        if !left.is_empty() {
            left.extend_from_slice(chunk);
            continue;
        }
        let answers: Vec<bool> =
            stream::iter(chunk).map(|vm| door.attends(*vm, CALL)).buffered(PIPELINED).collect().await;
        left.extend(chunk.iter().zip(answers).filter(|(_, attended)| !attended).map(|(vm, _)| *vm));
    }
    (shard, left)
}

/// Some VMs of a shard, from the first to the last in the order in which they are loaded.
fn sampled(vms: &[VmId]) -> impl Iterator<Item = VmId> {
    let last = vms.len().saturating_sub(1);
    (0..SAMPLE.min(vms.len())).map(move |number| vms[number * last / (SAMPLE - 1)])
}

/// Drains a node and gives it shards again; the longest time between two answers for one of its VMs.
async fn drain(stage: &Stage, drained: &Member, vms: &BTreeMap<ShardId, Vec<VmId>>) -> Result<u64> {
    let shards = stage.ownership.now().of(&drained.id);
    let sample: Vec<VmId> = shards.iter().filter_map(|shard| vms.get(shard)).flat_map(|vms| sampled(vms)).collect();
    let others: Vec<&Arc<Member>> = stage.members.iter().filter(|member| member.id != drained.id).collect();
    let door = &others.first().context("somebody to take over")?.door;
    let watching =
        stream::iter(&sample).map(|vm| longest(door, *vm, stage, &drained.id)).buffer_unordered(sample.len().max(1));
    let ordering = async {
        // Every VM has answered once before.
        tokio::time::sleep(Duration::from_secs(1)).await;
        command(door, AdminRequest::NodeDrain(drained.id.clone())).await
    };
    let watching = watching.fold(Duration::ZERO, async |longest, gap| longest.max(gap));
    let (gap, ordered) = tokio::time::timeout(ROUND, async { tokio::join!(watching, ordering) })
        .await
        .with_context(|| format!("{} is not drained after {ROUND:?}", drained.id))?;
    ordered?;
    command(door, AdminRequest::NodeUndrain(drained.id.clone())).await?;
    Ok(millis(gap))
}

/// The longest time between two answers for a VM, until the node owns nothing any more.
async fn longest(door: &Door, vm: VmId, stage: &Stage, drained: &NodeId) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, None);
    let mut after = 0;
    loop {
        if door.attends(vm, CALL).await {
            let now = SystemClock.elapsed();
            if let Some(before) = last.replace(now) {
                longest = longest.max(now.saturating_sub(before));
            }
            // Once the node is empty, one more answer shows that the new owner attends.
            if stage.ownership.now().of(drained).is_empty() {
                after += 1;
                if after > 5 {
                    return longest;
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn command(door: &Door, request: AdminRequest) -> Result<()> {
    match door.ask(request, Duration::from_secs(10)).await? {
        AdminReply::Done => Ok(()),
        other => bail!("{} answered {other:?}", door.node),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
