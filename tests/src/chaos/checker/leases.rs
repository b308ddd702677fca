//! Rule 2: no lease ends early, none is lost, none grows past the caps of its policy, each notice is given once.
//!
//! Early is what was decided before its time, whenever it was heard of and whatever clock the node had.

use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::Policy;
use reeve_protocol::Timestamp;

use super::case::{Case, Heard, SLACK, Story, time};
use super::{Judgement, Rule};

/// A lease, as its events tell it.
#[derive(Default)]
struct Told {
    started_at: Option<Timestamp>,
    /// `None` too when an operator moved it in a way that no event tells.
    ends_at: Option<Timestamp>,
    grace_until: Option<Timestamp>,
    /// The notices since its end was last moved.
    notices: usize,
    /// That it is shorter than its policy gives. The slow clock of whoever found the VM can have cut it; no rule is broken
    /// if that is set right before anything comes of it.
    short: Option<String>,
    begun: bool,
    ended: bool,
}

impl Told {
    fn due(&self) -> Option<Timestamp> {
        self.grace_until.or(self.ends_at)
    }
}

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        let mut told = Told::default();
        for heard in story.told() {
            if let Err(why) = hear(case, story, &mut told, heard) {
                verdict.broke(Rule::Lease, *vm, why);
            }
        }
        // Nothing comes any more of a lease whose VM is gone, or that somebody ended.
        if !story.is_gone()
            && !is_asked_to_end(case, story, Timestamp::MAX)
            && let Some(why) = told.short.take()
        {
            verdict.broke(Rule::Lease, *vm, why);
        }
        if case.healed
            && let Some(why) = lost(case, story, &told)
        {
            verdict.lost += 1;
            verdict.broke(Rule::Lease, *vm, why);
        }
    }
}

/// The policy that ruled a VM when an event of it was told.
pub(super) fn policy_name<'a>(story: &Story<'a>, sequence: u64) -> Option<&'a str> {
    let mut named = story.events.range(..=sequence).filter_map(|(_, heard)| heard.event.data["policy"].as_str());
    named.next_back().or(story.made.map(|(_, policy)| policy))
}

fn hear(case: &Case<'_>, story: &Story<'_>, told: &mut Told, heard: &Heard<'_>) -> Result<(), String> {
    let (event, data) = (heard.event, &heard.event.data);
    let policy = policy_name(story, event.sequence).and_then(|name| case.policy(name));
    if moves_the_end(&event.kind) {
        told.notices = 0;
    }
    match event.kind.as_str() {
        "reeve.lease.created" => {
            let again = told.begun && !told.ended;
            told.started_at = time(data, "started_at");
            told.ends_at = time(data, "ends_at");
            told.short = too_short(story, told, policy);
            told.begun = true;
            told.ended = false;
            if again { Err("its lease began twice".to_owned()) } else { Ok(()) }
        }
        "reeve.lease.corrected" => {
            told.started_at = time(data, "started_at");
            told.ends_at = time(data, "ends_at");
            told.short = too_short(story, told, policy);
            Ok(())
        }
        "reeve.lease.expiring" => noticed(told, policy),
        "reeve.lease.extended" => {
            let before = std::mem::replace(&mut told.ends_at, time(data, "ends_at"));
            told.grace_until = None;
            told.ended = false;
            lengthened(story, told, policy);
            one_step(before, told.ends_at, heard, policy)?;
            within_caps(told, data["extensions"].as_u64().unwrap_or(0), policy)
        }
        "reeve.lease.policy-changed" | "reeve.lease.end-cancelled" | "reeve.lease.exempted" => {
            told.ends_at = time(data, "ends_at");
            told.grace_until = None;
            lengthened(story, told, policy);
            Ok(())
        }
        "reeve.lease.expired" => {
            let ends_at = time(data, "ends_at");
            told.grace_until = time(data, "grace_until");
            if let Some(why) = told.short.take() {
                return Err(why);
            }
            match ends_at {
                Some(at) if heard.decided.latest + SLACK < at => {
                    Err(format!("its lease ended at {}, it ends at {at}", heard.decided.latest))
                }
                Some(at) if told.ends_at.is_some_and(|known| known != at) => {
                    Err(format!("its lease ended at {at}, the last that was told is {:?}", told.ends_at))
                }
                Some(_) | None => Ok(()),
            }
        }
        "reeve.vm.terminating" if data["by"] == "lease" => {
            // Who asked for it takes the time that was left.
            if is_asked_to_end(case, story, heard.decided.latest) {
                return Ok(());
            }
            told.short.take().map_or_else(|| not_early(story, told, heard), Err)
        }
        "reeve.lease.ended" => {
            let twice = std::mem::replace(&mut told.ended, true);
            if twice { Err("its lease ended twice".to_owned()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// A VM that a user made has at least the time that its policy gives, whatever the clock of the node that found it.
fn too_short(story: &Story<'_>, told: &Told, policy: Option<&Policy>) -> Option<String> {
    let ((made_at, _), ends_at) = (story.made?, told.ends_at?);
    let least = made_at + policy?.lease.duration;
    let is_short = ends_at + SLACK < least;
    is_short.then(|| format!("made at {made_at}, its lease is to end at {ends_at}, before {least}"))
}

/// The end was set anew: what was too short may be so no more. What was long enough may be made shorter.
fn lengthened(story: &Story<'_>, told: &mut Told, policy: Option<&Policy>) {
    if told.short.is_some() {
        told.short = too_short(story, told, policy);
    }
}

/// Whether somebody had asked by then that the lease ends, and was not refused.
fn is_asked_to_end(case: &Case<'_>, story: &Story<'_>, by: Timestamp) -> bool {
    case.granted(story, "lease.end").any(|asked| asked.first_at <= by + SLACK)
}

/// What moves the end of a lease, or says anew when it is, gives all notices again.
fn moves_the_end(kind: &str) -> bool {
    let kinds = ["created", "corrected", "extended", "policy-changed", "end-cancelled", "exempted"];
    kind.strip_prefix("reeve.lease.").is_some_and(|kind| kinds.contains(&kind))
}

/// Each entry of `warn_before` is one notice for an end.
fn noticed(told: &mut Told, policy: Option<&Policy>) -> Result<(), String> {
    told.notices += 1;
    match policy.map(|policy| policy.lease.warn_before.len()) {
        Some(most) if told.notices > most => Err(format!("{} notices of one end, {most} are due", told.notices)),
        Some(_) | None => Ok(()),
    }
}

/// An extension gives at most what the policy says, from the end or from now, and takes nothing.
fn one_step(
    before: Option<Timestamp>,
    after: Option<Timestamp>,
    heard: &Heard<'_>,
    policy: Option<&Policy>,
) -> Result<(), String> {
    let (Some(before), Some(after), Some(policy)) = (before, after, policy) else { return Ok(()) };
    let most = before.max(heard.decided.latest) + policy.lease.extension;
    if after < before || after > most + SLACK {
        return Err(format!("an extension moved its end from {before} to {after}, at most {most} is allowed"));
    }
    Ok(())
}

fn within_caps(told: &Told, extensions: u64, policy: Option<&Policy>) -> Result<(), String> {
    let Some(policy) = policy else { return Ok(()) };
    if extensions > u64::from(policy.lease.max_extensions) {
        return Err(format!("{extensions} extensions, at most {} are allowed", policy.lease.max_extensions));
    }
    match (told.started_at, told.ends_at) {
        (Some(from), Some(to)) if to > from + policy.lease.max_total + SLACK => {
            Err(format!("its lease runs from {from} to {to}, at most {} are allowed", policy.lease.max_total))
        }
        _ => Ok(()),
    }
}

/// The end by lease begins, and destroys, only when the lease is over.
fn not_early(story: &Story<'_>, told: &Told, heard: &Heard<'_>) -> Result<(), String> {
    let Some(due) = told.due() else { return Ok(()) };
    let begun = heard.decided.latest;
    let destroyed = story.calls.iter().find(|made| made.is_done(CallKind::DeleteServer)).map(|made| made.at);
    let first = destroyed.map_or(begun, |at| at.min(begun));
    if first + SLACK < due {
        return Err(format!("its end began at {first} or before, its lease is due at {due}"));
    }
    Ok(())
}

fn lost(case: &Case<'_>, story: &Story<'_>, told: &Told) -> Option<String> {
    let (_, policy) = story.made?;
    let exempt = case.policy(policy).is_some_and(|policy| policy.exempt);
    match (story.in_cloud, story.last) {
        (Some(_), None) => Some("the cloud has it and no node knows it".to_owned()),
        (Some(_), Some(view)) if view.lease.state == "none" && !exempt => Some("it has no lease".to_owned()),
        (None, _) if told.begun && !told.ended => Some("it is gone, and its lease never ended".to_owned()),
        (Some(_) | None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    #[test]
    fn an_end_before_its_time_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.pass(30);
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn an_early_end_that_the_owner_asked_for_is_none() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.sent("c1", vm(1), "lease.end", json!({}));
        tale.pass(30);
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        assert_eq!(tale.broken(), []);
        tale.answered("c1", &json!({"ok": false, "error": {"code": "denied", "message": "no"}}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_excuse_an_early_end() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        let ends_at = tale.lease(vm(1), 0, 60);
        tale.stepped("n1", 3_600_000);
        tale.pass(10);
        tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn an_early_end_that_was_heard_of_late_is_found() {
        for (written, expected) in [(-20, vec![Rule::Lease]), (3_600 - 20, vec![Rule::Lease]), (-5, vec![])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            let ends_at = tale.lease(vm(1), 0, 60);
            tale.stepped("n1", 3_600_000);
            tale.pass(70);
            tale.written_at(written);
            tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
            assert_eq!(tale.broken(), expected, "{written}");
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.lease(vm(1), 0, 60);
            tale.stepped("n1", 3_600_000);
            tale.pass(70);
            tale.written_at(written);
            tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
            assert_eq!(tale.broken(), expected, "{written}");
        }
    }

    #[test]
    fn an_extension_that_gives_too_much_or_takes_is_found() {
        for (seconds, expected) in [(80, vec![]), (90, vec![Rule::Lease]), (50, vec![Rule::Lease])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.lease(vm(1), 0, 60);
            let ends_at = tale.time(seconds);
            tale.event(vm(1), "lease.extended", json!({"by": "u", "ends_at": ends_at, "extensions": 1}));
            assert_eq!(tale.broken(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_notice_too_many_is_found_and_an_extension_allows_another() {
        let mut tale = Tale::new();
        tale.policy("short", |policy| policy.lease.warn_before = vec![reeve_protocol::Span::from_secs(8)]);
        tale.made(vm(1), "short");
        let ends_at = tale.lease(vm(1), 0, 60);
        tale.event(vm(1), "lease.expiring", json!({"ends_at": ends_at}));
        let later = tale.time(75);
        tale.event(vm(1), "lease.extended", json!({"by": "u", "ends_at": later, "extensions": 1}));
        tale.event(vm(1), "lease.expiring", json!({"ends_at": later}));
        assert_eq!(tale.broken(), []);
        tale.event(vm(1), "lease.expiring", json!({"ends_at": later}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn a_lease_that_a_slow_clock_cut_short_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), -3_600, -3_540);
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    /// A lease that a clock an hour behind cut short.
    fn cut_short() -> Tale {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), -3_600, -3_540);
        tale.pass(3);
        tale
    }

    fn corrected(tale: &mut Tale, to: i64) {
        let (started_at, ends_at) = (tale.time(to - 60), tale.time(to));
        tale.event(vm(1), "lease.corrected", json!({"started_at": started_at, "ends_at": ends_at}));
    }

    #[test]
    fn a_short_lease_that_is_set_right_in_time_is_none() {
        let mut tale = cut_short();
        corrected(&mut tale, 60);
        assert_eq!(tale.broken(), []);
        let mut tale = cut_short();
        corrected(&mut tale, 30);
        assert_eq!(tale.broken(), [Rule::Lease], "it is still too short");
        for (seconds, expected) in [(60, vec![]), (40, vec![Rule::Lease])] {
            let mut tale = cut_short();
            let ends_at = tale.time(seconds);
            tale.event(vm(1), "lease.policy-changed", json!({"policy": "short", "ends_at": ends_at}));
            assert_eq!(tale.broken(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_short_lease_that_is_set_right_after_something_came_of_it_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        let ends_at = tale.lease(vm(1), -3_600, -3_540);
        tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
        corrected(&mut tale, 60);
        assert_eq!(tale.broken(), [Rule::Lease]);
        let mut tale = cut_short();
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        corrected(&mut tale, 60);
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn a_short_lease_of_a_vm_that_its_owner_ended_took_nothing() {
        let mut tale = cut_short();
        tale.event(vm(1), "vm.vanished", json!({}));
        assert_eq!(tale.broken(), []);
        let mut tale = cut_short();
        tale.sent("c1", vm(1), "lease.end", json!({}));
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        assert_eq!(tale.broken(), []);
        tale.answered("c1", &json!({"ok": false, "error": {"code": "denied", "message": "no"}}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }

    #[test]
    fn an_extension_past_the_caps_is_found() {
        for (seconds, count, expected) in [(80, 1, vec![]), (80, 9, vec![Rule::Lease]), (9_000, 1, vec![Rule::Lease])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.lease(vm(1), 0, 60);
            let ends_at = tale.time(seconds);
            tale.event(vm(1), "lease.extended", json!({"by": "u", "ends_at": ends_at, "extensions": count}));
            assert_eq!(tale.broken(), expected, "{seconds} {count}");
        }
    }

    #[test]
    fn a_lost_vm_and_a_lost_lease_are_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.in_cloud(vm(1));
        assert_eq!(tale.broken_at_end(), [Rule::Lease]);
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        assert_eq!(tale.broken_at_end(), [Rule::Lease]);
    }

    #[test]
    fn an_end_at_another_time_than_was_told_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.pass(70);
        let ends_at = tale.time(-5);
        tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
        assert_eq!(tale.broken(), [Rule::Lease]);
    }
}
