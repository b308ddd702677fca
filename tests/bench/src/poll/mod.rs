//! What it costs to watch: probes per second of a core when a probe costs nothing, and how many calls a real driver
//! makes of a cloud ([`calls`]).
//!
//! The node is asked for so many probes a second that a core has enough to do; what is counted are those that were made,
//! and the processor time of the whole process, which holds the poller's timer, the probe behind its port, the answer's
//! way to the supervisor and its look at the record.

pub(crate) mod calls;

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::LocalBoxFuture;
use reeve_protocol::Span;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::child::{argument, ask, number, processor_time};
use crate::node::{self, Setup};
use crate::runner::{Figure, Goal, Measured, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "poll";
/// How long probes are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    // 50,000 probes a second are asked for.
    let (vms, interval_ms): (u64, u64) = options.pick((100_000, 2_000), (5_000, 1_000));
    let (mut rates, mut last) = (Vec::new(), Value::Null);
    for _ in 0..options.pick(3, 1) {
        last = ask(CHILD, &[vms.to_string(), interval_ms.to_string()]).await?;
        rates.push(number(&last, "probes")? / number(&last, "processor_s")?);
    }
    let share = number(&last, "processor_s")? / number(&last, "wall_s")?;
    let figure = Figure::new("poll", &Measured::of(rates)?, "probes/s a core", Goal::AtLeast(50_000.0)).of(vms);
    let figure = figure.note("share_of_a_core", share).note("last_round", last);
    Ok(vec![figure, calls::figure(options).await?])
}

/// Answers how many probes were made in a while, and what they took.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let (vms, interval_ms): (u64, u64) = (argument(arguments, 0)?, argument(arguments, 1)?);
    node::run(|| async move {
        let interval = Span::from_millis(interval_ms);
        let policies = node::watched(Some(interval))?;
        let make = node::under(&policies)?;
        let running = Setup { make, policies, ..Setup::of(vms) }.prepare()?.start().await?;
        running.alive(vms, 0).await?;
        tokio::time::sleep(interval.duration() * 2).await;
        let asked = &running.world.probe.asked;
        let (began, had, before) = (Instant::now(), processor_time(), asked.load(Ordering::Relaxed));
        tokio::time::sleep(WINDOW).await;
        let probes = asked.load(Ordering::Relaxed) - before;
        let (wall, processor) = (began.elapsed().as_secs_f64(), (processor_time() - had).as_secs_f64());
        let commits = running.world.store.commits();
        ensure!(commits == 0, "{commits} records changed though every VM is up");
        running.end().await;
        let wanted = vms as f64 / interval.duration().as_secs_f64();
        Ok(json!({
            "probes": probes, "processor_s": processor, "wall_s": wall, "per_s": probes as f64 / wall, "wanted_per_s": wanted,
        }))
    })
}
