//! How many calls of the cloud's API a round of probes is.
//!
//! A node with the OpenStack driver finds the VMs of a simulated cloud by its listing and probes each once an interval
//! with the probe `cloud`, which one listing an interval answers for all that are up: a call for each page of 1,000. (The guest's own agent has no bulk call
//! in Nova's API: that probe is one call a VM whatever we do.) The requests are counted where they arrive.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_drivers::SimConfig;
use reeve_drivers::cloud::openstack::{OpenStackCloud, OpenStackConfig};
use reeve_lifecycle::Policies;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::{AdminService, SystemClock};
use reeve_protocol::Span;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_tests::sim_cloud::{SimCloudOptions, SimCloudServer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::child::{argument, ask, number};
use crate::node::{self, Outside, Setup};
use crate::records;
use crate::runner::{Figure, Goal, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "poll-calls";
/// How many rounds are counted.
const ROUNDS: u32 = 2;
/// The longest that the listing may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn figure(options: Options) -> Result<Figure> {
    let (vms, interval_ms): (u64, u64) = options.pick((5_000, 30_000), (2_000, 3_000));
    let answer = ask(CHILD, &[vms.to_string(), interval_ms.to_string()]).await?;
    let calls = number(&answer, "calls")? * 1000.0 / vms as f64 / f64::from(ROUNDS);
    let figure = Figure::single("poll/calls", calls, "calls/1,000 VMs a round", Goal::AtMost(1.0));
    Ok(figure.of(vms).note("child", answer))
}

/// Answers how many requests a cloud had in some rounds.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let (vms, interval_ms): (u32, u64) = (argument(arguments, 0)?, argument(arguments, 1)?);
    node::run(|| async move {
        let sim = SimConfig { vms, hosts: 50, page: 1_000, disk_bytes: [4096, 4096], ..SimConfig::default() };
        let server = SimCloudServer::start(SimCloudOptions { sim, ..SimCloudOptions::default() }).await?;
        let driver = Arc::new(driver(&server)?);
        let outside = Outside { cloud: Arc::clone(&driver) as _, probe: driver };
        let interval = Span::from_millis(interval_ms);
        let policies = by_the_cloud(node::watched(Some(interval))?)?;
        let setup = Setup { policies, listed: true, outside: Some(outside), ..Setup::of(0) };
        let running = setup.prepare()?.start().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = running.node.ask(&Principal::local(), AdminRequest::Node).await;
            match reply {
                AdminReply::Node(view) if view.vms >= u64::from(vms) => break,
                _ if Instant::now() > deadline => bail!("not every VM was found by the listing: {reply:?}"),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        // The first wait of a poller is a share of its interval.
        sleep(interval.duration() * 2).await;
        let before = server.requests();
        sleep(interval.duration() * ROUNDS).await;
        let calls = server.requests() - before;
        running.end().await;
        server.stop().await;
        Ok(json!({ "calls": calls, "rounds": ROUNDS, "probe": "cloud" }))
    })
}

fn by_the_cloud(policies: Policies) -> Result<Policies> {
    let mut policy = policies.get(&records::policy().name).context("there is a default policy")?;
    policy.terms.health.probe = ProbeKind::Cloud;
    Ok(Policies::new([(policy.name, policy.terms)].into())?)
}

fn driver(server: &SimCloudServer) -> Result<OpenStackCloud> {
    let config = OpenStackConfig::new(server.auth());
    Ok(OpenStackCloud::new(records::cloud(), config, Arc::new(SystemClock), "reeve-bench")?)
}
