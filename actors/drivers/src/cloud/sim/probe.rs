//! Probing: what a prober sees of a guest.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::{Freshness, GuestProbe};
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{HostName, Timestamp, VmId};

use super::model::{GuestState, SimVm};
use super::world::World;
use super::{Actor, Call, CallKind, Done, SimCloud};

#[async_trait]
impl GuestProbe for SimCloud {
    async fn probe(
        &self,
        vm: VmId,
        host: Option<&HostName>,
        kind: ProbeKind,
        _freshness: Freshness,
        _timeout: Duration,
    ) -> ProbeVerdict {
        let call = Call { by: Actor::Caller, kind: CallKind::Probe, vm: Some(vm), detail: format!("{kind:?}") };
        let host = host.cloned();
        let seen = self.call(call, |world, now, _| Ok(Done::looked(see(world, vm, host.as_ref(), kind, now)))).await;
        seen.unwrap_or_else(|why| ProbeVerdict::Inconclusive { why: why.to_string() })
    }

    /// Any port of a guest that is up and has this public address.
    async fn connects(&self, address: IpAddr, port: u16, _timeout: Duration) -> bool {
        let address = address.to_string();
        let detail = format!("connect {address} port {port}");
        let call = Call { by: Actor::Caller, kind: CallKind::Probe, vm: None, detail };
        let takes = self.call(call, move |world, now, _| {
            let holder = world.vms().find(|vm| !vm.is_gone() && world.holds(&address, vm.id));
            Ok(Done::looked(holder.is_some_and(|vm| vm.guest(now) == GuestState::Up)))
        });
        takes.await.unwrap_or_default()
    }
}

fn see(world: &World, id: VmId, host: Option<&HostName>, kind: ProbeKind, now: Timestamp) -> ProbeVerdict {
    let unclear = |why: String| ProbeVerdict::Inconclusive { why };
    let Ok(vm) = world.living(id) else {
        // Whether a VM is gone is for listings to say.
        return unclear(format!("the cloud knows no instance {id}"));
    };
    if world.prober_blind {
        return unclear("the prober's network reaches nothing".to_owned());
    }
    if !world.cell_up(&vm.host) {
        return unclear(format!("the cell of host {} does not answer", vm.host));
    }
    if !world.host(&vm.host).is_some_and(|host| host.up) {
        return unclear(format!("host {} is down", vm.host));
    }
    if let Some(host) = host
        && *host != vm.host
    {
        return unclear(format!("it runs on host {}, not on {host}", vm.host));
    }
    match kind {
        ProbeKind::Cloud => cloud_view(vm),
        ProbeKind::GuestAgent => guest_view(vm.guest(now)),
    }
}

fn cloud_view(vm: &SimVm) -> ProbeVerdict {
    if vm.state == VmState::Active && vm.power == PowerState::Running {
        return ProbeVerdict::Up;
    }
    ProbeVerdict::Down { cause: format!("vm_state {}, power {:?}", vm.state.as_nova(), vm.power) }
}

fn guest_view(guest: GuestState) -> ProbeVerdict {
    let cause = match guest {
        GuestState::Up => return ProbeVerdict::Up,
        GuestState::Off => "the guest does not run",
        GuestState::Booting => "the guest agent does not answer (the guest boots)",
        GuestState::Hung => "the guest agent does not answer",
        GuestState::Crashed => "the guest has crashed",
    };
    ProbeVerdict::Down { cause: cause.to_owned() }
}
