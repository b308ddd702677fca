//! The VMs of a shard: started, restarted, told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::ActorRef;
use reeve_lifecycle::policy::DEFAULT_POLICY;
use reeve_lifecycle::{Ignored, NamedPolicy, Verdict, VmInput, VmRecord};
use reeve_ports::store::{DamagedRecord, Page, Stored};
use reeve_protocol::command::{Command, CommandKind, Refusal, RefusalCode};
use reeve_protocol::{Epoch, VmId};

use super::load::{self, reload};
use super::tenure::Tenure;
use super::{Broadcast, Found, MAX_WAITING, Phase, Routed, ShardState, Slot, ToShard, found};
use crate::actor::{End, InputReply, Limit, NewVm, ShardTerm, Starting, ToVm};
use crate::performer::Task;

impl ShardState {
    pub(super) async fn page(&mut self, epoch: Epoch, page: Page, myself: &ActorRef<ToShard>) {
        if self.is_current(epoch) && self.phase == Phase::Loading {
            self.start(page.records.into_iter().map(NewVm::stored).collect(), myself).await;
            for DamagedRecord { vm, why } in page.damaged {
                self.park(vm, why);
            }
        }
    }

    fn park(&mut self, vm: VmId, reason: String) {
        tracing::error!(%vm, %reason, "a stored record cannot be read; it is left as it is");
        let before = self.vms.write().insert(vm, Slot::Parked { reason: reason.clone() });
        if let Some(Slot::Loading { waiting, .. }) = before {
            waiting.into_iter().for_each(|routed| routed.answer(parked(vm, &reason)));
        }
    }

    /// Starts supervisors, and hands over what waited for them. Those that cannot be started are tried again from the
    /// store: a VM that were forgotten here would be taken for one that has no record.
    async fn start(&mut self, vms: Vec<NewVm>, myself: &ActorRef<ToShard>) {
        let Some(term) = self.tenure.as_ref().map(|tenure| Arc::clone(tenure.term())) else { return };
        match self.arbiters.get(usize::from(self.shard.0)).await {
            Ok(arbiter) => {
                let mut starting = Starting::of(vms.len());
                vms.into_iter().for_each(|new| self.add(new, &term, &mut starting));
                starting.on(&arbiter);
            }
            Err(error) => {
                for vm in vms.iter().map(NewVm::vm) {
                    let wait = self.read_again(vm, myself);
                    tracing::warn!(%vm, %error, ?wait, "a supervisor cannot be started; it is tried again");
                }
            }
        }
    }

    fn add(&mut self, new: NewVm, term: &Arc<ShardTerm>, starting: &mut Starting) {
        self.incarnations += 1;
        let (vm, incarnation) = (new.vm(), self.incarnations);
        let holds = self.holds.iter().cloned().map(|(cloud, hold)| ToVm::Hold { cloud, hold, begins: true });
        let started = starting.add(term, new, incarnation, holds.chain([ToVm::Begin]));
        let before = self.vms.write().insert(vm, Slot::Live { vm: started, incarnation });
        if let Some(Slot::Loading { waiting, .. }) = before {
            for routed in waiting {
                // It is there now.
                self.hand_over(routed);
            }
        }
    }

    pub(super) async fn route(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        if !self.shared.takes(self.shard) {
            // Dropped: whoever sent it learns where the shard is from the router.
            return;
        }
        if self.phase != Phase::Open {
            if self.early.len() < MAX_WAITING {
                self.early.push(routed);
            } else {
                routed.answer(InputReply::Busy);
            }
            return;
        }
        if let Some(unknown) = self.hand_over(routed) {
            self.unknown(unknown, myself).await;
        }
    }

    /// Hands an input to its VM; returns it if there is no such VM.
    fn hand_over(&self, routed: Routed) -> Option<Routed> {
        if let Some(Slot::Live { vm, .. }) = self.vms.read().get(&routed.vm) {
            vm.handle().send(routed.envelope());
            return None;
        }
        match self.vms.write().get_mut(&routed.vm) {
            Some(Slot::Live { vm, .. }) => vm.handle().send(routed.envelope()),
            Some(Slot::Loading { waiting, .. }) if waiting.len() < MAX_WAITING => waiting.push(routed),
            Some(Slot::Loading { .. }) => routed.answer(InputReply::Busy),
            Some(Slot::Parked { reason }) => {
                let reply = parked(routed.vm, reason);
                routed.answer(reply);
            }
            None => return Some(routed),
        }
        None
    }

    /// An input for a VM that has no record.
    async fn unknown(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        if let VmInput::Commanded { command, .. } = &routed.input {
            if command.kind == CommandKind::VmAdopt {
                self.adopt(routed, myself);
            } else if !self.knows_all() {
                routed.answer(InputReply::Busy);
            } else {
                let refusal = Refusal::new(RefusalCode::NotFound, format!("no VM {} is known", routed.vm));
                routed.answer(InputReply::Refused(refusal));
            }
            return;
        }
        if let (VmInput::Asked { command, .. }, Some(cloud)) = (&routed.input, routed.cloud.clone()) {
            if !self.knows_all() {
                return routed.answer(InputReply::Busy);
            }
            let record = VmRecord::unseen(routed.vm, cloud, self.policy_of_request(command));
            return self.start_with(record, routed, myself).await;
        }
        // The lease of a VM that is found begins now. The listing comes again, when the clock says when that is; whoever
        // adopts a VM awaits no answer to what the cloud showed, and has asked for it.
        let is_found = matches!(routed.input, VmInput::Listed { .. }) && routed.reply.is_some();
        if is_found && self.shared.clock_is_in_doubt() {
            return routed.answer(InputReply::Verdict(Verdict::Ignored(Ignored::Nothing)));
        }
        let (Some(facts), Some(cloud)) = (routed.input.facts(), routed.cloud.clone()) else {
            return routed.answer(InputReply::Verdict(Verdict::Ignored(Ignored::Over)));
        };
        let policy = self.shared.policies.resolve(facts).policy;
        let record = VmRecord::unseen(routed.vm, cloud, policy);
        self.start_with(record, routed, myself).await;
    }

    /// The policy that a request for a VM names, else `default`: that of its record, which has no lease.
    fn policy_of_request(&self, command: &Command) -> NamedPolicy {
        let policies = &self.shared.policies;
        if let CommandKind::VmProvision(request) = &command.kind
            && let Some(named) = request.policy.as_deref().and_then(|name| policies.get(name))
        {
            return named;
        }
        policies.get(DEFAULT_POLICY).expect("`Policies::new` adds the default policy")
    }

    /// Starts the supervisor of a VM that has no record, and hands it what came for it.
    async fn start_with(&mut self, record: VmRecord, routed: Routed, myself: &ActorRef<ToShard>) {
        let vm = routed.vm;
        self.start(vec![NewVm::unseen(record)], myself).await;
        match self.vms.write().get_mut(&vm) {
            Some(Slot::Live { vm, .. }) => vm.handle().send(routed.envelope()),
            Some(Slot::Loading { waiting, .. }) => waiting.push(routed),
            // The term is over: whoever sent it learns where the shard is from the router.
            Some(Slot::Parked { .. }) | None => {}
        }
    }

    /// Asks the clouds for the VM, tells its supervisor what they say, and then the command.
    fn adopt(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        let task = tokio::spawn(load::adopt(Arc::clone(&self.shared), routed, myself.clone()));
        // It ends by itself, within the time of a call for each cloud.
        drop(task);
    }

    pub(super) fn down(&mut self, vm: VmId, incarnation: u64, end: End, myself: &ActorRef<ToShard>) {
        if !matches!(self.vms.read().get(&vm), Some(Slot::Live { incarnation: live, .. }) if *live == incarnation) {
            return;
        }
        let again = match end {
            End::Halted | End::Idle | End::Purged => {
                self.vms.remove(vm);
                self.troubles.remove(&vm);
                return self.halted(myself);
            }
            End::Parked(reason) => {
                self.vms.remove(vm);
                self.park(vm, reason);
                return self.halted(myself);
            }
            End::Fenced => {
                self.vms.remove(vm);
                return self.fenced(myself);
            }
            End::Panicked | End::Lost | End::Killed | End::Restart => end,
        };
        if self.phase == Phase::Leaving {
            self.vms.remove(vm);
            return self.halted(myself);
        }
        self.shared.counters.child_restarts.fetch_add(1, Ordering::Relaxed);
        let wait = self.read_again(vm, myself);
        if again == End::Panicked {
            tracing::error!(%vm, ?wait, "a supervisor panicked; it is started again");
        } else {
            tracing::warn!(%vm, end = ?again, ?wait, "a supervisor ended; it is started again");
        }
    }

    /// Reads a record again, after a wait that grows with every trouble of this VM. What waits for it goes on waiting.
    fn read_again(&mut self, vm: VmId, myself: &ActorRef<ToShard>) -> Duration {
        let elapsed = self.shared.clock.elapsed();
        let trouble = self.troubles.entry(vm).or_default();
        // Nobody was told of it, so nobody is told that it is over.
        let _ = trouble.recovers(Limit::VM, elapsed);
        let wait = trouble.ended(Limit::VM, elapsed).wait;
        let owned = (self.shard, self.tenure.as_ref().map_or(Epoch(0), Tenure::epoch));
        let reading = tokio::spawn(reload(Arc::clone(&self.shared), owned, vm, wait, myself.clone()));
        let waiting = match self.vms.remove(vm) {
            Some(Slot::Loading { waiting, .. }) => waiting,
            Some(Slot::Live { .. } | Slot::Parked { .. }) | None => Vec::new(),
        };
        self.vms.write().insert(vm, Slot::Loading { waiting, _task: Task::new(&reading) });
        wait
    }

    pub(super) async fn reloaded(
        &mut self,
        vm: VmId,
        stored: Result<Option<Stored>, String>,
        myself: &ActorRef<ToShard>,
    ) {
        if !matches!(self.vms.read().get(&vm), Some(Slot::Loading { .. })) {
            return;
        }
        match stored {
            Ok(Some(stored)) => self.start(vec![NewVm::stored(stored)], myself).await,
            Ok(None) => {
                // It never was stored, or it was purged: what waited is about a VM that is not known.
                if let Some(Slot::Loading { waiting, .. }) = self.vms.remove(vm) {
                    for routed in waiting {
                        Box::pin(self.route(routed, myself)).await;
                    }
                }
            }
            Err(reason) => self.park(vm, reason),
        }
    }

    pub(super) fn broadcast(&mut self, broadcast: Broadcast) {
        if let Broadcast::Hold { cloud, hold, begins } = &broadcast {
            self.holds.retain(|(held, kind)| held != cloud || kind != hold);
            if *begins {
                self.holds.push((cloud.clone(), *hold));
            }
        }
        for (id, slot) in self.vms.read().iter() {
            let Slot::Live { vm, .. } = slot else { continue };
            let vm = vm.handle();
            match &broadcast {
                Broadcast::Rearm => vm.send(ToVm::Rearm),
                Broadcast::Hold { cloud, hold, begins } => {
                    vm.send(ToVm::Hold { cloud: cloud.clone(), hold: *hold, begins: *begins });
                }
                Broadcast::Listed { cloud, asked_at, seen } => {
                    if !seen.contains(id) {
                        // A full mailbox has enough to do; the next listing tells it again.
                        let _ = vm.offer(ToVm::Absent { cloud: Arc::clone(cloud), asked_at: *asked_at });
                    }
                }
            }
        }
    }

    pub(super) fn after(&self, after: Option<VmId>, limit: usize) -> Vec<(VmId, Found)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.vms.read().range((from, Unbounded)).take(limit).map(|(vm, slot)| (*vm, found(slot))).collect()
    }
}

fn parked(vm: VmId, reason: &str) -> InputReply {
    let message = format!("the stored record of {vm} cannot be read ({reason}); an operator is needed");
    InputReply::Refused(Refusal::new(RefusalCode::Conflict, message))
}
