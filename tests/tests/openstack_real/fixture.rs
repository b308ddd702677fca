//! A node beside a real OpenStack, and what both say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::command::{Command, CommandKind, Requester};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{CloudName, MessageId, Timestamp, VmId, names};
use reeve_tests::harness::amqp::Peer;
use reeve_tests::harness::{Control, OpenStack};

/// What is awaited comes within seconds, unless the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(250);
const CLOUD: &str = "real";

/// A configuration for the cloud and its broker, with these sections beside.
pub(crate) fn sections(cloud: &OpenStack, beside: &str) -> Result<String> {
    Ok(format!(
        r#"
[bus]
url = {:?}

[[cloud]]
name = "{CLOUD}"
driver = "openstack"
clouds_yaml = {:?}
cloud = "reeve-test"
[cloud.notifications]
exchange = "nova"
format = "versioned"
{beside}"#,
        cloud.setting("AMQP_URL")?,
        cloud.setting("OS_CLIENT_CONFIG_FILE")?,
    ))
}

/// The queue of the cloud's notifications.
pub(crate) fn intake() -> Result<String> {
    Ok(names::intake_queue(&CloudName::new(CLOUD)?))
}

/// Waits until the node hears the cloud.
pub(crate) async fn listens(cloud: &OpenStack) -> Result<()> {
    let began = SystemClock.elapsed();
    loop {
        // A queue that is not there yet closes the channel.
        match Peer::connect(cloud.setting("AMQP_URL")?).await?.consumed(&intake()?).await {
            Err(_) if SystemClock.elapsed().saturating_sub(began) < PATIENCE => tokio::time::sleep(POLL).await,
            heard => return heard,
        }
    }
}

/// The ids of the servers whose name begins so, once they run.
pub(crate) async fn running(cloud: &OpenStack, name: &str) -> Result<BTreeSet<String>> {
    let pattern = format!("^{name}");
    let listed = cloud.ask(&["server", "list", "--name", &pattern, "--status", "ACTIVE"]).await?;
    let ids = listed.as_array().context("a list of servers")?.iter().filter_map(|server| server["ID"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Waits until the VMs are as they have to be, and returns them.
pub(crate) async fn until(node: &Control, what: &str, holds: impl Fn(&[VmView]) -> bool) -> Result<Vec<VmView>> {
    let began = SystemClock.elapsed();
    loop {
        let vms = node.vms().await?;
        if holds(&vms) {
            return Ok(vms);
        }
        if SystemClock.elapsed().saturating_sub(began) > PATIENCE {
            let seen = vms.iter().map(|vm| (&vm.name, &vm.state, &vm.lease, &vm.operation, &vm.alerts));
            let seen: Vec<_> = seen.collect();
            let log = String::from_utf8_lossy(&node.log()?).into_owned();
            bail!("{what}: not after {PATIENCE:?}, but {seen:#?}\n{log}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The VMs whose lease is in this state.
pub(crate) fn with_lease(vms: &[VmView], state: &str) -> BTreeSet<String> {
    vms.iter().filter(|vm| vm.lease.state == state).map(|vm| vm.id.to_string()).collect()
}

/// Orders something under this key, and returns the answer.
pub(crate) async fn order(node: &Control, key: &str, vm: VmId, by: Requester, kind: CommandKind) -> Result<AdminReply> {
    node.ask(AdminRequest::Command(Command { id: MessageId::new(key)?, vm, by, kind })).await
}

/// All that happened, in its order.
pub(crate) async fn events(node: &Control) -> Result<Vec<CloudEvent>> {
    let mut all: Vec<CloudEvent> = Vec::new();
    let mut after = None;
    loop {
        let asked = AdminRequest::Events { since: Timestamp::EPOCH, after, subject: None, limit: 500 };
        match node.ask(asked).await? {
            AdminReply::Events(page) => {
                let Some(last) = page.last() else { return Ok(all) };
                after = Some(last.position);
                for event in page {
                    all.push(serde_json::from_str(&event.json)?);
                }
            }
            other => bail!("events answered {other:?}"),
        }
    }
}

/// How each VM came under care: `created` where its creation was heard of, `found` where a listing showed it.
pub(crate) async fn origins(node: &Control) -> Result<BTreeMap<String, String>> {
    let discovered = events(node).await?.into_iter().filter(|event| event.kind == "reeve.vm.discovered");
    let origins = discovered.map(|event| {
        let vm = event.subject.trim_start_matches("vm/").to_owned();
        (vm, event.data["origin"].as_str().unwrap_or_default().to_owned())
    });
    Ok(origins.collect())
}
