//! The record that every benchmark uses: a VM in the middle of an ordinary life. It has 3 volumes, 2 addresses, 8 lines
//! of history, a lease with a month to go, good health and 5 verified backups, and has heard of 16 messages.
//!
//! Each is made from its index alone, so that none has to be kept, and its id spreads evenly over the shards.

use std::collections::BTreeMap;

use anyhow::Result;
use bytes::Bytes;
use reeve_lifecycle::effect::{Inventory, Volume};
use reeve_lifecycle::policy::DEFAULT_POLICY;
use reeve_lifecycle::record::{
    BackupEntry, BackupSchedule, BackupState, Basis, Facts, Health, HistoryEntry, Lease, LeasePhase, Presence,
    RECORD_FORMAT, RepairMemory, Term,
};
use reeve_lifecycle::{NamedPolicy, Policies, VmRecord};
use reeve_ports::store::Stored;
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::observation::{PowerState, Said, VmState};
use reeve_protocol::{
    BackupId, CloudName, Generation, HostName, ProjectId, ShardId, Span, Timestamp, UserId, VmId, codec,
};
use uuid::Uuid;

/// How many VMs share a project, and a user.
const PER_PROJECT: u64 = 50;
/// How many VMs share a host.
const PER_HOST: u64 = 40;
/// What happened last in such a life.
const HISTORY: [&str; 8] = [
    "vm.created",
    "lease.created",
    "backup.completed",
    "backup.completed",
    "lease.extended",
    "backup.completed",
    "backup.completed",
    "backup.completed",
];
/// How many foreign messages it remembers.
const SEEN: u64 = 16;

/// A well mixed number (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uuid(index: u64, salt: u64) -> Uuid {
    let low = mixed(index.wrapping_mul(8).wrapping_add(salt));
    Uuid::from_u64_pair(mixed(low ^ salt), low)
}

/// The cloud of all VMs.
pub(crate) fn cloud() -> CloudName {
    CloudName::new("bench").expect("the name is short")
}

/// The policies that rule them: the default alone.
pub(crate) fn policies() -> Policies {
    Policies::new(BTreeMap::new()).expect("the default policy makes sense")
}

/// The policy of every VM.
pub(crate) fn policy() -> NamedPolicy {
    policies().get(DEFAULT_POLICY).expect("there is a default policy")
}

/// The id of a VM.
pub(crate) fn vm(index: u64) -> VmId {
    VmId::new(uuid(index, 0))
}

/// The indices below `count` of the VMs of each shard, in the order of their ids, as a store has them.
pub(crate) fn by_shard(count: u64, shards: u16) -> Vec<Vec<u64>> {
    let mut sorted = vec![Vec::new(); usize::from(shards)];
    for index in 0..count {
        sorted[usize::from(ShardId::of(vm(index), shards).0)].push(index);
    }
    sorted.iter_mut().for_each(|indices| indices.sort_by_key(|index| vm(*index)));
    sorted
}

/// The record of a VM, quiet at `now` and for hours after.
pub(crate) fn record(index: u64, now: Timestamp) -> VmRecord {
    let day = Span::from_days(1).duration();
    let at_days = |days: u32| now - day * days;
    let (vm, generation) = (vm(index), Generation(40));
    let created = at_days(20);
    let mut record = VmRecord::unseen(vm, cloud(), policy());
    record.generation = generation;
    record.presence = Presence::Present { since: created, missing_since: None };
    record.facts = facts(index, created);
    record.lease = Lease::Running {
        term: Term {
            started_at: created,
            ends_at: now + day * 30,
            armed_at: at_days(1),
            warned: None,
            extensions: 1,
            basis: Basis::Coming,
        },
        phase: LeasePhase::Active,
    };
    record.health = Health::Up;
    record.repairs = RepairMemory { boot_time: Span::from_secs(25), ..RepairMemory::default() };
    // Between 6 and 20 hours from now: nothing is due while something is measured.
    let spread = Span::from_secs(6 * 3600 + mixed(index) % (14 * 3600)).duration();
    record.schedule = BackupSchedule { next_at: Some(now + spread), ..BackupSchedule::default() };
    record.backups = (1..=5).rev().map(|days| backup(index, vm, at_days(days) + spread - day / 4 * 3)).collect();
    record.sequence = 24;
    record.seen = (0..SEEN).map(|message| mixed(index ^ (message << 40))).collect();
    record.history = HISTORY
        .iter()
        .zip([20, 20, 5, 4, 4, 3, 2, 1])
        .map(|(what, days)| HistoryEntry { at: at_days(days), what: (*what).to_owned() })
        .collect();
    record.created_seen = true;
    record
}

fn facts(index: u64, created: Timestamp) -> Facts {
    let project = uuid(index / PER_PROJECT, 1).simple().to_string();
    let user = uuid(index / PER_PROJECT, 2).simple().to_string();
    let host = format!("compute-{:05}.example.net", index / PER_HOST);
    Facts {
        said: Said { at_us: created.as_millis() * 1000, tie: mixed(index) },
        name: format!("vm-{index:07}"),
        project: Some(ProjectId::new(project).expect("32 digits")),
        user: Some(UserId::new(user).expect("32 digits")),
        host: Some(HostName::new(host).expect("a short name")),
        state: VmState::Active,
        task: None,
        power: Some(PowerState::Running),
        locked: false,
        created_at: Some(created),
        launched_at: Some(created),
    }
}

fn backup(index: u64, vm: VmId, at: Timestamp) -> BackupEntry {
    let volume = |salt| Volume { id: uuid(index, salt).to_string(), own: salt != 5, bytes: 20 << 30 };
    let address = |last: u64| format!("203.{}.{}.{last}", index / 256 % 256, index % 256);
    BackupEntry {
        id: BackupId::of(vm, Generation(at.as_millis().unsigned_abs())),
        purpose: BackupPurpose::Scheduled,
        at,
        state: BackupState::Verified { bytes: 60 << 30, at },
        inventory: Inventory {
            volumes: vec![volume(3), volume(4), volume(5)],
            addresses: vec![address(7), address(8)],
        },
    }
}

/// The record as it is stored.
pub(crate) fn stored(index: u64, now: Timestamp) -> Result<Stored> {
    let record = record(index, now);
    let value = Bytes::from(codec::encode(RECORD_FORMAT, &record)?);
    Ok(Stored { vm: record.vm, generation: record.generation, value })
}

#[cfg(test)]
mod tests {
    use reeve_lifecycle::{VmInput, invariants, next_deadline, recover, step};

    use super::*;

    #[test]
    fn a_record_is_sound_and_nothing_is_due() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        for index in 0..500 {
            let record = record(index, now);
            assert_eq!(invariants::check(&record), Ok(()));
            assert!(recover(&record, now).is_empty());
            let (deadline, reason) = next_deadline(&record).unwrap();
            assert!(deadline > now + Span::from_hours(5).duration(), "{reason:?} at {deadline}");
            assert!(!step(&record, VmInput::Tick, now).changed);
            let read = codec::decode::<VmRecord>(RECORD_FORMAT, &stored(index, now).unwrap().value).unwrap();
            assert_eq!(read.1, record);
        }
    }

    #[test]
    fn shards_are_even() {
        let sizes: Vec<usize> = by_shard(64_000, 64).iter().map(Vec::len).collect();
        assert!(sizes.iter().all(|size| (800..1200).contains(size)), "{sizes:?}");
    }
}
