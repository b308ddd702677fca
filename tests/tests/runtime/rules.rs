//! What rules do because of events: once for each, whatever is killed or lost between.

use std::sync::atomic::Ordering;

use reeve_lifecycle::effect::{Audience, Notice};
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::event::{Alert, CloudEvent, ClusterEvent, ClusterEventKind, Event, EventKind, EventSource};
use reeve_protocol::rule::Rule;
use reeve_protocol::{NodeId, Span, Timestamp, VmId};
use serde_json::json;

use crate::world::{World, run, short, until};

fn source() -> EventSource {
    EventSource { cluster: "standalone".into(), node: NodeId::new("other").unwrap() }
}

fn rule(value: serde_json::Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

/// An event of a VM that another node published, long after its others.
fn failed(vm: VmId, n: u64) -> CloudEvent {
    let backup = "178b0921-8f85-4257-88b6-2e743b5a975d".parse().unwrap();
    let kind = EventKind::BackupFailed { backup, reason: "disk full".into() };
    Event { sequence: 1_000_000 + n, at: Timestamp::EPOCH, vm, kind }.to_cloud_event(&source())
}

async fn publish(world: &World, event: &CloudEvent) {
    let message = Message {
        body: serde_json::to_vec(event).unwrap().into(),
        message_id: Some(event.id.0.clone()),
        ..Message::default()
    };
    let key = event.kind.trim_start_matches("reeve.").to_owned();
    world.bus.publish(&Address::Events(key), message).await.unwrap();
}

/// The events of a type that are about a subject.
async fn events(world: &World, subject: &str, kind: &str) -> Vec<CloudEvent> {
    let past = world.bus.history(Timestamp::MIN, None, 10_000).await.unwrap();
    past.into_iter().map(|past| past.event).filter(|event| event.subject == subject && event.kind == kind).collect()
}

/// What the rules told people, and of what.
fn told(world: &World) -> Vec<(String, Audience, String)> {
    let said = |letter: reeve_ports::notifier::Letter| match letter.notice {
        Notice::Alert { alert: Alert::Rule, message } => Some((letter.vm_name, letter.to, message)),
        _ => None,
    };
    world.letters.letters().into_iter().filter_map(said).collect()
}

#[test]
fn a_rule_on_a_failed_backup_runs_another() {
    run(|| async {
        let rules = vec![rule(json!({
            "name": "again", "on": { "types": ["backup.failed"] }, "then": [{ "command": "backup.run" }],
        }))];
        let world = World::ruled(1, short(Span::from_days(30)), rules).await;
        let vm = world.all_leases(1, "active").await[0].id;
        publish(&world, &failed(vm, 1)).await;
        let subject = format!("vm/{vm}");
        let started = until("a backup is made", || async {
            events(&world, &subject, "reeve.backup.started")
                .await
                .into_iter()
                .find(|event| event.data["purpose"] == "manual")
        })
        .await;
        assert_eq!(started.about.cloud.unwrap().as_str(), "sim");
        world.stop().await;
    });
}

#[test]
fn a_rule_on_exceptions_tells_the_operators_of_vms_and_of_nodes() {
    run(|| async {
        let rules = vec![rule(json!({
            "name": "tell", "on": { "category": "exception" },
            "then": [{ "notify": "operators", "text": "{type}: {data.reason}" }, { "notify": "owner", "text": "yours" }],
        }))];
        let world = World::ruled(1, short(Span::from_days(30)), rules).await;
        let vm = world.all_leases(1, "active").await.remove(0);
        publish(&world, &failed(vm.id, 1)).await;
        let node = NodeId::new("n2").unwrap();
        let lost = ClusterEvent { sequence: 1, at: Timestamp::EPOCH, node, kind: ClusterEventKind::NodeLost };
        publish(&world, &lost.to_cloud_event(&source())).await;
        let told = until("everybody is told", || async { Some(told(&world)).filter(|told| told.len() == 3) }).await;
        let of = |name: &str| {
            let mut of: Vec<_> =
                told.iter().filter(|(about, ..)| about == name).map(|(_, to, text)| (to, text.as_str())).collect();
            of.sort_by_key(|(_, text)| *text);
            of
        };
        assert_eq!(of("node/n2"), [(&Audience::Operators, "node.lost: ")]);
        let owner = Audience::Owner { users: vm.user.into_iter().collect() };
        assert_eq!(of(&vm.name), [(&Audience::Operators, "backup.failed: disk full"), (&owner, "yours")]);
        world.stop().await;
    });
}

#[test]
fn a_command_whose_confirmation_is_lost_is_carried_out_once() {
    run(|| async {
        let rules = vec![rule(json!({
            "name": "longer", "on": { "types": ["backup.failed"] },
            "then": [{ "command": "lease.extend" }, { "alert": "{subject}" }],
        }))];
        let world = World::ruled(1, short(Span::from_days(30)), rules).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.outward.silent.store(2, Ordering::SeqCst);
        publish(&world, &failed(vm, 1)).await;
        publish(&world, &failed(vm, 1)).await;
        // The second action comes after the first was confirmed.
        until("the rule is done", || async {
            (!events(&world, "rule/longer", "reeve.alert.raised").await.is_empty()).then_some(())
        })
        .await;
        until("the lease is extended", || async {
            world.show(vm).await.filter(|vm| vm.lease.extensions > 0).map(drop)
        })
        .await;
        assert_eq!(world.outward.failed.load(Ordering::SeqCst), 2, "three commands with one key were taken");
        let world = world.stop().await.start().await;
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 1);
        assert_eq!(events(&world, "rule/longer", "reeve.alert.raised").await.len(), 1);
        world.stop().await;
    });
}

#[test]
fn a_node_that_ends_between_an_event_and_its_action_acts_when_it_is_back() {
    run(|| async {
        let rules = vec![rule(json!({
            "name": "longer", "on": { "types": ["backup.failed"] }, "then": [{ "command": "lease.extend" }],
        }))];
        let world = World::ruled(1, short(Span::from_days(30)), rules).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.outward.deaf.store(true, Ordering::SeqCst);
        publish(&world, &failed(vm, 1)).await;
        until("the rule has tried", || async { (world.outward.failed.load(Ordering::SeqCst) > 0).then_some(()) }).await;
        let world = world.stop().await.start().await;
        until("the lease is extended", || async {
            world.show(vm).await.filter(|vm| vm.lease.extensions == 1).map(drop)
        })
        .await;
        world.stop().await;
    });
}

#[test]
fn a_rule_acts_no_more_often_than_it_may() {
    run(|| async {
        let rules = vec![rule(json!({
            "name": "seldom", "on": { "types": ["backup.failed"] }, "then": [{ "alert": "{id}" }],
            "at_most": { "times": 2, "per": "30d" },
        }))];
        let world = World::ruled(2, short(Span::from_days(30)), rules).await;
        let vms = world.all_leases(2, "active").await;
        for n in 0..20 {
            publish(&world, &failed(vms[0].id, n)).await;
        }
        // Taken after all of the others.
        publish(&world, &failed(vms[1].id, 1)).await;
        let raised = until("the rule has acted on both VMs", || async {
            Some(events(&world, "rule/seldom", "reeve.alert.raised").await).filter(|raised| raised.len() >= 3)
        })
        .await;
        let about = |vm: VmId| raised.iter().filter(|alert| alert.data["about"] == format!("vm/{vm}")).count();
        assert_eq!((about(vms[0].id), about(vms[1].id)), (2, 1), "{raised:?}");
        world.stop().await;
    });
}
