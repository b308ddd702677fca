//! A VM that is asked for: made part by part and handed over, or nothing of it stays.

use std::collections::BTreeMap;

use reeve_lifecycle::effect::{Audience, Delivery, Notice, Report};
use reeve_lifecycle::input::{Admission, Ignored};
use reeve_lifecycle::operation::{Operation, ReplyTo};
use reeve_lifecycle::record::{Lease, Presence};
use reeve_lifecycle::{Done, Effect, Outcome, TOMBSTONE_FOR, Verdict, VmInput};
use reeve_protocol::UserId;
use reeve_protocol::command::{BackupFirst, CommandKind, Refusal, RefusalCode};
use reeve_protocol::event::{Alert, EventKind};
use reeve_protocol::observation::{Phase, VmChange, VmState};
use reeve_protocol::provision::{Part, ProvisionRequest, Readiness, ServerPlan, VolumePlan};

use crate::common::*;

const DELETE: CommandKind = CommandKind::VmDelete { backup: BackupFirst::AsPolicy };

fn request() -> ProvisionRequest {
    ProvisionRequest {
        cloud: None,
        owner: None,
        plan: ServerPlan {
            name: "web-1".into(),
            image: "debian".into(),
            flavor: "tiny".into(),
            network: "inside".into(),
            key: Some("alice-key".into()),
            zone: None,
            ingress: Vec::new(),
            public_network: Some("outside".into()),
            volumes: vec![VolumePlan { gib: 1, kind: None }],
            metadata: BTreeMap::new(),
            ready: Readiness::Active,
        },
        template: None,
        parameters: BTreeMap::new(),
        policy: None,
        within: None,
    }
}

fn reply() -> ReplyTo {
    ReplyTo { queue: "answers".into(), correlation: Some("7".into()) }
}

fn input(admission: Result<Admission, Refusal>) -> VmInput {
    let command = command("p", user("alice"), CommandKind::VmProvision(Box::new(request())));
    VmInput::Asked { command, admission, reply: Some(reply()) }
}

fn admitted() -> VmInput {
    input(Ok(Admission { user_data: "#cloud-config".into(), within: secs(600) }))
}

fn asked_for() -> World {
    let mut world = World::unseen(policy());
    assert!(matches!(world.input(admitted()), Verdict::Accepted(Some(Ok(_)))));
    world
}

fn refused() -> Outcome {
    Outcome::NotApplied { reason: "quota: 10 of 10 instances".into() }
}

/// What whoever asked is told at last, over the way that the request came.
fn report(world: &World) -> Report {
    let reports = world.issued.iter().filter_map(|issued| match &issued.effect {
        Effect::Report { to, report } => Some((to, report)),
        _ => None,
    });
    let all: Vec<_> = reports.collect();
    let [(to, report)] = all[..] else { panic!("{} reports", all.len()) };
    assert_eq!(*to, reply());
    report.clone()
}

/// Answers effects with success until this part is being made.
fn making(world: &mut World, wanted: Part) {
    world.done_until(|effect| matches!(effect, Effect::MakePart { part } if *part == wanted));
}

fn assert_failed(world: &World, why: &str) {
    assert!(matches!(world.rec.presence, Presence::Closed { vm: None, .. }), "{:?}", world.rec.presence);
    let Report::Failed { reason } = report(world) else { panic!("delivered") };
    assert!(reason.contains(why), "{reason}");
    assert_eq!(world.count("vm.delivered"), 0);
}

#[test]
fn a_vm_is_made_part_by_part_seen_ready_and_handed_over() {
    let mut world = asked_for();
    assert_eq!(world.count("vm.provision-requested"), 1);
    let mut order = Vec::new();
    while world.rec.operation.is_some() {
        order.push(world.effect());
        world.done();
    }
    let parts = [Part::Firewall, Part::Port, Part::Address, Part::Volume(0), Part::Server];
    let mut expected = vec![Effect::CheckPlan];
    expected.extend(parts.map(|part| Effect::MakePart { part }));
    let addresses = vec!["203.0.113.7".to_owned(), "10.0.0.5".to_owned()];
    expected.push(Effect::AwaitReady { new_vm: other_vm(), addresses: addresses.clone() });
    expected.push(Effect::Introduce { new_vm: other_vm() });
    assert_eq!(order, expected);
    assert!(matches!(world.rec.presence, Presence::Closed { vm: Some(vm), .. } if vm == other_vm()));
    assert_eq!(world.rec.lease, Lease::None, "the lease is the new VM's");
    let delivery = Delivery { vm: other_vm(), name: "web-1".into(), addresses, key: Some("alice-key".into()) };
    assert_eq!(report(&world), Report::Delivered(delivery.clone()));
    let told = world.issued.iter().any(|issued| {
        let to = Audience::Owner { users: vec![UserId::new("alice").unwrap()] };
        issued.effect == Effect::Notify { to, notice: Notice::Delivered(delivery.clone()) }
    });
    assert!(told, "the owner is told");
    assert_eq!((world.count("vm.provisioned"), world.count("vm.delivered")), (1, 1));
}

#[test]
fn the_same_request_twice_makes_one_vm_and_gets_one_answer() {
    let mut world = asked_for();
    let Verdict::Ignored(Ignored::Duplicate(Some(first))) = world.input(admitted()) else { panic!("not a duplicate") };
    world.finish();
    assert_eq!(world.input(admitted()), Verdict::Ignored(Ignored::Duplicate(Some(first))), "long after, too");
    assert_eq!(world.times(|effect| matches!(effect, Effect::MakePart { part: Part::Server })), 1);
}

#[test]
fn a_request_that_may_not_be_is_denied_and_told_why() {
    let mut world = World::unseen(policy());
    let refusal = Refusal::new(RefusalCode::Denied, "alice has none of the roles that may ask");
    assert_eq!(world.input(input(Err(refusal.clone()))), Verdict::Denied(Err(refusal.clone())));
    assert!(world.issued.is_empty());
    let reason = refusal.message.clone();
    assert_eq!(*world.last("vm.provision-denied"), EventKind::ProvisionDenied { by: "alice".into(), reason });
    assert_eq!(world.input(input(Err(refusal.clone()))), Verdict::Ignored(Ignored::Duplicate(Some(Err(refusal)))));
}

#[test]
fn what_the_cloud_would_not_allow_is_denied_before_anything_is_made() {
    let mut world = asked_for();
    world.answer(refused());
    assert_failed(&world, "10 of 10");
    assert_eq!(world.count("vm.provision-denied"), 1);
    assert_eq!(world.times(|effect| matches!(effect, Effect::MakePart { .. } | Effect::TakeBack)), 0);
}

#[test]
fn whatever_part_is_refused_all_is_taken_back_and_then_it_is_told() {
    let parts = [Part::Firewall, Part::Port, Part::Address, Part::Volume(0), Part::Server];
    for part in parts {
        let mut world = asked_for();
        making(&mut world, part);
        world.answer(refused());
        assert_eq!(world.effect(), Effect::TakeBack, "{part:?}");
        assert_eq!(world.count("vm.provision-failed"), 0, "not before it is taken back");
        world.fail(4);
        assert_eq!(world.raised(Alert::TakeBackStuck), 1);
        assert_eq!(world.count("vm.provision-failed"), 0);
        world.finish();
        assert_failed(&world, "10 of 10");
        assert_eq!(world.count("alert.cleared"), 1);
    }
}

#[test]
fn a_server_that_is_not_ready_in_time_is_taken_back() {
    let mut world = asked_for();
    world.done_until(|effect| matches!(effect, Effect::AwaitReady { .. }));
    world.fail(3);
    assert_ne!(world.rec.operation, None);
    world.now = T0 + secs(600);
    world.tick();
    assert_eq!(world.effect(), Effect::TakeBack);
    world.finish();
    assert_failed(&world, "not ready by");
}

#[test]
fn a_step_that_is_being_tried_is_not_given_up_under_its_hands() {
    let mut world = asked_for();
    making(&mut world, Part::Volume(0));
    world.now = T0 + secs(601);
    world.tick();
    assert_eq!(world.effect(), Effect::MakePart { part: Part::Volume(0) });
    world.answer(Outcome::Unknown { reason: "no answer".into() });
    assert_eq!(world.effect(), Effect::TakeBack);
}

#[test]
fn what_is_ready_a_little_late_is_handed_over() {
    let mut world = asked_for();
    world.done_until(|effect| matches!(effect, Effect::AwaitReady { .. }));
    world.now = T0 + secs(601);
    world.done();
    world.finish();
    assert!(matches!(report(&world), Report::Delivered(_)));
}

#[test]
fn whoever_asked_may_cancel_until_the_vm_is_there_and_nobody_else_may() {
    let mut world = asked_for();
    making(&mut world, Part::Port);
    assert_eq!(world.ask(user("eve"), DELETE).unwrap_err().code, RefusalCode::Denied);
    world.ask(user("alice"), DELETE).unwrap();
    assert_eq!(world.effect(), Effect::MakePart { part: Part::Port }, "the try under way ends first");
    world.done();
    assert_eq!(world.effect(), Effect::TakeBack);
    world.finish();
    assert_failed(&world, "cancelled by alice");

    let mut world = asked_for();
    making(&mut world, Part::Port);
    world.answer(Outcome::Retryable { reason: "busy".into() });
    world.ask(user("alice"), DELETE).unwrap();
    assert_eq!(world.effect(), Effect::TakeBack, "nothing is under way");

    let mut world = asked_for();
    world.done_until(|effect| matches!(effect, Effect::Introduce { .. }));
    let refusal = world.ask(user("alice"), DELETE).unwrap_err();
    assert!(refusal.code == RefusalCode::Conflict && refusal.message.contains(&other_vm().to_string()));
    world.finish();
    assert_eq!(world.ask(user("alice"), DELETE).unwrap_err().code, RefusalCode::Conflict);
    assert_eq!(world.ask(user("alice"), CommandKind::VmStop).unwrap_err().code, RefusalCode::Conflict);
}

#[test]
fn a_crash_at_any_step_goes_on_with_the_same_effect() {
    let mut world = asked_for();
    for _ in 0..20 {
        if world.rec.operation.is_none() {
            break;
        }
        let before = world.work().unwrap().clone();
        world.crash();
        assert_eq!(*world.work().unwrap(), before);
        world.done();
    }
    assert!(matches!(report(&world), Report::Delivered(_)));
}

#[test]
fn a_vm_that_goes_before_it_is_handed_over_is_taken_back() {
    let mut world = asked_for();
    world.done_until(|effect| matches!(effect, Effect::Introduce { .. }));
    for _ in 0..5 {
        if world.work().is_none() {
            world.wake();
        }
        world.answer(Outcome::NotApplied { reason: "the new VM is gone".into() });
    }
    assert_eq!(world.effect(), Effect::TakeBack);
    world.finish();
    assert_failed(&world, "gone");
}

#[test]
fn the_new_vm_belongs_to_whom_it_was_made_for() {
    let mut world = World::unseen(policy());
    let mut shown = facts(VmState::Active);
    shown.user = Some(UserId::new("reeve").unwrap());
    // Not every notification carries metadata.
    world.notify(VmChange::Create, Phase::End, shown.clone());
    assert_eq!(world.rec.facts.user, shown.user);
    shown.metadata.insert("reeve_owner".into(), "alice".into());
    world.input(VmInput::Introduced { revived_from: None, facts: shown, said: asked(world.now) });
    assert_eq!(world.rec.facts.user, Some(UserId::new("alice").unwrap()));
    assert_eq!(world.rec.revived_from, None);
    assert_eq!(world.term().ends_at, T0 + days(30), "its lease runs from its launch");
}

#[test]
fn a_request_leaves_its_record_when_late_messages_have_come() {
    let mut world = asked_for();
    world.finish();
    world.background();
    world.go(T0 + TOMBSTONE_FOR - secs(1));
    assert!(!world.purged);
    world.pass(secs(2));
    assert!(world.purged);
}

#[test]
fn a_report_that_nobody_takes_is_dropped_one_day() {
    let mut world = asked_for();
    while world.rec.operation.is_some() {
        world.done();
    }
    let is_report = |effect: &Effect| matches!(effect, Effect::Report { .. });
    for _ in 0..300 {
        if !world.rec.effects.iter().any(|kept| is_report(&kept.effect)) {
            return;
        }
        let Some(key) = world.running.iter().find(|running| is_report(&running.effect)).map(|running| running.key)
        else {
            world.wake();
            continue;
        };
        world.running.retain(|running| running.key != key);
        world.input(VmInput::EffectDone { key, outcome: Outcome::Retryable { reason: "no bus".into() } });
    }
    panic!("kept for ever: {:?}", world.rec.effects);
}

#[test]
fn an_answer_that_makes_no_sense_takes_back() {
    let mut world = asked_for();
    making(&mut world, Part::Server);
    world.answer(Outcome::Done(Done::Plain));
    assert_eq!(world.effect(), Effect::TakeBack);
    assert!(matches!(world.rec.operation, Some(Operation::Provision(_))));
}
