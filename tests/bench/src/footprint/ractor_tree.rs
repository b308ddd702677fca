//! The same tree on ractor: a supervisor that owns the record, and a lease timer and a poller linked to it. They sleep and
//! probe in the same rhythm as ours and do nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::{Health, RECORD_FORMAT};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::codec;
use serde_json::{Value, json};

use crate::child::{argument, resident};
use crate::node::until;
use crate::records;

/// The part of this benchmark.
pub(crate) const CHILD: &str = "footprint-ractor";
const CHUNK: Duration = Duration::from_secs(600);
const INTERVAL: Duration = Duration::from_secs(30);

/// How often the supervisors were told of a probe.
type Told = Arc<AtomicU64>;

struct Vm;

enum ToVm {
    Tick,
    Up,
}

struct VmState {
    record: VmRecord,
    told: Told,
    _timer: ActorRef<()>,
    _poller: ActorRef<()>,
}

impl Actor for Vm {
    type Msg = ToVm;
    type State = VmState;
    type Arguments = (VmRecord, Told);

    async fn pre_start(
        &self,
        myself: ActorRef<ToVm>,
        (record, told): (VmRecord, Told),
    ) -> Result<VmState, ActorProcessingErr> {
        let cell = myself.get_cell();
        let (_timer, _) = LeaseTimer::spawn_linked(None, LeaseTimer, myself.clone(), cell.clone()).await?;
        let spread = records::mixed(record.vm.uuid().as_u64_pair().0) % 30_000;
        let arguments = (myself, Duration::from_millis(spread));
        let (_poller, _) = Poller::spawn_linked(None, Poller, arguments, cell).await?;
        Ok(VmState { record, told, _timer, _poller })
    }

    async fn handle(&self, _: ActorRef<ToVm>, message: ToVm, state: &mut VmState) -> Result<(), ActorProcessingErr> {
        match message {
            ToVm::Tick => {}
            ToVm::Up => {
                if state.record.health == Health::Up {
                    state.told.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<ToVm>,
        _: SupervisionEvent,
        _: &mut VmState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct LeaseTimer;

impl Actor for LeaseTimer {
    type Msg = ();
    type State = ActorRef<ToVm>;
    type Arguments = ActorRef<ToVm>;

    async fn pre_start(&self, myself: ActorRef<()>, vm: ActorRef<ToVm>) -> Result<ActorRef<ToVm>, ActorProcessingErr> {
        drop(myself.send_after(CHUNK, || ()));
        Ok(vm)
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), vm: &mut ActorRef<ToVm>) -> Result<(), ActorProcessingErr> {
        vm.send_message(ToVm::Tick)?;
        drop(myself.send_after(CHUNK, || ()));
        Ok(())
    }
}

struct Poller;

impl Actor for Poller {
    type Msg = ();
    type State = ActorRef<ToVm>;
    type Arguments = (ActorRef<ToVm>, Duration);

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        (vm, first): (ActorRef<ToVm>, Duration),
    ) -> Result<ActorRef<ToVm>, ActorProcessingErr> {
        drop(myself.send_after(first, || ()));
        Ok(vm)
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), vm: &mut ActorRef<ToVm>) -> Result<(), ActorProcessingErr> {
        vm.send_message(ToVm::Up)?;
        drop(myself.send_after(INTERVAL, || ()));
        Ok(())
    }
}

/// Answers with the bytes of a VM.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let vms: u64 = argument(arguments, 0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let told = Told::default();
        let now = SystemClock.now();
        let before = resident("self")?;
        let mut actors = Vec::new();
        for index in 0..vms {
            let stored = records::stored(index, now)?;
            let (_, record) = codec::decode::<VmRecord>(RECORD_FORMAT, &stored.value)?;
            let spawned = Vm::spawn(None, Vm, (record, Arc::clone(&told))).await;
            actors.push(spawned.map_err(|error| anyhow!("an actor does not start: {error}"))?.0);
        }
        until("every VM was probed", || told.load(Ordering::Relaxed) >= vms).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = resident("self")?;
        ensure!(actors.len() as u64 == vms, "an actor is missing");
        Ok(json!({ "bytes": (after - before) as f64 / vms as f64 }))
    })
}
