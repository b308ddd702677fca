//! The stored forms of a record.

use reeve_lifecycle::format;
use reeve_lifecycle::record::{RECORD_FORMAT, VmRecord};
use reeve_protocol::UserId;
use reeve_protocol::codec::CodecError;
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::{Alert, EventKind};

use crate::common::*;

const GOLDEN: &str = include_str!("../golden/record-2.hex");
const FIRST: &str = include_str!("../golden/record-1.hex");

/// A record in which every part holds something: a lease that is ending, its backup half made, an older one, a hold
/// that was said, alerts, answers, events that wait for the bus.
fn full() -> VmRecord {
    let mut world = World::created(with_backup(reeve_lifecycle::policy::BackupPolicy::default()));
    let delegates = vec![UserId::new("bob").unwrap()];
    world.ask(user("alice"), CommandKind::LeaseSetDelegates { delegates }).unwrap();
    world.back_up();
    for _ in 0..3 {
        world.probe(false);
    }
    world.finish();
    world.ask(user("eve"), CommandKind::LeaseExtend { by: None }).unwrap_err();
    world.bus_is_up = false;
    world.go(T0 + days(30));
    world.finish_current_then_end();
    world.rec
}

impl World {
    fn finish_current_then_end(&mut self) {
        self.done_until(|effect| matches!(effect, reeve_lifecycle::Effect::StoreDisk { .. }));
        self.input(reeve_lifecycle::VmInput::HoldRaised(reeve_lifecycle::record::Hold::CloudUnreadable));
        self.input(reeve_lifecycle::VmInput::PolicyAssigned {
            policy: self.rec.policy.clone(),
            unknown: Some("gold".into()),
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.chunks(40).map(|line| line.concat() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn a_record_is_stored_in_format_2_with_these_bytes() {
    let bytes = hex(&format::encode(&full()).unwrap());
    assert!(bytes == GOLDEN, "the stored form changed: raise RECORD_FORMAT, or it reads\n{bytes}");
}

#[test]
fn the_bytes_of_format_2_are_read_as_this_record() {
    assert_eq!((unhex(GOLDEN)[0], *format::decode(&unhex(GOLDEN)).unwrap()), (2, full()));
}

#[test]
fn a_record_of_format_1_is_read_whole_and_goes_on_in_format_2() {
    assert_eq!(unhex(FIRST)[0], 1);
    let first = *format::decode(&unhex(FIRST)).unwrap();
    // The same life in format 2, without what the version that wrote format 1 did not know.
    let mut now = full();
    now.schedule.missed = None;
    now.schedule.reverify_at = None;
    now.outbox.retain(|event| !matches!(event.kind, EventKind::BackupWindowMissed { .. }));
    assert_eq!((&first.policy, &first.facts, &first.lease), (&now.policy, &now.facts, &now.lease));
    assert_eq!((&first.holds, &first.alerts, &first.delegates), (&now.holds, &now.alerts, &now.delegates));
    assert_eq!((&first.repairs, &first.answers, &first.seen), (&now.repairs, &now.answers, &now.seen));
    assert_eq!((first.backups.len(), first.effects.len()), (now.backups.len(), now.effects.len()));
    assert_eq!(first.schedule, now.schedule);
    let kinds = |record: &VmRecord| record.outbox.iter().map(|event| event.kind.type_name()).collect::<Vec<_>>();
    assert_eq!(kinds(&first), kinds(&now));
    reeve_lifecycle::invariants::check(&first).unwrap();
    let again = format::encode(&first).unwrap();
    assert_eq!((again[0], *format::decode(&again).unwrap()), (RECORD_FORMAT, first));
}

#[test]
fn a_newer_format_and_a_cut_record_of_an_older_one_are_refused() {
    let mut newer = unhex(GOLDEN);
    newer[0] = RECORD_FORMAT + 1;
    assert!(matches!(format::decode(&newer), Err(CodecError::Newer { found: 3, supported: 2 })));
    let first = unhex(FIRST);
    assert!(matches!(format::decode(&first[..first.len() - 1]), Err(CodecError::Malformed(_))));
    assert_eq!(format::decode(&[]).unwrap_err(), CodecError::Empty);
}

#[test]
fn the_golden_record_holds_something_of_every_part() {
    let record = full();
    assert!(!record.delegates.is_empty() && !record.holds.is_empty() && !record.backups.is_empty());
    assert!(record.operation.is_some() && !record.effects.is_empty() && !record.outbox.is_empty());
    assert!(!record.seen.is_empty() && !record.answers.is_empty() && !record.history.is_empty());
    assert_eq!(record.alerts, [Alert::UnknownPolicy]);
    assert!(!record.repairs.recent.is_empty());
}
