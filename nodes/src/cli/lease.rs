//! `reeve lease …`

use clap::{Args, Subcommand};
use reeve_protocol::admin::VmView;
use reeve_protocol::command::CommandKind;
use reeve_protocol::{Span, Timestamp, UserId};

use super::fail::Failure;
use super::find;
use super::output::{Output, View};
use super::session::{Key, Session, now};
use super::table::{self, Cell};
use super::vm::{OnOff, Sure, Target, confirm, send};
use super::when;

/// What to do with leases.
#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// Show the lease of a VM
    Show(Target),
    /// Extend a lease; it starts a VM again that its end had stopped
    Extend {
        #[command(flatten)]
        to: To,
        /// By how long, for example 7d [default: the policy's extension]
        #[arg(long, value_name = "DURATION")]
        by: Option<Span>,
    },
    /// End a lease now: what its policy says happens to the VM
    End {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        sure: Sure,
    },
    /// Take back an end that has not yet deleted anything
    CancelEnd(To),
    /// Attach a lease, or change its policy
    SetPolicy {
        #[command(flatten)]
        to: To,
        /// The name of a configured policy
        policy: String,
    },
    /// Name who may extend beside the owner, at most 16; replaces those named before
    Delegates {
        #[command(flatten)]
        to: To,
        /// Their user ids
        #[arg(required_unless_present = "clear", num_args = 1..=16)]
        users: Vec<UserId>,
        /// Nobody any more
        #[arg(long, conflicts_with = "users")]
        clear: bool,
    },
    /// Remove the lease of a VM (on), or give it one again (off)
    Exempt {
        #[command(flatten)]
        to: To,
        /// Whether it is exempt
        state: OnOff,
    },
}

/// Of which VM, under which key.
#[derive(Debug, Args)]
pub(super) struct To {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    key: Key,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: LeaseCommand) -> Result<(), Failure> {
    let (to, kind) = match command {
        LeaseCommand::Show(target) => return show(session, output, &target).await,
        LeaseCommand::Extend { to, by } => (to, CommandKind::LeaseExtend { by }),
        LeaseCommand::End { to, sure } => {
            confirm(&sure, &format!("End the lease of VM {} now?", to.target.vm))?;
            (to, CommandKind::LeaseEnd)
        }
        LeaseCommand::CancelEnd(to) => (to, CommandKind::LeaseCancelEnd),
        LeaseCommand::SetPolicy { to, policy } => (to, CommandKind::LeaseSetPolicy { policy }),
        LeaseCommand::Delegates { to, users, clear: _ } => (to, CommandKind::LeaseSetDelegates { delegates: users }),
        LeaseCommand::Exempt { to, state } => (to, CommandKind::LeaseExempt(state.into())),
    };
    let vm = find::vm_id(session, &to.target.vm).await?;
    send(session, output, vm, kind, &to.key, None).await
}

async fn show(session: &Session, output: Output, target: &Target) -> Result<(), Failure> {
    let vm = find::vm(session, &target.vm).await?;
    let table = |color| table::pairs(&described(&vm, now()), color);
    output.show(&View { value: &vm.lease, table: &table, ids: vec![vm.lease.state.clone()] })
}

fn described(vm: &VmView, now: Timestamp) -> Vec<(&'static str, Cell)> {
    let lease = &vm.lease;
    let time = |at: Option<Timestamp>| Cell::new(at.map(|at| when::both(at, now)).unwrap_or_default());
    let delegates: Vec<&str> = lease.delegates.iter().map(UserId::as_str).collect();
    vec![
        ("vm", Cell::new(vm.id.to_string())),
        ("name", Cell::new(&vm.name)),
        ("owner", Cell::new(vm.user.as_ref().map_or("", |user| user.as_str()))),
        ("policy", Cell::new(&vm.policy)),
        ("state", Cell::state(&lease.state)),
        ("started", time(lease.started_at)),
        ("ends", time(lease.ends_at)),
        ("extensions", Cell::new(format!("{} of {}", lease.extensions, lease.max_extensions))),
        ("delegates", Cell::new(delegates.join(", "))),
        ("holds", Cell::new(vm.holds.join(", "))),
        ("ended", Cell::new(lease.ended.as_deref().unwrap_or_default())),
    ]
}
