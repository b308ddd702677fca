//! Notices that do not get through, and what a notice offers.

use reeve_lifecycle::effect::{Audience, Notice};
use reeve_lifecycle::policy::{LeasePolicy, OnEnd};
use reeve_lifecycle::{Done, Effect, Extendable, Outcome, PendingEffect, offered};
use reeve_protocol::Span;
use reeve_protocol::command::{CommandKind, NoticeTo, RefusalCode};
use reeve_protocol::event::Alert;
use reeve_protocol::link::ExtendLink;

use crate::common::*;

/// A worker answers the notice that is being delivered.
fn answer(world: &mut World, wanted: impl Fn(&Notice) -> bool, outcome: Outcome) {
    let is_wanted =
        |pending: &&PendingEffect| matches!(&pending.effect, Effect::Notify { notice, .. } if wanted(notice));
    let key = world.running.iter().find(is_wanted).expect("the notice is being delivered").key;
    world.running.retain(|running| running.key != key);
    world.input(reeve_lifecycle::VmInput::EffectDone { key, outcome });
}

const fn is_expiring(notice: &Notice) -> bool {
    matches!(notice, Notice::Expiring { .. })
}

fn is_report(notice: &Notice) -> bool {
    matches!(notice, Notice::Alert { alert: Alert::NoticeUndelivered, .. })
}

fn down() -> Outcome {
    Outcome::Retryable { reason: "e-mail: cannot connect".into() }
}

/// The notice fails so many times, each tried again when it is due; whatever else is told gets through.
fn fail(world: &mut World, times: u32) {
    for _ in 0..times {
        while !world
            .running
            .iter()
            .any(|running| matches!(&running.effect, Effect::Notify { notice, .. } if is_expiring(notice)))
        {
            world.wake();
        }
        answer(world, is_expiring, down());
    }
}

/// A VM whose owner is being told that the end comes near.
fn expiring(terms: LeasePolicy) -> World {
    let mut world = World::created(with_lease(terms));
    world.background();
    world.go(T0 + days(23));
    world
}

#[test]
fn a_channel_that_is_down_for_minutes_is_reported_once_and_the_notice_is_tried_on() {
    let mut world = expiring(LeasePolicy::default());
    fail(&mut world, 7);
    assert_eq!(world.raised(Alert::NoticeUndelivered), 0, "a channel may blink");
    fail(&mut world, 1);
    assert_eq!(world.raised(Alert::NoticeUndelivered), 1);
    let told = world.times(|effect| matches!(effect, Effect::Notify { notice, .. } if is_report(notice)));
    assert_eq!(told, 1, "the operators are told, over every channel");
    assert!(world.now < T0 + days(23) + hours(1), "{}", world.now);
    fail(&mut world, 20);
    assert_eq!(world.raised(Alert::NoticeUndelivered), 1);
    assert!(world.now > T0 + days(23) + hours(3), "it is tried for hours: {}", world.now);
    while !world
        .running
        .iter()
        .any(|running| matches!(&running.effect, Effect::Notify { notice, .. } if is_expiring(notice)))
    {
        world.wake();
    }
    answer(&mut world, is_expiring, Outcome::Done(Done::Plain));
    assert!(!world.rec.alerts.contains(&Alert::NoticeUndelivered), "it got through");
    assert_eq!(world.count("alert.cleared"), 1);
}

#[test]
fn the_report_survives_a_crash_and_is_not_made_again() {
    let mut world = expiring(LeasePolicy::default());
    fail(&mut world, 8);
    world.crash();
    assert!(
        world
            .running
            .iter()
            .any(|running| matches!(&running.effect, Effect::Notify { notice, .. } if is_report(notice)))
    );
    fail(&mut world, 3);
    assert_eq!(world.raised(Alert::NoticeUndelivered), 1);
}

#[test]
fn a_report_that_does_not_get_through_either_makes_no_other_report() {
    let mut world = expiring(LeasePolicy::default());
    fail(&mut world, 8);
    for _ in 0..12 {
        while !world
            .running
            .iter()
            .any(|running| matches!(&running.effect, Effect::Notify { notice, .. } if is_report(notice)))
        {
            world.wake();
        }
        answer(&mut world, is_report, down());
    }
    assert_eq!(world.raised(Alert::NoticeUndelivered), 1);
    let told = world.times(|effect| matches!(effect, Effect::Notify { notice, .. } if is_report(notice)));
    assert!(told <= 13, "{told} attempts");
}

#[test]
fn a_notice_that_never_gets_through_is_dropped_after_about_a_day() {
    let mut world = expiring(LeasePolicy { warn_before: vec![days(7)], ..LeasePolicy::default() });
    fail(&mut world, 99);
    assert!(
        world
            .rec
            .effects
            .iter()
            .any(|kept| matches!(&kept.effect, Effect::Notify { notice, .. } if is_expiring(notice)))
    );
    fail(&mut world, 1);
    assert!(
        !world
            .rec
            .effects
            .iter()
            .any(|kept| matches!(&kept.effect, Effect::Notify { notice, .. } if is_expiring(notice)))
    );
    assert!(world.rec.alerts.contains(&Alert::NoticeUndelivered));
    assert!(world.now > T0 + days(23) + hours(20), "{}", world.now);
}

/// The last notice that was issued of this kind.
fn last(world: &World, wanted: impl Fn(&Notice) -> bool) -> Notice {
    let notices = world.issued.iter().rev().filter_map(|pending| match &pending.effect {
        Effect::Notify { notice, .. } => Some(notice),
        _ => None,
    });
    notices.into_iter().find(|notice| wanted(notice)).expect("there was such a notice").clone()
}

fn link(world: &World, offer: &Extendable) -> ExtendLink {
    ExtendLink { vm: world.rec.vm, ends_at: offer.ends_at, owner: offer.owner.clone(), expires_at: offer.until }
}

fn click(world: &mut World, link: &ExtendLink) -> reeve_protocol::command::Answer {
    let command = link.command();
    world.ask_as(command.id.as_str(), command.by, command.kind)
}

#[test]
fn a_notice_before_the_end_offers_its_period_until_the_grace_is_over() {
    let world = expiring(LeasePolicy { grace: hours(48), ..LeasePolicy::default() });
    let offer = offered(&world.rec, &last(&world, is_expiring)).unwrap();
    assert_eq!((offer.ends_at, offer.until), (T0 + days(30), T0 + days(32)));
    assert_eq!(offer.owner.as_str(), "alice");
}

#[test]
fn a_notice_at_the_end_offers_while_an_answer_is_awaited() {
    let mut world = World::created(with_lease(LeasePolicy { grace: hours(48), ..LeasePolicy::default() }));
    world.go(T0 + days(31));
    let expired = last(&world, |notice| matches!(notice, Notice::Expired { .. }));
    let offer = offered(&world.rec, &expired).unwrap();
    // The grace counts from the notice.
    assert_eq!((offer.ends_at, offer.until), (T0 + days(30), T0 + days(33)));
    world.go(T0 + days(33));
    assert_eq!(offered(&world.rec, &expired), None, "the end has begun");
}

#[test]
fn a_lease_that_only_gave_notice_still_offers() {
    let mut world = World::created(with_lease(LeasePolicy { on_end: OnEnd::Notify, ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    let expired = last(&world, |notice| matches!(notice, Notice::Expired { .. }));
    let link = link(&world, &offered(&world.rec, &expired).unwrap());
    assert_eq!(link.ends_at, T0 + days(30));
    click(&mut world, &link).unwrap();
    assert_eq!(world.term().ends_at, T0 + days(60));
}

#[test]
fn a_notice_that_comes_late_offers_nothing_once_the_lease_was_extended() {
    let mut world = expiring(LeasePolicy::default());
    let notice = last(&world, is_expiring);
    assert!(offered(&world.rec, &notice).is_some());
    world.ask(user("alice"), CommandKind::LeaseExtend { by: None }).unwrap();
    assert_eq!(offered(&world.rec, &notice), None);
}

#[test]
fn a_notice_without_a_possible_extension_or_without_an_owner_offers_nothing() {
    let world = expiring(LeasePolicy { max_extensions: 0, ..LeasePolicy::default() });
    assert_eq!(offered(&world.rec, &last(&world, is_expiring)), None);
    let mut world = expiring(LeasePolicy::default());
    world.rec.facts.user = None;
    assert_eq!(offered(&world.rec, &last(&world, is_expiring)), None);
    let world = World::created(policy());
    assert_eq!(offered(&world.rec, &last(&world, |notice| matches!(notice, Notice::LeaseCreated { .. }))), None);
}

#[test]
fn a_link_that_is_clicked_twice_extends_once_and_says_the_same() {
    let mut world = expiring(LeasePolicy::default());
    let link = link(&world, &offered(&world.rec, &last(&world, is_expiring)).unwrap());
    let first = click(&mut world, &link).unwrap();
    assert_eq!(first.ends_at, Some(T0 + days(60)));
    let again = world.input(reeve_lifecycle::VmInput::Commanded { command: link.command(), policy: None });
    let reeve_lifecycle::Verdict::Ignored(reeve_lifecycle::Ignored::Duplicate(Some(answer))) = again else {
        panic!("{again:?}");
    };
    assert_eq!(answer.unwrap(), first);
    assert_eq!(world.term().extensions, 1);
}

#[test]
fn a_link_of_an_earlier_period_extends_nothing_however_much_was_forgotten() {
    let mut world = expiring(LeasePolicy::default());
    let link = link(&world, &offered(&world.rec, &last(&world, is_expiring)).unwrap());
    click(&mut world, &link).unwrap();
    // So many answers later its own is not remembered any more.
    for _ in 0..40 {
        world.ask(user("eve"), CommandKind::LeaseExtend { by: None }).unwrap_err();
    }
    let refusal = click(&mut world, &link).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert!(refusal.message.contains("it now ends at"), "{}", refusal.message);
    assert_eq!((world.term().ends_at, world.term().extensions), (T0 + days(60), 1));
}

#[test]
fn a_link_counts_as_the_owners_and_not_as_that_of_an_owner_that_was() {
    let mut world = expiring(LeasePolicy::default());
    let offer = offered(&world.rec, &last(&world, is_expiring)).unwrap();
    let of_eve = Extendable { owner: reeve_protocol::UserId::new("eve").unwrap(), ..offer };
    let (ours, eves) = (link(&world, &offer), link(&world, &of_eve));
    assert_eq!(click(&mut world, &eves).unwrap_err().code, RefusalCode::Denied);
    click(&mut world, &ours).unwrap();
    assert_eq!(world.count("lease.extended"), 1);
    let extended = world.last("lease.extended");
    assert!(
        matches!(extended, reeve_protocol::event::EventKind::LeaseExtended { by, .. } if by == "alice"),
        "{extended:?}"
    );
    assert_eq!(world.term().ends_at, T0 + days(30) + Span::from_days(30));
}

#[test]
fn an_operator_may_have_people_told_and_nobody_else_may() {
    for (to, expected) in [(NoticeTo::Operators, true), (NoticeTo::Owner, false)] {
        let mut world = World::created(policy());
        world.background();
        let kind = CommandKind::NoticeSend { to, text: "mind the disk".into() };
        assert_eq!(world.ask(user("alice"), kind.clone()).unwrap_err().code, RefusalCode::Denied);
        world.ask(operator(), kind).unwrap();
        let told = world.times(|effect| {
            matches!(effect, Effect::Notify { to, notice: Notice::Alert { alert: Alert::Rule, message } }
                if message == "mind the disk" && (*to == Audience::Operators) == expected)
        });
        assert_eq!(told, 1, "{to:?}");
    }
}
