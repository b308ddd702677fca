//! Many backups at once, and how one is seen while it is made.

use std::collections::{BTreeMap, BTreeSet};

use reeve_drivers::SimConfig;
use reeve_drivers::cloud::sim::{AuditEntry, CallKind};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::Child;
use reeve_protocol::{Span, VmId};
use reeve_runtime::Caps;

use crate::world::{World, run, short, until};

const VMS: u32 = 10;

/// VMs of three disks each, all on one host.
async fn crowded() -> (World, Vec<VmId>) {
    let sim = SimConfig { vms: VMS, hosts: 1, volumes_per_vm: [2, 2], ..SimConfig::default() };
    let world = World::with(sim, short(Span::from_days(30))).await;
    let vms = world.all_leases(VMS as usize, "active").await.iter().map(|vm| vm.id).collect();
    (world, vms)
}

async fn back_up_all(world: &World, vms: &[VmId]) {
    for vm in vms {
        let reply = world.command(&format!("b-{vm}"), *vm, CommandKind::BackupRun).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
    }
}

async fn all_verified(world: &World) {
    until("all are verified", || async {
        let all = world.list().await;
        let verified = |vm: &&_| -> bool { is_verified(vm) };
        (all.iter().filter(verified).count() == VMS as usize).then_some(())
    })
    .await;
}

fn is_verified(vm: &reeve_protocol::admin::VmView) -> bool {
    vm.operation.is_none() && vm.backups.iter().any(|backup| backup.state == "verified")
}

/// The most VMs at once that were between the first call of one kind and so many of another.
fn most_at_once(audit: &[AuditEntry], from: CallKind, to: CallKind, times: usize) -> usize {
    let (mut open, mut seen, mut most) = (BTreeSet::new(), BTreeMap::new(), 0);
    let mut begun = BTreeSet::new();
    for entry in audit {
        let Some(vm) = entry.vm else { continue };
        if entry.call == from && begun.insert(vm) {
            open.insert(vm);
        }
        if entry.call == to {
            let count: &mut usize = seen.entry(vm).or_default();
            *count += 1;
            if *count == times {
                open.remove(&vm);
            }
        }
        most = most.max(open.len());
    }
    most
}

#[test]
fn a_host_and_a_cloud_have_so_many_backups_at_once_and_no_vm_comes_between_the_disks_of_another() {
    run(|| async {
        let (world, vms) = crowded().await;
        back_up_all(&world, &vms).await;
        all_verified(&world).await;
        let audit = world.sim.audit();
        let caps = Caps::default();
        let on_host = most_at_once(&audit, CallKind::Snapshot, CallKind::ReadSnapshot, 1);
        assert_eq!(on_host, caps.backups_per_host, "VMs of the host whose disks are being snapshotted");
        let in_cloud = most_at_once(&audit, CallKind::Snapshot, CallKind::ReadSnapshot, 3);
        assert!(in_cloud <= caps.backups_per_cloud, "{in_cloud} VMs in the cloud are snapshotted or copied");
        world.stop().await;
    });
}

#[test]
fn a_backup_worker_that_is_killed_gives_its_places_back() {
    run(|| async {
        let (world, vms) = crowded().await;
        back_up_all(&world, &vms).await;
        // More than there are places, at whatever step each is.
        for vm in &vms {
            until("it is being backed up, or was", || async {
                match world.ask(AdminRequest::ActorKill { vm: *vm, child: Some(Child::BackupWorker) }).await {
                    AdminReply::Done => Some(()),
                    _ => world.show(*vm).await.filter(is_verified).map(|_| ()),
                }
            })
            .await;
        }
        all_verified(&world).await;
        for vm in vms {
            assert_eq!(world.sim.times_applied(CallKind::Snapshot, vm), 3, "each disk is snapshotted once");
        }
        world.stop().await;
    });
}

#[test]
fn a_backup_that_is_made_is_seen_with_its_step_and_its_disk() {
    run(|| async {
        let slow = [Span::from_secs(2), Span::from_secs(2)];
        let sim = SimConfig { vms: 1, volumes_per_vm: [2, 2], snapshot: slow, ..SimConfig::default() };
        let world = World::with(sim, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.command("b", vm, CommandKind::BackupRun).await;
        for disk in 1..=3 {
            let wanted = format!("backup: snapshot of disk {disk} of 3");
            until(&wanted, || async { world.show(vm).await.filter(|view| view.operation.as_ref() == Some(&wanted)) })
                .await;
        }
        until("it is verified", || async { world.show(vm).await.filter(is_verified) }).await;
        world.stop().await;
    });
}
