//! Children that keep failing, are killed at bad moments, or do not exist.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_drivers::SimConfig;
use reeve_drivers::cloud::sim::{CallKind, Cure};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::RefusalCode;
use reeve_protocol::event::{Alert, Child};
use reeve_protocol::{Span, VmId};

use crate::world::{World, run, short, until};

async fn count(world: &World, kind: &str) -> usize {
    world.events().await.iter().filter(|event| event.kind == kind).count()
}

async fn is_alerted(world: &World, vm: VmId) -> bool {
    world.show(vm).await.is_some_and(|view| view.alerts.contains(&Alert::SupervisionExhausted))
}

#[test]
fn a_child_that_keeps_panicking_is_alerted_once_tried_on_and_cleared_when_it_works() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.probe.panics.store(true, Ordering::SeqCst);
        until("it is exhausted", || async { is_alerted(&world, vm).await.then_some(()) }).await;
        let tries = world.probe.panicked.load(Ordering::SeqCst);
        assert_eq!(tries, 6, "the limit is five in a minute");
        until("it is tried on", || async { (world.probe.panicked.load(Ordering::SeqCst) >= tries + 2).then_some(()) })
            .await;
        assert!(is_alerted(&world, vm).await);
        assert_eq!(count(&world, "reeve.supervision.exhausted").await, 1, "it is said once");
        // The alert outlives the supervisor that raised it, and is cleared by the next.
        let killed = world.ask(AdminRequest::ActorKill { vm, child: None }).await;
        assert!(matches!(killed, AdminReply::Done), "{killed:?}");
        world.probe.panics.store(false, Ordering::SeqCst);
        until("it is over", || async {
            let view = world.show(vm).await?;
            (!view.alerts.contains(&Alert::SupervisionExhausted) && view.health == "up").then_some(())
        })
        .await;
        assert_eq!(count(&world, "reeve.supervision.exhausted").await, 1);
        world.stop().await;
    });
}

#[test]
fn an_exhausted_child_that_works_again_is_cleared_by_its_own_supervisor() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.probe.panics.store(true, Ordering::SeqCst);
        until("it is exhausted", || async { is_alerted(&world, vm).await.then_some(()) }).await;
        world.probe.panics.store(false, Ordering::SeqCst);
        until("it is over", || async { (!is_alerted(&world, vm).await).then_some(()) }).await;
        until("it is said", || async {
            let events = world.events().await;
            events.iter().any(|event| event.kind == "reeve.alert.cleared").then_some(())
        })
        .await;
        world.stop().await;
    });
}

#[test]
fn a_repairer_killed_in_the_middle_reboots_once_for_one_decision() {
    run(|| async {
        let slow = [Span::from_secs(4), Span::from_secs(4)];
        let world =
            World::with(SimConfig { vms: 1, power: slow, ..SimConfig::default() }, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        until("it is up", || async { world.show(vm).await.filter(|view| view.health == "up") }).await;
        world.sim.hang_guest(vm, Cure::Reboot).unwrap();
        until("the reboot has begun", || async {
            (world.sim.times_applied(CallKind::HardReboot, vm) > 0).then_some(())
        })
        .await;
        let mut killed = 0;
        // While the power is cut, and right after it is back.
        for _ in 0..40 {
            let reply = world.ask(AdminRequest::ActorKill { vm, child: Some(Child::Repairer) }).await;
            match reply {
                AdminReply::Done => {
                    killed += 1;
                    tokio::time::sleep(Duration::from_millis(55)).await;
                }
                AdminReply::Refused(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::NotFound, "{refusal:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => panic!("{other:?}"),
            }
            if killed == 5 {
                break;
            }
        }
        assert!(killed >= 2, "it was killed {killed} times");
        until("it is repaired", || async { world.show(vm).await.filter(|view| view.health == "up") }).await;
        assert_eq!(world.sim.times_applied(CallKind::HardReboot, vm), 1);
        world.stop().await;
    });
}

#[test]
fn killing_or_restarting_a_child_that_does_not_run_is_answered_not_found() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        let child = Some(Child::Repairer);
        for request in [AdminRequest::ActorKill { vm, child }, AdminRequest::ActorRestart { vm, child }] {
            let reply = world.ask(request).await;
            assert!(
                matches!(&reply, AdminReply::Refused(refusal) if refusal.code == RefusalCode::NotFound),
                "{reply:?}"
            );
        }
        let child = Some(Child::LeaseTimer);
        for request in [AdminRequest::ActorKill { vm, child }, AdminRequest::ActorRestart { vm, child: None }] {
            // The supervisor is being restarted for a moment after the other.
            until("it is done", || async {
                matches!(world.ask(request.clone()).await, AdminReply::Done).then_some(())
            })
            .await;
        }
        world.stop().await;
    });
}
