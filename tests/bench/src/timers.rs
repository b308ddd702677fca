//! Whether leases are on time, and what it costs to wait.
//!
//! A node holds all the leases, none of its VMs is probed. The notice of a part of them comes due within ten seconds;
//! how late one is is the time from its deadline until the commit of that decision reaches the store, with everything
//! else that such a notice means (an event published, a person told, two more commits) on the same machine. Idle is
//! measured in another node without any that come due, over more than the longest sleep of a timer, so that each of
//! them has looked at the clock: on a clock that goes [`SPEED`] times as fast, and counted in its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::future::LocalBoxFuture;
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::Lease;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::{Span, Timestamp, VmId};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::child::{argument, ask, number, processor_time};
use crate::node::{self, Commit, Make, Setup};
use crate::records;
use crate::runner::{Figure, Goal, Measured, Options, percentile};

/// The part that measures lateness.
pub(crate) const CHILD: &str = "timers";
/// The part that measures idleness.
pub(crate) const IDLE: &str = "timers-idle";
/// Within how long they come due.
const WINDOW_MS: u64 = 10_000;
/// How long before its end a lease has its first notice, by the default policy.
const NOTICE: Span = Span::from_days(7);
/// How much faster the clock of an idle node goes.
const SPEED: u32 = 20;
/// How long that is, by that clock: a timer's longest sleep, and a bit.
const IDLE_FOR: Duration = Duration::from_secs(640);
/// The longest that the last may be late.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let (vms, due): (u64, u64) = options.pick((1_000_000, 100_000), (10_000, 1_000));
    let rounds = options.pick(3, 1);
    let (mut p99s, mut lost, mut last) = (Vec::new(), 0.0_f64, Value::Null);
    for _ in 0..rounds {
        last = ask(CHILD, &[vms.to_string(), due.to_string()]).await?;
        p99s.push(number(&last, "p99_ms")?);
        lost = lost.max(number(&last, "lost")?);
    }
    let late = Figure::new("timers", &Measured::of(p99s)?, "ms late (p99)", Goal::AtMost(100.0)).of(due);
    let late = late.note("armed", vms).note("last_round", last);
    let lost = Figure::single("timers/lost", lost, "leases", Goal::AtMost(0.0)).of(due);
    let idle = ask(IDLE, &[vms.to_string()]).await?;
    let share = number(&idle, "share")? * 100.0;
    let idle = Figure::single("timers/idle", share, "% of a core", Goal::AtMost(2.0)).of(vms).note("child", idle);
    Ok(vec![late, lost, idle])
}

/// When the notice of a VM is due.
fn deadline(first: Timestamp, index: u64) -> Timestamp {
    first + Duration::from_millis(records::mixed(index) % WINDOW_MS)
}

/// Makes records without a poller; the notices of the first `due` come due from `first` on.
fn make(quiet: Make, due: u64, first: Timestamp) -> Make {
    Arc::new(move |index, now| {
        let mut record: VmRecord = quiet(index, now);
        if index < due
            && let Lease::Running { term, .. } = &mut record.lease
        {
            term.ends_at = deadline(first, index) + NOTICE;
        }
        record
    })
}

/// Answers how late the notices were.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let (vms, due): (u64, u64) = (argument(arguments, 0)?, argument(arguments, 1)?);
    node::run(|| async move {
        let policies = node::watched(None)?;
        let lead = Duration::from_secs(5 + vms / 15_000);
        let first = SystemClock.now() + lead;
        let make = make(node::under(&policies)?, due, first);
        let running = Setup { make, policies, ..Setup::of(vms) }.prepare()?.start().await?;
        running.alive(0, due).await?;
        let armed = SystemClock.now();
        ensure!(armed < first, "{vms} timers were armed after the first of them was due");
        let store = &running.world.store;
        store.keep_journal();
        let (instant, wall) = (Instant::now(), SystemClock.now());
        let window = first.since(wall) + Duration::from_millis(WINDOW_MS);
        let had = processor_time();
        tokio::time::sleep(window).await;
        let give_up = Instant::now() + PATIENCE;
        let lates = loop {
            let lates = lateness(&store.journal(), due, first, (instant, wall));
            if lates.len() as u64 == due || Instant::now() > give_up {
                break lates;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let processor = processor_time() - had;
        if lates.is_empty() {
            bail!("no notice was committed");
        }
        let answer = json!({
            "p50_ms": percentile(&lates, 0.5), "p99_ms": percentile(&lates, 0.99), "max_ms": percentile(&lates, 1.0),
            "lost": due - lates.len() as u64, "processor_s": processor.as_secs_f64(), "commits": store.commits(),
            "armed_before_s": first.since(armed).as_secs_f64(),
        });
        running.end().await;
        Ok(answer)
    })
}

/// How late the first commit of each VM was, sorted, in milliseconds.
fn lateness(journal: &[Commit], due: u64, first: Timestamp, began: (Instant, Timestamp)) -> Vec<f64> {
    let deadlines: BTreeMap<VmId, Timestamp> =
        (0..due).map(|index| (records::vm(index), deadline(first, index))).collect();
    let mut commits: BTreeMap<VmId, Timestamp> = BTreeMap::new();
    for commit in journal {
        commits.entry(commit.vm).or_insert(began.1 + (commit.at - began.0));
    }
    let late = |(vm, deadline): (&VmId, &Timestamp)| Some(commits.get(vm)?.since(*deadline).as_secs_f64() * 1000.0);
    let mut lates: Vec<f64> = deadlines.iter().filter_map(late).collect();
    lates.sort_by(f64::total_cmp);
    lates
}

/// Answers what share of a core a node takes whose VMs wait.
pub(crate) fn idle(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    node::run(|| async move {
        let policies = node::watched(None)?;
        let make = node::under(&policies)?;
        let running = Setup { make, policies, speed: SPEED, ..Setup::of(vms) }.prepare()?.start().await?;
        running.alive(0, 0).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let had = processor_time();
        tokio::time::sleep(IDLE_FOR / SPEED).await;
        let processor = (processor_time() - had).as_secs_f64();
        let commits = running.world.store.commits();
        ensure!(commits == 0, "{commits} records changed in an idle node");
        running.end().await;
        Ok(json!({ "processor_s": processor, "share": processor / IDLE_FOR.as_secs_f64(), "of_s": IDLE_FOR.as_secs() }))
    })
}
