//! A group of writes of one owner as one transaction, and what its answer means for each of them.
//!
//! ```text
//! if the shard's key is of the owner's epoch
//!   for each write:  if the record is of the expected generation ─► put it, or delete it
//!                    else ─► read it: the same write again, or a conflict
//! else every write is fenced
//! ```
//!
//! etcd takes it as one: either the owner is the owner for all of its writes, or none of them is there. Each write is
//! a transaction inside, so that a conflict of one is no failure of another and needs no second attempt.

use std::collections::{BTreeSet, VecDeque};

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use reeve_ports::store::{Change, StoreError, Write};
use reeve_protocol::{Epoch, ShardId};

use super::layout;

/// The most writes of a transaction. etcd takes 128 operations, and counts the two comparisons of the deepest write
/// with those around it.
pub(super) const MAX_WRITES: usize = 120;
/// The most bytes of records of a transaction; one larger record goes alone.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// The largest record. etcd takes requests of 1.5 MiB; the rest is for keys.
pub(super) const MAX_RECORD_BYTES: usize = 1536 * 1024 - 8 * 1024;

/// A write that can be grouped with others.
pub(super) trait Grouped {
    /// As whom.
    fn epoch(&self) -> Epoch;
    /// What.
    fn write(&self) -> &Write;
}

/// Takes the next group out of what waits: of one epoch, and no record twice. The order of one record's writes stays.
pub(super) fn take<T: Grouped>(waiting: &mut VecDeque<T>) -> Vec<T> {
    let Some(epoch) = waiting.front().map(Grouped::epoch) else { return Vec::new() };
    let (mut group, mut rest) = (Vec::new(), VecDeque::new());
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    while group.len() < MAX_WRITES {
        let Some(job) = waiting.pop_front() else { break };
        let size = size(job.write());
        let fits = group.is_empty() || bytes + size <= MAX_BYTES;
        // What has to wait keeps its later writes behind it.
        if job.epoch() == epoch && seen.insert(job.write().vm) && fits {
            bytes += size;
            group.push(job);
        } else {
            rest.push_back(job);
        }
    }
    rest.append(waiting);
    *waiting = rest;
    group
}

/// The bytes of a write's record.
pub(super) fn size(write: &Write) -> usize {
    match &write.change {
        Change::Put { value, .. } => layout::HEADER_BYTES + value.len(),
        Change::Delete => 0,
    }
}

/// The comparison that fences. No epoch is 0, which to etcd would mean "there is no owner".
fn fence(owner_key: &str, epoch: Epoch) -> Vec<Compare> {
    let revision = i64::try_from(epoch.0).expect("checked before the write was queued");
    if cfg!(feature = "broken-fencing") {
        return Vec::new();
    }
    vec![Compare::create_revision(owner_key, CompareOp::Equal, revision)]
}

/// The transaction of a group: `owner_key` is the shard's, each write has its record's key.
pub(super) fn transaction<'a>(owner_key: &str, epoch: Epoch, writes: impl Iterator<Item = (String, &'a Write)>) -> Txn {
    let writes: Vec<TxnOp> = writes.map(|(key, write)| TxnOp::txn(of_one(key, write))).collect();
    Txn::new().when(fence(owner_key, epoch)).and_then(writes)
}

fn of_one(key: String, write: &Write) -> Txn {
    let found = layout::is_of(&key, write.expected);
    let change = match &write.change {
        Change::Put { generation, value } => TxnOp::put(key.as_str(), layout::encode(*generation, value), None),
        Change::Delete => TxnOp::delete(key.as_str(), None),
    };
    Txn::new().when(found).and_then([change]).or_else([TxnOp::get(key, None)])
}

/// Each write's own answer, in the order of the group.
pub(super) fn results(shard: ShardId, writes: &[&Write], answer: &TxnResponse) -> Vec<Result<(), StoreError>> {
    if !answer.succeeded() {
        return vec![Err(StoreError::Fenced { shard }); writes.len()];
    }
    let answers = answer.op_responses();
    if answers.len() != writes.len() {
        let why = format!("{} answers to {} writes", answers.len(), writes.len());
        return vec![Err(StoreError::Unknown(why)); writes.len()];
    }
    writes.iter().zip(answers).map(|(write, answer)| result(write, answer)).collect()
}

fn result(write: &Write, answer: TxnOpResponse) -> Result<(), StoreError> {
    let TxnOpResponse::Txn(answer) = answer else {
        return Err(StoreError::Unknown("etcd answered another question".to_owned()));
    };
    if answer.succeeded() {
        return Ok(());
    }
    let Some(TxnOpResponse::Get(mut read)) = answer.op_responses().pop() else {
        return Err(StoreError::Unknown("etcd did not say what it found".to_owned()));
    };
    let conflict = Err(StoreError::Conflict { vm: write.vm, expected: write.expected });
    let Some(found) = read.take_kvs().pop() else {
        // What is not there need not be removed.
        return if write.change == Change::Delete { Ok(()) } else { conflict };
    };
    let found = layout::decode(write.vm, found.into_key_value().1)?;
    match &write.change {
        // The same write was committed before, and the answer was lost.
        Change::Put { generation, value } if found.generation == *generation && found.value == *value => Ok(()),
        Change::Put { .. } | Change::Delete => conflict,
    }
}

/// Whether an epoch can be an owner's: the revision of etcd at which the shard's key was made.
pub(super) fn is_possible(epoch: Epoch) -> bool {
    epoch.0 > 0 && i64::try_from(epoch.0).is_ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reeve_protocol::{Generation, VmId};
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Job(u64, Write);

    impl Grouped for Job {
        fn epoch(&self) -> Epoch {
            Epoch(self.0)
        }
        fn write(&self) -> &Write {
            &self.1
        }
    }

    fn job(epoch: u64, vm: u128, generation: u64, bytes: usize) -> Job {
        let change = Change::Put { generation: Generation(generation), value: Bytes::from(vec![0; bytes]) };
        Job(epoch, Write { vm: VmId::new(Uuid::from_u128(vm)), expected: Generation(generation - 1), change })
    }

    fn groups(jobs: &[Job]) -> Vec<Vec<Job>> {
        let mut waiting: VecDeque<Job> = jobs.iter().cloned().collect();
        std::iter::from_fn(|| Some(take(&mut waiting)).filter(|group| !group.is_empty())).collect()
    }

    #[test]
    fn writes_are_grouped_up_to_the_limit() {
        let jobs: Vec<Job> = (0..300).map(|vm| job(1, vm, 1, 100)).collect();
        assert_eq!(groups(&jobs).iter().map(Vec::len).collect::<Vec<_>>(), [120, 120, 60]);
        assert_eq!(groups(&jobs).concat(), jobs);
    }

    #[test]
    fn a_record_is_in_a_group_once_and_its_writes_keep_their_order() {
        let jobs = [job(1, 7, 1, 1), job(1, 8, 1, 1), job(1, 7, 2, 1), job(1, 7, 3, 1), job(1, 9, 1, 1)];
        let [first, second, third] = &groups(&jobs)[..] else { panic!("three groups") };
        assert_eq!(first[..], [jobs[0].clone(), jobs[1].clone(), jobs[4].clone()]);
        assert_eq!((&second[..], &third[..]), (&jobs[2..3], &jobs[3..4]));
    }

    #[test]
    fn owners_do_not_mix() {
        let jobs = [job(1, 1, 1, 1), job(2, 2, 1, 1), job(1, 3, 1, 1)];
        assert_eq!(groups(&jobs), [vec![jobs[0].clone(), jobs[2].clone()], vec![jobs[1].clone()]]);
    }

    #[test]
    fn a_group_is_bounded_in_bytes_and_a_large_record_goes_alone() {
        let jobs = [job(1, 1, 1, 700_000), job(1, 2, 1, 700_000), job(1, 3, 1, 10), job(1, 4, 1, MAX_BYTES + 1)];
        let sizes: Vec<Vec<usize>> =
            groups(&jobs).iter().map(|group| group.iter().map(|j| size(&j.1)).collect()).collect();
        let header = layout::HEADER_BYTES;
        assert_eq!(sizes, [vec![700_000 + header, 10 + header], vec![700_000 + header], vec![MAX_BYTES + 1 + header]]);
    }

    #[test]
    fn an_epoch_that_no_owner_can_have_is_none() {
        assert!(!is_possible(Epoch(0)) && !is_possible(Epoch(u64::MAX)) && is_possible(Epoch(1)));
    }
}
