//! A group of writes as one transaction, and what its answer means for each of them.
//!
//! ```text
//! for each shard:  if its key is of the owner's epoch
//!                    for each write:  if the record is of the expected generation ─► put it, or delete it
//!                                     else ─► read it: the same write again, or a conflict
//!                  else every write of this shard is fenced
//! ```
//!
//! etcd takes it as one: either the owner of a shard is the owner for all of its writes, or none of them is there. Each
//! shard and each write in it is a transaction inside, so that a former owner's fence or a conflict of one is no failure
//! of another and needs no second attempt.

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use reeve_ports::store::{Change, StoreError, Write};
use reeve_protocol::{Epoch, ShardId, VmId};
use uuid::fmt::Hyphenated;

use super::layout;

/// The largest record. etcd takes requests of 1.5 MiB; the rest is for keys.
pub(super) const MAX_RECORD_BYTES: usize = 1536 * 1024 - 8 * 1024;
/// What a write adds to a request beside its keys and its record: the values that it compares, tags and lengths.
const FRAME_BYTES: usize = 128;

/// How the keys of a shard are called.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) shard: ShardId,
    /// The key that says who the owner is.
    pub(super) owner: String,
    /// What the keys of its records begin with.
    pub(super) prefix: String,
}

impl Names {
    /// The key of a record.
    pub(super) fn record(&self, vm: VmId) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + Hyphenated::LENGTH);
        key.extend_from_slice(self.prefix.as_bytes());
        key.extend_from_slice(vm.uuid().hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]).as_bytes());
        key
    }

    /// What a write takes of a request: four times its key, and its share of the fence as if it were alone.
    pub(super) fn bytes(&self, write: &Write) -> usize {
        size(write) + 4 * (self.prefix.len() + Hyphenated::LENGTH) + self.owner.len() + FRAME_BYTES
    }
}

/// The writes of one shard.
pub(super) struct OfShard<'a> {
    pub(super) names: &'a Names,
    pub(super) epoch: Epoch,
    pub(super) writes: Vec<&'a Write>,
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

/// The transaction of a group.
pub(super) fn transaction(parts: &[OfShard<'_>]) -> Txn {
    let parts: Vec<TxnOp> = parts.iter().map(|part| TxnOp::txn(of_shard(part))).collect();
    Txn::new().and_then(parts)
}

fn of_shard(part: &OfShard<'_>) -> Txn {
    let writes = part.writes.iter().map(|write| TxnOp::txn(of_one(part.names.record(write.vm), write)));
    let writes: Vec<TxnOp> = writes.collect();
    Txn::new().when(fence(&part.names.owner, part.epoch)).and_then(writes)
}

fn of_one(key: Vec<u8>, write: &Write) -> Txn {
    let found = layout::is_of(&key, write.expected);
    let change = match &write.change {
        Change::Put { generation, value } => TxnOp::put(key.as_slice(), layout::encode(*generation, value), None),
        Change::Delete => TxnOp::delete(key.as_slice(), None),
    };
    Txn::new().when(found).and_then([change]).or_else([TxnOp::get(key, None)])
}

/// Each write's own answer, in the order of the group.
pub(super) fn results(parts: &[OfShard<'_>], answer: &TxnResponse) -> Vec<Vec<Result<(), StoreError>>> {
    let answers = answer.op_responses();
    if !answer.succeeded() || answers.len() != parts.len() {
        return all(parts, &unlike(answers.len(), parts.len()));
    }
    parts.iter().zip(answers).map(|(part, answer)| results_of(part, answer)).collect()
}

/// One answer for every write.
pub(super) fn all(parts: &[OfShard<'_>], error: &StoreError) -> Vec<Vec<Result<(), StoreError>>> {
    parts.iter().map(|part| vec![Err(error.clone()); part.writes.len()]).collect()
}

fn unlike(answers: usize, questions: usize) -> StoreError {
    StoreError::Unknown(format!("{answers} answers to {questions} questions"))
}

fn results_of(part: &OfShard<'_>, answer: TxnOpResponse) -> Vec<Result<(), StoreError>> {
    let all = |error| vec![Err(error); part.writes.len()];
    let TxnOpResponse::Txn(answer) = answer else { return all(another()) };
    if !answer.succeeded() {
        return all(StoreError::Fenced { shard: part.names.shard });
    }
    let answers = answer.op_responses();
    if answers.len() != part.writes.len() {
        return all(unlike(answers.len(), part.writes.len()));
    }
    part.writes.iter().zip(answers).map(|(write, answer)| result(write, answer)).collect()
}

fn another() -> StoreError {
    StoreError::Unknown("etcd answered another question".to_owned())
}

fn result(write: &Write, answer: TxnOpResponse) -> Result<(), StoreError> {
    let TxnOpResponse::Txn(answer) = answer else { return Err(another()) };
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
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_records_key_is_its_prefix_and_its_id_as_it_is_written_everywhere() {
        let names = Names { shard: ShardId(1), owner: "/o".to_owned(), prefix: "/r/vm/".to_owned() };
        let vm = VmId::new(Uuid::from_u128(0xab << 64));
        assert_eq!(names.record(vm), format!("/r/vm/{vm}").into_bytes());
    }

    #[test]
    fn an_epoch_that_no_owner_can_have_is_none() {
        assert!(!is_possible(Epoch(0)) && !is_possible(Epoch(u64::MAX)) && is_possible(Epoch(1)));
    }
}
