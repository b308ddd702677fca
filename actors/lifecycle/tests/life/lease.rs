//! The lease: start, notices, end, grace.

use reeve_lifecycle::effect::{Audience, Notice};
use reeve_lifecycle::input::{Reason, VmInput};
use reeve_lifecycle::policy::{Adopt, LeasePolicy, OnEnd};
use reeve_lifecycle::record::{Lease, LeasePhase};
use reeve_lifecycle::{Effect, Policy, next_deadline};
use reeve_protocol::command::{CommandKind, Switch};
use reeve_protocol::event::{EventKind, LeaseEndReason, Offer};
use reeve_protocol::observation::{Phase, VmChange, VmFacts, VmState};
use reeve_protocol::{Span, Timestamp, UserId};

use crate::common::*;

fn lease(duration: Span, warn_before: Vec<Span>, grace: Span) -> Policy {
    with_lease(LeasePolicy { duration, warn_before, grace, max_total: days(400), ..LeasePolicy::default() })
}

#[test]
fn a_vm_created_under_our_eyes_has_a_lease_from_its_launch() {
    let world = World::created(policy());
    assert_eq!(world.term().started_at, T0);
    assert_eq!(world.term().ends_at, T0 + days(30));
    assert_eq!(world.count("lease.created"), 1);
}

#[test]
fn a_vm_that_is_being_built_has_no_lease_yet() {
    let mut world = World::unseen(policy());
    world.notify(VmChange::Create, Phase::Start, facts(VmState::Building));
    assert_eq!(world.rec.lease, Lease::None);
}

#[test]
fn a_found_vm_has_a_lease_from_its_discovery_by_default() {
    let found_at = T0 + days(100);
    let world = World::found(policy(), found_at);
    assert_eq!(world.term().started_at, found_at);
    assert_eq!(world.term().ends_at, found_at + days(30));
}

#[test]
fn a_vm_adopted_by_its_launch_counts_from_its_launch() {
    let policy = with_lease(LeasePolicy { adopt: Adopt::Launch, ..LeasePolicy::default() });
    let world = World::found(policy, T0 + days(10));
    assert_eq!(world.term().started_at, T0);
    assert_eq!(world.term().ends_at, T0 + days(30));
}

#[test]
fn a_found_vm_never_ends_sooner_than_min_notice_after_its_discovery() {
    for adopt in [Adopt::Launch, Adopt::Discovery] {
        let policy = with_lease(LeasePolicy { adopt, duration: hours(1), ..LeasePolicy::default() });
        let found_at = T0 + days(100);
        let world = World::found(policy, found_at);
        assert_eq!(world.term().ends_at, found_at + hours(24), "{adopt:?}");
    }
}

#[test]
fn a_vm_whose_creation_is_heard_of_late_still_gets_its_min_notice() {
    let mut world = World::unseen(policy());
    world.now = T0 + days(60);
    world.notify(VmChange::Create, Phase::End, facts(VmState::Active));
    assert_eq!(world.term().ends_at, world.now + hours(24));
}

#[test]
fn a_vm_found_while_soft_deleted_gets_its_notice_after_it_is_restored() {
    let mut world = World::unseen(policy());
    world.list(facts(VmState::SoftDeleted));
    assert_eq!(world.rec.lease, Lease::None);
    world.now = T0 + days(90);
    world.becomes(VmState::Active);
    assert_eq!(world.term().ends_at, world.now + days(30));
}

#[test]
fn an_exempt_policy_gives_no_lease() {
    let mut world = World::created(Policy { exempt: true, ..policy() });
    assert_eq!(world.rec.lease, Lease::Exempt);
    world.pass(days(4000));
    assert_eq!(world.rec.lease, Lease::Exempt);
    assert_eq!(world.issued.len(), 0);
}

#[test]
fn the_owner_and_the_delegates_are_told_and_the_operators_when_nobody_owns_the_vm() {
    let mut world = World::created(policy());
    let delegates = vec![UserId::new("bob").unwrap()];
    world.ask(user("alice"), CommandKind::LeaseSetDelegates { delegates }).unwrap();
    world.go(T0 + days(23));
    let told = |audience: &Audience| {
        world.times(|effect| matches!(effect, Effect::Notify { to, notice: Notice::Expiring { .. } } if to == audience))
    };
    assert_eq!(told(&Audience::Owner { users: vec![UserId::new("alice").unwrap(), UserId::new("bob").unwrap()] }), 1);

    let mut nobodys = World::unseen(policy());
    nobodys.list(VmFacts { user: None, ..facts(VmState::Active) });
    let to_operators = |effect: &Effect| matches!(effect, Effect::Notify { to: Audience::Operators, .. });
    assert_eq!(nobodys.times(to_operators), 1);
}

#[test]
fn each_entry_of_warn_before_is_one_notice() {
    let mut world = World::created(policy());
    assert_eq!(world.wake(), Reason::Warning);
    assert_eq!(world.now, T0 + days(23));
    world.tick();
    world.pass(hours(1));
    assert_eq!(world.count("lease.expiring"), 1);
    assert_eq!(world.phase(), LeasePhase::Warned);
    assert_eq!(world.wake(), Reason::Warning);
    assert_eq!(world.now, T0 + days(29));
    assert_eq!(world.count("lease.expiring"), 2);
    assert_eq!(world.wake(), Reason::LeaseEnd);
    assert_eq!(world.count("lease.expiring"), 2);
}

#[test]
fn the_order_of_warn_before_does_not_matter() {
    let mut world = World::created(lease(days(30), vec![days(1), days(7), days(1)], Span::ZERO));
    world.wake();
    assert_eq!(world.now, T0 + days(23));
    world.wake();
    assert_eq!(world.now, T0 + days(29));
    world.wake();
    assert_eq!(world.count("lease.expiring"), 2);
}

#[test]
fn an_extension_re_arms_the_notices() {
    let mut world = World::created(policy());
    world.go(T0 + days(29));
    assert_eq!(world.count("lease.expiring"), 1);
    world.ask(user("alice"), CommandKind::LeaseExtend { by: None }).unwrap();
    assert_eq!(world.phase(), LeasePhase::Active);
    assert_eq!((world.wake(), world.now), (Reason::Warning, T0 + days(53)));
    assert_eq!((world.wake(), world.now), (Reason::Warning, T0 + days(59)));
    assert_eq!(world.count("lease.expiring"), 3);
}

#[test]
fn several_notices_that_passed_while_nobody_was_running_give_one() {
    let mut world = World::created(policy());
    world.go(T0 + days(29) + hours(1));
    assert_eq!(world.count("lease.expiring"), 1);
    assert_eq!(world.term().warned, Some(days(1)));
    assert_eq!(world.wake(), Reason::LeaseEnd);
}

#[test]
fn a_lease_shorter_than_an_entry_skips_it() {
    let mut world = World::created(lease(days(3), vec![days(7), days(1)], Span::ZERO));
    assert_eq!((world.wake(), world.now), (Reason::Warning, T0 + days(2)));
    assert_eq!(world.wake(), Reason::LeaseEnd);
    assert_eq!(world.count("lease.expiring"), 1);
}

#[test]
fn a_clock_that_steps_back_after_a_notice_sends_no_second_one() {
    let mut world = World::created(policy());
    world.go(T0 + days(23));
    world.go(T0 + days(20));
    world.go(T0 + days(23) + hours(1));
    assert_eq!(world.count("lease.expiring"), 1);
}

#[test]
fn a_clock_that_steps_back_before_the_launch_ends_nothing() {
    let mut world = World::created(policy());
    world.go(Timestamp::EPOCH);
    assert_eq!(world.phase(), LeasePhase::Active);
    assert_eq!(world.wake(), Reason::Warning);
    assert_eq!(world.now, T0 + days(23));
}

#[test]
fn a_month_of_sleep_gives_one_notice_and_the_grace_counts_from_it() {
    let mut world = World::created(lease(days(30), vec![days(7), days(1)], hours(48)));
    let late = T0 + days(62);
    world.go(late);
    assert_eq!((world.count("lease.expiring"), world.count("lease.expired")), (0, 1));
    assert_eq!(world.phase(), LeasePhase::Grace { until: late + hours(48) });
}

#[test]
fn a_deadline_that_passed_while_nobody_was_running_fires_with_whatever_comes_first() {
    let mut world = World::created(policy());
    world.now = T0 + days(40);
    world.list(facts(VmState::Active));
    assert!(matches!(world.phase(), LeasePhase::Ending { .. }));
}

#[test]
fn the_offer_stands_in_a_notice_while_an_extension_is_possible() {
    let mut world = World::created(policy());
    world.go(T0 + days(23));
    let EventKind::LeaseExpiring { offer, .. } = world.last("lease.expiring") else { unreachable!() };
    assert_eq!(*offer, Offer::Extend { by: days(30), left: 3 });
}

#[test]
fn the_offer_is_no_more_than_what_the_total_allows() {
    let terms = LeasePolicy { max_total: days(40), ..LeasePolicy::default() };
    let mut world = World::created(with_lease(terms));
    world.go(T0 + days(23));
    let EventKind::LeaseExpiring { offer, .. } = world.last("lease.expiring") else { unreachable!() };
    assert_eq!(*offer, Offer::Extend { by: days(10), left: 3 });
}

#[test]
fn a_notice_without_a_possible_extension_says_why_not() {
    for terms in [
        LeasePolicy { max_extensions: 0, ..LeasePolicy::default() },
        LeasePolicy { max_total: days(30), ..LeasePolicy::default() },
    ] {
        let mut world = World::created(with_lease(terms));
        world.go(T0 + days(23));
        let EventKind::LeaseExpiring { offer: Offer::No { why }, .. } = world.last("lease.expiring") else {
            panic!("an extension was offered")
        };
        assert!(why.contains("extensions") || why.contains("total"), "{why}");
    }
}

#[test]
fn no_lease_ends_early() {
    let mut world = World::created(policy());
    world.go(T0 + days(30) - Span::from_millis(1));
    assert_eq!(world.phase(), LeasePhase::Warned);
    assert_eq!(world.count("lease.expired"), 0);
    world.go(T0 + days(30));
    assert!(matches!(world.phase(), LeasePhase::Ending { .. }));
}

#[test]
fn without_grace_the_end_is_acted_on_at_once() {
    let mut world = World::created(policy());
    world.go(T0 + days(30));
    assert_eq!(world.count("lease.expired"), 1);
    assert_eq!(world.effect(), Effect::Stop);
}

#[test]
fn with_grace_the_owner_is_told_with_the_offer_and_an_answer_is_awaited() {
    let mut world = World::created(lease(days(30), vec![], hours(48)));
    assert_eq!((world.wake(), world.now), (Reason::LeaseEnd, T0 + days(30)));
    let until = T0 + days(30) + hours(48);
    let offer = Offer::Extend { by: days(30), left: 3 };
    let expired = EventKind::LeaseExpired { ends_at: T0 + days(30), grace_until: Some(until), offer: offer.clone() };
    assert_eq!(*world.last("lease.expired"), expired);
    assert_eq!(world.times(|effect| matches!(effect, Effect::Notify { notice: Notice::Expired { offer: told, .. }, .. } if *told == offer)), 1);
    world.go(until - Span::from_millis(1));
    assert!(world.work().is_none());
    assert_eq!((world.wake(), world.now), (Reason::GraceOver, until));
    assert_eq!(world.effect(), Effect::Stop);
    assert_eq!(world.count("lease.expired"), 1);
}

#[test]
fn on_end_notify_tells_the_owner_and_keeps_the_vm() {
    let mut world = World::created(with_lease(LeasePolicy { on_end: OnEnd::Notify, ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::Notified, .. }));
    assert!(world.work().is_none() && world.rec.operation.is_none());
    assert_eq!(next_deadline(&world.rec), None);
}

#[test]
fn rebuild_resize_migration_and_the_like_leave_the_lease_as_it_is() {
    let mut world = World::created(policy());
    let lease = world.rec.lease.clone();
    for state in [
        VmState::Resized,
        VmState::Active,
        VmState::Shelved,
        VmState::ShelvedOffloaded,
        VmState::Rescued,
        VmState::Error,
        VmState::Active,
    ] {
        for phase in [Phase::Start, Phase::End] {
            world.now = world.now + secs(1);
            let again = VmFacts { launched_at: Some(world.now), ..facts(state) };
            world.notify(VmChange::Operation, phase, again);
            assert_eq!(world.rec.lease, lease, "{state:?}");
        }
    }
}

#[test]
fn soft_delete_parks_the_lease_and_restore_resumes_it_with_the_time_it_had_left() {
    let mut world = World::created(policy());
    world.go(T0 + days(10));
    world.becomes(VmState::SoftDeleted);
    assert!(matches!(world.rec.lease, Lease::Parked { .. }));
    let left = Span::from((T0 + days(30)).since(world.now));
    world.pass(days(90));
    assert!(matches!(world.rec.lease, Lease::Parked { .. }));
    world.becomes(VmState::Active);
    assert_eq!(world.term().ends_at, world.now + left);
    assert_eq!(world.phase(), LeasePhase::Active);
}

#[test]
fn a_restored_lease_has_at_least_min_notice() {
    let mut world = World::created(lease(days(30), vec![], hours(48)));
    world.go(T0 + days(30) + hours(47));
    world.becomes(VmState::SoftDeleted);
    world.pass(days(3));
    world.becomes(VmState::Active);
    assert_eq!(world.term().ends_at, world.now + hours(24));
}

#[test]
fn a_parked_lease_whose_policy_becomes_exempt_is_exempt_after_the_restore() {
    let mut world = World::created(policy());
    world.becomes(VmState::SoftDeleted);
    world.assign(Policy { exempt: true, ..policy() });
    world.becomes(VmState::Active);
    assert_eq!(world.rec.lease, Lease::Exempt);
}

#[test]
fn delete_end_ends_the_lease_as_vm_gone() {
    let mut world = World::created(policy());
    world.vanish();
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::VmGone, at, .. } if at == world.now));
    assert_eq!((world.count("lease.ended"), world.count("vm.terminated")), (1, 1));
}

#[test]
fn a_lease_can_be_removed_and_given_again_at_any_time() {
    for at in [1, 25, 31] {
        let mut world = World::created(lease(days(30), vec![days(7)], hours(48)));
        world.go(T0 + days(at));
        world.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap();
        assert_eq!(world.rec.lease, Lease::Exempt);
        world.pass(days(100));
        assert!(world.work().is_none());
        world.ask(operator(), CommandKind::LeaseExempt(Switch::Off)).unwrap();
        assert_eq!(world.term().ends_at, world.now + days(30));
        assert_eq!(world.phase(), LeasePhase::Active);
    }
}

#[test]
fn a_lease_that_is_over_with_its_vm_kept_can_be_given_anew() {
    let mut world = World::created(with_lease(LeasePolicy { on_end: OnEnd::Notify, ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    world.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap();
    world.ask(operator(), CommandKind::LeaseExempt(Switch::Off)).unwrap();
    assert_eq!(world.term().ends_at, world.now + days(30));
    assert_eq!(world.term().extensions, 0);
}

#[test]
fn a_late_word_of_the_creation_does_not_shorten_a_lease_attached_since() {
    let mut world = World::created(policy());
    world.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap();
    world.now = T0 + days(50);
    world.ask(operator(), CommandKind::LeaseExempt(Switch::Off)).unwrap();
    world.notify(VmChange::Create, Phase::End, facts(VmState::Active));
    assert_eq!(world.term().ends_at, T0 + days(80));
}

#[test]
fn a_longer_policy_moves_the_end_out_in_each_phase_before_the_ending() {
    for at in [1, 25, 31] {
        let mut world = World::created(lease(days(30), vec![days(7)], hours(48)));
        world.go(T0 + days(at));
        world.assign(lease(days(60), vec![days(7)], hours(48)));
        assert_eq!(world.term().ends_at, T0 + days(60), "day {at}");
        assert_eq!(world.phase(), LeasePhase::Active);
    }
}

#[test]
fn a_shorter_policy_never_brings_the_end_nearer() {
    let mut world = World::created(policy());
    world.go(T0 + days(5));
    world.assign(lease(days(2), vec![], Span::ZERO));
    assert_eq!(world.term().ends_at, T0 + days(30));
}

#[test]
fn a_policy_that_becomes_exempt_removes_the_lease_and_one_that_is_no_more_gives_one_from_now() {
    let mut world = World::created(policy());
    world.assign(Policy { exempt: true, ..policy() });
    assert_eq!(world.rec.lease, Lease::Exempt);
    world.go(T0 + days(100));
    world.assign(policy());
    assert_eq!(world.term().ends_at, T0 + days(130));
}

#[test]
fn an_unknown_policy_is_told_to_a_human_once_until_it_is_known() {
    let mut world = World::created(policy());
    for _ in 0..2 {
        let unknown = Some("gold".to_owned());
        world.input(VmInput::PolicyAssigned { policy: named(policy()), unknown });
    }
    assert_eq!(world.count("alert.raised"), 1);
    world.assign(policy());
    assert_eq!(world.count("alert.cleared"), 1);
}
