//! `intake`: Nova's notifications per second, from the queue to a committed record and a confirmed event.
//!
//! ```text
//! queue, full ─► node starts ─► decode, step, commit (etcd), acknowledge ─► event (confirmed) ─► whoever listens
//! queue, full ─► a bare consumer of the same library ─► acknowledge
//! ```
//!
//! Each message stops or starts a VM, so each changes a record and makes an event of the change, which is counted; when a
//! VM stops, a second one tells that it is watched no longer. Most of what a Nova sends changes nothing. The bare consumer
//! has the same prefetch, on a queue of the same kind. Both find their queue full, so that nobody publishes while it is
//! measured, and what is counted begins after the first fifth. A record is written with the event in its outbox; that the
//! event is out is written with the next decision about the VM, or some seconds later.
//!
//! The latency is that of half the rate, sent evenly through Nova's exchange: from when a message was due until its event
//! has come to whoever listens. Who sends and the broker that takes what is sent work on the same machine, which they do
//! not while the rate is measured, so that half of that rate may be more than the machine carries. How busy it is and what
//! it carried stand beside, and the latency at half of that.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use reeve_lifecycle::VmRecord;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::names;
use serde_json::json;
use tokio::sync::Mutex;

use crate::broker::{Client, Keep, steady_rate};
use crate::nova::{Nova, Told};
use crate::processes::{processor_times, spent_since, us_per_message};
use crate::records;
use crate::runner::{Contestant, Figure, Goal, Options, alternate, percentile};
use crate::site::{Site, view};

const EVENT: &str = "vm.state-changed";
const BARE: &str = "bench.bare";
/// What `[bus]` has if nobody says otherwise.
const PREFETCH: u16 = 1_024;
/// Messages are newer than any listing of the cloud that comes between them.
const AHEAD: Duration = Duration::from_secs(3600);
/// A node that has just been started still opens its queues.
const WARM: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    measure(*options).boxed_local()
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let vms = options.pick(10_000, 500);
    let ground = Box::pin(Ground::prepare(vms)).await?;
    let contestants =
        vec![Contestant::new("reeve", || ground.reeve()), Contestant::new("bare consumer", || ground.bare())];
    let measured = alternate(options.pick(3, 1), 1, contestants).await?;
    let [reeve, bare] = &measured[..] else { bail!("two contestants have two results") };
    let half = ground.paced(reeve.median / 2.0, options.pick(20, 5)).await?;
    let carried = ground.paced(half.carried / 2.0, options.pick(20, 5)).await?;
    let of_node = ground.reeve_us.borrow().get("node").copied().unwrap_or_default();
    let rate = Figure::new("intake", reeve, "messages/s", Goal::RatioAtLeast(0.5))
        .of(ground.messages() as u64)
        .against("bare consumer", bare.median)
        .note("prefetch", PREFETCH)
        .note("vms", vms)
        .note("bytes_per_message", ground.bytes())
        .note("node_processor_us_per_message", of_node)
        .note("processor_us_per_message", serde_json::to_value(ground.reeve_us.take())?)
        .note("processor_us_per_message_bare", serde_json::to_value(ground.bare_us.take())?);
    let half = half.figure("intake, p99 at half load", Goal::AtMost(50.0));
    let carried = carried.figure("intake, p99 at half of what is carried with its senders", Goal::Recorded);
    Ok(vec![rate, half, carried])
}

/// What was seen while messages came at a steady rate.
struct Paced {
    per_second: f64,
    /// Events per second: as many, unless that is more than the machine carries.
    carried: f64,
    /// Milliseconds, sorted.
    latencies: Vec<f64>,
    /// Of the machine, on the average: by the senders and the broker that takes their messages as well.
    cores_busy: f64,
    /// Processor time per message, by program.
    us: BTreeMap<String, f64>,
}

impl Paced {
    fn figure(&self, name: &str, goal: Goal) -> Figure {
        let share = |share: f64| percentile(&self.latencies, share);
        Figure::single(name, share(0.99), "ms", goal)
            .of(self.latencies.len() as u64)
            .note("messages_per_second", self.per_second)
            .note("carried_per_second", self.carried)
            .note("cores_busy", self.cores_busy)
            .note("processor_us_per_message", json!(self.us))
            .note("p50_ms", share(0.5))
            .note("max_ms", share(1.0))
    }
}

struct Ground {
    site: Mutex<Site>,
    client: Client,
    nova: Nova,
    records: Vec<VmRecord>,
    /// When the next message was sent, by its own word.
    at_us: Cell<i64>,
    /// The number of the next message that is sent at a pace: the VMs go on where they are.
    paced: Cell<usize>,
    /// Processor time per message of the last round, by program.
    reeve_us: RefCell<BTreeMap<String, f64>>,
    bare_us: RefCell<BTreeMap<String, f64>>,
}

impl Ground {
    async fn prepare(vms: usize) -> Result<Self> {
        let now = SystemClock.now();
        let (mut site, records) = Site::start(vms, now).await?;
        // The first start makes the queues, and finds everything as it is.
        site.start_node()?;
        let node = site.node_with(vms as u64).await?;
        while view(&node).await?.outbox > 0 {
            tokio::time::sleep(POLL).await;
        }
        let client = Client::connect(&site.rabbit.url()).await?;
        client.until_declared(&names::intake_queue(&records::cloud())).await?;
        drop(node);
        site.stop_node().await?;
        client.declare_like_an_intake(BARE).await?;
        let at_us = Cell::new((now + AHEAD).as_millis() * 1000);
        let (site, nova) = (Mutex::new(site), Nova::read()?);
        let (reeve_us, bare_us) = Default::default();
        Ok(Self { site, client, nova, records, at_us, paced: Cell::new(0), reeve_us, bare_us })
    }

    /// Every VM is stopped and started.
    fn messages(&self) -> usize {
        2 * self.records.len()
    }

    fn bytes(&self) -> usize {
        self.message(0).1.len()
    }

    /// The message of this number: the VMs one after the other, again and again.
    fn message(&self, number: usize) -> (String, Vec<u8>) {
        let (record, told) = (&self.records[number % self.records.len()], Told::of_turn(number / self.records.len()));
        let launched = record.facts.launched_at.unwrap_or_default();
        let at_us = self.at_us.replace(self.at_us.get() + 1);
        (format!("vm/{}", record.vm), self.nova.body(told, record.vm, launched, at_us))
    }

    fn bodies(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.messages()).map(|number| self.message(number).1)
    }

    async fn reeve(&self) -> Result<f64> {
        let mut site = self.site.lock().await;
        site.etcd.compact().await?;
        self.client.fill(&names::intake_queue(&records::cloud()), self.bodies()).await?;
        let events = self.client.listen(EVENT, Keep::Time).await?;
        site.start_node()?;
        let node = site.node_with(self.records.len() as u64).await?;
        let (before, had) = (events.arrivals.count(), processor_times()?);
        let arrivals = events.arrivals.reach(self.messages()).await?;
        self.reeve_us.replace(us_per_message(&had, arrivals.len() - before)?);
        ensure!(arrivals.len() == self.messages(), "{} events of {} messages", arrivals.len(), self.messages());
        while view(&node).await?.outbox > 0 {
            tokio::time::sleep(POLL).await;
        }
        drop(node);
        site.stop_node().await?;
        steady_rate(&arrivals)
    }

    async fn bare(&self) -> Result<f64> {
        self.client.fill(BARE, self.bodies()).await?;
        let had = processor_times()?;
        let consuming = self.client.acknowledge_all(BARE, PREFETCH).await?;
        let arrivals = consuming.arrivals.reach(self.messages()).await?;
        self.bare_us.replace(us_per_message(&had, arrivals.len())?);
        steady_rate(&arrivals)
    }

    async fn paced(&self, per_second: f64, seconds: u32) -> Result<Paced> {
        let mut site = self.site.lock().await;
        site.etcd.compact().await?;
        site.start_node()?;
        let node = site.node_with(self.records.len() as u64).await?;
        let events = self.client.listen(EVENT, Keep::Body).await?;
        let (began, had) = (SystemClock.elapsed(), processor_times()?);
        let seconds = f64::from(seconds) + WARM.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of messages")]
        let count = (per_second * seconds).max(1.0) as usize;
        let first = self.paced.replace(self.paced.get() + count);
        let messages = (first..first + count).map(|number| self.message(number));
        let mut sent = self.client.send_steadily("nova", per_second, messages).await?;
        let mut latencies = Vec::with_capacity(count);
        let arrivals = events.arrivals.reach(count).await?;
        let (lasted, spent) = (SystemClock.elapsed().saturating_sub(began), spent_since(&had)?);
        let cores_busy = spent.values().sum::<Duration>().as_secs_f64() / lasted.as_secs_f64();
        let (us, carried) = (us_per_message(&had, count)?, steady_rate(&arrivals)?);
        for (at, body) in arrivals {
            let event: CloudEvent = serde_json::from_slice(&body).context("an event")?;
            // The events of a VM come in the order of its messages.
            let due = sent.get_mut(&event.subject).and_then(VecDeque::pop_front);
            let due = due.with_context(|| format!("an event more than messages of {}", event.subject))?;
            if due.saturating_sub(began) >= WARM {
                latencies.push(at.saturating_sub(due).as_secs_f64() * 1e3);
            }
        }
        drop(node);
        site.stop_node().await?;
        latencies.sort_by(f64::total_cmp);
        Ok(Paced { per_second, carried, latencies, cores_busy, us })
    }
}
