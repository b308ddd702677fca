//! `reeve vm …`

use std::io::{BufRead, Write};

use clap::{Args, Subcommand, ValueEnum};
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::command::{Accepted, BackupFirst, CommandKind, Switch};
use reeve_protocol::{MessageId, Timestamp, VmId};

use super::create::{self, CreateArgs};
use super::fail::{Code, Failure};
use super::find;
use super::follow::{self, Until, Wait};
use super::output::{Output, View, interactive};
use super::session::{Key, Session, now, unexpected};
use super::table::{self, Cell, Color, clean};
use super::when;

/// Rows that `vm list` shows unless it is told otherwise.
const LIST_LIMIT: u32 = 1000;

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub(super) enum VmCommand {
    /// List the VMs under care
    List(ListArgs),
    /// Show one VM
    Show(Target),
    /// Ask for a VM; what is not ready in time is taken back
    Create(Box<CreateArgs>),
    /// Take a VM under care that the cloud knows
    Adopt(Act),
    /// Power on
    Start(Act),
    /// Power off
    Stop(Act),
    /// Cut the power and start again
    Reboot(Act),
    /// Suspend
    Suspend(Act),
    /// Resume
    Resume(Act),
    /// Destroy: backed up first where its policy says so
    Delete(DeleteArgs),
    /// Make a VM again from a backup; it gets a new id and a new lease
    Revive(ReviveArgs),
    /// What happened to a VM last
    History(Target),
    /// Nobody touches the VM while maintenance is on
    Maintenance(SwitchArgs),
}

/// Which VM.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Its id, at least 4 characters of the start of its id, or its name
    pub(super) vm: String,
}

/// Which rows.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those whose lease is in this state: none, active, warned, grace, ending, ended, exempt
    #[arg(long, value_name = "STATE")]
    lease: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = LIST_LIMIT, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Begin after this id
    #[arg(long, value_name = "ID")]
    marker: Option<VmId>,
    /// All of them, whatever their number
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// A command to one VM.
#[derive(Debug, Args)]
pub(super) struct Act {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
}

/// How to delete.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    act: Act,
    /// Without a backup, whatever the policy says
    #[arg(long)]
    no_backup: bool,
    #[command(flatten)]
    sure: Sure,
}

/// Whether to ask first.
#[derive(Debug, Args)]
pub(super) struct Sure {
    /// Do not ask on a terminal
    #[arg(long, short = 'y', visible_alias = "force")]
    yes: bool,
}

/// How to revive.
#[derive(Debug, Args)]
pub(super) struct ReviveArgs {
    #[command(flatten)]
    act: Act,
    /// From this backup [default: the latest verified one]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// The new VM's name [default: the old one's]
    #[arg(long)]
    name: Option<String>,
}

/// What is switched on or off.
#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    #[command(flatten)]
    target: Target,
    /// Whether it begins or ends
    state: OnOff,
    #[command(flatten)]
    key: Key,
}

/// Whether something begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnOff {
    /// It begins.
    On,
    /// It ends.
    Off,
}

impl From<OnOff> for Switch {
    fn from(state: OnOff) -> Self {
        match state {
            OnOff::On => Self::On,
            OnOff::Off => Self::Off,
        }
    }
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: VmCommand) -> Result<(), Failure> {
    match command {
        VmCommand::List(args) => list(session, output, args).await,
        VmCommand::Show(target) => show(session, output, &target).await,
        VmCommand::Create(args) => create::run(session, output, *args).await,
        VmCommand::Adopt(args) => act(session, output, &args, CommandKind::VmAdopt, None).await,
        VmCommand::Start(args) => act(session, output, &args, CommandKind::VmStart, Some("start")).await,
        VmCommand::Stop(args) => act(session, output, &args, CommandKind::VmStop, Some("stop")).await,
        VmCommand::Reboot(args) => act(session, output, &args, CommandKind::VmReboot, Some("reboot")).await,
        VmCommand::Suspend(args) => act(session, output, &args, CommandKind::VmSuspend, Some("suspend")).await,
        VmCommand::Resume(args) => act(session, output, &args, CommandKind::VmResume, Some("resume")).await,
        VmCommand::Delete(args) => delete(session, output, &args).await,
        VmCommand::Revive(args) => revive(session, output, args).await,
        VmCommand::History(target) => history(session, output, &target).await,
        VmCommand::Maintenance(args) => {
            let vm = find::vm_id(session, &args.target.vm).await?;
            let accepted = session.command(vm, CommandKind::VmMaintenance(args.state.into()), &args.key).await?;
            print_accepted(output, &accepted)
        }
    }
}

/// Sends a command, prints the answer, and waits for its end if asked to.
pub(super) async fn send(
    session: &Session,
    output: Output,
    vm: VmId,
    kind: CommandKind,
    key: &Key,
    wait: Option<(&Wait, Until)>,
) -> Result<(), Failure> {
    send_as(session, output, (key.message_id()?, vm), kind, wait).await
}

/// The same, under this key.
pub(super) async fn send_as(
    session: &Session,
    output: Output,
    (id, vm): (MessageId, VmId),
    kind: CommandKind,
    wait: Option<(&Wait, Until)>,
) -> Result<(), Failure> {
    // The node's clock is this machine's: what it says from now on is about this command or later ones.
    let since = now();
    let accepted = session.command_as(id, vm, kind).await?;
    print_accepted(output, &accepted)?;
    let Some((wait, until)) = wait.filter(|(wait, _)| wait.wait) else { return Ok(()) };
    // Which backup it is, only the answer says.
    let until = if until == Until::Verified(None) { Until::Verified(accepted.backup) } else { until };
    let done = follow::wait(session, output, vm, since, until, wait.wait_for).await?;
    output.note(&done);
    Ok(())
}

/// Prints the answer to a command.
fn print_accepted(output: Output, accepted: &Accepted) -> Result<(), Failure> {
    let table = |_: Color| {
        let ends = accepted.ends_at.map(|at| format!("\nlease ends {}", when::both(at, now()))).unwrap_or_default();
        let backup = accepted.backup.map(|id| format!("\nbackup {id}")).unwrap_or_default();
        format!("{}{ends}{backup}\n", clean(&accepted.message))
    };
    output.show(&View { value: accepted, table: &table, ids: Vec::new() })
}

/// Asks a person, if there is one, whether to go on. A script that says it means it.
pub(super) fn confirm(sure: &Sure, question: &str) -> Result<(), Failure> {
    if sure.yes || !interactive() {
        return Ok(());
    }
    write!(std::io::stderr().lock(), "{} [y/N] ", clean(question))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Code::Failed, "nothing was done").because("not confirmed")),
    }
}

async fn list(session: &Session, output: Output, args: ListArgs) -> Result<(), Failure> {
    let limit = if args.all { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    let (mut vms, mut more) = (Vec::new(), false);
    find::each_vm(session, args.lease.as_deref(), args.marker, |vm| {
        more = vms.len() == limit;
        if !more {
            vms.push(vm);
        }
        !more
    })
    .await?;
    let now = now();
    let rows: Vec<Vec<Cell>> = vms.iter().map(|vm| row(vm, now)).collect();
    let header = ["ID", "NAME", "CLOUD", "HOST", "STATE", "HEALTH", "LEASE", "ENDS", "POLICY", "BACKUPS"];
    let ids = vms.iter().map(|vm| vm.id.to_string()).collect();
    output.show(&View { value: &vms, table: &|color| table::rows(&header, &rows, color), ids })?;
    if more && let Some(last) = vms.last() {
        output.warn(&format!("there are more: go on by --marker {}, or list them by --all", last.id));
    }
    Ok(())
}

fn row(vm: &VmView, now: Timestamp) -> Vec<Cell> {
    let verified = vm.backups.iter().filter(|backup| backup.state == "verified").count();
    vec![
        Cell::new(vm.id.to_string()),
        Cell::new(&vm.name),
        Cell::new(vm.cloud.as_str()),
        Cell::new(vm.host.as_ref().map_or("", |host| host.as_str())),
        Cell::state(&vm.state),
        Cell::state(&vm.health),
        Cell::state(&vm.lease.state),
        Cell::new(vm.lease.ends_at.map(|at| when::relative(at, now)).unwrap_or_default()),
        Cell::new(&vm.policy),
        Cell::new(verified.to_string()),
    ]
}

async fn show(session: &Session, output: Output, target: &Target) -> Result<(), Failure> {
    let vm = find::vm(session, &target.vm).await?;
    let table = |color| table::pairs(&described(&vm, now()), color);
    output.show(&View { value: &vm, table: &table, ids: vec![vm.id.to_string()] })
}

fn described(vm: &VmView, now: Timestamp) -> Vec<(&'static str, Cell)> {
    let text = |value: Option<String>| Cell::new(value.unwrap_or_default());
    let time = |at: Option<Timestamp>| text(at.map(|at| when::both(at, now)));
    let alerts: Vec<String> = vm.alerts.iter().map(word).collect();
    let verified = vm.backups.iter().filter(|backup| backup.state == "verified");
    let last = verified.clone().map(|backup| backup.at).max();
    let backups = match last {
        Some(at) => format!("{} verified, the last {}", verified.count(), when::both(at, now)),
        None => "none verified".into(),
    };
    vec![
        ("id", Cell::new(vm.id.to_string())),
        ("name", Cell::new(&vm.name)),
        ("cloud", Cell::new(vm.cloud.as_str())),
        ("project", text(vm.project.as_ref().map(ToString::to_string))),
        ("owner", text(vm.user.as_ref().map(ToString::to_string))),
        ("host", text(vm.host.as_ref().map(ToString::to_string))),
        ("state", Cell::state(&vm.state)),
        ("task", text(vm.task.clone())),
        ("health", Cell::state(&vm.health)),
        ("operation", text(vm.operation.clone())),
        ("locked", Cell::new(if vm.locked { "yes" } else { "no" })),
        ("policy", Cell::new(&vm.policy)),
        ("lease", Cell::state(&vm.lease.state)),
        ("lease started", time(vm.lease.started_at)),
        ("lease ends", time(vm.lease.ends_at)),
        ("extensions", Cell::new(format!("{} of {}", vm.lease.extensions, vm.lease.max_extensions))),
        ("holds", Cell::new(vm.holds.join(", "))),
        ("alerts", Cell::new(alerts.join(", "))),
        ("backups", Cell::new(backups)),
        ("revived from", text(vm.revived_from.map(|id| id.to_string()))),
        ("node", Cell::new(vm.node.as_str())),
        ("shard", Cell::new(vm.shard.to_string())),
        ("generation", Cell::new(vm.generation.to_string())),
    ]
}

/// The wire's word for a plain enum.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "-".into(),
    }
}

async fn act(
    session: &Session,
    output: Output,
    args: &Act,
    kind: CommandKind,
    action: Option<&'static str>,
) -> Result<(), Failure> {
    let vm = find::vm_id(session, &args.target.vm).await?;
    let until = action.map(|action| (&args.wait, Until::Action(action)));
    send(session, output, vm, kind, &args.key, until).await
}

async fn delete(session: &Session, output: Output, args: &DeleteArgs) -> Result<(), Failure> {
    let vm = find::vm(session, &args.act.target.vm).await?;
    let (backup, how) = if args.no_backup {
        (BackupFirst::No, "WITHOUT a backup")
    } else {
        (BackupFirst::AsPolicy, "with a backup first where its policy says so")
    };
    confirm(&args.sure, &format!("Destroy VM {} ({}) {how}?", vm.name, vm.id))?;
    let wait = Some((&args.act.wait, Until::Terminated));
    send(session, output, vm.id, CommandKind::VmDelete { backup }, &args.act.key, wait).await
}

async fn revive(session: &Session, output: Output, args: ReviveArgs) -> Result<(), Failure> {
    let vm = find::vm_id(session, &args.act.target.vm).await?;
    let backup = match &args.backup {
        Some(text) => Some(find::backup(session, text, Some(vm)).await?.id),
        None => None,
    };
    let kind = CommandKind::VmRevive { backup, name: args.name };
    send(session, output, vm, kind, &args.act.key, Some((&args.act.wait, Until::Revived))).await
}

async fn history(session: &Session, output: Output, target: &Target) -> Result<(), Failure> {
    let vm = find::vm_id(session, &target.vm).await?;
    let past = match session.ask(AdminRequest::VmHistory(vm)).await? {
        AdminReply::History(past) => past,
        other => return Err(unexpected(&other)),
    };
    let now = now();
    let row = |entry: &reeve_protocol::admin::HistoryView| {
        let what = entry.what.strip_prefix("reeve.").unwrap_or(&entry.what);
        vec![Cell::new(when::absolute(entry.at)), Cell::new(when::relative(entry.at, now)), Cell::new(what)]
    };
    let rows: Vec<Vec<Cell>> = past.iter().map(row).collect();
    let table = |color| table::rows(&["TIME", "AGE", "EVENT"], &rows, color);
    output.show(&View { value: &past, table: &table, ids: past.iter().map(|entry| entry.what.clone()).collect() })
}
