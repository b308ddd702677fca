//! Random lives: every rule after every step, a slow obvious model of the lease beside it, and in the end everything
//! that is due gets done.

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};
use reeve_lifecycle::effect::EffectKey;
use reeve_lifecycle::input::VmInput;
use reeve_lifecycle::policy::{BackupPolicy, LeasePolicy, OnEnd};
use reeve_lifecycle::record::{Hold, Lease, LeasePhase, Presence};
use reeve_lifecycle::{Effect, Outcome, Policy, Verdict, next_deadline};
use reeve_protocol::command::{BackupFirst, CommandKind, Requester, Switch};
use reeve_protocol::observation::{Phase, VmChange, VmFacts, VmState};
use reeve_protocol::{Generation, Span, Timestamp};

use crate::common::*;

#[derive(Debug, Clone)]
enum Deed {
    Pass(Span),
    StepBack(Span),
    Wake,
    Notify(VmChange, Phase, VmState, u64, Option<&'static str>),
    List(VmState),
    Missing,
    Command(u8, u8),
    Answer(u8, usize),
    Hold(Hold, Switch),
    Probe(bool),
    Crash,
    Bus(Switch),
    Policy(u8),
}

fn state() -> impl Strategy<Value = VmState> {
    prop_oneof![
        12 => Just(VmState::Active),
        3 => Just(VmState::Stopped),
        1 => Just(VmState::Building),
        1 => Just(VmState::Error),
        1 => Just(VmState::SoftDeleted),
        1 => Just(VmState::Shelved),
        1 => Just(VmState::Unknown),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let change = prop_oneof![
        20 => Just(VmChange::Update),
        5 => Just(VmChange::Operation),
        5 => Just(VmChange::Create),
        1 => Just(VmChange::Delete),
    ];
    let phase = prop_oneof![Just(Phase::Start), Just(Phase::End), Just(Phase::Whole)];
    let task = prop_oneof![8 => Just(None), 1 => Just(Some("migrating"))];
    let hold = prop_oneof![
        Just(Hold::Locked),
        Just(Hold::Maintenance),
        Just(Hold::ClockUntrusted),
        Just(Hold::CloudUnreadable)
    ];
    let switch = || prop_oneof![1 => Just(Switch::On), 2 => Just(Switch::Off)];
    prop_oneof![
        4 => (1u64..200_000).prop_map(|n| Deed::Pass(secs(n))),
        1 => (1u64..40).prop_map(|n| Deed::Pass(days(n))),
        1 => (1u64..100_000).prop_map(|n| Deed::StepBack(secs(n))),
        10 => Just(Deed::Wake),
        5 => (change, phase, state(), 0u64..100_000, task)
            .prop_map(|(change, phase, state, ago, task)| Deed::Notify(change, phase, state, ago, task)),
        2 => state().prop_map(Deed::List),
        1 => Just(Deed::Missing),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(by, kind)| Deed::Command(by, kind)),
        30 => (any::<u8>(), 0usize..4).prop_map(|(how, which)| Deed::Answer(how, which)),
        2 => (hold, switch()).prop_map(|(hold, switch)| Deed::Hold(hold, switch)),
        4 => any::<bool>().prop_map(Deed::Probe),
        2 => Just(Deed::Crash),
        1 => switch().prop_map(Deed::Bus),
        1 => any::<u8>().prop_map(Deed::Policy),
    ]
}

fn terms(n: u8) -> Policy {
    let on_end = match n % 6 {
        0 => OnEnd::Stop,
        1 => OnEnd::Suspend,
        2 => OnEnd::Notify,
        3 => OnEnd::Delete,
        _ => OnEnd::BackupAndDelete,
    };
    let lease = LeasePolicy {
        duration: days(u64::from(n % 7) + 2),
        grace: hours(u64::from(n % 3) * 12),
        extension: days(2),
        max_total: days(14),
        on_end,
        extend_roles: vec!["lead".into()],
        ..LeasePolicy::default()
    };
    let backup =
        BackupPolicy { keep_last: 1, daily: 2, weekly: 0, reverify: days(u64::from(n % 5)), ..BackupPolicy::default() };
    Policy { lease, backup, exempt: n % 16 == 15, ..Policy::default() }
}

fn who(n: u8) -> Requester {
    match n % 6 {
        0 => operator(),
        1 | 2 => user("alice"),
        3 => member("carol", "p1", "lead"),
        4 => member("mallory", "p1", "reader"),
        _ => user("eve"),
    }
}

fn what(n: u8) -> CommandKind {
    match n % 24 {
        0 => CommandKind::VmStart,
        1 => CommandKind::VmStop,
        2 => CommandKind::VmReboot,
        3 => CommandKind::VmSuspend,
        4 => CommandKind::VmResume,
        5 => CommandKind::VmDelete { backup: BackupFirst::AsPolicy },
        6 => CommandKind::VmDelete { backup: BackupFirst::No },
        7 => CommandKind::VmRevive { backup: None, name: None },
        8 => CommandKind::VmMaintenance(Switch::On),
        9 => CommandKind::VmMaintenance(Switch::Off),
        10 => CommandKind::LeaseEnd,
        11 => CommandKind::LeaseCancelEnd,
        12 => CommandKind::LeaseExempt(Switch::On),
        13 => CommandKind::LeaseExempt(Switch::Off),
        14 => CommandKind::BackupRun,
        15 => CommandKind::BackupVerify { backup: None },
        16 => CommandKind::BackupRestore { backup: None },
        17 => CommandKind::HealthReport { healthy: false, cause: "seen down".into() },
        18 => CommandKind::RepairRun,
        19 => CommandKind::RepairSuspend(if n.is_multiple_of(2) { Switch::On } else { Switch::Off }),
        20 => CommandKind::VmAdopt,
        21 => CommandKind::LeaseExtend { by: None },
        _ => CommandKind::LeaseExtend { by: Some(hours(u64::from(n))) },
    }
}

fn do_it(world: &mut World, deed: Deed) {
    match deed {
        Deed::Pass(span) => world.pass(span),
        Deed::StepBack(span) => world.go(world.now - span),
        Deed::Wake => {
            if next_deadline(&world.rec).is_some() {
                world.wake();
            }
        }
        Deed::Notify(change, phase, state, ago, task) => {
            let ended = change == VmChange::Delete && phase != Phase::Start;
            let state = if ended { VmState::Deleted } else { state };
            let facts = VmFacts { task: task.map(str::to_owned), ..facts(state) };
            let id = format!("r-{change:?}-{ago}");
            world.input(VmInput::Notified(note(&id, world.now - secs(ago), change, phase, facts)));
        }
        Deed::List(state) => {
            world.list(facts(state));
        }
        Deed::Missing => {
            world.input(VmInput::Missing { asked_at: world.now });
        }
        Deed::Command(by, kind) => {
            let id = format!("c-{by}-{kind}");
            world.input(VmInput::Commanded { command: command(&id, who(by), what(kind)), policy: None });
        }
        Deed::Answer(how, which) => answer(world, how, which),
        Deed::Hold(hold, Switch::On) => {
            world.input(VmInput::HoldRaised(hold));
        }
        Deed::Hold(hold, Switch::Off) => {
            world.input(VmInput::HoldLifted(hold));
        }
        Deed::Probe(up) => {
            world.probe(up);
        }
        Deed::Crash => world.crash(),
        Deed::Bus(switch) => bus(world, switch),
        Deed::Policy(n) => world.assign(terms(n)),
    }
}

fn bus(world: &mut World, switch: Switch) {
    world.bus_is_up = switch == Switch::Off;
    if world.bus_is_up {
        let through = world.rec.sequence;
        world.input(VmInput::Published { through });
    }
}

fn answer(world: &mut World, how: u8, which: usize) {
    if world.running.is_empty() {
        let key = EffectKey { generation: Generation(u64::from(how)), index: 0 };
        world.input(VmInput::EffectDone { key, outcome: Outcome::Done(reeve_lifecycle::Done::Plain) });
        return;
    }
    let running = world.running[which % world.running.len()].clone();
    let reason = "fault".to_owned();
    let outcome = match how % 10 {
        0 => Outcome::NotApplied { reason },
        1 => Outcome::Retryable { reason },
        2 => Outcome::Unknown { reason },
        _ => Outcome::Done(world.natural(&running.effect)),
    };
    if world.input(VmInput::EffectDone { key: running.key, outcome }) == Verdict::Busy {
        return;
    }
    let kept = world.rec.effects.iter().any(|kept| kept.key == running.key && kept.retry_at.is_none());
    if !kept {
        world.running.retain(|other| other.key != running.key);
    }
}

/// Faults are over: everything is answered with success, time passes, and what is due gets done.
fn calm(world: &mut World) {
    bus(world, Switch::Off);
    for hold in [Hold::Locked, Hold::Maintenance, Hold::ClockUntrusted, Hold::CloudUnreadable] {
        world.input(VmInput::HoldLifted(hold));
    }
    if !world.rec.is_gone() {
        world.now = world.now + days(1);
        let state = if world.rec.facts.state == VmState::SoftDeleted { VmState::SoftDeleted } else { VmState::Active };
        world.list(facts(state));
    }
    world.crash();
    for _ in 0..600 {
        while let Some(running) = world.running.first().cloned() {
            world.running.remove(0);
            let done = world.natural(&running.effect);
            world.input(VmInput::EffectDone { key: running.key, outcome: Outcome::Done(done) });
        }
        let is_over = matches!(world.rec.lease, Lease::Ended { .. } | Lease::Exempt | Lease::Parked { .. });
        if is_over && world.rec.operation.is_none() && world.rec.effects.is_empty() {
            return;
        }
        match next_deadline(&world.rec) {
            Some((at, _)) if at < T0 + days(600) => world.go(at),
            Some(_) | None => return,
        }
    }
}

/// The lease as the rules say it in one line each.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Model {
    started_at: Timestamp,
    ends_at: Timestamp,
    extensions: u32,
}

/// The same cases each time; other and many more of them in a long run.
fn config() -> ProptestConfig {
    let long = std::env::var_os("REEVE_LONG").is_some();
    let (cases, rng_seed) = if long { (5_000, RngSeed::Random) } else { (96, RngSeed::Fixed(20_261_122)) };
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_every_rule_holds_after_every_step_and_what_is_due_gets_done(
        policy in any::<u8>(),
        deeds in prop::collection::vec(deed(), 1..120),
    ) {
        let mut world = World::created(terms(policy));
        for deed in deeds {
            do_it(&mut world, deed);
        }
        calm(&mut world);
        let rec = &world.rec;
        prop_assert!(rec.operation.is_none(), "{:?} at {} due {:?}", rec.operation, world.now, next_deadline(rec));
        prop_assert!(rec.end_request.is_none(), "{:?}", rec.end_request);
        prop_assert!(rec.effects.is_empty(), "{:?}", rec.effects);
        // One that loses its exemption while it is soft-deleted gets its lease when it is restored.
        let waits = rec.lease == Lease::None && !matches!(rec.presence, Presence::Present { .. });
        let over = waits || matches!(rec.lease, Lease::Ended { .. } | Lease::Exempt | Lease::Parked { .. });
        prop_assert!(over, "{:?} at {}", rec.lease, world.now);
        for (at, event) in (1..).zip(&world.events) {
            prop_assert_eq!(event.sequence, at);
        }
    }

    #[test]
    fn the_lease_is_what_a_slow_obvious_model_says(
        steps in prop::collection::vec((0u64..400_000, any::<u8>(), 0u64..80), 1..60),
    ) {
        let terms = LeasePolicy {
            duration: days(5), grace: hours(24), extension: days(2), max_extensions: 4, max_total: days(12),
            extend_roles: vec!["lead".into()], ..LeasePolicy::default()
        };
        let mut world = World::created(with_lease(terms.clone()));
        let mut model = Model { started_at: T0, ends_at: T0 + terms.duration, extensions: 0 };
        let mut grace_until = None;
        for (pause, by, amount) in steps {
            world.pass(secs(pause));
            let now = world.now;
            if now >= model.ends_at && grace_until.is_none() {
                grace_until = Some(now + terms.grace);
            }
            if grace_until.is_some_and(|until| now >= until) {
                let ending = matches!(world.phase(), LeasePhase::Ending { .. });
                prop_assert!(ending);
                break;
            }
            let wanted = hours(amount);
            let may = !matches!(by % 6, 4 | 5);
            let new_end = model.ends_at.max(now) + wanted;
            let allowed = may && amount > 0 && wanted <= terms.extension && model.extensions < terms.max_extensions
                && new_end <= model.started_at + terms.max_total;
            let answer = world.ask(who(by), CommandKind::LeaseExtend { by: Some(wanted) });
            prop_assert_eq!(answer.is_ok(), allowed, "{:?} {:?}", answer, model);
            if allowed {
                model = Model { ends_at: new_end, extensions: model.extensions + 1, ..model };
                grace_until = None;
            }
            let term = world.term();
            let seen = Model { started_at: term.started_at, ends_at: term.ends_at, extensions: term.extensions };
            prop_assert_eq!(seen, model);
        }
    }

    #[test]
    fn the_same_notifications_in_any_order_and_twice_give_the_same_vm(
        order in Just((0..LIFE).flat_map(|n| [n, n]).collect::<Vec<_>>()).prop_shuffle(),
        without in prop::collection::vec(0..LIFE, 0..5),
        late in 0u64..60,
    ) {
        same(&order, &without, days(late))?;
    }
}

/// How many notifications [`life`] has.
const LIFE: usize = 8;

/// create.start, update, create.end, power_off, rebuild.end, soft_delete-free life to delete.end.
fn life() -> Vec<VmInput> {
    let at = |n: u64| T0 + secs(n);
    let of = |state, launched: Option<u64>| VmFacts { launched_at: launched.map(at), ..facts(state) };
    let deleted = VmFacts { deleted_at: Some(at(100)), ..of(VmState::Deleted, Some(60)) };
    let unnamed =
        VmFacts { name: String::new(), host: None, power: None, created_at: None, ..of(VmState::Active, None) };
    [
        note("1", at(1), VmChange::Create, Phase::Start, of(VmState::Building, None)),
        note("2", at(5), VmChange::Update, Phase::Whole, of(VmState::Building, None)),
        note("3", at(10), VmChange::Create, Phase::End, of(VmState::Active, Some(10))),
        note("4", at(20), VmChange::Operation, Phase::End, of(VmState::Stopped, Some(10))),
        note("5", at(60), VmChange::Operation, Phase::End, of(VmState::Active, Some(60))),
        note("6", at(70), VmChange::Operation, Phase::Error, VmFacts { launched_at: None, ..unnamed }),
        note("7", at(100), VmChange::Delete, Phase::End, deleted.clone()),
        note("8", at(101), VmChange::Update, Phase::Whole, VmFacts { deleted_at: Some(at(99)), ..deleted }),
    ]
    .into_iter()
    .map(VmInput::Notified)
    .collect()
}

fn same(order: &[usize], without: &[usize], late: Span) -> Result<(), TestCaseError> {
    let told = |order: &mut dyn Iterator<Item = usize>| {
        let mut world = World::unseen(policy());
        world.now = T0 + secs(200) + late;
        let life = life();
        for n in order.filter(|n| !without.contains(n)) {
            world.input(life[n].clone());
        }
        world.rec
    };
    let in_order = told(&mut (0..LIFE));
    let shuffled = told(&mut order.iter().copied());
    prop_assert_eq!(&shuffled.presence, &in_order.presence);
    prop_assert_eq!(&shuffled.lease, &in_order.lease, "order {:?} without {:?}", order, without);
    if !without.contains(&6) || !without.contains(&7) || without.contains(&5) {
        prop_assert_eq!(&shuffled.facts, &in_order.facts);
    }
    prop_assert_eq!(shuffled.created_seen, in_order.created_seen);
    Ok(())
}

#[test]
fn every_order_of_a_short_life_gives_the_same_vm() {
    let mut orders = vec![vec![]];
    for n in [0, 1, 2, 4, 6] {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, n);
                    longer
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    for order in orders {
        same(&order, &[3, 5, 7], Span::ZERO).unwrap();
        same(&order, &[3, 5, 6, 7], days(3)).unwrap();
    }
}

#[test]
fn the_notice_of_nothing_is_not_an_effect_on_the_vm() {
    let mut world = World::created(policy());
    world.pass(days(23));
    assert!(world.issued.iter().all(|pending| matches!(pending.effect, Effect::Notify { .. })));
}
