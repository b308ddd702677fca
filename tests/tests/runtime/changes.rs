//! What changed in a cloud reaches its VMs without a notification and without a listing that proves it by what it lacks.

use std::sync::Arc;

use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_protocol::{Span, VmId};

use crate::world::{World, run, short, until};

/// How the node heard that a VM is gone.
async fn heard(world: &World, vm: VmId) -> String {
    let subject = format!("vm/{vm}");
    until("the VM is known to be gone", || async {
        let events = world.events().await;
        let gone = ["reeve.vm.terminated", "reeve.vm.vanished"];
        let event = events.into_iter().find(|event| event.subject == subject && gone.contains(&event.kind.as_str()));
        event.map(|event| event.kind)
    })
    .await
}

/// A world whose cloud tells nobody anything from now on.
async fn deaf(vms: usize) -> (World, Vec<VmId>) {
    let world = World::new(u32::try_from(vms).unwrap(), short(Span::from_days(30))).await;
    let all = world.all_leases(vms, "active").await;
    world.sim.notify(Arc::new(|_| {}));
    (world, all.into_iter().map(|vm| vm.id).collect())
}

#[test]
fn a_vm_that_is_deleted_behind_our_back_is_known_to_be_deleted_and_not_only_missed() {
    run(|| async {
        let (world, all) = deaf(2).await;
        world.sim.owner_delete(all[0]).unwrap();
        assert_eq!(heard(&world, all[0]).await, "reeve.vm.terminated");
        assert_eq!(world.show(all[1]).await.unwrap().lease.state, "active");
        world.stop().await;
    });
}

#[test]
fn what_changed_while_the_cloud_could_not_be_asked_is_told_afterwards() {
    run(|| async {
        let (world, all) = deaf(2).await;
        for _ in 0..8 {
            world.sim.inject(Fault::next(CallKind::List, FaultKind::Error)).unwrap();
        }
        world.sim.owner_delete(all[0]).unwrap();
        assert_eq!(heard(&world, all[0]).await, "reeve.vm.terminated");
        assert_eq!(world.sim.faults_ordered(), 0, "it was asked in vain before");
        world.stop().await;
    });
}

#[test]
fn what_went_while_no_node_ran_is_told_at_the_start_and_what_was_never_heard_of_is_not() {
    run(|| async {
        let (world, all) = deaf(2).await;
        let stopped = world.stop().await;
        let brief = stopped.boot_and_delete("brief").await;
        stopped.delete(all[0]).await;
        let world = stopped.start().await;
        assert_eq!(heard(&world, all[0]).await, "reeve.vm.terminated");
        assert!(world.show(brief).await.is_none(), "it came and went unheard");
        world.stop().await;
    });
}

#[test]
fn a_vm_whose_row_is_purged_is_still_found_missing_by_listings() {
    run(|| async {
        let (world, all) = deaf(1).await;
        world.sim.vanish(all[0]).unwrap();
        assert_eq!(heard(&world, all[0]).await, "reeve.vm.vanished");
        world.stop().await;
    });
}
