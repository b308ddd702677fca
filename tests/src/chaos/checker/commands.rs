//! Rule 6: every command is answered, each time with the same answer, and each extension that was accepted is made, once.

use std::collections::BTreeSet;

use reeve_protocol::VmId;

use super::case::{Asked, Case, Story};
use super::{Judgement, Rule};
use crate::chaos::history::Again;

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (id, asked) in &case.commands {
        let vm = asked.sent.vm;
        verdict.commands_sent += 1;
        verdict.commands_answered += u64::from(asked.is_answered());
        verdict.commands_accepted += u64::from(asked.was_accepted());
        let again = |why: &[Again]| u64::from(why.iter().any(|why| asked.again.contains(why)));
        verdict.resent += again(&[Again::NoAnswer]);
        verdict.retried += again(&[Again::Unavailable, Again::NotFound]);
        verdict.unconfirmed += again(&[Again::Unconfirmed]);
        if case.healed && !asked.is_answered() {
            verdict.lost += 1;
            verdict.broke(Rule::Command, vm, format!("{} {id} of {} has no answer", asked.sent.kind, asked.first_at));
        }
        if let Some((_, first)) = asked.answers.first()
            && let Some((_, other)) = asked.answers.iter().find(|(_, answer)| answer != first)
        {
            verdict.broke(Rule::Command, vm, format!("{} {id} was answered {first}, then {other}", asked.sent.kind));
        }
    }
    if !case.healed {
        return;
    }
    for (vm, story) in &case.vms {
        extended(case, *vm, story, verdict);
    }
}

/// Each accepted extension is there, once, with the end that was answered.
fn extended(case: &Case<'_>, vm: VmId, story: &Story<'_>, verdict: &mut Judgement) {
    let accepted: Vec<&Asked<'_>> = case.accepted(story, "lease.extend").collect();
    let ends: Vec<&str> = story
        .told()
        .filter(|heard| heard.event.kind == "reeve.lease.extended")
        .filter_map(|heard| heard.event.data["ends_at"].as_str())
        .collect();
    let all_answered = case.granted(story, "lease.extend").all(Asked::is_answered);
    if all_answered && ends.len() != accepted.len() {
        let why = format!("{} extensions were accepted, {} were made", accepted.len(), ends.len());
        verdict.broke(Rule::Command, vm, why);
    }
    let ends: BTreeSet<&str> = ends.into_iter().collect();
    for (_, answer) in accepted.iter().filter_map(|asked| asked.answers.first()) {
        match answer["result"]["ends_at"].as_str() {
            Some(ends_at) if ends.contains(ends_at) => {}
            told => verdict.broke(Rule::Command, vm, format!("an extension to {told:?} was answered and never made")),
        }
    }
}

#[cfg(test)]
mod tests {
    use reeve_protocol::MessageId;
    use serde_json::{Value, json};

    use super::super::Rule;
    use super::super::tale::{Tale, vm};
    use crate::chaos::history::{Again, What};

    fn asked(kind: &str) -> Tale {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.sent("c1", vm(1), kind, json!({}));
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        tale
    }

    const ENDS_AT: &str = "2027-01-15T08:01:20.000Z";

    fn yes() -> Value {
        json!({"ok": true, "result": {"ends_at": ENDS_AT}})
    }

    fn extend(tale: &mut Tale) {
        tale.event(vm(1), "lease.extended", json!({"by": "u", "ends_at": ENDS_AT, "extensions": 1}));
    }

    #[test]
    fn a_command_without_an_answer_is_lost() {
        let tale = asked("lease.extend");
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
        assert_eq!(tale.judge_at_end().lost, 1);
    }

    #[test]
    fn unavailable_is_no_answer() {
        let mut tale = asked("lease.extend");
        tale.answered("c1", &json!({"ok": false, "error": {"code": "unavailable", "message": "later"}}));
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
    }

    #[test]
    fn the_same_answer_twice_is_one_answer_and_another_is_found() {
        let mut tale = asked("lease.extend");
        extend(&mut tale);
        tale.answered("c1", &yes());
        tale.answered("c1", &yes());
        assert_eq!(tale.broken_at_end(), []);
        assert_eq!(tale.judge_at_end().commands_answered, 1);
        tale.answered("c1", &json!({"ok": false, "error": {"code": "denied", "message": "no"}}));
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
    }

    #[test]
    fn an_accepted_extension_that_was_not_made_is_found() {
        let mut tale = asked("lease.extend");
        tale.answered("c1", &yes());
        assert_eq!(tale.broken_at_end(), [Rule::Command, Rule::Command]);
    }

    #[test]
    fn an_extension_that_was_made_twice_is_found() {
        let mut tale = asked("lease.extend");
        extend(&mut tale);
        extend(&mut tale);
        tale.answered("c1", &yes());
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
    }

    #[test]
    fn a_command_is_counted_once_for_each_reason_to_send_it_again() {
        let mut tale = asked("lease.extend");
        for why in [Again::NoAnswer, Again::NoAnswer, Again::Unavailable] {
            tale.say(What::Resent { id: MessageId::new("c1").unwrap(), why });
        }
        let judgement = tale.judge();
        assert_eq!((judgement.resent, judgement.retried, judgement.unconfirmed), (1, 1, 0));
    }
}
