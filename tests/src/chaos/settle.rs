//! After the load: waits until the cluster is quiet, and writes down how everything is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, NodeView, VmView};
use reeve_protocol::{BackupId, NodeId, ShardId, VmId};

use super::asker::Door;
use super::history::What;
use super::settings::{CLOUD, SHARDS, STAYS};
use super::stage::Stage;

const CALL: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(2);
/// Between two words about what still goes on.
const TELL: Duration = Duration::from_secs(20);
/// What is quiet for so long has nothing more to say.
const SILENCE: Duration = Duration::from_secs(4);
/// The longest lease that ends by itself, its grace, and work for a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until nothing goes on any more; says in the history what still does after a while.
///
/// # Errors
/// When a node has ended by itself.
pub async fn quiet(stage: &Stage) -> Result<()> {
    let began = SystemClock.elapsed();
    let mut told_at = began;
    let mut heard = (stage.listener.heard(), SystemClock.elapsed());
    loop {
        for member in &stage.members {
            member.alive().await?;
        }
        let now = SystemClock.elapsed();
        if stage.listener.heard() != heard.0 {
            heard = (stage.listener.heard(), now);
        }
        let busy = busy(stage).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
        if busy.is_empty() && now.saturating_sub(heard.1) >= SILENCE {
            return Ok(());
        }
        if now.saturating_sub(began) >= PATIENCE {
            for why in busy.into_iter().take(20) {
                stage.history.write(What::Restless { why });
            }
            return Ok(());
        }
        if now.saturating_sub(told_at) >= TELL {
            told_at = now;
            tracing::info!(busy = busy.len(), first = busy.first(), "not quiet yet");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What still goes on.
async fn busy(stage: &Stage) -> Result<Vec<String>> {
    let mut busy = Vec::new();
    match stage.commander.open() {
        0 => {}
        open => busy.push(format!("{open} commands have no answer")),
    }
    let owned = stage.ownership.now().shards.len();
    if owned < usize::from(SHARDS) {
        busy.push(format!("{owned} of {SHARDS} shards have an owner"));
    }
    for view in views(stage).await?.values() {
        let lease = view.lease.state.as_str();
        let ends = view.policy != STAYS && matches!(lease, "active" | "warned" | "grace") || lease == "ending";
        if let Some(operation) = &view.operation {
            busy.push(format!("VM {}: {operation}", view.id));
        } else if ends {
            busy.push(format!("VM {}: its lease is {lease}", view.id));
        } else if view.task.is_some() && view.state != "deleted" || matches!(view.health.as_str(), "down" | "repairing")
        {
            busy.push(format!("VM {}: {} {:?}", view.id, view.health, view.task));
        }
    }
    for door in stage.doors() {
        let node = node_view(&door).await?;
        if node.outbox > 0 {
            busy.push(format!("{} has {} unpublished events", door.node, node.outbox));
        }
    }
    Ok(busy)
}

/// How everything is, for the checker.
///
/// # Errors
/// When somebody does not answer.
pub async fn write_down(stage: &Stage) -> Result<()> {
    stage.history.write(What::Healed);
    let nodes: Vec<NodeId> = stage.members.iter().map(|member| member.id.clone()).collect();
    for view in views(stage).await?.into_values() {
        stage.history.write(What::LastVm { view: Box::new(view) });
    }
    for door in stage.doors() {
        let NodeView { vms, outbox, .. } = node_view(&door).await?;
        stage.history.write(What::LastNode { node: door.node.clone(), vms, outbox });
    }
    let owners = stage.ownership.now();
    for shard in (0..SHARDS).map(ShardId) {
        let owner = owners.shards.get(&shard).map(|(node, _)| node.clone());
        stage.history.write(What::LastShard { shard, owner });
    }
    for view in stage.cloud.control.living_vms().await? {
        let state = view.facts.state.as_nova().to_owned();
        stage.history.write(What::InCloud { vm: view.facts.vm, state });
    }
    for (vm, backup) in sealed(stage.vault.folder())? {
        stage.history.write(What::InVault { vm, backup });
    }
    stage.cloud.write_calls(&nodes, &stage.history).await
}

/// Every VM, as its owner tells of it.
async fn views(stage: &Stage) -> Result<BTreeMap<VmId, VmView>> {
    let mut all: BTreeMap<VmId, VmView> = BTreeMap::new();
    for door in stage.doors() {
        for view in door.vms(CALL).await? {
            // A node may tell of what others have too; the owner's own word counts.
            if view.node == door.node || !all.contains_key(&view.id) {
                all.insert(view.id, view);
            }
        }
    }
    Ok(all)
}

/// What a node says of itself.
///
/// # Errors
/// When it does not answer.
pub async fn node_view(door: &Door) -> Result<NodeView> {
    match door.ask(AdminRequest::Node, CALL).await.with_context(|| format!("{} does not answer", door.node))? {
        AdminReply::Node(node) => Ok(*node),
        other => bail!("{} answered {other:?}", door.node),
    }
}

/// The backups in a vault that have their manifest, which is written last.
fn sealed(vault: &Path) -> Result<Vec<(VmId, BackupId)>> {
    let mut found = Vec::new();
    let cloud = vault.join(CLOUD);
    if !cloud.is_dir() {
        return Ok(found);
    }
    for vm in std::fs::read_dir(cloud)? {
        let vm = vm?;
        let Ok(id) = vm.file_name().to_string_lossy().parse::<VmId>() else { continue };
        for backup in std::fs::read_dir(vm.path())? {
            let backup = backup?;
            let Ok(backup_id) = backup.file_name().to_string_lossy().parse::<BackupId>() else { continue };
            if backup.path().join("manifest.json").is_file() {
                found.push((id, backup_id));
            }
        }
    }
    Ok(found)
}
