//! The node is killed after each thing that it writes down while it backs up, ends or revives a server of a real
//! cloud: each is completed all the same, and the cloud holds nothing of it that it should not.
//!
//! ```text
//! order ─► written down ─► killed at once, or later ─► restarted ─► written down ─► killed … ─► done
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, VmView};
use reeve_protocol::command::{BackupFirst, CommandKind, Requester};
use reeve_protocol::provision::Readiness;
use reeve_protocol::{MessageId, Span, VmId};
use reeve_tests::harness::{Control, OpenStack};

use super::fixture::{PATIENCE, listens, order, sections, until};
use super::guest;
use super::held::Held;
use super::request::request;

const CLOUD: [(&str, &str); 2] = [("NEUTRON", "real"), ("CINDER", "1")];
const QUIET: &str = r#"
[runtime]
changes_every = "5s"

[policy.default.health]
enabled = false

[policy.default.backup]
every = "0s"

[policy.default.lease]
duration = "30d"
"#;
/// How long after a commit the node is killed, in turn: before the call that follows, in it, and after it.
const LATER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(60), Duration::from_millis(600)];
const LOOK: Duration = Duration::from_millis(20);
/// More than any operation has steps: an operation that begins again for ever is found by this.
const MOST_KILLS: usize = 60;

/// An operation that is interrupted at every step.
struct Scenario {
    /// What it is called, and the key of its order.
    name: &'static str,
    kind: CommandKind,
    /// Whether it is done, by all VMs and the one that it is about.
    done: fn(&[VmView], VmId) -> bool,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario { name: "backup", kind: CommandKind::BackupRun, done: is_backed_up },
    Scenario { name: "end", kind: CommandKind::VmDelete { backup: BackupFirst::AsPolicy }, done: is_destroyed },
    Scenario { name: "revive", kind: CommandKind::VmRevive { backup: None, name: None }, done: is_revived },
];

fn of(vms: &[VmView], id: VmId) -> Option<&VmView> {
    vms.iter().find(|vm| vm.id == id)
}

fn is_backed_up(vms: &[VmView], id: VmId) -> bool {
    of(vms, id).is_some_and(|vm| vm.operation.is_none() && vm.backups.iter().any(|backup| backup.state == "verified"))
}

fn is_destroyed(vms: &[VmView], id: VmId) -> bool {
    of(vms, id).is_some_and(|vm| vm.operation.is_none() && vm.lease.state == "ended")
}

fn is_revived(vms: &[VmView], id: VmId) -> bool {
    let is_idle = of(vms, id).is_some_and(|vm| vm.operation.is_none());
    is_idle && vms.iter().any(|vm| vm.revived_from == Some(id) && vm.state == "active")
}

/// Carries an operation through, killing the node after each of its commits; returns how often.
async fn through_kills(node: &mut Control, vm: VmId, scenario: &Scenario) -> Result<usize> {
    let operator = Requester::Operator("test".to_owned());
    let reply = order(node, scenario.name, vm, operator, scenario.kind.clone()).await?;
    ensure!(matches!(reply, AdminReply::Accepted(_)), "{}: {reply:?}", scenario.name);
    let (mut kills, mut killed_at, mut moved) = (0, None, SystemClock.elapsed());
    loop {
        let vms = node.vms().await?;
        if (scenario.done)(&vms, vm) {
            return Ok(kills);
        }
        let at = of(&vms, vm).filter(|vm| vm.operation.is_some()).map(|vm| vm.generation);
        if at > killed_at {
            ensure!(kills < MOST_KILLS, "{} does not end: {:?}", scenario.name, of(&vms, vm));
            tokio::time::sleep(LATER[kills % LATER.len()]).await;
            node.kill();
            node.restart().await?;
            (kills, killed_at, moved) = (kills + 1, at, SystemClock.elapsed());
        }
        let waits = SystemClock.elapsed().saturating_sub(moved);
        ensure!(waits < PATIENCE, "{} stands still: {:?}", scenario.name, of(&vms, vm));
        tokio::time::sleep(LOOK).await;
    }
}

fn is_delivered(vms: &[VmView], id: VmId) -> bool {
    of(vms, id).is_some_and(|request| request.state == "delivered")
}

fn is_taken_back(vms: &[VmView], id: VmId) -> bool {
    of(vms, id).is_some_and(|request| request.state == "failed")
}

/// A VM that is asked for, and what becomes of the request.
fn provision(name: &'static str, ready: Readiness, done: fn(&[VmView], VmId) -> bool) -> Result<(VmId, Scenario)> {
    let mut request = request("blank", name)?;
    request.plan.ready = ready;
    request.within = Some(Span::from_secs(60));
    let id = VmId::of_request(&MessageId::new(name)?);
    Ok((id, Scenario { name, kind: CommandKind::VmProvision(Box::new(request)), done }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_guest_asked_for_and_killed_at_every_step_is_handed_over_or_taken_back_whole() -> Result<()> {
    let cloud = OpenStack::start(&CLOUD).await?;
    let empty = Held::by(&cloud).await?;
    let mut node = Control::start(&sections(&cloud, QUIET)?).await?;
    listens(&cloud).await?;
    let never = Readiness::Console("no guest of the fake hypervisor says this".to_owned());
    let (id, scenario) = provision("never-ready", never, is_taken_back)?;
    let kills = through_kills(&mut node, id, &scenario).await?;
    eprintln!("{}: killed {kills} times", scenario.name);
    ensure!(kills > 4, "it was over too soon to be killed at its steps");
    empty.comes_back(&cloud).await?;

    let (id, scenario) = provision("wanted", Readiness::Active, is_delivered)?;
    let kills = through_kills(&mut node, id, &scenario).await?;
    eprintln!("{}: killed {kills} times", scenario.name);
    ensure!(kills > 4, "it was over too soon to be killed at its steps");
    let held = Held::by(&cloud).await?;
    // A floating IP has a port of its own.
    for (kind, more) in [("servers", 1), ("volumes", 1), ("ports", 2), ("floating IPs", 1), ("security groups", 1)] {
        ensure!(held.count(kind) == empty.count(kind) + more, "{kind}: {held:?}");
    }
    let is_it = |vm: &&VmView| vm.name == "wanted" && vm.state == "active";
    let vms = until(&node, "its lease", |vms| vms.iter().any(|vm| is_it(&vm) && vm.lease.state == "active")).await?;
    let vm = vms.iter().find(is_it).context("the VM")?.id;
    let end = CommandKind::VmDelete { backup: BackupFirst::No };
    let scenario = Scenario { name: "end without a backup", kind: end, done: is_destroyed };
    let kills = through_kills(&mut node, vm, &scenario).await?;
    eprintln!("{}: killed {kills} times", scenario.name);
    empty.comes_back(&cloud).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_guest_killed_at_every_step_of_backup_end_and_revival_leaves_no_orphan() -> Result<()> {
    let cloud = OpenStack::start(&CLOUD).await?;
    let empty = Held::by(&cloud).await?;
    let mut node = Control::start(&sections(&cloud, QUIET)?).await?;
    listens(&cloud).await?;
    let server = guest::boot(&cloud, "blank", "killed").await?;
    let with_server = Held::by(&cloud).await?;
    let vm: VmId = server.parse().context("an id")?;
    until(&node, "a lease", |vms| of(vms, vm).is_some_and(|vm| vm.lease.state == "active")).await?;
    for scenario in &SCENARIOS {
        let kills = through_kills(&mut node, vm, scenario).await?;
        eprintln!("{}: killed {kills} times", scenario.name);
        ensure!(kills > 2, "{} was over too soon to be killed at its steps", scenario.name);
        match scenario.name {
            "backup" => with_server.comes_back(&cloud).await?,
            "end" => empty.comes_back(&cloud).await?,
            _ => with_server.amounts_come_back(&cloud).await?,
        }
    }
    Ok(())
}
