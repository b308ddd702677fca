//! Servers from plans: faults, quota, and what is left.

use reeve_ports::cloud::{Blueprint, OPERATION_KEY, PartState};
use reeve_protocol::observation::VmState;
use reeve_protocol::provision::Part;

use super::*;

fn blueprint(fixture: &Fixture) -> Blueprint {
    let metadata = BTreeMap::from([(OPERATION_KEY.to_owned(), "op".to_owned())]);
    Blueprint { operation: "op".to_owned(), plan: fixture.plan(), metadata, user_data: String::new() }
}

fn find(fixture: &Fixture, part: Part) -> PartState {
    block_on(fixture.cloud.find_part(&blueprint(fixture), part)).unwrap()
}

fn make(fixture: &Fixture, part: Part) -> Result<(), CloudError> {
    let made = block_on(fixture.cloud.make_part(&blueprint(fixture), part));
    fixture.later();
    made
}

fn make_all(fixture: &Fixture) -> VmId {
    let parts: Vec<Part> = fixture.plan().parts().collect();
    for part in parts {
        make(fixture, part).unwrap();
    }
    match find(fixture, Part::Server) {
        PartState::Ready { id, .. } => id.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn kinds(fixture: &Fixture) -> Vec<MadeKind> {
    let mut kinds: Vec<_> = fixture.cloud.made_by("op").into_iter().map(|made| made.kind).collect();
    kinds.sort_unstable();
    kinds
}

const WHOLE: [MadeKind; 6] =
    [MadeKind::Server, MadeKind::Volume, MadeKind::Volume, MadeKind::Address, MadeKind::Port, MadeKind::Firewall];

#[test]
fn each_part_is_made_once_although_its_answer_is_lost() {
    let fixture = Fixture::new();
    let parts: Vec<Part> = fixture.plan().parts().collect();
    for part in parts {
        fixture.cloud.inject(Fault::next(CallKind::MakePart, FaultKind::TimeoutBefore)).unwrap();
        assert!(matches!(make(&fixture, part), Err(CloudError::Unknown(_))));
        assert_eq!(find(&fixture, part), PartState::Absent, "{part:?}");
        fixture.cloud.inject(Fault::next(CallKind::MakePart, FaultKind::TimeoutAfter)).unwrap();
        assert!(matches!(make(&fixture, part), Err(CloudError::Unknown(_))));
        make(&fixture, part).unwrap();
        assert!(matches!(find(&fixture, part), PartState::Ready { .. }), "{part:?}");
    }
    assert_eq!(kinds(&fixture), WHOLE);
    let made = fixture.cloud.audit().into_iter().filter(|entry| entry.call == CallKind::MakePart && entry.applied);
    assert_eq!(made.count(), WHOLE.len(), "each changed something once");
}

#[test]
fn what_fails_in_the_making_is_told_and_can_be_removed() {
    let fixture = Fixture::new();
    let parts: Vec<Part> = fixture.plan().parts().collect();
    for part in parts {
        if matches!(part, Part::Volume(0) | Part::Server) {
            fixture.cloud.inject(Fault::next(CallKind::MakePart, FaultKind::FailedPart)).unwrap();
        }
        make(&fixture, part).unwrap();
    }
    assert!(matches!(find(&fixture, Part::Volume(0)), PartState::Failed(_)));
    assert!(matches!(find(&fixture, Part::Server), PartState::Failed(_)));
    fixture.cloud.inject(Fault::next(CallKind::RemoveParts, FaultKind::TimeoutAfter)).unwrap();
    assert!(block_on(fixture.cloud.remove_parts("op")).is_err());
    for _ in 0..3 {
        fixture.later();
        if block_on(fixture.cloud.remove_parts("op")).unwrap() {
            return assert_eq!(fixture.cloud.made(), []);
        }
    }
    panic!("{:?} are left", fixture.cloud.made());
}

#[test]
fn a_server_beyond_the_quota_is_refused_and_so_is_a_plan_for_it() {
    let fixture = Fixture::with(SimConfig { max_vms: 3, ..config() });
    let plan = fixture.plan();
    assert!(matches!(block_on(fixture.cloud.check_plan(&plan)), Err(CloudError::Refused(_))));
    for part in plan.parts().filter(|part| *part != Part::Server) {
        make(&fixture, part).unwrap();
    }
    assert!(matches!(make(&fixture, Part::Server), Err(CloudError::Refused(_))));
}

#[test]
fn parts_are_still_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let open = || {
        let cloud = Arc::new(SimCloud::open(folder.path(), clock.clone(), config()).unwrap());
        Fixture { clock: clock.clone(), cloud }
    };
    let first = open();
    let vm = make_all(&first);
    let before = first.cloud.made();
    drop(first);
    let again = open();
    assert_eq!(again.cloud.made(), before);
    again.cloud.owner_delete(vm).unwrap();
    again.later();
    assert_eq!(again.truth(vm).facts.state, VmState::Deleted);
    assert_eq!(block_on(again.cloud.remove_remains(vm)), Ok(true), "whoever deleted it");
    drop(again);
    let left: Vec<_> = open().cloud.made().into_iter().map(|made| made.kind).collect();
    assert_eq!(left, [MadeKind::Volume, MadeKind::Volume, MadeKind::Address]);
}

#[test]
fn the_console_shows_when_the_guest_is_up() {
    let fixture = Fixture::new();
    let vm = make_all(&fixture);
    assert!(block_on(fixture.cloud.console(vm)).unwrap().contains("planned login:"));
    fixture.cloud.crash_guest(vm, Cure::Reboot).unwrap();
    assert!(!block_on(fixture.cloud.console(vm)).unwrap().contains("login:"));
}
