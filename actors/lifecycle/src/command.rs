//! Commands: the same key again gets the same answer and changes nothing; the rest is dispatch.

use reeve_protocol::MessageId;
use reeve_protocol::command::{Accepted, Answer, Command, CommandKind, NoticeTo, Refusal, RefusalCode, Switch};
use reeve_protocol::event::Alert;
use reeve_protocol::observation::Said;

use crate::draft::Draft;
use crate::effect::Notice;
use crate::health::HealthReport;
use crate::input::{Ignored, Verdict};
use crate::operation::Action;
use crate::policy::NamedPolicy;
use crate::record::{Answered, Hold, MAX_ANSWERS, Presence};
use crate::{action, backup_schedule, extend, health, lease, lease_commands, provision, repair, retention, revive};

/// Carries a command out, or says why not.
pub(crate) fn commanded(d: &mut Draft, command: Command, policy: Option<NamedPolicy>) -> Verdict {
    if let Some(verdict) = answered_before(d, &command.id) {
        return verdict;
    }
    if d.rec.presence == Presence::Unseen {
        // Nothing is remembered of a VM that is not known: the same command may succeed once it is.
        let message = format!("there is no VM {} under care", command.vm);
        return Verdict::Denied(Err(Refusal::new(RefusalCode::NotFound, message)));
    }
    let id = command.id.clone();
    let answer = if d.rec.presence.is_request() { to_request(d, &command) } else { dispatch(d, command, policy) };
    answered(d, &id, answer)
}

fn folded(id: &MessageId) -> u64 {
    Said::new(0, id.as_str()).tie
}

/// What was answered to a command that comes again.
pub(crate) fn answered_before(d: &Draft, id: &MessageId) -> Option<Verdict> {
    let id = folded(id);
    let known = d.rec.answers.iter().find(|answered| answered.id == id)?;
    Some(Verdict::Ignored(Ignored::Duplicate(Some(known.answer.clone()))))
}

/// Keeps the answer to a command for when it comes again.
pub(crate) fn answered(d: &mut Draft, id: &MessageId, answer: Answer) -> Verdict {
    d.rec.answers.push(Answered { id: folded(id), answer: answer.clone() });
    if d.rec.answers.len() > MAX_ANSWERS {
        d.rec.answers.remove(0);
    }
    if answer.is_ok() { Verdict::Accepted(Some(answer)) } else { Verdict::Denied(answer) }
}

fn dispatch(d: &mut Draft, command: Command, policy: Option<NamedPolicy>) -> Answer {
    let by = &command.by;
    match command.kind {
        CommandKind::VmAdopt => adopt(d),
        CommandKind::VmStart => action::begin(d, by, Action::Start),
        CommandKind::VmStop => action::begin(d, by, Action::Stop),
        CommandKind::VmReboot => action::begin(d, by, Action::Reboot),
        CommandKind::VmSuspend => action::begin(d, by, Action::Suspend),
        CommandKind::VmResume => action::begin(d, by, Action::Resume),
        CommandKind::VmDelete { backup } => lease_commands::delete(d, by, backup),
        CommandKind::VmRevive { backup, name } => revive::begin(d, by, backup, name),
        CommandKind::VmMaintenance(switch) => {
            // An owner who could hold the end would have a lease without one.
            lease_commands::operator_only(by)?;
            lease_commands::owner_of_living(d, by)?;
            lease::set_hold(d, Hold::Maintenance, switch == Switch::On);
            let message = if switch == Switch::On { "nobody touches the VM" } else { "maintenance is over" };
            Ok(Accepted { vm: d.rec.vm, message: message.into(), ends_at: None, backup: None })
        }
        CommandKind::LeaseExtend { by: span } => extend::extend(d, by, span, None),
        CommandKind::LeaseExtendIf { by: span, ends_at } => extend::extend(d, by, span, Some(ends_at)),
        CommandKind::LeaseEnd => lease_commands::end_now(d, by),
        CommandKind::LeaseCancelEnd => lease_commands::cancel_end(d, by),
        CommandKind::LeaseSetPolicy { policy: name } => lease_commands::set_policy(d, by, &name, policy),
        CommandKind::LeaseSetDelegates { delegates } => lease_commands::set_delegates(d, by, &delegates),
        CommandKind::LeaseExempt(switch) => lease_commands::exempt(d, by, switch),
        CommandKind::BackupRun => backup_schedule::run_now(d, by),
        CommandKind::BackupVerify { backup } => backup_schedule::verify_now(d, by, backup),
        CommandKind::BackupRestore { backup } => action::restore(d, by, backup),
        CommandKind::BackupDelete { backup } => retention::delete(d, by, backup),
        CommandKind::HealthReport { healthy, cause } => {
            // Whoever may report a VM down may have it rebooted.
            lease_commands::owner_of_living(d, by)?;
            health::report(d, if healthy { HealthReport::Well } else { HealthReport::Down(cause) })
        }
        CommandKind::RepairRun => repair::run_now(d, by),
        CommandKind::RepairSuspend(switch) => repair::suspend(d, by, switch),
        CommandKind::VmProvision(_) => Err(Refusal::new(RefusalCode::Conflict, "there is a VM of this id")),
        CommandKind::NoticeSend { to, text } => {
            // Whoever may write in Reeve's name is believed.
            lease_commands::operator_only(by)?;
            let notice = Notice::Alert { alert: Alert::Rule, message: text };
            match to {
                NoticeTo::Owner => d.tell_owner(notice),
                NoticeTo::Operators => d.tell_operators(notice),
            }
            Ok(Accepted { vm: d.rec.vm, message: "they are told".into(), ends_at: None, backup: None })
        }
    }
}

/// A request for a VM can be taken back, and no more.
fn to_request(d: &mut Draft, command: &Command) -> Answer {
    if let CommandKind::VmDelete { .. } = command.kind {
        return provision::cancel(d, &command.by);
    }
    let what = match d.rec.presence {
        Presence::Closed { vm: Some(vm), .. } => format!("it was a request for a VM, which is {vm}"),
        Presence::Unseen
        | Presence::Present { .. }
        | Presence::SoftDeleted { .. }
        | Presence::Gone { .. }
        | Presence::Requested { .. }
        | Presence::Closed { vm: None, .. } => "it is a request for a VM".to_owned(),
    };
    Err(Refusal::new(RefusalCode::Conflict, what))
}

/// `vm.adopt`: the VM is known by now, because the shell looked it up; its lease begins if it has none.
fn adopt(d: &mut Draft) -> Answer {
    if d.rec.is_gone() {
        return Err(Refusal::new(RefusalCode::Conflict, "the VM is gone"));
    }
    lease::begin_if_launched(d);
    let ends_at = d.rec.term().map(|term| term.ends_at);
    Ok(Accepted { vm: d.rec.vm, message: "the VM is under care".into(), ends_at, backup: None })
}
