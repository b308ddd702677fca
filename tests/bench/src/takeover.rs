//! `takeover`: how long VMs are without a supervisor when their node is killed.
//!
//! The failover of `reeve-chaos`, with as many VMs as a cluster of this size has: three nodes, three members of etcd and
//! three brokers, all real and on this machine. The time is from SIGKILL until the last of the dead node's VMs is
//! answered for by another.

use anyhow::{Context, Result};
use clap::Parser;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use reeve_tests::chaos::failover::failover;
use reeve_tests::chaos::options;
use reeve_tests::chaos::report::TAKE_OVER;
use serde_json::Value;

use crate::runner::{Figure, Goal, Measured, Options};

/// A probe is a call to the cloud: oftener, so large a fleet would keep the cloud's process busy and measure that.
const PROBE_SECS: &str = "1800";
/// The product's default.
const LIST_SECS: &str = "300";

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    measure(*options).boxed_local()
}

async fn measure(given: Options) -> Result<Vec<Figure>> {
    let (vms, rounds) = given.pick(("100000", "3"), ("2000", "1"));
    let pace = ["--probe-secs", PROBE_SECS, "--list-secs", LIST_SECS];
    let told = ["reeve-bench", "--failover", "--vms", vms, "--rounds", rounds].into_iter().chain(pace);
    let options = options::Options::try_parse_from(told).context("what reeve-chaos is told")?;
    let outcome = Box::pin(failover(&options)).await?;
    let rounds = |name: &str| {
        let rounds = outcome.json[name]["rounds"].as_array().with_context(|| format!("no {name}"))?;
        Measured::of(rounds.iter().filter_map(Value::as_f64).collect())
    };
    let (failover, drain) = (rounds("failover_ms")?, rounds("drain_unattended_ms")?);
    let goal = options.ttl() + TAKE_OVER;
    let mut figure = Figure::new("takeover", &failover, "ms", Goal::AtMost(goal.as_secs_f64() * 1e3));
    // The worst is what counts.
    figure.value = worst(&failover);
    let figure = figure
        .of(options.fleet() as u64)
        .note("median_ms", failover.median)
        .note("rounds_ms", failover.rounds)
        .note("lease_ttl_ms", options.ttl().as_secs_f64() * 1e3)
        .note("nodes", options.nodes)
        .note("seconds_between_probes", options.probe_secs)
        .note("drain_longest_unattended_ms", worst(&drain));
    Ok(vec![figure])
}

fn worst(measured: &Measured) -> f64 {
    measured.rounds.iter().copied().fold(0.0, f64::max)
}
