//! Events: one id has one content, and the sequence of each subject has no gaps.

use super::case::Case;
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        verdict.events += u64::try_from(story.events.len()).unwrap_or(0);
        for event in &story.forged {
            let why = format!("event {} was published with two contents, once as {}", event.sequence, event.kind);
            verdict.broke(Rule::Events, *vm, why);
        }
        for heard in story.told().filter(|heard| heard.event.id.0 != format!("{vm}/{}", heard.event.sequence)) {
            let (id, sequence) = (&heard.event.id.0, heard.event.sequence);
            verdict.broke(Rule::Events, *vm, format!("event {sequence} has the id {id}"));
        }
        let missing: Vec<u64> = match story.events.keys().next_back() {
            Some(last) => (1..=*last).filter(|sequence| !story.events.contains_key(sequence)).take(10).collect(),
            None => Vec::new(),
        };
        if !missing.is_empty() {
            verdict.broke(Rule::Events, *vm, format!("events {missing:?} never came, later ones did"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    #[test]
    fn an_event_that_comes_twice_is_no_harm() {
        let mut tale = Tale::whole_life();
        tale.again(3);
        assert_eq!(tale.broken(), []);
    }

    #[test]
    fn a_gap_is_found() {
        let mut tale = Tale::whole_life();
        tale.forget_event(3);
        assert!(tale.broken().contains(&Rule::Events));
    }

    #[test]
    fn one_number_with_two_contents_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.event_as(vm(1), 1, "health.degraded", serde_json::json!({"misses": 1}));
        tale.event_as(vm(1), 1, "health.degraded", serde_json::json!({"misses": 2}));
        assert_eq!(tale.broken(), [Rule::Events]);
    }
}
