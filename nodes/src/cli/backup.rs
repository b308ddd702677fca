//! `reeve backup …`

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use reeve_protocol::admin::BackupView;
use reeve_protocol::command::CommandKind;
use reeve_protocol::{BackupId, Timestamp, VmId};

use super::fail::Failure;
use super::find;
use super::follow::{Until, Wait};
use super::output::{Output, View};
use super::session::{Key, Session, now};
use super::table::{self, Cell};
use super::vm::{Sure, Target, confirm, send, word};
use super::when;

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// List the backups of one VM, or of all
    List {
        /// The VM: its id, at least 4 characters of the start of its id, or its name
        vm: Option<String>,
    },
    /// Show one backup
    Show(Which),
    /// Back a VM up now
    Run {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        key: Key,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read a backup back from the vault and compare
    Verify(Use),
    /// Put the VM back to a verified backup, in place: what it holds now is lost
    Restore {
        #[command(flatten)]
        which: Use,
        #[command(flatten)]
        sure: Sure,
    },
    /// Delete a backup
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        key: Key,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        sure: Sure,
    },
}

/// Which backup.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Its id, or at least 4 characters of the start of it
    backup: String,
    /// Look only at the backups of this VM, which is quicker
    #[arg(long)]
    vm: Option<String>,
}

/// Which backup, or the latest one of a VM.
#[derive(Debug, Args)]
pub(super) struct Use {
    /// Its id, or at least 4 characters of the start of it [default: the latest one of --vm]
    #[arg(required_unless_present = "vm")]
    backup: Option<String>,
    /// The VM: its id, at least 4 characters of the start of its id, or its name
    #[arg(long)]
    vm: Option<String>,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    wait: Wait,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::List { vm } => list(session, output, vm.as_deref()).await,
        BackupCommand::Show(which) => show(session, output, &which).await,
        BackupCommand::Run { target, key, wait } => {
            let vm = find::vm_id(session, &target.vm).await?;
            let until = Some((&wait, Until::Verified(None)));
            send(session, output, vm, CommandKind::BackupRun, &key, until).await
        }
        BackupCommand::Verify(which) => {
            let (vm, backup) = used(session, &which).await?;
            let until = Some((&which.wait, Until::Verified(backup)));
            send(session, output, vm, CommandKind::BackupVerify { backup }, &which.key, until).await
        }
        BackupCommand::Restore { which, sure } => {
            let (vm, backup) = used(session, &which).await?;
            let from = backup.map_or_else(|| "its latest verified backup".into(), |id| format!("backup {id}"));
            confirm(&sure, &format!("Put VM {vm} back to {from}? What it holds now is lost."))?;
            let until = Some((&which.wait, Until::Restored));
            send(session, output, vm, CommandKind::BackupRestore { backup }, &which.key, until).await
        }
        BackupCommand::Delete { which, key, wait, sure } => {
            let backup = find_which(session, &which).await?;
            confirm(&sure, &format!("Delete backup {} of VM {}?", backup.id, backup.vm))?;
            let until = Some((&wait, Until::Deleted(backup.id)));
            let kind = CommandKind::BackupDelete { backup: backup.id };
            send(session, output, backup.vm, kind, &key, until).await
        }
    }
}

async fn find_which(session: &Session, which: &Which) -> Result<BackupView, Failure> {
    let vm = match &which.vm {
        Some(text) => Some(find::vm_id(session, text).await?),
        None => None,
    };
    find::backup(session, &which.backup, vm).await
}

/// The VM and the backup, if one is named.
async fn used(session: &Session, which: &Use) -> Result<(VmId, Option<BackupId>), Failure> {
    let vm = match &which.vm {
        Some(text) => Some(find::vm_id(session, text).await?),
        None => None,
    };
    match (&which.backup, vm) {
        (None, Some(vm)) => Ok((vm, None)),
        (backup, vm) => {
            let text = backup.as_deref().expect("the parser wants a backup where no VM is given");
            let backup = find::backup(session, text, vm).await?;
            Ok((backup.vm, Some(backup.id)))
        }
    }
}

async fn list(session: &Session, output: Output, vm: Option<&str>) -> Result<(), Failure> {
    let backups = match vm {
        Some(text) => {
            let vm = find::vm_id(session, text).await?;
            find::backups_of(session, vm).await?
        }
        None => {
            let mut all = Vec::new();
            find::each_vm(session, None, None, |vm| {
                all.extend(vm.backups);
                true
            })
            .await?;
            all
        }
    };
    let now = now();
    let rows: Vec<Vec<Cell>> = backups.iter().map(|backup| row(backup, now)).collect();
    let header = ["ID", "VM", "PURPOSE", "STATE", "MADE", "SIZE", "VERIFIED"];
    let ids = backups.iter().map(|backup| backup.id.to_string()).collect();
    output.show(&View { value: &backups, table: &|color| table::rows(&header, &rows, color), ids })
}

fn size(backup: &BackupView) -> String {
    backup.bytes.map(|bytes| HumanBytes(bytes).to_string()).unwrap_or_default()
}

fn row(backup: &BackupView, now: Timestamp) -> Vec<Cell> {
    vec![
        Cell::new(backup.id.to_string()),
        Cell::new(backup.vm.to_string()),
        Cell::new(word(&backup.purpose)),
        Cell::state(&backup.state),
        Cell::new(when::relative(backup.at, now)),
        Cell::new(size(backup)),
        Cell::new(backup.verified_at.map(|at| when::relative(at, now)).unwrap_or_default()),
    ]
}

async fn show(session: &Session, output: Output, which: &Which) -> Result<(), Failure> {
    let backup = find_which(session, which).await?;
    let now = now();
    let pairs = [
        ("id", Cell::new(backup.id.to_string())),
        ("vm", Cell::new(backup.vm.to_string())),
        ("purpose", Cell::new(word(&backup.purpose))),
        ("state", Cell::state(&backup.state)),
        ("made", Cell::new(when::both(backup.at, now))),
        ("size", Cell::new(size(&backup))),
        ("verified", Cell::new(backup.verified_at.map(|at| when::both(at, now)).unwrap_or_default())),
    ];
    let ids = vec![backup.id.to_string()];
    output.show(&View { value: &backup, table: &|color| table::pairs(&pairs, color), ids })
}
