//! How fast VMs come alive: from stored bytes to a tree whose supervisor has called `recover()`, whose lease timer sleeps
//! and whose poller waits.
//!
//! The bytes are there before the clock starts, as a server would have them. The value is VMs per second of processor
//! time, all threads together, so that it says what one core can do; by the wall clock it is in the notes. Beside it:
//! decoding the same bytes alone, which no way of doing it can leave out.

use anyhow::{Result, ensure};
use futures::future::LocalBoxFuture;
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::codec;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::child::{argument, ask, number, processor_time};
use crate::node::{self, Kept, Setup};
use crate::records;
use crate::runner::{Figure, Goal, Measured, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "activate";

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let vms: u64 = options.pick(100_000, 5_000);
    let rounds = options.pick(5, 1);
    let (mut alive, mut decoded, mut wall) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let answer = ask(CHILD, &[vms.to_string()]).await?;
        alive.push(vms as f64 / number(&answer, "processor")?);
        wall.push(vms as f64 / number(&answer, "wall")?);
        decoded.push(number(&answer, "decoded")?);
    }
    let wall = Measured::of(wall)?.median;
    let figure = Figure::new("activate", &Measured::of(alive)?, "VM/s a core", Goal::AtLeast(100_000.0))
        .of(vms)
        .against("decode alone", Measured::of(decoded)?.median)
        .note("per_second_by_the_wall_clock", wall);
    Ok(vec![figure])
}

/// Answers with the processor time and the time until so many VMs live.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    let decoded = decode(vms.min(20_000))?;
    node::run(|| async move {
        let prepared = Setup { kept: Kept::Bytes, ..Setup::of(vms) }.prepare()?;
        let (began, had) = (Instant::now(), processor_time());
        let running = prepared.start().await?;
        running.alive(vms, 0).await?;
        let (wall, processor) = (began.elapsed(), processor_time() - had);
        let commits = running.world.store.commits();
        ensure!(commits == 0, "{commits} records changed");
        running.end().await;
        Ok(json!({ "wall": wall.as_secs_f64(), "processor": processor.as_secs_f64(), "decoded": decoded }))
    })
}

/// Records decoded a second by one thread.
fn decode(records: u64) -> Result<f64> {
    let now = SystemClock.now();
    let stored = (0..records).map(|index| records::stored(index, now)).collect::<Result<Vec<_>>>()?;
    let began = processor_time();
    let mut seen: Vec<VmRecord> = Vec::with_capacity(stored.len());
    for one in &stored {
        seen.push(codec::decode(RECORD_FORMAT, &one.value)?.1);
    }
    let took = processor_time() - began;
    ensure!(seen.len() == stored.len(), "a record is missing");
    Ok(records as f64 / took.as_secs_f64())
}
