//! The simulated cloud with the oracle in front: each call meets the fault that the plan has for it, and what destroys
//! is looked at before it is passed on.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_drivers::SimCloud;
use reeve_drivers::cloud::sim::{CallKind, Fault};
use reeve_lifecycle::ProbeVerdict;
use reeve_lifecycle::effect::{Disk, Effect, Inventory};
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::cloud::DiskSource;
use reeve_ports::cloud::{Blueprint, CloudSnapshot, HostHealth, LaunchSpec, ListPage, PartState};
use reeve_ports::{Clock, Cloud, CloudError, Freshness, GuestProbe};
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{HostName, Timestamp, VmId};

use super::clock::SimClock;
use super::faults::{FaultPlan, Port};
use super::oracle::Oracle;
use super::vault::SimVault;

/// The cloud as the node sees it.
pub(super) struct WatchedCloud {
    pub(super) sim: Arc<SimCloud>,
    pub(super) clock: SimClock,
    pub(super) faults: FaultPlan,
    pub(super) vault: SimVault,
    pub(super) oracle: Arc<Mutex<Oracle>>,
}

impl WatchedCloud {
    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().expect("nothing panics while the oracle is locked")
    }

    /// Orders what goes wrong with the call that is about to be made. A trouble that means nothing for it is none.
    fn meet(&self, call: CallKind) {
        if let Some(trouble) = self.faults.next(Port::Cloud(call)) {
            let _ = self.sim.inject(Fault::next(call, trouble.in_cloud()));
        }
    }

    /// Remembers what belongs to a VM, past faults and audit.
    pub(super) fn learn(&self, vm: VmId, inventory: &Inventory) {
        let mut oracle = self.oracle();
        for volume in &inventory.volumes {
            oracle.volumes.insert(volume.id.clone(), (vm, volume.own));
        }
        for address in &inventory.addresses {
            oracle.addresses.insert(address.clone(), vm);
        }
    }
}

#[async_trait]
impl Cloud for WatchedCloud {
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        self.meet(CallKind::List);
        self.sim.list(from).await
    }

    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError> {
        self.meet(CallKind::Show);
        self.sim.show(vm).await
    }

    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError> {
        self.meet(CallKind::Inventory);
        let inventory = self.sim.inventory(vm).await?;
        self.learn(vm, &inventory);
        Ok(inventory)
    }

    async fn start(&self, vm: VmId) -> Result<(), CloudError> {
        self.meet(CallKind::Start);
        self.sim.start(vm).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.meet(CallKind::Stop);
        self.sim.stop(vm).await
    }

    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError> {
        self.meet(CallKind::HardReboot);
        let before = self.sim.times_applied(CallKind::HardReboot, vm);
        let answer = self.sim.hard_reboot(vm).await;
        let applied = self.sim.times_applied(CallKind::HardReboot, vm) - before;
        let mut oracle = self.oracle();
        let pending = oracle.vms.get(&vm).and_then(|watched| {
            watched.last.effects.iter().find(|pending| pending.effect == Effect::HardReboot).map(|pending| pending.key)
        });
        match pending {
            Some(key) => *oracle.reboots.entry((vm, key)).or_default() += applied,
            None => oracle.break_rule(vm, "it is rebooted without a decision"),
        }
        answer
    }

    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        self.sim.last_reboot(vm).await
    }

    async fn suspend(&self, vm: VmId) -> Result<(), CloudError> {
        self.meet(CallKind::Suspend);
        self.sim.suspend(vm).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), CloudError> {
        self.meet(CallKind::Resume);
        self.sim.resume(vm).await
    }

    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError> {
        self.meet(CallKind::Snapshot);
        self.sim.snapshot(vm, disk, name).await
    }

    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        self.meet(CallKind::FindSnapshots);
        self.sim.find_snapshots(vm, name).await
    }

    async fn read_snapshot(
        &self,
        vm: VmId,
        id: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
        self.meet(CallKind::ReadSnapshot);
        self.sim.read_snapshot(vm, id).await
    }

    async fn delete_snapshot(&self, vm: VmId, id: &str) -> Result<(), CloudError> {
        self.meet(CallKind::DeleteSnapshot);
        self.sim.delete_snapshot(vm, id).await
    }

    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError> {
        let truth = self.sim.ground_truth(vm);
        self.oracle().destroying(vm, truth.as_ref(), &self.vault, self.clock.now());
        self.meet(CallKind::DeleteServer);
        self.sim.delete_server(vm).await
    }

    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError> {
        self.meet(CallKind::VolumeExists);
        self.sim.volume_exists(volume).await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.oracle().destroying_volume(volume, |vm| self.sim.ground_truth(vm), &self.vault);
        self.meet(CallKind::DeleteVolume);
        self.sim.delete_volume(volume).await
    }

    async fn address_held(&self, address: &str) -> Result<bool, CloudError> {
        self.meet(CallKind::AddressHeld);
        self.sim.address_held(address).await
    }

    async fn release_address(&self, address: &str) -> Result<(), CloudError> {
        self.oracle().releasing(address, |vm| self.sim.ground_truth(vm));
        self.meet(CallKind::ReleaseAddress);
        self.sim.release_address(address).await
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        self.meet(CallKind::Launch);
        let old = spec.like;
        let new = self.sim.launch(spec).await?;
        if let Some(truth) = self.sim.ground_truth(new) {
            self.oracle().launched(old, &truth, &self.vault);
        }
        Ok(new)
    }

    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        self.meet(CallKind::FindLaunched);
        self.sim.find_launched(operation, since).await
    }

    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        self.meet(CallKind::RestoreInPlace);
        self.sim.restore_in_place(vm, operation, disks).await
    }

    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        self.meet(CallKind::LastRestore);
        self.sim.last_restore(vm).await
    }

    async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        self.meet(CallKind::CheckPlan);
        self.sim.check_plan(plan).await
    }

    async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        self.meet(CallKind::FindPart);
        self.sim.find_part(blueprint, part).await
    }

    async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        self.meet(CallKind::MakePart);
        self.sim.make_part(blueprint, part).await
    }

    async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        self.meet(CallKind::RemoveParts);
        self.sim.remove_parts(operation).await
    }

    async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        self.meet(CallKind::RemoveRemains);
        self.sim.remove_remains(vm).await
    }

    async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        self.meet(CallKind::Console);
        self.sim.console(vm).await
    }

    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        self.meet(CallKind::Hosts);
        self.sim.hosts().await
    }
}

#[async_trait]
impl GuestProbe for WatchedCloud {
    async fn probe(
        &self,
        vm: VmId,
        host: Option<&HostName>,
        kind: ProbeKind,
        freshness: Freshness,
        timeout: Duration,
    ) -> ProbeVerdict {
        self.meet(CallKind::Probe);
        self.sim.probe(vm, host, kind, freshness, timeout).await
    }

    async fn connects(&self, address: IpAddr, port: u16, timeout: Duration) -> bool {
        self.sim.connects(address, port, timeout).await
    }
}
