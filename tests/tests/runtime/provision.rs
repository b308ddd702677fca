//! VMs on request: whatever is killed, refused or lost, each request ends with one VM that was handed over, or with nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind, MadeKind, SimConfig, catalog};
use reeve_lifecycle::effect::Notice;
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::command::{BackupFirst, CommandKind, RefusalCode};
use reeve_protocol::event::Child;
use reeve_protocol::provision::{ProvisionRequest, Readiness, ServerPlan, VolumePlan};
use reeve_protocol::{MessageId, Span, UserId, VmId};

use crate::world::{World, run, short, until};

/// The parts of [`request`]: group, port, address, volume, server.
const PARTS: u32 = 5;

fn request(name: &str) -> ProvisionRequest {
    ProvisionRequest {
        cloud: None,
        owner: Some(UserId::new("ann").unwrap()),
        plan: ServerPlan {
            name: name.into(),
            image: catalog::IMAGE.1.into(),
            flavor: catalog::FLAVOR.1.into(),
            network: catalog::INSIDE.1.into(),
            key: None,
            zone: None,
            ingress: Vec::new(),
            public_network: Some(catalog::OUTSIDE.1.into()),
            volumes: vec![VolumePlan { gib: 1, kind: None }],
            metadata: BTreeMap::new(),
            ready: Readiness::Tcp(22),
        },
        template: None,
        parameters: BTreeMap::new(),
        policy: None,
        within: None,
    }
}

/// The id of the request that is asked for under this key.
fn id_of(key: &str) -> VmId {
    VmId::of_request(&MessageId::new(key).unwrap())
}

async fn ask(world: &World, key: &str, request: ProvisionRequest) -> AdminReply {
    world.command(key, id_of(key), CommandKind::VmProvision(Box::new(request))).await
}

async fn asked(world: &World, key: &str) -> VmId {
    let reply = ask(world, key, request(key)).await;
    assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
    id_of(key)
}

async fn empty() -> World {
    World::with(SimConfig { vms: 0, ..SimConfig::default() }, short(Span::from_secs(3600))).await
}

/// Waits until a request is settled.
async fn settled(world: &World, request: VmId) -> VmView {
    until("the request is settled", || async {
        world.show(request).await.filter(|view| view.state == "delivered" || view.state == "failed")
    })
    .await
}

fn made(world: &World) -> Vec<MadeKind> {
    let mut made: Vec<MadeKind> = world.sim.made().into_iter().map(|made| made.kind).collect();
    made.sort();
    made
}

const WHOLE: [MadeKind; 5] =
    [MadeKind::Server, MadeKind::Volume, MadeKind::Address, MadeKind::Port, MadeKind::Firewall];

/// The request made one VM with all its parts, which is leased to whom it was made for.
async fn assert_delivered(world: &World, request: VmId) {
    assert_eq!(settled(world, request).await.state, "delivered");
    assert_eq!(made(world), WHOLE, "one of each");
    let [vm] = world.sim.vm_ids()[..] else { panic!("{:?}", world.sim.vm_ids()) };
    let view = until("the new VM has its lease", || async {
        world.show(vm).await.filter(|view| view.lease.state == "active")
    })
    .await;
    assert_eq!(view.user, Some(UserId::new("ann").unwrap()));
    assert_eq!(view.revived_from, None);
    let told = |notice: &Notice| matches!(notice, Notice::Delivered(delivery) if delivery.vm == vm);
    until("the owner is told", || async {
        world.letters.letters().iter().any(|letter| told(&letter.notice)).then_some(())
    })
    .await;
}

async fn assert_taken_back(world: &World, request: VmId) {
    assert_eq!(settled(world, request).await.state, "failed");
    assert_eq!(world.sim.made(), [], "nothing stays");
    assert_eq!(world.sim.vm_ids(), []);
}

#[test]
fn a_vm_is_made_seen_ready_handed_over_and_leased() {
    run(|| async {
        let world = empty().await;
        let id = asked(&world, "web").await;
        assert_delivered(&world, id).await;
        let AdminReply::Accepted(_) = ask(&world, "web", request("web")).await else { panic!("the same answer") };
        assert_eq!(made(&world), WHOLE, "the same request again makes nothing");
        let kinds: Vec<String> = world.events().await.into_iter().map(|event| event.kind).collect();
        for kind in ["reeve.vm.provision-requested", "reeve.vm.provisioned", "reeve.vm.delivered"] {
            assert_eq!(kinds.iter().filter(|found| *found == kind).count(), 1, "{kind}");
        }
        world.stop().await;
    });
}

#[test]
fn what_the_cloud_does_not_have_is_denied_and_nothing_is_made() {
    run(|| async {
        let world = empty().await;
        let mut wanted = request("web");
        wanted.plan.flavor = "giant".into();
        assert!(matches!(ask(&world, "web", wanted).await, AdminReply::Accepted(_)));
        assert_taken_back(&world, id_of("web")).await;
        let denied = until("it is told", || async {
            world.events().await.into_iter().find(|event| event.kind == "reeve.vm.provision-denied")
        })
        .await;
        assert!(denied.data["reason"].as_str().unwrap().contains("giant"), "{denied:?}");
        let mut nameless = request("web");
        nameless.plan.name.clear();
        let AdminReply::Refused(refusal) = ask(&world, "nameless", nameless).await else { panic!("taken") };
        assert_eq!(refusal.code, RefusalCode::Invalid);
        world.stop().await;
    });
}

#[test]
fn a_part_that_cannot_be_made_takes_everything_back() {
    run(|| async {
        for skipped in 0..PARTS {
            let world = empty().await;
            world.sim.inject(Fault::next(CallKind::MakePart, FaultKind::Quota).after(skipped)).unwrap();
            let id = asked(&world, "web").await;
            assert_taken_back(&world, id).await;
            world.stop().await;
        }
    });
}

#[test]
fn a_lost_answer_makes_no_part_twice() {
    run(|| async {
        for skipped in 0..PARTS {
            for fault in [FaultKind::TimeoutAfter, FaultKind::TimeoutBefore, FaultKind::Error] {
                let world = empty().await;
                world.sim.inject(Fault::next(CallKind::MakePart, fault).after(skipped)).unwrap();
                let id = asked(&world, "web").await;
                assert_delivered(&world, id).await;
                world.stop().await;
            }
        }
    });
}

#[test]
fn killed_at_any_moment_a_request_goes_on() {
    run(|| async {
        let world = empty().await;
        let id = asked(&world, "web").await;
        let killing = async {
            for round in 0_u64.. {
                if world.show(id).await.is_some_and(|view| view.state == "delivered") {
                    return;
                }
                let child = (round % 3 != 0).then_some(Child::ActionWorker);
                world.ask(AdminRequest::ActorKill { vm: id, child }).await;
                tokio::time::sleep(Duration::from_millis(3 + 17 * (round % 5))).await;
            }
        };
        killing.await;
        assert_delivered(&world, id).await;
        world.stop().await;
    });
}

#[test]
fn a_node_that_stops_at_any_step_finishes_it_when_it_is_back() {
    run(|| async {
        for (number, taken_back) in (0..7).flat_map(|number| [(number, false), (number, true)]) {
            let mut world = empty().await;
            let id = asked(&world, "web").await;
            until("so many looks are made", || async {
                let looks = world.sim.audit().iter().filter(|entry| entry.call == CallKind::FindPart).count();
                (looks >= number).then_some(())
            })
            .await;
            if taken_back {
                world.command("no more", id, CommandKind::VmDelete { backup: BackupFirst::AsPolicy }).await;
            }
            world = world.stop().await.start().await;
            let view = settled(&world, id).await;
            if view.state == "delivered" {
                assert_delivered(&world, id).await;
            } else {
                assert!(taken_back, "{view:?}");
                assert_taken_back(&world, id).await;
            }
            world.stop().await;
        }
    });
}

#[test]
fn a_request_that_is_cancelled_leaves_nothing() {
    run(|| async {
        let world = empty().await;
        world.sim.inject(Fault::next(CallKind::MakePart, FaultKind::Slow(Span::from_secs(20))).after(3)).unwrap();
        let id = asked(&world, "web").await;
        until("the volume is being made", || async { (made(&world).len() >= 3).then_some(()) }).await;
        let cancel = CommandKind::VmDelete { backup: BackupFirst::AsPolicy };
        let reply = world.command("no more", id, cancel).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
        assert_taken_back(&world, id).await;
        world.stop().await;
    });
}

#[test]
fn a_vm_that_was_made_leaves_nothing_when_it_is_destroyed() {
    run(|| async {
        let world = empty().await;
        let id = asked(&world, "web").await;
        assert_delivered(&world, id).await;
        let vm = world.sim.vm_ids()[0];
        let reply = world.command("end", vm, CommandKind::VmDelete { backup: BackupFirst::No }).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
        until("it is gone", || async { world.show(vm).await.filter(|view| view.lease.state == "ended") }).await;
        assert_eq!(world.sim.made(), [], "port, group, volume and address went with it");
        world.stop().await;
    });
}
