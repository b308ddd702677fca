//! What a VM costs in memory while its whole tree is alive.
//!
//! Each size is a process of its own: a node is started, every supervisor, lease timer and poller lives, every VM was
//! probed and listed once, and then the resident bytes are read. What a node without VMs takes is subtracted, so that
//! what remains is everything that one VM more costs: its actors and their mailboxes, its timers, its record, and its
//! entry at the owner of its shard. The records come out of the store's bytes by the store's codec, as they would.
//!
//! Beside it, with the same records and the same rhythm: a supervisor and two gen_servers a VM in Erlang/OTP
//! (`erlang/tree.erl`), before or after a full collection of garbage in every process, whichever is less, and a
//! supervisor with two linked children a VM on ractor ([`ractor_tree`]). Neither has room for a million beside the
//! machine's memory, so both are compared at the largest size that they were measured at.

mod erlang;
pub(crate) mod ractor_tree;

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::LocalBoxFuture;
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_ports::{AdminService, Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::codec;
use serde_json::{Value, json};

use crate::child::{argument, ask, number, resident};
use crate::node::{self, Setup, until};
use crate::records;
use crate::runner::{Figure, Goal, Measured, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "footprint";
/// The part that holds the records alone.
pub(crate) const RECORDS: &str = "footprint-records";
/// The longest that a poller waits at first, twice: what the first sign of life let go is back at the system by then
/// (jemalloc gives dirty pages back within ten seconds).
const ROUND: Duration = Duration::from_secs(60);
/// Memory that is to be left for everything else.
const SPARE: u64 = 1 << 30;
/// More than a VM was ever seen to cost here; keeps a machine that is too small from thrashing.
const AT_MOST: u64 = 12 << 10;

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let sizes: &[u64] = options.pick(&[10_000, 100_000, 1_000_000], &[2_000, 10_000]);
    let compared = options.pick(100_000, 10_000);
    let base = number(&ask(CHILD, &["0".to_owned()]).await?, "resident")?;
    let mut figures = Vec::new();
    for &vms in sizes {
        ensure!(vms * AT_MOST + SPARE < available()?, "{vms} VMs do not fit into the memory that is left");
        let rounds = if vms >= 1_000_000 || options.quick { 1 } else { 3 };
        let mut values = Vec::new();
        let mut last = Value::Null;
        for _ in 0..rounds {
            last = ask(CHILD, &[vms.to_string()]).await?;
            values.push((number(&last, "resident")? - base) / vms as f64);
        }
        let name = format!("footprint/{vms}");
        let figure = Figure::new(name, &Measured::of(values)?, "B/VM", Goal::AtMost(4096.0)).of(vms);
        let fresh = (number(&last, "fresh")? - base) / vms as f64;
        figures.push(figure.note("size", vms).note("before_first_round", fresh).note("child", last));
    }
    let flatness = flatness(&figures);
    let erlang = erlang::measure(compared, ROUND).await?;
    let ractor = ask(ractor_tree::CHILD, &[compared.to_string()]).await?;
    let ractor = number(&ractor, "bytes")?;
    let records = ask(RECORDS, &[compared.to_string()]).await?;
    let ours = figures.iter().find(|figure| figure.n == compared).map_or(0.0, |figure| figure.value);
    let beside = Figure::single("footprint/peers", ours, "B/VM", Goal::RatioAtMost(1.0 / 3.0))
        .of(compared)
        .against("erlang", erlang.collected.min(erlang.running))
        .beside("erlang after a full collection", erlang.collected)
        .beside("erlang before a full collection", erlang.running)
        .beside("erlang by its allocators", erlang.allocated)
        .beside("ractor", ractor)
        .beside("the record alone", number(&records, "bytes")?)
        .note("stored_bytes", number(&records, "stored")?);
    figures.push(flatness.note("base_bytes", base));
    figures.push(beside);
    Ok(figures)
}

/// How far the sizes lie apart.
fn flatness(figures: &[Figure]) -> Figure {
    let values = || figures.iter().map(|figure| figure.value);
    let (most, least) = (values().fold(0.0, f64::max), values().fold(f64::INFINITY, f64::min));
    Figure::single("footprint/flat", most / least, "largest/smallest", Goal::AtMost(1.1))
}

fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or("0").parse::<u64>()? * 1024)
}

/// Answers with the resident bytes of a node with so many VMs, those of everything that is ours alone taken off.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    node::run(|| async move {
        let before = resident("self")?;
        let prepared = Setup { listed: true, ..Setup::of(vms) }.prepare()?;
        // The index of the store is no part of a node.
        let index = resident("self")?.saturating_sub(before);
        let running = prepared.start().await?;
        running.alive(vms, 0).await?;
        let fresh = resident("self")?.saturating_sub(index);
        let world = &running.world;
        until("the cloud was listed", || world.cloud.listings.load(Ordering::Relaxed) > 0).await?;
        // Without VMs nobody is probed.
        if vms > 0 {
            tokio::time::sleep(ROUND).await;
        }
        let asked = world.probe.asked.load(Ordering::Relaxed);
        ensure!(asked >= vms, "only {asked} of {vms} VMs were probed");
        let reply = running.node.ask(&Principal::local(), AdminRequest::Node).await;
        let AdminReply::Node(view) = reply else { anyhow::bail!("the node does not answer: {reply:?}") };
        ensure!(view.vms == vms, "{} of {vms} VMs live", view.vms);
        let seen = resident("self")?;
        let commits = world.store.commits();
        running.end().await;
        Ok(json!({ "resident": seen - index, "fresh": fresh, "commits": commits, "index": index, "probes": asked }))
    })
}

/// Answers with the bytes of a record, in memory and stored.
pub(crate) fn records(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    let now = SystemClock.now();
    let before = resident("self")?;
    let mut stored = 0;
    let mut kept: Vec<Box<VmRecord>> = Vec::new();
    for index in 0..vms {
        let one = records::stored(index, now)?;
        stored += one.value.len();
        kept.push(Box::new(codec::decode(RECORD_FORMAT, &one.value)?.1));
    }
    let bytes = resident("self")?.saturating_sub(before) as f64 / vms as f64;
    ensure!(kept.len() as u64 == vms, "a record is missing");
    Ok(json!({ "bytes": bytes, "stored": stored as f64 / vms as f64 }))
}
