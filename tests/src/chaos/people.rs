//! What people and fate do while the cluster breaks: owners command, users make and delete VMs, guests hang.
//!
//! Everything is drawn from the seed; what meets a VM depends on when it is done, so two runs of a seed are alike and not
//! the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reeve_drivers::cloud::sim::Cure;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::{MessageId, ShardId, VmId};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::history::{Sent, What};
use super::settings::{ENDS, SHARDS, STAYS};
use super::stage::Stage;
use crate::sim_cloud::{Afflict, NewVm};

/// A VM and whom it belongs to.
#[derive(Debug, Clone)]
pub struct Known {
    /// Which.
    pub vm: VmId,
    /// Its owner.
    pub user: String,
    /// Its policy.
    pub policy: &'static str,
}

/// The VMs that people know of.
#[derive(Debug, Default)]
pub struct People {
    /// Spread over the shards; the first ones are left alone and watched.
    stays: Vec<Known>,
    ends: Mutex<Vec<Known>>,
    commands: AtomicU64,
    made: AtomicU64,
}

/// The most VMs that stay and that nobody commands: their attendance is measured.
const WATCHED: usize = 128;

impl People {
    /// The fleet that was there at first, and so many VMs more whose leases end within the run.
    ///
    /// # Errors
    /// When the cloud does not answer, or had less than two VMs.
    pub async fn gather(stage: &Stage, ending: usize) -> Result<Self> {
        let stays = stage.note_fleet().await?;
        let stays: Vec<Known> = stays.into_iter().map(|(vm, user)| Known { vm, user, policy: STAYS }).collect();
        let people = Self { stays: spread(stays, SHARDS), ..Self::default() };
        anyhow::ensure!(people.stays.len() >= 2, "a run needs at least two VMs that stay");
        for number in 0..ending {
            people.make(stage, ENDS[number % ENDS.len()]).await?;
        }
        Ok(people)
    }

    /// The VMs whose attendance is measured: of each shard as many as of any other, as far as it has some.
    #[must_use]
    pub fn watched(&self) -> Vec<VmId> {
        self.stays[..self.left_alone()].iter().map(|known| known.vm).collect()
    }

    fn left_alone(&self) -> usize {
        (self.stays.len() / 4).min(WATCHED)
    }

    /// Sends so many commands a second, until dropped.
    pub async fn command(&self, stage: &Stage, rate: u32) {
        let mut random = ChaCha8Rng::seed_from_u64(stage.seed);
        random.set_stream(3);
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
        loop {
            tick.tick().await;
            let (known, kind, body) = self.wish(&mut random).await;
            let number = self.commands.fetch_add(1, Ordering::Relaxed);
            let id = MessageId::new(format!("chaos-{number}")).expect("a short text");
            let sent = Sent { id, vm: known.vm, kind: kind.to_owned(), body };
            stage.commander.send(sent.clone());
            // Some producers never trust the first time.
            if random.random_range(0..20) == 0 {
                stage.commander.send(sent);
            }
        }
    }

    /// What somebody wants now.
    async fn wish(&self, random: &mut ChaCha8Rng) -> (Known, &'static str, Value) {
        let known = {
            let ends = self.ends.lock().await;
            let busy = &self.stays[self.left_alone()..];
            if !ends.is_empty() && random.random_range(0..3) == 0 {
                ends[random.random_range(0..ends.len())].clone()
            } else {
                busy[random.random_range(0..busy.len())].clone()
            }
        };
        let by = match random.random_range(0..10) {
            0 => "a-stranger".to_owned(),
            1..5 => "operator:chaos".to_owned(),
            _ => known.user.clone(),
        };
        let mut body = json!({"vm": known.vm, "by": by});
        let kind = match (known.policy == STAYS, random.random_range(0..100)) {
            (true, 0..30) => "lease.extend",
            (true, 30..50) => "vm.reboot",
            (true, 50..65) => "backup.run",
            (true, 65..75) => "vm.stop",
            (true, 75..90) => "vm.start",
            (true, 90..95) => "repair.run",
            (true, _) => "backup.restore",
            (false, 0..70) => "lease.extend",
            (false, 70..80) => "lease.end",
            (false, 80..90) => "vm.revive",
            (false, _) => {
                body["backup"] = json!(random.random_range(0..2) == 0);
                "vm.delete"
            }
        };
        (known, kind, body)
    }

    /// Users make and delete VMs, guests hang, until dropped.
    pub async fn live(&self, stage: &Stage) {
        let mut random = ChaCha8Rng::seed_from_u64(stage.seed);
        random.set_stream(4);
        loop {
            tokio::time::sleep(Duration::from_millis(random.random_range(200..1_200))).await;
            let done = match random.random_range(0..10) {
                0..4 => self.make(stage, ENDS[random.random_range(0..ENDS.len())]).await,
                4 => self.remove(stage, &mut random).await,
                _ => self.hang(stage, &mut random).await,
            };
            if let Err(error) = done {
                tracing::debug!(error = format!("{error:#}"), "the cloud refused somebody");
            }
        }
    }

    /// One VM after the other is locked in the cloud for a while, until dropped.
    pub async fn lock(&self, stage: &Stage) {
        for known in self.stays[self.left_alone()..].iter().cycle() {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let Ok(()) = stage.cloud.control.deed(known.vm, "lock").await else { continue };
            stage.history.write(What::HandsOff { vm: known.vm });
            tokio::time::sleep(Duration::from_secs(45)).await;
            stage.history.write(What::HandsOn { vm: known.vm });
            let _ = stage.cloud.control.deed(known.vm, "unlock").await;
        }
    }

    async fn make(&self, stage: &Stage, policy: &'static str) -> Result<()> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let user = format!("user-{}", number % 50);
        let new = NewVm {
            name: format!("made-{number}"),
            project: "users".to_owned(),
            user: user.clone(),
            metadata: BTreeMap::from([("reeve_policy".to_owned(), policy.to_owned())]),
        };
        let at = SystemClock.now();
        let vm = stage.cloud.control.boot(&new).await?;
        stage.history.write_at(at, What::VmMade { vm, policy: policy.to_owned(), user: user.clone() });
        self.ends.lock().await.push(Known { vm, user, policy });
        Ok(())
    }

    async fn remove(&self, stage: &Stage, random: &mut ChaCha8Rng) -> Result<()> {
        let vm = {
            let ends = self.ends.lock().await;
            if ends.is_empty() {
                return Ok(());
            }
            ends[random.random_range(0..ends.len())].vm
        };
        stage.history.write(What::VmRemoved { vm });
        stage.cloud.control.delete(vm).await
    }

    async fn hang(&self, stage: &Stage, random: &mut ChaCha8Rng) -> Result<()> {
        let Some(known) = self.stays.get(random.random_range(0..self.stays.len().max(1))) else { return Ok(()) };
        let crashed = random.random_range(0..2) == 0;
        stage.cloud.control.afflict(known.vm, Afflict { cure: Cure::Reboot, crashed }).await
    }
}

/// The VMs in such an order that however many are taken from the front, the shards have equally many of them.
fn spread(vms: Vec<Known>, shards: u16) -> Vec<Known> {
    let mut by_shard: BTreeMap<ShardId, VecDeque<Known>> = BTreeMap::new();
    for known in vms {
        by_shard.entry(ShardId::of(known.vm, shards)).or_default().push_back(known);
    }
    let mut spread = Vec::new();
    while !by_shard.is_empty() {
        spread.extend(by_shard.values_mut().filter_map(VecDeque::pop_front));
        by_shard.retain(|_, left| !left.is_empty());
    }
    spread
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::Uuid;

    use super::*;

    fn known(number: u128) -> Known {
        Known { vm: VmId::new(Uuid::from_u128(number)), user: "u".to_owned(), policy: STAYS }
    }

    #[test]
    fn however_many_are_watched_the_shards_have_equally_many_of_them() {
        let shards = 8;
        let vms: Vec<Known> = (0..400).map(known).collect();
        let spread = spread(vms.clone(), shards);
        let ids = |vms: &[Known]| vms.iter().map(|known| known.vm).collect::<BTreeSet<_>>();
        assert_eq!((spread.len(), ids(&spread)), (400, ids(&vms)));
        for watched in [8, 20, 100] {
            let mut counts = vec![0_usize; usize::from(shards)];
            for known in &spread[..watched] {
                counts[usize::from(ShardId::of(known.vm, shards).0)] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{watched}: {counts:?}");
        }
    }

    #[test]
    fn a_shard_with_few_vms_gives_what_it_has() {
        let shard_of = |number: u128| ShardId::of(known(number).vm, 2).0;
        let (first, second): (Vec<u128>, Vec<u128>) = (0..40).partition(|number| shard_of(*number) == 0);
        let vms: Vec<Known> = first.iter().take(5).chain(second.iter().take(1)).map(|number| known(*number)).collect();
        let shards: Vec<u16> = spread(vms, 2).iter().map(|known| ShardId::of(known.vm, 2).0).collect();
        assert_eq!(shards, [0, 1, 0, 0, 0, 0]);
    }
}
