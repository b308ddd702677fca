//! What the cloud says, late, twice and out of order.

use reeve_lifecycle::input::{Ignored, VmInput};
use reeve_lifecycle::record::{Lease, MAX_SEEN, Presence};
use reeve_lifecycle::{Outcome, TOMBSTONE_FOR, Verdict};
use reeve_protocol::event::LeaseEndReason;
use reeve_protocol::observation::{Phase, VmChange, VmFacts, VmState};

use crate::common::*;

#[test]
fn the_same_message_twice_changes_nothing() {
    let mut world = World::created(policy());
    let again =
        VmInput::Notified(note("x", world.now + secs(1), VmChange::Update, Phase::Whole, facts(VmState::Stopped)));
    assert_eq!(world.input(again.clone()), Verdict::Accepted(None));
    let before = world.rec.clone();
    assert_eq!(world.input(again), Verdict::Ignored(Ignored::Duplicate(None)));
    assert_eq!(world.rec, before);
}

#[test]
fn an_older_payload_never_overwrites_a_newer_one() {
    let mut world = World::created(policy());
    world.now = T0 + hours(1);
    world.becomes(VmState::Stopped);
    let old = note("old", T0 + secs(60), VmChange::Update, Phase::Whole, facts(VmState::Error));
    assert_eq!(world.input(VmInput::Notified(old)), Verdict::Ignored(Ignored::Stale));
    assert_eq!(world.rec.facts.state, VmState::Stopped);
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn create_after_delete_stays_deleted() {
    let mut world = World::unseen(policy());
    world.now = T0 + hours(1);
    world.input(VmInput::Notified(delete_end("d", T0 + secs(50))));
    for (id, at, phase, state) in [("a", 1, Phase::Start, VmState::Building), ("b", 9, Phase::End, VmState::Active)] {
        world.input(VmInput::Notified(note(id, T0 + secs(at), VmChange::Create, phase, facts(state))));
        world.list(facts(VmState::Active));
    }
    assert_eq!(world.rec.presence, Presence::Gone { at: T0 + secs(50) });
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::VmGone, .. }));
}

#[test]
fn a_tombstone_is_kept_7_days() {
    let mut world = World::created(policy());
    world.vanish();
    let at = world.now;
    world.background();
    world.go(at + TOMBSTONE_FOR - secs(1));
    assert!(!world.purged);
    world.go(at + TOMBSTONE_FOR);
    assert!(world.purged);
}

#[test]
fn a_tombstone_is_kept_while_something_is_left_to_do() {
    let mut world = World::created(policy());
    world.back_up();
    world.vanish();
    world.pass(days(8));
    assert!(!world.purged, "its backup is kept");
}

#[test]
fn one_listing_without_the_vm_proves_nothing_and_two_at_least_60_s_apart_do() {
    let mut world = World::created(policy());
    world.now = T0 + hours(1);
    let missing = |world: &mut World| world.input(VmInput::Missing { asked_at: world.now });
    missing(&mut world);
    world.now = world.now + secs(59);
    missing(&mut world);
    assert!(!world.rec.is_gone());
    world.now = world.now + secs(1);
    missing(&mut world);
    assert!(world.rec.is_gone());
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::VmGone, .. }));
    assert_eq!(world.count("vm.vanished"), 1);
}

#[test]
fn a_vm_seen_between_two_listings_that_lack_it_is_not_gone() {
    let mut world = World::created(policy());
    world.now = T0 + hours(1);
    world.input(VmInput::Missing { asked_at: world.now });
    world.now = world.now + secs(30);
    world.list(facts(VmState::Active));
    world.now = world.now + secs(40);
    world.input(VmInput::Missing { asked_at: world.now });
    assert!(!world.rec.is_gone());
}

#[test]
fn a_listing_asked_for_before_the_vm_was_last_seen_proves_nothing() {
    let mut world = World::created(policy());
    assert_eq!(world.input(VmInput::Missing { asked_at: T0 }), Verdict::Ignored(Ignored::Stale));
}

#[test]
fn a_listing_that_says_nothing_new_is_not_worth_a_write() {
    let mut world = World::created(policy());
    world.now = T0 + hours(1);
    let generation = world.rec.generation;
    assert_eq!(world.list(facts(VmState::Active)), Verdict::Ignored(Ignored::Nothing));
    assert_eq!(world.rec.generation, generation);
}

#[test]
fn the_ids_of_messages_are_kept_with_a_bound_and_what_falls_out_changes_nothing_when_it_comes_again() {
    let mut world = World::created(policy());
    let flip = |n: u64| {
        let state = if n.is_multiple_of(2) { VmState::Active } else { VmState::Stopped };
        VmInput::Notified(note(&format!("f{n}"), T0 + secs(n + 1), VmChange::Update, Phase::Whole, facts(state)))
    };
    for n in 0..200 {
        world.input(flip(n));
    }
    assert_eq!(world.rec.seen.len(), MAX_SEEN);
    let before = world.rec.clone();
    assert_eq!(world.input(flip(2)), Verdict::Ignored(Ignored::Stale));
    assert_eq!(world.rec, before);
}

#[test]
fn a_payload_that_tells_little_does_not_wipe_out_what_is_known() {
    let mut world = World::created(policy());
    let bare = VmFacts {
        name: String::new(),
        project: None,
        user: None,
        host: None,
        created_at: None,
        launched_at: None,
        ..facts(VmState::Error)
    };
    world.now = T0 + hours(1);
    world.notify(VmChange::Operation, Phase::Error, bare);
    let known = &world.rec.facts;
    assert_eq!((known.name.as_str(), known.host.is_some(), known.user.is_some()), ("web-1", true, true));
    assert_eq!(known.state, VmState::Error);
}

#[test]
fn a_vm_in_error_is_told_to_a_human_once_until_it_is_well() {
    let mut world = World::created(policy());
    for _ in 0..3 {
        world.becomes(VmState::Error);
    }
    assert_eq!(world.count("alert.raised"), 1);
    world.becomes(VmState::Active);
    assert_eq!(world.count("alert.cleared"), 1);
}

#[test]
fn a_lease_extended_since_is_not_moved_by_a_late_word_of_the_creation() {
    let mut world = World::found(policy(), T0 + hours(5));
    world.ask(user("alice"), reeve_protocol::command::CommandKind::LeaseExtend { by: Some(days(1)) }).unwrap();
    let lease = world.rec.lease.clone();
    world.notify(VmChange::Create, Phase::End, facts(VmState::Active));
    assert_eq!(world.rec.lease, lease);
}

#[test]
fn nothing_is_said_of_a_vm_that_nobody_knows() {
    let mut world = World::unseen(policy());
    world.input(VmInput::Missing { asked_at: T0 });
    world.tick();
    let key = reeve_lifecycle::EffectKey { generation: reeve_protocol::Generation(1), index: 0 };
    world.input(VmInput::EffectDone { key, outcome: Outcome::Done(reeve_lifecycle::Done::Plain) });
    assert!(world.events.is_empty());
}
