//! Servers of a plain client: leases by notification alone, and what happened while nobody listened found by asking.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::harness::amqp::Peer;
use reeve_tests::harness::{Control, OpenStack};

use super::fixture::{PATIENCE, intake, listens, origins, running, sections, until, with_lease};

const SERVERS: usize = 20;
/// Asked once, when the node starts: everything else has to come by notification.
const RARELY: &str = r#"
[runtime]
reconcile_every = "1d"
changes_every = "1d"

[policy.default.lease]
duration = "30d"
"#;

/// Boots so many servers, and returns their ids when Nova says that they run.
async fn boot(cloud: &OpenStack, name: &str, count: usize) -> Result<BTreeSet<String>> {
    let number = count.to_string();
    let what = ["server", "create", "--image", "blank", "--flavor", "tiny", "--nic", "none", "--wait"];
    cloud.ask(&[&what[..], &["--min", &number, "--max", &number, name]].concat()).await?;
    // The client waits for the first of several.
    let began = SystemClock.elapsed();
    loop {
        let servers = running(cloud, name).await?;
        if servers.len() == count {
            return Ok(servers);
        }
        let waited = SystemClock.elapsed().saturating_sub(began);
        ensure!(waited < PATIENCE, "{} of {count} servers run after {waited:?}", servers.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_openstack_servers_of_a_plain_client_are_leased_found_and_let_go() -> Result<()> {
    let cloud = OpenStack::start(&[]).await?;
    let mut node = Control::start(&sections(&cloud, RARELY)?).await?;
    listens(&cloud).await?;
    let mut servers = boot(&cloud, "many", SERVERS).await?;
    until(&node, "leases by notification", |vms| with_lease(vms, "active") == servers).await?;
    let heard: BTreeSet<String> = origins(&node).await?.into_values().collect();
    assert_eq!(heard, BTreeSet::from(["created".to_owned()]), "each creation was heard of");

    let deleted = servers.pop_first().context("a server")?;
    cloud.tell(&["server", "delete", "--wait", &deleted]).await?;
    until(&node, "a lease that ends by notification", |vms| with_lease(vms, "ended").contains(&deleted)).await?;

    node.kill();
    let lost = servers.pop_first().context("a server")?;
    cloud.tell(&["server", "delete", "--wait", &lost]).await?;
    let unheard = boot(&cloud, "unheard", 1).await?;
    // What was sent meanwhile waits in the queue: without it nothing but asking tells.
    Peer::connect(cloud.setting("AMQP_URL")?).await?.delete_queue(&intake()?).await?;
    node.restart().await?;
    let vms = until(&node, "what happened meanwhile", |vms| {
        with_lease(vms, "active").is_superset(&unheard) && with_lease(vms, "ended").contains(&lost)
    })
    .await?;
    let origins = origins(&node).await?;
    assert!(unheard.iter().all(|vm| origins[vm] == "found"), "{origins:?}");
    servers.extend(unheard);
    assert_eq!(with_lease(&vms, "active"), servers);
    assert_eq!(with_lease(&vms, "ended"), BTreeSet::from([deleted, lost]));

    // The cloud speaks again to the queue that is new.
    listens(&cloud).await?;
    let heard = boot(&cloud, "heard", 1).await?;
    until(&node, "a lease by notification again", |vms| with_lease(vms, "active").is_superset(&heard)).await?;
    Ok(())
}
