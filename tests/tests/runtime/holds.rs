//! A hold that comes between the decision to destroy and its execution.

use std::time::Duration;

use bytes::Bytes;
use reeve_drivers::SimConfig;
use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::{Hold, RECORD_FORMAT};
use reeve_ports::store::Change;
use reeve_ports::{Coordination, RecordStore, Write};
use reeve_protocol::command::CommandKind;
use reeve_protocol::{ShardId, Span, codec};

use crate::world::{World, run, short, until};

/// A world whose one VM has its deletion decided and committed, and every attempt of it fails.
async fn about_to_be_destroyed() -> (World, reeve_protocol::VmId) {
    let world = World::with(SimConfig { vms: 1, ..SimConfig::default() }, short(Span::from_days(30))).await;
    let vm = world.all_leases(1, "active").await[0].id;
    for _ in 0..1000 {
        world.sim.inject(Fault::next(CallKind::DeleteServer, FaultKind::Slow(Span::from_secs(3600)))).unwrap();
    }
    world.command("end", vm, CommandKind::LeaseEnd).await;
    until("the final backup is verified", || async {
        let view = world.show(vm).await?;
        view.backups.iter().any(|backup| backup.state == "verified").then_some(())
    })
    .await;
    // The call is on its way and will not be answered.
    until("the deletion was asked for", || async { (world.sim.faults_ordered() < 1000).then_some(()) }).await;
    (world, vm)
}

#[test]
fn a_hold_stored_after_the_decision_keeps_a_restarted_node_from_destroying() {
    run(|| async {
        let (world, vm) = about_to_be_destroyed().await;
        let sim = std::sync::Arc::clone(&world.sim);
        let stopped = world.stop().await;
        sim.clear_faults();
        let shard = ShardId::of(vm, 4);
        stopped
            .with_store(|store, coordination| async move {
                let epoch = coordination.claim(shard).await.unwrap();
                let stored = store.get(shard, vm).await.unwrap().unwrap();
                let (_, mut record) = codec::decode::<VmRecord>(RECORD_FORMAT, &stored.value).unwrap();
                record.holds = vec![Hold::Maintenance];
                record.generation = stored.generation.next();
                let value = Bytes::from(codec::encode(RECORD_FORMAT, &record).unwrap());
                let change = Change::Put { generation: record.generation, value };
                store.commit(shard, epoch, Write { vm, expected: stored.generation, change }).await.unwrap();
            })
            .await;
        let world = stopped.start().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.sim.times_applied(CallKind::DeleteServer, vm), 0, "held");
        assert_eq!(world.show(vm).await.unwrap().lease.state, "ending");
        let off = reeve_protocol::command::Switch::Off;
        world.command("go-on", vm, CommandKind::VmMaintenance(off)).await;
        world.all_leases(1, "ended").await;
        assert_eq!(world.sim.times_applied(CallKind::DeleteServer, vm), 1);
        world.stop().await;
    });
}

#[test]
fn a_lock_set_while_nobody_ran_keeps_a_restarted_node_from_destroying() {
    run(|| async {
        let (world, vm) = about_to_be_destroyed().await;
        let sim = std::sync::Arc::clone(&world.sim);
        let stopped = world.stop().await;
        sim.clear_faults();
        sim.lock_vm(vm).unwrap();
        let asked = |sim: &reeve_drivers::SimCloud| {
            let audit = sim.audit();
            audit.iter().filter(|entry| entry.call == CallKind::DeleteServer && entry.vm == Some(vm)).count()
        };
        let before = asked(&sim);
        let world = stopped.start().await;
        until("the lock is seen", || async {
            world.show(vm).await.filter(|view| view.holds.contains(&"locked".to_owned()))
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(asked(&sim), before, "a locked VM is not even asked to go: an administrator passes locks");
        sim.unlock_vm(vm).unwrap();
        world.all_leases(1, "ended").await;
        assert_eq!(world.sim.times_applied(CallKind::DeleteServer, vm), 1);
        world.stop().await;
    });
}
