//! Extensions: when, by how much, by whom, and what a refusal says.

use reeve_lifecycle::policy::{LeasePolicy, OnEnd};
use reeve_lifecycle::record::{Lease, LeasePhase};
use reeve_lifecycle::{Effect, Policy};
use reeve_protocol::command::{Answer, BackupFirst, CommandKind, RefusalCode, Requester, Switch};
use reeve_protocol::observation::VmState;
use reeve_protocol::{Span, UserId};

use crate::common::*;

fn graceful() -> Policy {
    with_lease(LeasePolicy { grace: hours(48), ..LeasePolicy::default() })
}

fn extend(world: &mut World, by: Requester, span: Option<Span>) -> Answer {
    world.ask(by, CommandKind::LeaseExtend { by: span })
}

fn refused(answer: Answer) -> (RefusalCode, String) {
    let refusal = answer.expect_err("the extension was granted");
    (refusal.code, refusal.message)
}

#[test]
fn an_extension_adds_to_the_end_in_active_and_warned() {
    for day in [1, 25] {
        let mut world = World::created(graceful());
        world.go(T0 + days(day));
        let accepted = extend(&mut world, user("alice"), Some(days(5))).unwrap();
        assert_eq!(accepted.ends_at, Some(T0 + days(35)));
        assert_eq!(world.term().ends_at, T0 + days(35));
        assert_eq!(world.phase(), LeasePhase::Active);
        assert_eq!(world.term().extensions, 1);
    }
}

#[test]
fn an_extension_in_grace_counts_from_now() {
    let mut world = World::created(graceful());
    world.go(T0 + days(30));
    world.go(T0 + days(31));
    extend(&mut world, user("alice"), Some(days(5))).unwrap();
    assert_eq!(world.term().ends_at, T0 + days(36));
    assert_eq!(world.phase(), LeasePhase::Active);
}

#[test]
fn an_extension_at_the_instant_at_which_the_grace_runs_out_is_in_time() {
    let mut world = World::created(graceful());
    world.go(T0 + days(30));
    world.now = T0 + days(32);
    extend(&mut world, user("alice"), None).unwrap();
    assert_eq!(world.phase(), LeasePhase::Active);
    assert!(world.work().is_none());
}

#[test]
fn an_extension_after_the_end_has_begun_is_refused() {
    let mut world = World::ending(policy());
    let (code, message) = refused(extend(&mut world, user("alice"), None));
    assert_eq!(code, RefusalCode::Conflict);
    assert!(message.contains("cancel"), "{message}");
    assert_eq!(world.count("lease.extension-denied"), 1);
}

#[test]
fn more_than_one_extension_may_give_is_denied_with_what_would_be_possible() {
    let mut world = World::created(policy());
    let (code, message) = refused(extend(&mut world, user("alice"), Some(days(31))));
    assert_eq!(code, RefusalCode::Denied);
    assert!(message.contains("30d"), "{message}");
    assert_eq!(world.term().ends_at, T0 + days(30));
}

#[test]
fn extensions_are_capped_in_count() {
    let mut world = World::created(policy());
    for _ in 0..3 {
        extend(&mut world, user("alice"), Some(days(1))).unwrap();
    }
    for by in [user("alice"), operator()] {
        let (code, message) = refused(extend(&mut world, by, Some(days(1))));
        assert_eq!(code, RefusalCode::Denied);
        assert!(message.contains('3'), "{message}");
    }
    assert_eq!(world.term().ends_at, T0 + days(33));
}

#[test]
fn extensions_are_capped_in_total_time_from_the_start() {
    let terms = LeasePolicy { max_total: days(40), ..LeasePolicy::default() };
    let mut world = World::created(with_lease(terms));
    let (_, message) = refused(extend(&mut world, user("alice"), Some(days(11))));
    assert!(message.contains("10d"), "{message}");
    extend(&mut world, user("alice"), Some(days(10))).unwrap();
    assert_eq!(world.term().ends_at, T0 + days(40));
    let (_, message) = refused(extend(&mut world, user("alice"), None));
    assert!(message.contains("total"), "{message}");
}

#[test]
fn without_a_wish_as_much_is_given_as_the_policy_and_the_total_allow() {
    let terms = LeasePolicy { max_total: days(40), ..LeasePolicy::default() };
    let mut world = World::created(with_lease(terms));
    extend(&mut world, user("alice"), None).unwrap();
    assert_eq!(world.term().ends_at, T0 + days(40));
}

#[test]
fn an_extension_of_no_time_makes_no_sense() {
    let mut world = World::created(policy());
    assert_eq!(refused(extend(&mut world, user("alice"), Some(Span::ZERO))).0, RefusalCode::Invalid);
    assert_eq!(world.term().extensions, 0);
}

#[test]
fn the_owner_members_with_a_named_role_delegates_and_operators_may_extend() {
    let terms = LeasePolicy { extend_roles: vec!["lead".into()], max_extensions: 9, ..LeasePolicy::default() };
    let mut world = World::created(with_lease(terms));
    let delegates = vec![UserId::new("bob").unwrap()];
    world.ask(user("alice"), CommandKind::LeaseSetDelegates { delegates }).unwrap();
    for by in [user("alice"), user("bob"), operator(), member("carol", "p1", "lead")] {
        extend(&mut world, by.clone(), Some(days(1))).unwrap_or_else(|refusal| panic!("{by}: {refusal}"));
    }
}

#[test]
fn nobody_else_may_extend() {
    let terms = LeasePolicy { extend_roles: vec!["lead".into()], ..LeasePolicy::default() };
    let mut world = World::created(with_lease(terms));
    let others = [user("eve"), member("eve", "p1", "reader"), member("eve", "p2", "lead")];
    for by in others {
        let (code, message) = refused(extend(&mut world, by, Some(days(1))));
        assert_eq!(code, RefusalCode::Denied);
        assert!(message.contains("eve"), "{message}");
    }
    assert_eq!(world.term().extensions, 0);
    assert_eq!(world.count("lease.extension-denied"), 3);
}

#[test]
fn a_role_that_the_policy_does_not_name_gives_no_right() {
    let mut world = World::created(policy());
    assert_eq!(refused(extend(&mut world, member("carol", "p1", "admin"), None)).0, RefusalCode::Denied);
}

#[test]
fn delegates_are_named_by_the_owner_and_at_most_16() {
    let mut world = World::created(policy());
    let delegates = |n: usize| CommandKind::LeaseSetDelegates {
        delegates: (0..n).map(|n| UserId::new(format!("d{n}")).unwrap()).collect(),
    };
    assert_eq!(refused(world.ask(user("d0"), delegates(1))).0, RefusalCode::Denied);
    assert_eq!(refused(world.ask(user("alice"), delegates(17))).0, RefusalCode::Invalid);
    world.ask(user("alice"), delegates(16)).unwrap();
    assert_eq!(world.rec.delegates.len(), 16);
}

#[test]
fn the_lease_of_a_vm_that_is_gone_cannot_be_extended() {
    let mut world = World::created(policy());
    world.vanish();
    let (code, message) = refused(extend(&mut world, user("alice"), None));
    assert_eq!(code, RefusalCode::Denied);
    assert!(message.contains("gone"), "{message}");
}

#[test]
fn an_exempt_an_unlaunched_and_a_soft_deleted_vm_have_nothing_to_extend() {
    let mut exempt = World::created(policy());
    exempt.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap();
    let mut unlaunched = World::unseen(policy());
    unlaunched.list(facts(VmState::Building));
    let mut parked = World::created(policy());
    parked.becomes(VmState::SoftDeleted);
    for world in [&mut exempt, &mut unlaunched, &mut parked] {
        assert_eq!(refused(extend(world, operator(), None)).0, RefusalCode::Conflict);
    }
}

#[test]
fn a_lease_that_ended_by_stopping_is_active_again_by_extension_and_the_vm_starts() {
    for (on_end, wake) in [(OnEnd::Stop, Effect::Start), (OnEnd::Suspend, Effect::Resume)] {
        let mut world = World::ending(with_lease(LeasePolicy { on_end, ..LeasePolicy::default() }));
        world.finish();
        assert!(matches!(world.rec.lease, Lease::Ended { .. }));
        world.pass(days(2));
        extend(&mut world, user("alice"), Some(days(7))).unwrap();
        assert_eq!(world.term().ends_at, T0 + days(39));
        assert_eq!(world.effect(), wake);
        world.done();
        assert!(world.rec.operation.is_none());
    }
}

#[test]
fn an_extension_that_could_not_start_the_vm_again_is_refused_rather_than_half_done() {
    let mut world = World::ending(with_lease(LeasePolicy { on_end: OnEnd::Stop, ..LeasePolicy::default() }));
    world.finish();
    world.becomes(VmState::Stopped);
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    assert_eq!(refused(extend(&mut world, user("alice"), None)).0, RefusalCode::Conflict);
    world.finish();
    extend(&mut world, user("alice"), None).unwrap();
    assert_eq!(world.effect(), Effect::Start);
}

#[test]
fn a_lease_that_only_gave_notice_is_extended_without_a_start() {
    let mut world = World::created(with_lease(LeasePolicy { on_end: OnEnd::Notify, ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    extend(&mut world, user("alice"), Some(days(1))).unwrap();
    assert_eq!(world.phase(), LeasePhase::Active);
    assert!(world.work().is_none());
}

#[test]
fn a_kept_vm_that_is_being_deleted_on_request_cannot_be_extended() {
    let mut world = World::created(with_lease(LeasePolicy { on_end: OnEnd::Notify, ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    world.ask(user("alice"), CommandKind::VmDelete { backup: BackupFirst::AsPolicy }).unwrap();
    assert_eq!(refused(extend(&mut world, user("alice"), None)).0, RefusalCode::Conflict);
    world.finish();
    assert!(world.rec.is_gone());
}
