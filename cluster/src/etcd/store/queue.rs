//! What waits in a lane, by shard, and which of it goes next.
//!
//! ```text
//! push ─► [shard 7: w w w w]  ┐  turn: 7, 2, 9          ┌ 7: w w w
//!         [shard 2: w]        ├─────────── take ───────►├ 2: w
//!         [shard 9: w w]      ┘  turn afterwards: 7     └ 9: w w
//! ```
//!
//! Shards take turns, and each gives up to its share: one with a long backlog delays the others by its share of a
//! group and no more. The writes of one record keep their order, and never are in one group.

use std::collections::{BTreeMap, VecDeque};

use reeve_protocol::{Epoch, ShardId, VmId};

/// What etcd allows, if its operator did not say otherwise (`--max-txn-ops`). It takes the longest list of each level of
/// a transaction from this, and what is left is the limit of the next level.
const OPERATIONS: usize = 128;
/// The longest list of a write: two comparisons.
const OF_A_WRITE: usize = 2;
/// The most shards of a group. A shard's share is what they leave of etcd's limit, here as many writes.
const MAX_SHARDS: usize = 63;
/// The most writes of a group. etcd carries out one at a time, and other clients' reads wait for it.
const MAX_WRITES: usize = 512;
/// The most bytes of a group; one larger write goes alone.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// The most writes that stay and are passed by later ones of their shard, so that taking a group has an end.
const MAX_PASSED: usize = 128;

/// A write that waits.
pub(super) trait Waiting {
    /// As whom.
    fn epoch(&self) -> Epoch;
    /// Of which record.
    fn vm(&self) -> VmId;
    /// Its share of a request.
    fn bytes(&self) -> usize;
    /// Nobody wants to know any more. It was not sent, so it need not be.
    fn is_given_up(&self) -> bool;
}

/// Writes of one shard and one epoch, none of the same record. Never empty.
#[derive(Debug, PartialEq)]
pub(super) struct Part<T> {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) writes: Vec<T>,
}

/// The writes of a lane that were not sent yet.
pub(super) struct Queue<T> {
    /// No shard without a write.
    shards: BTreeMap<ShardId, VecDeque<T>>,
    /// Each of them once.
    turns: VecDeque<ShardId>,
}

/// What a group still takes.
struct Room {
    writes: usize,
    bytes: usize,
    untouched: bool,
    /// Something did not fit: what follows has to wait.
    full: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { shards: BTreeMap::new(), turns: VecDeque::new() }
    }
}

impl<T: Waiting> Queue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.shards.clear();
        self.turns.clear();
    }

    /// Puts a write behind those of its shard.
    pub(super) fn push(&mut self, shard: ShardId, write: T) {
        let turns = &mut self.turns;
        let waiting = self.shards.entry(shard).or_insert_with(|| {
            turns.push_back(shard);
            VecDeque::new()
        });
        waiting.push_back(write);
    }

    /// Takes out the one write of a shard that is meant; false when it is not here any more.
    pub(super) fn take_back(&mut self, shard: ShardId, is_meant: impl Fn(&T) -> bool) -> bool {
        let Some(waiting) = self.shards.get_mut(&shard) else { return false };
        let Some(place) = waiting.iter().position(is_meant) else { return false };
        waiting.remove(place);
        if waiting.is_empty() {
            self.shards.remove(&shard);
            self.turns.retain(|turn| *turn != shard);
        }
        true
    }

    /// The next group, by shards. It may be empty while something waits, if some was given up.
    pub(super) fn take(&mut self) -> Vec<Part<T>> {
        let shards = self.turns.len().min(MAX_SHARDS);
        let share = OPERATIONS - OF_A_WRITE - shards;
        let mut room = Room { writes: MAX_WRITES, bytes: MAX_BYTES, untouched: true, full: false };
        let mut group = Vec::with_capacity(shards);
        for _ in 0..shards {
            if room.full || room.writes == 0 {
                break;
            }
            let shard = self.turns.pop_front().expect("as many turns were counted");
            let waiting = self.shards.get_mut(&shard).expect("a shard with a turn has writes");
            let part = part(waiting, shard, share, &mut room);
            match (&part, waiting.is_empty()) {
                (_, true) => drop(self.shards.remove(&shard)),
                (Some(_), false) => self.turns.push_back(shard),
                // It gave nothing because there was no room: it begins the next group, where there is.
                (None, false) => self.turns.push_front(shard),
            }
            group.extend(part);
        }
        group
    }
}

impl Room {
    fn takes(&mut self, bytes: usize) -> bool {
        self.full = !self.untouched && bytes > self.bytes;
        if !self.full {
            self.untouched = false;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.writes -= 1;
        }
        !self.full
    }
}

/// A shard's part of a group: up to its share, of one epoch.
fn part<T: Waiting>(waiting: &mut VecDeque<T>, shard: ShardId, share: usize, room: &mut Room) -> Option<Part<T>> {
    let (mut part, mut seen, mut passed) = (None::<Part<T>>, Vec::new(), Vec::new());
    while room.writes > 0 && passed.len() < MAX_PASSED && part.as_ref().is_none_or(|part| part.writes.len() < share) {
        let Some(write) = waiting.pop_front() else { break };
        if write.is_given_up() {
            continue;
        }
        let (epoch, vm) = (write.epoch(), write.vm());
        if part.as_ref().is_some_and(|part| part.epoch != epoch) || seen.contains(&vm) {
            // What has to wait keeps its later writes behind it.
            passed.push(write);
            continue;
        }
        if !room.takes(write.bytes()) {
            waiting.push_front(write);
            break;
        }
        seen.push(vm);
        part.get_or_insert_with(|| Part { shard, epoch, writes: Vec::new() }).writes.push(write);
    }
    for write in passed.into_iter().rev() {
        waiting.push_front(write);
    }
    part
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Job {
        epoch: u64,
        vm: u128,
        /// Which of the record's writes.
        step: u64,
        bytes: usize,
        given_up: bool,
    }

    impl Waiting for Job {
        fn epoch(&self) -> Epoch {
            Epoch(self.epoch)
        }
        fn vm(&self) -> VmId {
            VmId::new(Uuid::from_u128(self.vm))
        }
        fn bytes(&self) -> usize {
            self.bytes
        }
        fn is_given_up(&self) -> bool {
            self.given_up
        }
    }

    const LARGE: usize = 700_000;

    fn job(epoch: u64, vm: u128, step: u64, bytes: usize) -> Job {
        Job { epoch, vm, step, bytes, given_up: false }
    }

    fn small(vm: u128) -> Job {
        job(1, vm, 1, 1)
    }

    fn queue(jobs: impl IntoIterator<Item = (u16, Job)>) -> Queue<Job> {
        let mut queue = Queue::default();
        for (shard, job) in jobs {
            queue.push(ShardId(shard), job);
        }
        queue
    }

    /// How many writes of each shard each group has.
    fn shape(queue: &mut Queue<Job>) -> Vec<Vec<(u16, usize)>> {
        let mut groups = Vec::new();
        while !queue.is_empty() {
            groups.push(queue.take().iter().map(|part| (part.shard.0, part.writes.len())).collect());
        }
        groups
    }

    /// The writes of one shard, group by group.
    fn groups(jobs: &[Job]) -> Vec<Vec<Job>> {
        let mut queue = queue(jobs.iter().map(|job| (1, job.clone())));
        let mut groups = Vec::new();
        while !queue.is_empty() {
            groups.push(queue.take().into_iter().flat_map(|part| part.writes).collect());
        }
        groups
    }

    #[test]
    fn one_shard_alone_has_all_that_etcd_allows() {
        let jobs: Vec<Job> = (0..300).map(small).collect();
        assert_eq!(groups(&jobs).iter().map(Vec::len).collect::<Vec<_>>(), [125, 125, 50]);
        assert_eq!(groups(&jobs).concat(), jobs);
    }

    #[test]
    fn shards_and_the_largest_share_stay_within_etcds_limit_and_a_group_within_ours() {
        for shards in [1, 2, 5, 40, 62, 63, 64, 200] {
            let mut queue = queue((0..shards).flat_map(|shard| (0..300).map(move |vm| (shard, small(vm)))));
            while !queue.is_empty() {
                let group = queue.take();
                let longest = group.iter().map(|part| part.writes.len()).max().unwrap();
                let all: usize = group.iter().map(|part| part.writes.len()).sum();
                assert!(group.len() + longest + OF_A_WRITE <= OPERATIONS, "{} and {longest}", group.len());
                assert!(all <= MAX_WRITES, "{all}");
            }
        }
    }

    #[test]
    fn one_write_of_each_of_many_shards_makes_few_groups() {
        let mut queue = queue((0..100).map(|shard| (shard, small(1))));
        assert_eq!(shape(&mut queue).iter().map(Vec::len).collect::<Vec<_>>(), [63, 37]);
    }

    #[test]
    fn a_shard_with_a_backlog_does_not_hold_up_its_neighbours() {
        let long = (0..1_000).map(|vm| (1, small(vm)));
        let mut queue = queue(long.chain([(2, small(1)), (3, small(1))]));
        assert_eq!(shape(&mut queue)[0], [(1, 123), (2, 1), (3, 1)]);
        // Ten backlogs do not fit in one group, and the eleventh shard's turn comes before their second.
        let long = (0..10).flat_map(|shard| (0..300).map(move |vm| (shard, small(vm))));
        let shapes = shape(&mut self::queue(long.chain([(10, small(1))])));
        assert!(shapes.iter().position(|group| group.contains(&(10, 1))) < Some(3), "{shapes:?}");
    }

    #[test]
    fn a_record_is_in_a_group_once_and_its_writes_keep_their_order() {
        let jobs = [job(1, 7, 1, 1), small(8), job(1, 7, 2, 1), job(1, 7, 3, 1), small(9)];
        let [first, second, third] = &groups(&jobs)[..] else { panic!("three groups") };
        assert_eq!(first[..], [jobs[0].clone(), jobs[1].clone(), jobs[4].clone()]);
        assert_eq!((&second[..], &third[..]), (&jobs[2..3], &jobs[3..4]));
    }

    #[test]
    fn owners_of_a_shard_do_not_mix_and_those_of_two_shards_do() {
        let jobs = [small(1), job(2, 2, 1, 1), small(3)];
        assert_eq!(groups(&jobs), [vec![jobs[0].clone(), jobs[2].clone()], vec![jobs[1].clone()]]);
        let mut queue = queue([(1, small(1)), (2, job(2, 1, 1, 1))]);
        let epochs: Vec<_> = queue.take().iter().map(|part| (part.shard.0, part.epoch.0)).collect();
        assert_eq!(epochs, [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_group_is_bounded_in_bytes_and_a_large_write_goes_alone() {
        let jobs = [job(1, 1, 1, LARGE), job(1, 2, 1, LARGE), small(3), job(1, 4, 1, MAX_BYTES + 1), small(5)];
        let sizes: Vec<Vec<usize>> =
            groups(&jobs).iter().map(|group| group.iter().map(|job| job.bytes).collect()).collect();
        assert_eq!(sizes, [vec![LARGE], vec![LARGE, 1], vec![MAX_BYTES + 1], vec![1]]);
    }

    #[test]
    fn a_large_write_is_not_passed_for_ever_by_small_ones_of_other_shards() {
        let mut queue = queue([(1, small(1)), (2, job(1, 1, 1, MAX_BYTES)), (3, small(1))]);
        for turn in 0..3 {
            queue.push(ShardId(1), small(10 + turn));
            queue.push(ShardId(3), small(10 + turn));
        }
        let first = shape(&mut queue);
        assert_eq!(first[..2], [vec![(1, 4)], vec![(2, 1)]], "{first:?}");
    }

    #[test]
    fn what_was_given_up_is_not_sent_and_takes_no_room() {
        let given_up = |vm| Job { given_up: true, ..job(1, vm, 1, MAX_BYTES) };
        let mut queue = queue([(1, given_up(1)), (1, small(2)), (2, given_up(1)), (3, small(1))]);
        assert_eq!(shape(&mut queue), [[(1, 1), (3, 1)]]);
        // Nothing but that: the group is empty, and so is the queue.
        let mut queue = self::queue([(1, given_up(1)), (1, given_up(1))]);
        assert!(queue.take().is_empty() && queue.is_empty());
    }

    #[test]
    fn a_write_is_taken_back_once_and_only_before_it_was_sent() {
        let mut queue = queue([(1, small(1)), (1, small(2)), (2, small(3))]);
        let two = |job: &Job| job.vm == 2;
        assert!(queue.take_back(ShardId(1), two) && !queue.take_back(ShardId(1), two));
        assert!(queue.take_back(ShardId(2), |job| job.vm == 3), "the last of its shard");
        assert_eq!(shape(&mut queue), [[(1, 1)]]);
        assert!(!queue.take_back(ShardId(1), |job| job.vm == 1), "it is under way");
    }

    #[test]
    fn taking_a_group_does_not_look_at_all_that_waits() {
        let mut queue = queue((0..4_096).map(|step| (1, job(1, 7, step, 1))));
        assert_eq!(queue.take().len(), 1);
        let waiting = &queue.shards[&ShardId(1)];
        assert!(waiting.iter().map(|job| job.step).eq(1..4_096), "in order still");
    }
}
