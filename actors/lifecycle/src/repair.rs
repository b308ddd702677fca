//! The first form of repair: one step of the ladder at a time, the condition that started it tested again after each.
//!
//! ```text
//! Acting(step) ─► Booting ─► Retesting ─ cured ─► done
//!      ▲             ▲            │ not cured, time left
//!      │             └────────────┤
//!      └── next step ◄────────────┴─► no step left: exhausted, a human is told
//! ```

use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester, Switch};
use reeve_protocol::event::{Alert, EventKind};
use reeve_protocol::observation::VmState;
use reeve_protocol::{Span, Timestamp};

use crate::draft::Draft;
use crate::effect::{Done, Effect, EffectKey, Outcome, ProbeVerdict};
use crate::health;
use crate::input::Reason;
use crate::lease_commands::{owner_of_living, untouched};
use crate::operation::{Operation, RepairRun, RepairStage};
use crate::policy::RepairStep;
use crate::record::{Health, Presence, VmRecord};

/// Episodes are counted over this time.
const DAY: Span = Span::from_days(1);
/// How often an action that had no effect is tried before its step counts as failed.
const MAX_TRIES: u32 = 5;
/// The shortest pause between two retests.
const RETEST_LEAST: Span = Span::from_millis(500);

/// Whether a repair should begin, and if not now, when to look again.
enum Want {
    No,
    Now,
    Later(Timestamp),
    /// A human must decide.
    Held(&'static str),
}

fn want(record: &VmRecord, now: Timestamp) -> Want {
    let memory = &record.repairs;
    let ready = record.holds.is_empty() && record.facts.task.is_none() && should_run(record);
    if memory.requested {
        return if ready { Want::Now } else { Want::No };
    }
    let Health::Down { .. } = record.health else { return Want::No };
    let policy = &record.policy.terms.repair;
    if !policy.enabled || memory.suspended || policy.ladder.is_empty() {
        return Want::Held("the VM is down and may not be repaired by automation");
    }
    if !ready {
        return Want::No;
    }
    let recent = memory.recent.iter().filter(|at| now.since(**at) < DAY.duration()).count();
    if recent >= usize::try_from(policy.max_per_day).unwrap_or(usize::MAX) {
        return Want::Held("the VM is down and had as many repairs today as the policy allows");
    }
    // An end that lies ahead was written by a clock that has been set back since.
    match memory.last_ended.filter(|ended| *ended <= now).map(|ended| ended + policy.cooldown) {
        Some(until) if until > now => Want::Later(until),
        Some(_) | None => Want::Now,
    }
}

/// Whether the VM is there and meant to run: one that its owner stopped is not down.
fn should_run(record: &VmRecord) -> bool {
    let runs = matches!(record.facts.state, VmState::Active | VmState::Error | VmState::Resized | VmState::Unknown);
    runs && matches!(record.presence, Presence::Present { .. })
}

/// When repair may begin again.
pub(crate) fn deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    match &record.operation {
        Some(Operation::Repair(run)) => match &run.step {
            RepairStage::Booting { retest_at, .. } => Some((*retest_at, Reason::Retest)),
            RepairStage::Acting(_) | RepairStage::Retesting { .. } => None,
        },
        Some(_) => None,
        // Seen from the end of the last episode, a repair that is wanted comes after the cool-down.
        None => match want(record, record.repairs.last_ended?) {
            Want::Later(at) => Some((at, Reason::RepairDue)),
            Want::No | Want::Now | Want::Held(_) => None,
        },
    }
}

/// Begins a repair if one is wanted; says whether it did.
pub(crate) fn begin_if_wanted(d: &mut Draft) -> bool {
    match want(&d.rec, d.now) {
        Want::No | Want::Later(_) => return false,
        Want::Held(why) => {
            d.alert(Alert::RepairHeld, why);
            return false;
        }
        Want::Now => {}
    }
    let probe = d.rec.policy.terms.health.probe;
    let (cause, probe) = match &d.rec.health {
        Health::Down { cause, probe, .. } => (cause.clone(), *probe),
        Health::Unknown { .. }
        | Health::Up
        | Health::Suspect { .. }
        | Health::NeedsOperator { .. }
        | Health::Paused { .. } => ("asked for".to_owned(), probe),
    };
    d.rec.repairs.requested = false;
    let now = d.now;
    d.rec.repairs.recent.retain(|at| now.since(*at) < DAY.duration());
    d.rec.repairs.recent.push(now);
    if d.rec.repairs.recent.len() > 32 {
        d.rec.repairs.recent.remove(0);
    }
    d.clear(Alert::RepairHeld);
    d.emit(EventKind::RepairStarted { cause: cause.clone() });
    let ladder = d.rec.policy.terms.repair.ladder.clone();
    attempt(d, RepairRun { cause, probe, ladder, at: 0, step: RepairStage::Acting(NO_KEY) });
    true
}

/// A key that no effect has: replaced before the record is committed.
const NO_KEY: EffectKey = EffectKey { generation: reeve_protocol::Generation(0), index: u16::MAX };

/// Tries the step that is due, or the first after it that can be tried.
fn attempt(d: &mut Draft, mut run: RepairRun) {
    if !d.rec.holds.is_empty() || !should_run(&d.rec) {
        give_way(d);
        return;
    }
    loop {
        let Some(step) = run.ladder.get(run.at).copied() else {
            exhausted(d);
            return;
        };
        let effect = match step {
            RepairStep::HardReboot => Some(Effect::HardReboot),
            RepairStep::Relaunch => d.rec.latest_verified().map(|entry| Effect::RestoreInPlace { backup: entry.id }),
        };
        if let Some(effect) = effect {
            d.emit(EventKind::RepairStepStarted { step: step.name().to_owned() });
            run.step = RepairStage::Acting(d.issue(effect));
            d.rec.operation = Some(Operation::Repair(run));
            return;
        }
        run.at += 1;
    }
}

/// Ends the episode without a verdict: the VM is held, or not meant to run any more. If it is still down once it may be
/// touched again, another episode begins after the cool-down.
fn give_way(d: &mut Draft) {
    d.rec.operation = None;
    d.rec.repairs.last_ended = Some(d.now);
    let reason = if d.rec.holds.is_empty() { "the VM is not meant to run" } else { "the VM is held" };
    d.emit(EventKind::RepairAbandoned { reason: reason.into() });
}

fn exhausted(d: &mut Draft) {
    d.rec.operation = None;
    d.rec.repairs.last_ended = Some(d.now);
    d.rec.health = Health::NeedsOperator { since: d.now, successes: 0 };
    d.emit(EventKind::RepairExhausted);
    d.alert(Alert::RepairExhausted, "every repair was tried; a human is needed");
}

/// How long this VM's boots are waited for before the first retest.
fn boot_wait(record: &VmRecord) -> Span {
    let policy = &record.policy.terms.repair;
    let learnt = record.repairs.boot_time;
    if learnt.is_zero() { policy.boot_wait } else { learnt.min(policy.boot_wait_max) }
}

/// A worker answered to the effect that the repair waits for.
pub(crate) fn effect_done(d: &mut Draft, mut run: RepairRun, key: EffectKey, outcome: Outcome) {
    match run.step.clone() {
        RepairStage::Acting(_) => match outcome {
            // After no answer the retest tells whether it worked.
            Outcome::Done(_) | Outcome::Unknown { .. } => {
                d.forget(key);
                boot(d, &mut run);
            }
            Outcome::Retryable { .. } if d.pending(key).is_some_and(|pending| pending.failures + 1 < MAX_TRIES) => {
                d.put_off(key);
            }
            Outcome::NotApplied { .. } | Outcome::Retryable { .. } => {
                d.forget(key);
                let now = d.now;
                retest(d, &mut run, now, now);
            }
        },
        RepairStage::Retesting { since, give_up_at, .. } => {
            d.forget(key);
            match outcome {
                Outcome::Done(Done::Probed(ProbeVerdict::Up)) => {
                    cured(d, &run, since);
                    return;
                }
                Outcome::Done(Done::Probed(ProbeVerdict::Down { .. })) => {
                    if d.now >= give_up_at {
                        step_failed(d, run);
                        return;
                    }
                    wait(d, &mut run, since, give_up_at);
                }
                // No judgement: the step is given its whole time again once the prober sees.
                Outcome::Done(_) | Outcome::NotApplied { .. } | Outcome::Retryable { .. } | Outcome::Unknown { .. } => {
                    let give_up_at = give_up_at.max(d.now + boot_wait(&d.rec));
                    wait(d, &mut run, since, give_up_at);
                }
            }
        }
        RepairStage::Booting { .. } => d.forget(key),
    }
    d.rec.operation = Some(Operation::Repair(run));
}

fn boot(d: &Draft, run: &mut RepairRun) {
    let most = d.rec.policy.terms.repair.boot_wait_max;
    run.step = RepairStage::Booting { since: d.now, retest_at: d.now + boot_wait(&d.rec), give_up_at: d.now + most };
}

fn wait(d: &Draft, run: &mut RepairRun, since: Timestamp, give_up_at: Timestamp) {
    let pause = Span::from_millis(boot_wait(&d.rec).as_millis() / 4).max(RETEST_LEAST);
    run.step = RepairStage::Booting { since, retest_at: d.now + pause, give_up_at };
}

fn retest(d: &mut Draft, run: &mut RepairRun, since: Timestamp, give_up_at: Timestamp) {
    let timeout = d.rec.policy.terms.health.timeout;
    let key = d.issue(Effect::Retest { probe: run.probe, timeout });
    run.step = RepairStage::Retesting { key, since, give_up_at };
}

/// Does what is due in a repair: the retest after the boot; gives way when the VM is no longer running.
pub(crate) fn advance(d: &mut Draft) {
    let Some(Operation::Repair(run)) = &d.rec.operation else { return };
    let RepairStage::Booting { since, retest_at, give_up_at } = run.step else { return };
    if d.now < retest_at {
        return;
    }
    let mut run = run.clone();
    if !should_run(&d.rec) {
        d.emit(EventKind::RepairStepFinished { step: step_name(&run), cured: false });
        give_way(d);
        return;
    }
    retest(d, &mut run, since, give_up_at);
    d.rec.operation = Some(Operation::Repair(run));
}

fn step_name(run: &RepairRun) -> String {
    run.ladder.get(run.at).map_or("none", |step| step.name()).to_owned()
}

fn step_failed(d: &mut Draft, mut run: RepairRun) {
    d.emit(EventKind::RepairStepFinished { step: step_name(&run), cured: false });
    run.at += 1;
    attempt(d, run);
}

fn cured(d: &mut Draft, run: &RepairRun, since: Timestamp) {
    let took = Span::from(d.now.since(since));
    let learnt = d.rec.repairs.boot_time;
    // Three parts of what is known, one of what was seen: a single slow boot does not set the pace.
    d.rec.repairs.boot_time = if learnt.is_zero() {
        took
    } else {
        Span::from_millis((learnt.as_millis().saturating_mul(3) + took.as_millis()) / 4)
    };
    d.rec.repairs.last_ended = Some(d.now);
    d.rec.operation = None;
    d.emit(EventKind::RepairStepFinished { step: step_name(run), cured: true });
    let steps = u32::try_from(run.at + 1).unwrap_or(u32::MAX);
    d.emit(EventKind::RepairSucceeded { steps });
    health::recovered(d);
}

/// `repair.run`: a repair now, whatever the health says and the policy allows of its own accord.
pub(crate) fn run_now(d: &mut Draft, by: &Requester) -> Answer {
    owner_of_living(d, by)?;
    untouched(d)?;
    if let Some(operation) = &d.rec.operation {
        return Err(Refusal::new(RefusalCode::Conflict, format!("in the way: {}", operation.name())));
    }
    if d.rec.policy.terms.repair.ladder.is_empty() {
        return Err(Refusal::new(RefusalCode::Conflict, "the policy's repair.ladder is empty"));
    }
    if !should_run(&d.rec) {
        return Err(Refusal::new(RefusalCode::Conflict, "the VM is not meant to run: start it first"));
    }
    d.rec.repairs.requested = true;
    Ok(Accepted { vm: d.rec.vm, message: "a repair begins".into(), ends_at: None, backup: None })
}

/// `repair.suspend` and `repair.resume`.
pub(crate) fn suspend(d: &mut Draft, by: &Requester, switch: Switch) -> Answer {
    owner_of_living(d, by)?;
    d.rec.repairs.suspended = switch == Switch::On;
    let message = if d.rec.repairs.suspended { "automation may not repair it" } else { "automation may repair it" };
    Ok(Accepted { vm: d.rec.vm, message: message.into(), ends_at: None, backup: None })
}
