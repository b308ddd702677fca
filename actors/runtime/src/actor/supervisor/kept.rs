//! The record of a supervisor: packed while nobody looks at it, open while it is worked with.
//!
//! ```text
//! Unread ─ read ─► Stored, open ─ rest ─► Stored ─ rest ─► Packed ─ looked at ─► Packed, open ─ rest ─► Packed
//!   decided anew, events out ─► Open ─ rest ─► Rested ─ rest, idle ─┘
//! ```
//!
//! Of a million VMs nearly all are idle at any time, and an open record takes several times the bytes of a packed one:
//! its backups name the same volumes, its policy is that of thousands, and each name is an allocation. Looking opens it
//! within microseconds. Nothing is packed at its first rest: a fleet that comes up has no time for it, and what was just
//! decided is soon looked at again. The next sign of life packs it.
//!
//! A stored record is read by the supervisor itself, on its arbiter, when it starts, and rests right after: what reading
//! takes is given back by the thread that took it, before the next record is read.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::LazyLock;

use bytes::Bytes;
use reeve_lifecycle::policy::DEFAULT_POLICY;
use reeve_lifecycle::record::{Health, HistoryEntry, Presence};
use reeve_lifecycle::{Policies, VmRecord, confirm, format};
use reeve_ports::store::Stored;
use reeve_protocol::{CloudName, Timestamp, VmId};

/// What happens most in the life of a VM.
const COMMON: [&str; 8] = [
    "vm.discovered",
    "vm.state-changed",
    "lease.created",
    "lease.expiring",
    "lease.extended",
    "health.monitoring-paused",
    "backup.started",
    "backup.verified",
];

/// What records have in common, so that no packed one holds it: a blank record and some history, as they are stored. Known
/// to this process alone, as packed records are.
static COMMONS: LazyLock<Vec<u8>> = LazyLock::new(|| commons().unwrap_or_default());

fn commons() -> Option<Vec<u8>> {
    let policy = Policies::new(BTreeMap::new()).ok()?.get(DEFAULT_POLICY)?;
    let nobody: VmId = "00000000-0000-4000-8000-000000000000".parse().ok()?;
    let mut record = VmRecord::unseen(nobody, CloudName::new("cloud").ok()?, policy);
    let line = |what: &str| HistoryEntry { at: Timestamp::EPOCH, what: what.to_owned() };
    record.history = COMMON.iter().map(|what| line(what)).collect();
    format::encode(&record).ok()
}

/// A record that takes little room while it is not looked at.
pub(in crate::actor) struct Kept {
    open: OnceCell<Box<VmRecord>>,
    form: Form,
    is_up: bool,
    is_held: bool,
}

/// What there is beside an open record, or in its place.
enum Form {
    /// What the store gave, before it was read; nobody looks at it.
    Unread(Box<Stored>),
    /// Nothing.
    Open,
    /// Nothing, and it rested once.
    Rested,
    /// The bytes that it was read from.
    Stored(Bytes),
    /// LZ4 of its stored form, without what records have in common.
    Packed(Box<[u8]>),
}

impl Kept {
    /// One that was decided.
    pub(in crate::actor) fn new(record: VmRecord) -> Self {
        Self::of(Box::new(record), Form::Open)
    }

    /// One that is stored, and is to be read before anybody looks at it.
    pub(in crate::actor) fn unread(stored: Stored) -> Self {
        Self { open: OnceCell::new(), form: Form::Unread(Box::new(stored)), is_up: false, is_held: false }
    }

    /// Reads what is not read yet. What cannot be read stays unread.
    pub(super) fn read(&mut self) -> Result<(), String> {
        if let Form::Unread(stored) = &self.form {
            *self = Self::of(decode(stored)?, Form::Stored(stored.value.clone()));
        }
        Ok(())
    }

    fn of(record: Box<VmRecord>, form: Form) -> Self {
        let (is_up, is_held) = (record.health == Health::Up, !record.holds.is_empty());
        Self { open: OnceCell::from(record), form, is_up, is_held }
    }

    /// Whether the VM is known to be well; asked at every sign of life, so it opens nothing.
    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Whether anything holds the VM's end; asked whenever a hold is lifted from all, so it opens nothing.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// How many events wait in its outbox; opens nothing, because what is packed has none.
    pub(super) fn events(&self) -> usize {
        self.open.get().map_or(0, |record| record.outbox.len())
    }

    /// The bus has confirmed the events up to this sequence; true if there was one. What is stored has them until the next
    /// commit, so the bytes that it was read from are this record no more.
    pub(super) fn confirm(&mut self, through: u64) -> bool {
        // What is packed has no events.
        let confirmed = self.open.get_mut().is_some_and(|record| confirm(record, through));
        if confirmed {
            self.form = Form::Open;
        }
        confirmed
    }

    /// Nobody looks at it for a while.
    pub(super) fn rest(&mut self) {
        // What is under way is soon looked at again, and what is not stored yet is not to be.
        let is_idle = |record: &VmRecord| {
            record.effects.is_empty() && record.outbox.is_empty() && record.presence != Presence::Unseen
        };
        if self.open.get().is_some_and(|record| !is_idle(record)) {
            return;
        }
        match (&self.form, self.open.get()) {
            (Form::Open, _) => return self.form = Form::Rested,
            (Form::Rested, Some(record)) => match format::encode(record) {
                Ok(stored) => self.form = packed(&stored),
                // Whoever writes it says so.
                Err(_) => return,
            },
            (Form::Stored(stored), None) => self.form = packed(stored),
            (Form::Unread(_) | Form::Rested | Form::Packed(_), None)
            | (Form::Unread(_) | Form::Stored(_) | Form::Packed(_), Some(_)) => {}
        }
        self.open.take();
    }

    fn unpacked(&self) -> Box<VmRecord> {
        let decoded = |bytes: &[u8]| format::decode(bytes).expect("it was read or written here before");
        match &self.form {
            Form::Stored(stored) => decoded(stored),
            Form::Packed(packed) => {
                let unpacked = lz4_flex::block::decompress_size_prepended_with_dict(packed, &COMMONS);
                decoded(&unpacked.expect("it was packed here"))
            }
            Form::Unread(_) | Form::Open | Form::Rested => {
                unreachable!("it is read first, and open until it is packed")
            }
        }
    }
}

/// A stored record, or why it cannot be read.
fn decode(stored: &Stored) -> Result<Box<VmRecord>, String> {
    let record = format::decode(&stored.value).map_err(|error| error.to_string())?;
    if record.vm != stored.vm || record.generation != stored.generation {
        return Err(format!("it says that it is {} of generation {}", record.vm, record.generation));
    }
    Ok(record)
}

fn packed(stored: &[u8]) -> Form {
    Form::Packed(lz4_flex::block::compress_prepend_size_with_dict(stored, &COMMONS).into_boxed_slice())
}

impl Deref for Kept {
    type Target = VmRecord;

    fn deref(&self) -> &VmRecord {
        self.open.get_or_init(|| self.unpacked())
    }
}

#[cfg(test)]
mod tests {
    use reeve_lifecycle::record::Hold;

    use super::*;

    fn record() -> VmRecord {
        let policy = Policies::new(BTreeMap::new()).unwrap().get(DEFAULT_POLICY).unwrap();
        let vm: VmId = "00000000-0000-4000-8000-000000000007".parse().unwrap();
        let mut record = VmRecord::unseen(vm, CloudName::new("lab").unwrap(), policy);
        record.presence = Presence::Present { since: Timestamp::EPOCH, missing_since: None };
        record.health = Health::Up;
        record
    }

    fn read(value: Bytes) -> Kept {
        let mut kept = Kept::unread(Stored { vm: record().vm, generation: record().generation, value });
        kept.read().unwrap();
        kept
    }

    #[test]
    fn what_is_damaged_or_of_another_vm_or_generation_stays_unread() {
        let (vm, generation) = (record().vm, record().generation);
        let value = Bytes::from(format::encode(&record()).unwrap());
        let other: VmId = "00000000-0000-4000-8000-000000000008".parse().unwrap();
        for stored in [
            Stored { vm, generation, value: value.slice(..9) },
            Stored { vm: other, generation, value: value.clone() },
            Stored { vm, generation: generation.next(), value },
        ] {
            let mut kept = Kept::unread(stored);
            assert!(kept.read().is_err());
            kept.rest();
            assert!(matches!(kept.form, Form::Unread(_)) && kept.events() == 0);
        }
    }

    #[test]
    fn what_rests_is_the_same_when_it_is_looked_at() {
        let bytes = Bytes::from(format::encode(&record()).unwrap());
        for mut kept in [Kept::new(record()), read(bytes.clone())] {
            for _ in 0..4 {
                kept.rest();
                assert!(kept.is_up());
            }
            let Form::Packed(packed) = &kept.form else { panic!("it is packed") };
            assert!(packed.len() * 4 < bytes.len(), "{} of {} bytes", packed.len(), bytes.len());
            assert!(kept.open.get().is_none());
            assert_eq!(*kept, record());
            kept.rest();
            assert!(kept.open.get().is_none());
        }
    }

    #[test]
    fn a_vm_that_is_held_is_known_to_be_without_a_look() {
        let held = VmRecord { holds: vec![Hold::Maintenance], health: Health::Unknown { misses: 0 }, ..record() };
        for (record, is_held) in [(record(), false), (held, true)] {
            let mut kept = Kept::new(record);
            (0..3).for_each(|_| kept.rest());
            assert_eq!((kept.is_held(), kept.is_up()), (is_held, !is_held));
            assert!(kept.open.get().is_none());
        }
    }

    #[test]
    fn nothing_is_packed_at_its_first_rest() {
        let bytes = Bytes::from(format::encode(&record()).unwrap());
        let mut read = read(bytes);
        read.rest();
        assert!(matches!(read.form, Form::Stored(_)) && read.open.get().is_none());
        assert_eq!(*read, record());
        let mut decided = Kept::new(record());
        decided.rest();
        assert!(decided.open.get().is_some());
    }

    #[test]
    fn what_is_not_stored_yet_stays_open() {
        let mut unseen = record();
        unseen.presence = Presence::Unseen;
        let mut kept = Kept::new(unseen.clone());
        for _ in 0..3 {
            kept.rest();
        }
        assert!(matches!(kept.form, Form::Open));
        assert_eq!(*kept, unseen);
    }
}
