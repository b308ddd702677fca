//! The stored form of a record, format 1.

use reeve_lifecycle::record::{RECORD_FORMAT, VmRecord};
use reeve_protocol::UserId;
use reeve_protocol::codec;
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::Alert;

use crate::common::*;

const GOLDEN: &str = include_str!("../golden/record-1.hex");

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
fn a_record_is_stored_in_format_1_with_these_bytes() {
    let bytes = hex(&codec::encode(RECORD_FORMAT, &full()).unwrap());
    assert!(bytes == GOLDEN, "the stored form changed: raise RECORD_FORMAT, or it reads\n{bytes}");
}

#[test]
fn the_bytes_of_format_1_are_read_as_this_record() {
    let (format, record): (u8, VmRecord) = codec::decode(RECORD_FORMAT, &unhex(GOLDEN)).unwrap();
    assert_eq!((format, record), (1, full()));
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
