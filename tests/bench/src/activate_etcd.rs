//! The other half of `activate`: records that lie in a real etcd, loaded into live trees.
//!
//! ```text
//! another process: joins the cluster, knows its plan ─► clock starts ─► node: claims, pages, decodes, starts trees ─► stops
//! ```
//!
//! The clock stops when the node supervises every VM and the last VM of each shard, which is loaded last, has answered.

use std::sync::Arc;

use anyhow::Result;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use reeve_cluster::etcd::{EtcdCluster, EtcdStore, Keys};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::harness::Etcd;
use serde_json::{Value, json};

use crate::child::{argument, ask, number};
use crate::quiet_node::{Footing, QuietNode};
use crate::runner::{Figure, Goal, Measured, Options};
use crate::servers::{self, Claimed, SHARDS};
use crate::{records, site};

/// What the child is called.
pub(crate) const CHILD: &str = "activate-etcd";

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    measure(*options).boxed_local()
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let vms: u64 = options.pick(100_000, 5_000);
    let etcd = Etcd::start(1).await?;
    let claimed = Claimed::all(&etcd, site::CLUSTER).await?;
    let now = SystemClock.now();
    claimed.fill(usize::try_from(vms)?, move |index| records::record(index as u64, now)).await?;
    claimed.release().await?;
    etcd.compact().await?;
    let database_bytes = etcd.bytes_used().await?;
    let mut rounds = Vec::new();
    for _ in 0..options.pick(5, 1) {
        let answer = ask(CHILD, &[etcd.endpoint(0), vms.to_string()]).await?;
        rounds.push(number(&answer, "seconds")?);
    }
    let measured = Measured::of(rounds)?;
    let per_second = vms as f64 / measured.median;
    let figure = Figure::new("activate, from etcd", &measured, "s", Goal::AtMost(2.0))
        .of(vms)
        .note("vms_per_second", per_second)
        .note("rounds_s", measured.rounds.clone())
        .note("shards", SHARDS)
        .note("database_bytes_per_vm", database_bytes as f64 / vms as f64);
    Ok(vec![figure])
}

/// One load, in this process.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let (endpoint, vms): (String, u64) = (argument(arguments, 0)?, argument(arguments, 1)?);
    reeve_runtime::run_system(|| Box::pin(load(endpoint, vms)))
}

async fn load(endpoint: String, vms: u64) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let etcd = servers::config(vec![endpoint], site::CLUSTER);
    let node = etcd.node.clone();
    let cluster = Arc::new(EtcdCluster::join(etcd, Arc::new(SystemClock)).await?);
    cluster.until_planned().await;
    let store = Arc::new(EtcdStore::new(cluster.client(), Keys::new(site::CLUSTER)));
    let coordination = Arc::<EtcdCluster>::clone(&cluster);
    let began = SystemClock.elapsed();
    let node = QuietNode::start(folder.path(), Footing { store, coordination, node, cluster: site::CLUSTER }).await?;
    node.supervises(vms).await?;
    let seconds = SystemClock.elapsed().saturating_sub(began).as_secs_f64();
    node.stop().await;
    cluster.leave().await;
    Ok(json!({ "seconds": seconds }))
}
