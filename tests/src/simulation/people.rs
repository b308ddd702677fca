//! Scripted people, and fate: owners, strangers and operators with what they ask for and do past Reeve, guests that
//! hang, hosts and cells that die.

use std::collections::BTreeMap;

use reeve_drivers::SimCloud;
use reeve_drivers::cloud::sim::{Cure, GuestState, catalog};
use reeve_protocol::command::{BackupFirst, Command, CommandKind, Requester, Switch};
use reeve_protocol::provision::{ProvisionRequest, Readiness, ServerPlan, VolumePlan};
use reeve_protocol::{MessageId, ProjectId, Span, Timestamp, UserId, VmId};

use super::chance::Chance;
use super::policies::{EXTEND_ROLE, NAMES};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Owner,
    Delegate,
    Stranger,
    RoleBearer,
    Operator,
}

/// Something that somebody does at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Asks Reeve.
    Ask(Who, CommandKind),
    /// Past Reeve, or by fate.
    Stop,
    Start,
    Delete,
    SoftDelete,
    Restore,
    Lock,
    Unlock,
    Write(u64),
    Hang(Cure),
    Crash(Cure),
    Vanish,
    HostDown,
    HostUp,
    CellDown,
    CellUp,
    BlindProber,
    UnblindProber,
}

/// An errand: when, about which VM, what.
pub(super) type Errand = (Timestamp, VmId, Deed);

/// The errands about one VM that begins its life at `from`.
pub(super) fn errands(chance: &mut Chance, vm: VmId, from: Timestamp, count: u64, span: Span) -> Vec<Errand> {
    let mut errands = Vec::new();
    for _ in 0..chance.within(0..=count) {
        let at = from + chance.seconds(60..=span.as_millis() / 1_000);
        let later = at + chance.seconds(60..=2 * 3_600);
        for (at, deed) in deeds(chance).into_iter().zip([at, later]).map(|(deed, at)| (at, deed)) {
            errands.push((at, vm, deed));
        }
    }
    // Whoever is gone by then lives again; of whoever is not, it is refused.
    if chance.per_mille(400) {
        let at = from + Span::from_millis(span.as_millis() + 3_600_000);
        let revive = CommandKind::VmRevive { backup: None, name: None };
        errands.push((at, vm, Deed::Ask(Who::Operator, revive)));
    }
    errands
}

/// One deed, or one and what takes it back.
fn deeds(chance: &mut Chance) -> Vec<Deed> {
    let ask = |who, kind| vec![Deed::Ask(who, kind)];
    let switched = |kind: fn(Switch) -> CommandKind| {
        vec![Deed::Ask(Who::Operator, kind(Switch::On)), Deed::Ask(Who::Operator, kind(Switch::Off))]
    };
    let cure = *chance.pick(&[Cure::Reboot, Cure::Reboot, Cure::Restore, Cure::Never]);
    let backup = if chance.per_mille(500) { BackupFirst::AsPolicy } else { BackupFirst::No };
    match chance.below(40) {
        0..=4 => ask(extender(chance), CommandKind::LeaseExtend { by: wish(chance) }),
        5 => ask(Who::Owner, CommandKind::LeaseSetDelegates { delegates: vec![delegate()] }),
        6 => ask(Who::Owner, CommandKind::VmDelete { backup }),
        7 => ask(Who::Stranger, CommandKind::VmDelete { backup }),
        8 => ask(*chance.pick(&[Who::Owner, Who::Operator]), CommandKind::LeaseEnd),
        9..=10 => {
            vec![Deed::Ask(Who::Operator, CommandKind::LeaseEnd), Deed::Ask(Who::Operator, CommandKind::LeaseCancelEnd)]
        }
        11 => ask(Who::Operator, CommandKind::LeaseCancelEnd),
        12 => switched(CommandKind::LeaseExempt),
        13..=14 => switched(CommandKind::VmMaintenance),
        15 => ask(Who::Operator, CommandKind::LeaseSetPolicy { policy: (*chance.pick(&NAMES)).to_owned() }),
        16 => ask(Who::Owner, CommandKind::VmStop),
        17 => vec![Deed::Ask(Who::Owner, CommandKind::VmStop), Deed::Ask(Who::Owner, CommandKind::VmStart)],
        18 => ask(Who::Owner, CommandKind::VmReboot),
        19 => vec![Deed::Ask(Who::Owner, CommandKind::VmSuspend), Deed::Ask(Who::Owner, CommandKind::VmResume)],
        20..=21 => ask(Who::Owner, CommandKind::BackupRun),
        22 => ask(Who::Operator, CommandKind::BackupVerify { backup: None }),
        23 => ask(Who::Owner, CommandKind::BackupRestore { backup: None }),
        24 => ask(Who::Operator, CommandKind::RepairRun),
        25 => switched(CommandKind::RepairSuspend),
        26 => ask(Who::Operator, CommandKind::HealthReport { healthy: false, cause: "seen from outside".into() }),
        27 => vec![Deed::Stop, Deed::Start],
        28 => vec![Deed::Delete],
        29..=30 => vec![Deed::SoftDelete, Deed::Restore],
        31 => vec![Deed::Lock, Deed::Unlock],
        32 => vec![Deed::Write(chance.number()), Deed::Write(chance.number())],
        33..=35 => vec![Deed::Hang(cure)],
        36 => vec![Deed::Crash(cure)],
        37 if chance.per_mille(300) => vec![Deed::Vanish],
        37 => vec![Deed::BlindProber, Deed::UnblindProber],
        38 => vec![Deed::HostDown, Deed::HostUp],
        _ => vec![Deed::CellDown, Deed::CellUp],
    }
}

fn extender(chance: &mut Chance) -> Who {
    *chance.pick(&[Who::Owner, Who::Owner, Who::Delegate, Who::Stranger, Who::RoleBearer, Who::Operator])
}

fn wish(chance: &mut Chance) -> Option<Span> {
    match chance.below(4) {
        0 | 1 => None,
        2 => Some(chance.seconds(600..=3_600)),
        _ => Some(chance.seconds(3_600..=12 * 3_600)),
    }
}

fn delegate() -> UserId {
    UserId::new("delegate").expect("a short name")
}

/// The command of somebody about a VM that belongs to this user and project.
pub(super) fn command(number: u64, vm: VmId, (who, kind): (Who, CommandKind), owner: (UserId, ProjectId)) -> Command {
    let (user, project) = owner;
    let role = vec![EXTEND_ROLE.to_owned()];
    let stranger = UserId::new("stranger").expect("a short name");
    let by = match who {
        Who::Owner => Requester::User { id: user, project: Some(project), roles: Vec::new() },
        Who::Delegate => Requester::User { id: delegate(), project: None, roles: Vec::new() },
        Who::Stranger => Requester::User { id: stranger, project: None, roles: role },
        Who::RoleBearer => Requester::User { id: stranger, project: Some(project), roles: role },
        Who::Operator => Requester::Operator("operator".into()),
    };
    Command { id: MessageId::new(format!("command-{number}")).expect("a short id"), vm, by, kind }
}

/// Somebody asks for a VM: the one with this number.
pub(super) fn request(number: u32) -> Command {
    let id = MessageId::new(format!("request-{number}")).expect("a short id");
    let plan = ServerPlan {
        name: format!("asked-{number}"),
        image: catalog::IMAGE.1.to_owned(),
        flavor: catalog::FLAVOR.1.to_owned(),
        network: catalog::INSIDE.1.to_owned(),
        key: None,
        zone: None,
        ingress: Vec::new(),
        public_network: number.is_multiple_of(2).then(|| catalog::OUTSIDE.1.to_owned()),
        volumes: vec![VolumePlan { gib: 1, kind: None }; usize::try_from(number % 2 + 1).expect("a small number")],
        metadata: BTreeMap::new(),
        ready: Readiness::Active,
    };
    let request = ProvisionRequest {
        cloud: None,
        owner: None,
        plan,
        template: None,
        parameters: BTreeMap::new(),
        policy: None,
        within: None,
    };
    let by = Requester::User { id: delegate(), project: None, roles: Vec::new() };
    Command { vm: VmId::of_request(&id), id, by, kind: CommandKind::VmProvision(Box::new(request)) }
}

/// Does what needs no Reeve. What the cloud refuses is not done: people get that too.
pub(super) fn do_past_reeve(sim: &SimCloud, vm: VmId, deed: &Deed, may_write: bool) -> String {
    let Some(truth) = sim.ground_truth(vm).filter(|truth| !truth.gone) else { return "gone".into() };
    let host = truth.facts.host.clone();
    let cell = host.as_ref().map_or(0, |host| u8::from(host.as_str().ends_with(['1', '3'])));
    let done = match deed {
        Deed::Stop => sim.owner_stop(vm),
        Deed::Start => sim.owner_start(vm),
        Deed::Delete => sim.owner_delete(vm),
        Deed::SoftDelete => sim.owner_soft_delete(vm),
        Deed::Restore => sim.owner_restore(vm),
        Deed::Lock => sim.lock_vm(vm),
        Deed::Unlock => sim.unlock_vm(vm),
        // A guest that does not run writes nothing, and what it writes while its end is under way is lost.
        Deed::Write(_) if !may_write || truth.guest != GuestState::Up => Ok(()),
        Deed::Write(seed) => sim.write_root(vm, *seed),
        Deed::Hang(cure) => sim.hang_guest(vm, *cure),
        Deed::Crash(cure) => sim.crash_guest(vm, *cure),
        Deed::Vanish => sim.vanish(vm),
        Deed::HostDown => host.map_or(Ok(()), |host| sim.host_down(&host)),
        Deed::HostUp => host.map_or(Ok(()), |host| sim.host_up(&host)),
        Deed::CellDown => sim.cell_down(cell),
        Deed::CellUp => sim.cell_up(cell),
        Deed::BlindProber => {
            sim.blind_prober();
            Ok(())
        }
        Deed::UnblindProber => {
            sim.unblind_prober();
            Ok(())
        }
        Deed::Ask(..) => Ok(()),
    };
    done.map_or_else(|error| error.to_string(), |()| "ok".into())
}

/// Everything that fate took is given back: hosts, cells, the prober's eyes.
pub(super) fn calm(sim: &SimCloud) {
    for host in sim.host_names() {
        let _ = sim.host_up(&host);
    }
    for cell in [0, 1] {
        let _ = sim.cell_up(cell);
    }
    sim.unblind_prober();
}
