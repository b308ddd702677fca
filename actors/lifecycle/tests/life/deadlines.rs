//! Deadlines, the outbox, and what is raised by the supervisor.

use reeve_lifecycle::input::VmInput;
use reeve_lifecycle::record::{MAX_HISTORY, MAX_OUTBOX};
use reeve_lifecycle::{Outcome, Verdict, VmRecord, confirm, next_deadline, step};
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::{Alert, Child};

use crate::common::*;

fn fill(world: &mut World) {
    world.bus_is_up = false;
    while world.rec.outbox.len() < MAX_OUTBOX {
        world.ask(user("eve"), CommandKind::LeaseExtend { by: None }).unwrap_err();
    }
}

#[test]
fn a_wake_up_that_comes_too_early_or_twice_is_a_no_op() {
    let mut world = World::created(policy());
    for at in [T0 + days(1), T0 + days(23), T0 + days(23), T0 + days(30), T0 + days(30)] {
        world.go(at);
        let again = step(&world.rec, VmInput::Tick, world.now);
        assert!(!again.changed && again.effects.is_empty() && again.events.is_empty());
    }
}

#[test]
fn with_a_full_outbox_nothing_is_taken_in_and_the_same_input_may_come_again() {
    let mut world = World::created(policy());
    fill(&mut world);
    let before = world.rec.clone();
    world.now = T0 + days(30);
    assert_eq!(world.input(VmInput::Tick), Verdict::Busy);
    let ask = VmInput::Commanded { command: command("late", user("alice"), CommandKind::VmAdopt), policy: None };
    assert_eq!(world.input(ask.clone()), Verdict::Busy);
    assert_eq!((&world.rec, next_deadline(&world.rec)), (&before, None));
    let through = world.rec.outbox[9].sequence;
    world.input(VmInput::Published { through });
    assert_eq!(world.effect(), reeve_lifecycle::Effect::Stop, "what was due is done");
    assert!(matches!(world.input(ask), Verdict::Accepted(_)));
}

#[test]
fn a_result_that_found_the_outbox_full_counts_when_it_is_offered_again() {
    let mut world = World::ending(policy());
    let key = world.work().unwrap().key;
    fill(&mut world);
    let answer = VmInput::EffectDone { key, outcome: Outcome::Done(reeve_lifecycle::Done::Plain) };
    assert_eq!(world.input(answer.clone()), Verdict::Busy);
    world.input(VmInput::Published { through: world.rec.sequence });
    assert_eq!(world.input(answer), Verdict::Accepted(None));
    world.bus_is_up = true;
    world.finish();
    assert!(world.rec.is_gone());
}

#[test]
fn what_is_confirmed_makes_room_before_it_is_written_down() {
    let mut world = World::created(policy());
    fill(&mut world);
    world.now = T0 + days(30);
    let through = world.rec.outbox[9].sequence;
    assert!(confirm(&mut world.rec, through) && !confirm(&mut world.rec, through));
    assert!(next_deadline(&world.rec).is_some());
    assert_ne!(world.input(VmInput::Tick), Verdict::Busy);
    assert_eq!(world.effect(), reeve_lifecycle::Effect::Stop, "what was due is done");
}

#[test]
fn what_is_decided_after_a_confirm_is_what_is_decided_after_it_is_written_down() {
    let mut world = World::created(policy());
    world.bus_is_up = false;
    for _ in 0..3 {
        world.ask(user("eve"), CommandKind::LeaseExtend { by: None }).unwrap_err();
    }
    let through = world.rec.outbox[1].sequence;
    let mut confirmed = world.rec.clone();
    confirm(&mut confirmed, through);
    let written = step(&world.rec, VmInput::Published { through }, world.now).record;
    let as_of = |generation, record: VmRecord| VmRecord { generation, ..record };
    assert_eq!(as_of(written.generation, confirmed.clone()), written);
    let ask = VmInput::Commanded {
        command: command("more", user("eve"), CommandKind::LeaseExtend { by: None }),
        policy: None,
    };
    for (input, now) in [(ask, world.now), (VmInput::Tick, T0 + days(30)), (VmInput::ChildExhausted(Child::Poller), T0)]
    {
        let early = step(&confirmed, input.clone(), now);
        let late = step(&written, input, now);
        assert_eq!(
            (early.events, early.verdict, &early.record.outbox),
            (late.events, late.verdict, &late.record.outbox)
        );
        assert_eq!(early.record.generation.next(), late.record.generation);
    }
}

#[test]
fn that_events_are_out_is_written_down_even_if_the_record_at_hand_lacks_them() {
    let mut world = World::created(policy());
    world.bus_is_up = false;
    world.ask(user("eve"), CommandKind::LeaseExtend { by: None }).unwrap_err();
    let through = world.rec.sequence;
    confirm(&mut world.rec, through);
    let before = world.rec.clone();
    assert_eq!(world.input(VmInput::Published { through }), Verdict::Accepted(None));
    assert_eq!(world.rec, VmRecord { generation: before.generation.next(), ..before });
}

#[test]
fn the_history_is_bounded() {
    let mut world = World::created(policy());
    fill(&mut world);
    assert_eq!(world.rec.history.len(), MAX_HISTORY);
}

#[test]
fn a_child_that_keeps_failing_is_told_once_until_it_works() {
    let mut world = World::created(policy());
    for _ in 0..3 {
        world.input(VmInput::ChildExhausted(Child::Poller));
    }
    assert_eq!((world.count("supervision.exhausted"), world.raised(Alert::SupervisionExhausted)), (1, 1));
    world.input(VmInput::ChildRecovered(Child::Poller));
    assert!(world.rec.alerts.is_empty());
    world.input(VmInput::ChildExhausted(Child::Poller));
    assert_eq!(world.raised(Alert::SupervisionExhausted), 2);
}
