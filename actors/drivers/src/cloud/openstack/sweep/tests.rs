//! Decisions, table by table: times are seconds of a clock that nobody reads.

use reeve_protocol::observation::{PowerState, VmState};
use serde_json::json;
use uuid::Uuid;

use super::*;

const AGE: Duration = Duration::from_secs(30);
const DOWN: Sight = Sight::Down { state: VmState::Stopped, power: Some(PowerState::Running) };

fn id(number: u128) -> VmId {
    VmId::new(Uuid::from_u128(number))
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Of VM 1, which is up, VM 2, which is down, VM 3, whose host is, and VM 4, whose cell is silent if there is one.
fn view(began: Duration, silent: &[u128]) -> View {
    let server = |number: u128, state: &str, host: &str| {
        let id = id(number);
        json!({ "id": id, "OS-EXT-STS:vm_state": state, "OS-EXT-STS:power_state": 1, "host_status": host })
    };
    let mut servers = vec![server(1, "active", "UP"), server(2, "stopped", "UP"), server(3, "active", "DOWN")];
    servers.extend(silent.iter().map(|number| json!({ "id": id(*number), "status": "UNKNOWN" })));
    let mut view = View::new(began);
    view.take(&serde_json::from_value(json!({ "servers": servers })).unwrap());
    view.whole()
}

/// With a view of a sweep that took a second.
fn seen(began: Duration) -> Sweeps {
    let mut sweeps = Sweeps::new(2);
    sweeps.ended(Ok(view(began, &[])), began + s(1));
    sweeps
}

fn ask(sweeps: &mut Sweeps, vm: u128, freshness: Freshness, at: Duration) -> Next {
    sweeps.next(&Question::new(id(vm), freshness, at), at)
}

fn is_unclear(next: &Next) -> bool {
    matches!(next, Next::Answer(ProbeVerdict::Inconclusive { .. }))
}

#[test]
fn the_first_sweeps_and_the_others_wait_and_share_what_it_saw() {
    let mut sweeps = Sweeps::new(2);
    let questions: Vec<_> = (0..3).map(|at| Question::new(id(1), Freshness::Within(AGE), s(100 + at))).collect();
    assert_eq!(sweeps.next(&questions[0], s(100)), Next::Sweep);
    assert_eq!(sweeps.next(&questions[1], s(101)), Next::Wait);
    assert_eq!(sweeps.next(&questions[2], s(102)), Next::Wait);
    sweeps.ended(Ok(view(s(100), &[])), s(103));
    for question in &questions {
        assert_eq!(sweeps.next(question, s(103)), Next::Answer(ProbeVerdict::Up));
    }
}

#[test]
fn a_view_serves_until_it_is_too_old_for_somebody() {
    let mut sweeps = seen(s(100));
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(130)), Next::Answer(ProbeVerdict::Up));
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(s(10)), s(111)), Next::Sweep, "the shortest sets the pace");
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(131)), Next::Wait);
}

#[test]
fn an_old_view_says_of_nobody_that_it_is_down() {
    for vm in [2, 5] {
        let mut sweeps = seen(s(100));
        assert_eq!(ask(&mut sweeps, vm, Freshness::Within(AGE), s(101)), Next::Look);
        assert_eq!(ask(&mut sweeps, vm, Freshness::Within(AGE), s(500)), Next::Look, "suspected however old it is");
    }
}

#[test]
fn that_nobody_can_tell_needs_no_look() {
    let mut sweeps = seen(s(100));
    assert!(is_unclear(&ask(&mut sweeps, 3, Freshness::Within(AGE), s(110))));
    sweeps.ended(Ok(view(s(120), &[4])), s(121));
    for vm in [4, 5] {
        assert!(is_unclear(&ask(&mut sweeps, vm, Freshness::Within(AGE), s(130))), "{vm}");
    }
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(130)), Next::Answer(ProbeVerdict::Up));
}

#[test]
fn who_asks_for_now_is_not_answered_by_what_was_seen_before() {
    let mut sweeps = seen(s(100));
    for vm in [1, 2, 3, 5] {
        assert_eq!(ask(&mut sweeps, vm, Freshness::Now, s(101)), Next::Look, "{vm}");
        sweeps.looked();
    }
}

#[test]
fn beyond_so_many_looks_all_share_a_sweep_that_begins_after_they_asked() {
    let mut sweeps = seen(s(100));
    let asked = Question::new(id(2), Freshness::Now, s(110));
    assert_eq!([0; 2].map(|_| sweeps.next(&asked, s(110))), [Next::Look, Next::Look]);
    assert_eq!(sweeps.next(&asked, s(110)), Next::Sweep);
    assert_eq!(sweeps.next(&asked, s(110)), Next::Wait);
    sweeps.ended(Ok(view(s(110), &[])), s(112));
    assert_eq!(sweeps.next(&asked, s(112)), Next::Answer(DOWN.verdict()), "it is as fresh as a look");
    assert_eq!(ask(&mut sweeps, 2, Freshness::Now, s(113)), Next::Sweep, "who asks later needs a later one");
    sweeps.looked();
    assert_eq!(ask(&mut sweeps, 2, Freshness::Now, s(113)), Next::Look);
}

#[test]
fn as_many_looks_wait_as_a_sweep_takes_calls() {
    let mut sweeps = Sweeps::new(2);
    let mut large = view(s(100), &[]);
    large.calls = 5;
    sweeps.ended(Ok(large), s(101));
    for _ in 0..5 {
        assert_eq!(ask(&mut sweeps, 2, Freshness::Now, s(110)), Next::Look);
    }
    assert_eq!(ask(&mut sweeps, 2, Freshness::Now, s(110)), Next::Sweep);
}

#[test]
fn a_failed_sweep_is_everybodys_answer_for_a_while_and_the_view_before_it_stays() {
    let mut sweeps = seen(s(100));
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(131)), Next::Sweep);
    sweeps.ended(Err("503".to_owned()), s(132));
    assert!(is_unclear(&ask(&mut sweeps, 1, Freshness::Within(AGE), s(132))));
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(s(40)), s(133)), Next::Answer(ProbeVerdict::Up));
    assert_eq!(ask(&mut sweeps, 2, Freshness::Within(AGE), s(133)), Next::Look, "a suspect is still looked at");
    assert_eq!(ask(&mut sweeps, 1, Freshness::Now, s(133)), Next::Look);
    assert!(is_unclear(&ask(&mut sweeps, 1, Freshness::Now, s(133))), "but no crowd of them");
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(132) + FAILURE_HOLDS), Next::Sweep);
}

#[test]
fn a_cloud_rests_between_two_sweeps_the_longer_the_longer_they_take() {
    let mut sweeps = seen(s(100));
    assert_eq!(sweeps.rest(s(101)), LEAST_REST);
    assert_eq!(sweeps.rest(s(140)), Duration::ZERO);
    sweeps.ended(Ok(view(s(200), &[])), s(240));
    assert_eq!(sweeps.rest(s(240)), s(10));
}

#[test]
fn a_cloud_that_is_slow_is_judged_at_the_pace_of_its_listing() {
    let mut sweeps = Sweeps::new(2);
    sweeps.ended(Ok(view(s(100), &[])), s(140));
    // The next one takes 40 s as well, after a rest of 10 s: until then there is no other view.
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(180)), Next::Answer(ProbeVerdict::Up));
    assert_eq!(ask(&mut sweeps, 1, Freshness::Within(AGE), s(181)), Next::Sweep);
}

#[test]
fn where_a_sweep_comes_too_late_whoever_asks_for_now_waits_for_a_look() {
    let mut sweeps = Sweeps::new(2);
    sweeps.ended(Ok(view(s(100), &[])), s(140));
    assert_eq!([0; 5].map(|_| ask(&mut sweeps, 1, Freshness::Now, s(150))), [const { Next::Look }; 5]);
}
