//! What can be done to a VM, whoever does it, by Nova's rules: which states an action needs, that a lock and a task in
//! the way refuse it, and that a dead host does not answer.

use reeve_ports::CloudError;
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{Span, Timestamp, VmId};

use super::model::{Ailment, SimVm, TaskKind};
use super::notification::Event;
use super::world::World;
use super::{Act, Done};

const INSTANTLY: [Span; 2] = [Span::ZERO, Span::ZERO];

/// Whether a lock stands in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Respected,
    /// Nova's snapshots pass a lock.
    Passed,
}

impl World {
    /// The VM, if an action by this name may begin on it.
    pub(super) fn ready_for(
        &self,
        id: VmId,
        action: &str,
        states: &[VmState],
        lock: Lock,
    ) -> Result<SimVm, CloudError> {
        let vm = self.living(id)?;
        if !self.cell_up(&vm.host) {
            return Err(CloudError::Unavailable(format!("the cell of instance {id} does not answer")));
        }
        if vm.locked && lock == Lock::Respected {
            return Err(CloudError::Refused(format!("409 instance {id} is locked")));
        }
        if let Some(task) = &vm.task {
            let task = task.kind.as_nova().unwrap_or("spawning");
            return Err(CloudError::Refused(format!(
                "409 cannot {action} instance {id} while it is in task_state {task}"
            )));
        }
        if !states.contains(&vm.state) {
            let state = vm.state.as_nova();
            return Err(CloudError::Refused(format!(
                "409 cannot {action} instance {id} while it is in vm_state {state}"
            )));
        }
        if !self.host(&vm.host).is_some_and(|host| host.up) {
            return Err(CloudError::Unavailable(format!("host {} does not answer", vm.host)));
        }
        Ok(vm.clone())
    }

    fn act(
        &mut self,
        id: VmId,
        (action, kind): (&str, TaskKind),
        states: &[VmState],
        range: [Span; 2],
        now: Timestamp,
    ) -> Act<()> {
        let vm = self.ready_for(id, action, states, Lock::Respected)?;
        self.begin(vm, kind, range, now);
        Ok(Done::changed(()))
    }

    pub(super) fn start(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        self.act(id, ("start", TaskKind::PoweringOn), &[VmState::Stopped], self.config.power, now)
    }

    pub(super) fn stop(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        let states = [VmState::Active, VmState::Error, VmState::Rescued];
        self.act(id, ("stop", TaskKind::PoweringOff), &states, self.config.power, now)
    }

    pub(super) fn hard_reboot(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        let states = [VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended, VmState::Error];
        let mut vm = self.ready_for(id, "reboot", &states, Lock::Respected)?;
        vm.last_reboot = Some(now);
        self.begin(vm, TaskKind::Rebooting, self.config.power, now);
        Ok(Done::changed(()))
    }

    pub(super) fn suspend(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        self.act(id, ("suspend", TaskKind::Suspending), &[VmState::Active], self.config.power, now)
    }

    pub(super) fn resume(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        self.act(id, ("resume", TaskKind::Resuming), &[VmState::Suspended], self.config.power, now)
    }

    pub(super) fn soft_delete(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        let states = [VmState::Active, VmState::Stopped, VmState::Suspended, VmState::Paused, VmState::Error];
        self.act(id, ("delete", TaskKind::SoftDeleting), &states, self.config.delete, now)
    }

    pub(super) fn undelete(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        self.act(id, ("restore", TaskKind::Undeleting), &[VmState::SoftDeleted], self.config.power, now)
    }

    /// Begins to destroy a VM, whatever else is under way. Its volumes and addresses stay, as in a cloud where nothing
    /// goes with the server.
    pub(super) fn delete(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        let vm = self.living(id)?.clone();
        if !self.cell_up(&vm.host) {
            return Err(CloudError::Unavailable(format!("the cell of instance {id} does not answer")));
        }
        if vm.locked {
            return Err(CloudError::Refused(format!("409 instance {id} is locked")));
        }
        if vm.task.as_ref().is_some_and(|task| task.kind == TaskKind::Deleting) {
            return Ok(Done::looked(()));
        }
        // Nova's API deletes by itself what a dead host cannot.
        let host_up = self.host(&vm.host).is_some_and(|host| host.up);
        let range = if host_up { self.config.delete } else { INSTANTLY };
        self.begin(vm, TaskKind::Deleting, range, now);
        Ok(Done::changed(()))
    }

    /// The VM is gone, and nobody is told.
    pub(super) fn vanish(&mut self, id: VmId, now: Timestamp) {
        if let Ok(vm) = self.living(id) {
            let mut vm = vm.clone();
            vm.task = None;
            vm.state = VmState::Deleted;
            vm.deleted_at = Some(now);
            // Nothing is left that could be listed as changed.
            vm.changed_at = None;
            self.keep_vm(vm);
        }
    }

    /// The guest hangs, or its process dies.
    pub(super) fn afflict(&mut self, id: VmId, ailment: Ailment, now: Timestamp) -> Act<()> {
        let mut vm = self.living(id)?.clone();
        vm.ailment = Some(ailment);
        if ailment.crashed && vm.power == PowerState::Running {
            vm.power = PowerState::Crashed;
            self.tell(&vm, Event::Update, now);
        }
        self.put_vm(vm);
        Ok(Done::changed(()))
    }

    /// The guest gets well by itself.
    pub(super) fn cure(&mut self, id: VmId, now: Timestamp) -> Act<()> {
        let mut vm = self.living(id)?.clone();
        vm.ailment = None;
        if vm.power == PowerState::Crashed {
            vm.power = PowerState::Running;
            self.tell(&vm, Event::Update, now);
        }
        self.put_vm(vm);
        Ok(Done::changed(()))
    }
}
