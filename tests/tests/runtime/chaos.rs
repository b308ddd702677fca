//! Children, supervisors and arbiter threads are killed while VMs live and end.

use std::time::Duration;

use reeve_drivers::cloud::sim::CallKind;
use reeve_protocol::Span;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::event::Child;

use crate::world::{World, run, short};

const VMS: u32 = 6;
/// For how long something is killed, in real time: from before the leases end until well after.
const KILLING: Duration = Duration::from_secs(4);

/// What is killed at one moment.
enum Victim {
    Child(Child),
    Supervisor,
    Arbiter(usize),
}

/// Lives of VMs to their ends, with something killed all the time; then: every VM was destroyed once, after a verified
/// backup, and nobody was forgotten.
async fn lives_under(victims: &[Victim]) {
    let world = World::new(VMS, short(Span::from_secs(20))).await;
    let vms = world.sim.vm_ids();
    let killing = async {
        let began = tokio::time::Instant::now();
        // Killed for ever, a supervisor is started again ever more rarely, and gets nothing done.
        while began.elapsed() < KILLING {
            for victim in victims {
                match victim {
                    Victim::Child(child) => {
                        for vm in &vms {
                            world.ask(AdminRequest::ActorKill { vm: *vm, child: Some(*child) }).await;
                        }
                    }
                    Victim::Supervisor => {
                        for vm in &vms {
                            world.ask(AdminRequest::ActorKill { vm: *vm, child: None }).await;
                        }
                    }
                    Victim::Arbiter(index) => {
                        let _ = world.node.kill_arbiter(*index);
                    }
                }
                // A worker lives for milliseconds, and is met only by who strikes often.
                let pause = if matches!(victim, Victim::Child(_)) { 7 } else { 150 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    };
    let ((), list) = tokio::join!(killing, world.all_leases(vms.len(), "ended"));
    for vm in list {
        assert_eq!(vm.state, "deleted", "{vm:?}");
        assert!(vm.backups.iter().any(|backup| backup.state == "verified"), "{vm:?}");
    }
    for vm in &vms {
        assert_eq!(world.sim.times_applied(CallKind::DeleteServer, *vm), 1, "{vm} is destroyed once");
    }
    let AdminReply::Node(node) = world.ask(AdminRequest::Node).await else { panic!("a node answers") };
    assert!(node.child_restarts > 0, "something was restarted");
    let world = world.stop().await.start().await;
    world.all_leases(vms.len(), "ended").await;
    let events = world.events().await;
    for vm in &vms {
        let subject = format!("vm/{vm}");
        let kinds = events.iter().filter(|event| event.subject == subject).map(|event| event.kind.as_str());
        let kinds: Vec<&str> = kinds.collect();
        let at =
            |kind: &str| kinds.iter().position(|found| *found == kind).unwrap_or_else(|| panic!("{kind}: {kinds:?}"));
        assert!(at("reeve.backup.verified") < at("reeve.vm.terminated"), "{kinds:?}");
    }
}

#[test]
fn killing_lease_timers_and_pollers_loses_nothing() {
    run(|| async { lives_under(&[Victim::Child(Child::LeaseTimer), Victim::Child(Child::Poller)]).await });
}

#[test]
fn killing_workers_loses_nothing_and_does_nothing_twice() {
    run(|| async {
        let victims = [Child::BackupWorker, Child::ActionWorker, Child::Repairer].map(Victim::Child);
        lives_under(&victims).await;
    });
}

#[test]
fn killing_supervisors_loses_nothing_and_does_nothing_twice() {
    run(|| async { lives_under(&[Victim::Supervisor]).await });
}

#[test]
fn killing_whole_arbiter_threads_loses_nothing_and_does_nothing_twice() {
    run(|| async { lives_under(&[Victim::Arbiter(0), Victim::Arbiter(1)]).await });
}
