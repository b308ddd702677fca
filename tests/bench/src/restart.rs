//! How many children may panic and be restarted in a second.
//!
//! Every poller of a node waits at a gate; when it opens, all of them panic inside their actors. The supervisor of each
//! learns of it by the child's link, logs it, and starts the poller again, which then waits as pollers do: that wait is
//! what ends the measurement. The panics go through the product's own hook and log, written to a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::future::LocalBoxFuture;
use reeve_nodes::config::LogSection;
use reeve_ports::{AdminService, Clock, Sleep};
use reeve_protocol::Timestamp;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::child::{argument, ask, number, processor_time};
use crate::node::{self, CHUNK, SYSTEM, Setup, until};
use crate::runner::{Figure, Goal, Measured, Options};

/// The part of this benchmark. It logs as the product does.
pub(crate) const CHILD: &str = "restart";

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let vms: u64 = options.pick(100_000, 5_000);
    let (mut rates, mut cores) = (Vec::new(), Vec::new());
    for _ in 0..options.pick(5, 1) {
        let answer = ask(CHILD, &[vms.to_string()]).await?;
        rates.push(vms as f64 / number(&answer, "wall")?);
        cores.push(vms as f64 / number(&answer, "processor")?);
    }
    let silent = ask(CHILD, &[vms.to_string(), "silent".to_owned()]).await?;
    let silent = vms as f64 / number(&silent, "wall")?;
    let figure = Figure::new("restart", &Measured::of(rates)?, "children/s", Goal::AtLeast(80_000.0))
        .of(vms)
        .beside("without a log", silent)
        .note("per_second_of_one_core", Measured::of(cores)?.median);
    Ok(vec![figure])
}

/// The machine's clock; those who sleep like pollers panic when the gate opens.
struct Gate {
    open: watch::Sender<bool>,
    waiting: AtomicU64,
    restarted: AtomicU64,
    chunks: AtomicU64,
}

/// Whether it is a poller that sleeps: its wait is a share of its interval, everybody else's is of whole seconds.
fn is_poller(duration: Duration) -> bool {
    duration.subsec_nanos() != 0
}

impl Clock for Gate {
    fn now(&self) -> Timestamp {
        SYSTEM.now()
    }

    fn elapsed(&self) -> Duration {
        SYSTEM.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        if duration == CHUNK {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        } else if is_poller(duration) && *self.open.borrow() {
            self.restarted.fetch_add(1, Ordering::Relaxed);
        } else if is_poller(duration) {
            let mut gate = self.open.subscribe();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            return Box::pin(async move {
                // The sender lives as long as the clock.
                let _ = gate.wait_for(|open| *open).await;
                panic!("the gate is open");
            });
        }
        SYSTEM.sleep(duration)
    }
}

/// Answers with the time that it took to restart the pollers of so many VMs.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    let level = if arguments.len() > 1 { "off" } else { "info" };
    reeve_nodes::logging::start(&LogSection { level: level.to_owned(), ..LogSection::default() })?;
    let gate = Arc::new(Gate {
        open: watch::Sender::new(false),
        waiting: AtomicU64::new(0),
        restarted: AtomicU64::new(0),
        chunks: AtomicU64::new(0),
    });
    node::run(|| async move {
        let clock = Some(Arc::clone(&gate) as Arc<dyn Clock>);
        let running = Setup { clock, ..Setup::of(vms) }.prepare()?.start().await?;
        let lives = || gate.waiting.load(Ordering::Relaxed) >= vms && gate.chunks.load(Ordering::Relaxed) >= vms;
        until("every poller waits", lives).await?;
        let asked = &running.world.probe.asked;
        let (began, had) = (Instant::now(), processor_time());
        gate.open.send_replace(true);
        // Those that were restarted first may have probed since, and wait again.
        let again = || gate.restarted.load(Ordering::Relaxed).saturating_sub(asked.load(Ordering::Relaxed));
        until("every poller was restarted", || again() >= vms).await?;
        let (wall, processor) = (began.elapsed(), processor_time() - had);
        let AdminReply::Node(view) = running.node.ask(&Principal::local(), AdminRequest::Node).await else {
            bail!("the node does not answer");
        };
        let (alive, restarts) = (view.vms, view.child_restarts);
        ensure!(alive == vms && restarts == vms, "{alive} VMs live after {restarts} restarts of {vms}");
        running.end().await;
        Ok(json!({ "wall": wall.as_secs_f64(), "processor": processor.as_secs_f64() }))
    })
}
