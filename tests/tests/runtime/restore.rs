//! Whether a VM runs after it was put back to a backup, or made anew from one.

use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_lifecycle::{Done, Effect, Outcome, PendingEffect};
use reeve_ports::Cloud;
use reeve_protocol::admin::AdminReply;
use reeve_protocol::command::CommandKind;
use reeve_protocol::observation::VmState;
use reeve_protocol::{BackupId, Span, VmId};

use crate::perform_bench::Bench;
use crate::world::{World, run, short, until};

#[tokio::test]
async fn a_restore_leaves_a_vm_off_that_was_off_and_on_that_was_on() {
    for (before, state) in [(Effect::Start, VmState::Active), (Effect::Stop, VmState::Stopped)] {
        let mut bench = Bench::new();
        let backup = bench.back_up().await;
        bench.beforehand(before).await;
        bench.mark();
        let pending = bench.decide(Effect::RestoreInPlace { backup });
        for _ in 0..2 {
            assert_eq!(bench.until_done(&pending).await, Done::Plain);
            let (facts, _) = bench.sim.show(bench.vm).await.unwrap();
            assert_eq!((facts.state, facts.task), (state, None));
        }
        assert_eq!(bench.changes(), 1, "nobody powers it on or off");
    }
}

/// An attempt to launch whose answer was lost, and the VM that it made.
async fn launched_unheard(bench: &Bench, backup: BackupId) -> (PendingEffect, VmId) {
    let known = bench.sim.vm_ids();
    let pending = bench.decide(Effect::Launch { backup, name: "again".to_owned() });
    bench.sim.inject(Fault::next(CallKind::Launch, FaultKind::TimeoutAfter)).unwrap();
    bench.attempt(&pending).await;
    let made = bench.sim.vm_ids().into_iter().find(|vm| !known.contains(vm)).unwrap();
    (pending, made)
}

async fn becomes(bench: &Bench, vm: VmId, state: VmState) {
    let sim = &bench.sim;
    until("the new VM is so", || async move {
        let (facts, _) = sim.show(vm).await.unwrap();
        (facts.state == state && facts.task.is_none()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_vm_that_is_stopped_before_it_is_looked_at_is_the_one_that_was_asked_for() {
    let mut bench = Bench::new();
    let backup = bench.back_up().await;
    let (pending, made) = launched_unheard(&bench, backup).await;
    becomes(&bench, made, VmState::Active).await;
    bench.sim.owner_stop(made).unwrap();
    becomes(&bench, made, VmState::Stopped).await;
    assert_eq!(bench.until_done(&pending).await, Done::Launched { new_vm: made });
    assert_eq!(bench.sim.times_applied(CallKind::Launch, made), 1);
}

#[tokio::test]
async fn a_new_vm_that_ran_and_was_removed_before_it_is_looked_at_is_not_made_again() {
    let mut bench = Bench::new();
    let backup = bench.back_up().await;
    let known = bench.sim.vm_ids();
    let (pending, made) = launched_unheard(&bench, backup).await;
    becomes(&bench, made, VmState::Active).await;
    let sim = &bench.sim;
    sim.delete_server(made).await.unwrap();
    until("it is gone", || async move { sim.show(made).await.is_err().then_some(()) }).await;
    assert_eq!(bench.until_done(&pending).await, Done::Launched { new_vm: made });
    assert_eq!(bench.sim.vm_ids(), known, "nothing is made in its stead");
    let introduced = bench.attempt(&bench.decide(Effect::Introduce { new_vm: made })).await;
    assert!(matches!(introduced, Outcome::NotApplied { .. }), "{introduced:?}");
}

#[test]
fn a_vm_that_its_owner_stopped_is_restored_without_an_alert_and_stays_stopped() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        let steps = [
            (CommandKind::VmStop, "reeve.action.done"),
            (CommandKind::BackupRun, "reeve.backup.verified"),
            (CommandKind::BackupRestore { backup: None }, "reeve.backup.restored"),
        ];
        for (kind, told) in steps {
            let reply = world.command(told, vm, kind).await;
            assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
            until(told, || async {
                let events = world.events().await;
                let alerts: Vec<_> = events.iter().filter(|event| event.kind == "reeve.alert.raised").collect();
                assert!(alerts.is_empty(), "{alerts:?}");
                events.iter().any(|event| event.kind == told).then_some(())
            })
            .await;
        }
        assert_eq!(world.sim.show(vm).await.unwrap().0.state, VmState::Stopped);
        assert_eq!(world.sim.times_applied(CallKind::RestoreInPlace, vm), 1);
        world.stop().await;
    });
}
