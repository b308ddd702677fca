//! `reeve node …`

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, MemberView, NodeView};
use reeve_protocol::{NodeId, Span};

use super::dead::done;
use super::fail::{Code, Failure};
use super::output::{Output, Talk, View};
use super::session::{Session, now, unexpected};
use super::table::{self, Cell};
use super::when;

/// How often a drain is looked after.
const POLL: Duration = Duration::from_millis(500);

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes of the cluster
    List,
    /// Show a node
    Show {
        /// Its id [default: the node that answers]
        id: Option<NodeId>,
    },
    /// Have a node hand its shards over, one after the other, and get no others; its VMs stay supervised
    Drain(DrainArgs),
    /// Let a node get shards again
    Undrain {
        /// Its id
        id: NodeId,
    },
}

/// Which node to drain, and whether to wait.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Its id
    id: NodeId,
    /// Wait until the node owns no shard (the default)
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Do not wait until the node owns no shard
    #[arg(long)]
    no_wait: bool,
    /// Wait at most this long, then exit with status 7 [default: for ever]
    #[arg(long, value_name = "DURATION", conflicts_with = "no_wait")]
    wait_for: Option<Span>,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(session, output).await,
        NodeCommand::Show { id } => show(session, output, id).await,
        NodeCommand::Drain(args) => drain(session, output, args).await,
        NodeCommand::Undrain { id } => {
            done(session, AdminRequest::NodeUndrain(id.clone())).await?;
            output.note(&format!("node {id} gets shards again"));
            Ok(())
        }
    }
}

async fn members(session: &Session) -> Result<Vec<MemberView>, Failure> {
    match session.ask(AdminRequest::NodeList).await? {
        AdminReply::Nodes(members) => Ok(members),
        other => Err(unexpected(&other)),
    }
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let members = members(session).await?;
    let now = now();
    let row = |member: &MemberView| {
        vec![
            Cell::new(member.id.as_str()),
            Cell::state(&member.state),
            Cell::new(if member.leader { "leader" } else { "" }),
            Cell::new(&member.version),
            Cell::new(member.address.as_deref().unwrap_or_default()),
            Cell::new(member.since.map(|since| when::relative(since, now)).unwrap_or_default()),
            Cell::new(member.shards.to_string()),
            Cell::new(member.vms.to_string()),
            Cell::new(member.clock_skew_ms.map(|ms| format!("{ms:+} ms")).unwrap_or_default()),
        ]
    };
    let rows: Vec<Vec<Cell>> = members.iter().map(row).collect();
    let header = ["ID", "STATE", "ROLE", "VERSION", "ADDRESS", "SINCE", "SHARDS", "VMS", "CLOCK"];
    let ids = members.iter().map(|member| member.id.to_string()).collect();
    output.show(&View { value: &members, table: &|color| table::rows(&header, &rows, color), ids })
}

async fn show(session: &Session, output: Output, id: Option<NodeId>) -> Result<(), Failure> {
    let request = id.map_or(AdminRequest::Node, AdminRequest::NodeShow);
    let node: NodeView = match session.ask(request).await? {
        AdminReply::Node(node) => *node,
        other => return Err(unexpected(&other)),
    };
    let pairs = [
        ("id", Cell::new(node.id.as_str())),
        ("cluster", Cell::new(&node.cluster)),
        ("version", Cell::new(&node.version)),
        ("since", Cell::new(when::both(node.since, now()))),
        ("vms", Cell::new(node.vms.to_string())),
        ("shards", Cell::new(node.shards.to_string())),
        ("child restarts", Cell::new(node.child_restarts.to_string())),
        ("unpublished events", Cell::new(node.outbox.to_string())),
    ];
    let ids = vec![node.id.to_string()];
    output.show(&View { value: &node, table: &|color| table::pairs(&pairs, color), ids })
}

async fn drain(session: &Session, output: Output, args: DrainArgs) -> Result<(), Failure> {
    // `--wait` says the default aloud.
    let DrainArgs { id, wait: _, no_wait, wait_for } = args;
    done(session, AdminRequest::NodeDrain(id.clone())).await?;
    if no_wait {
        output.note(&format!("node {id} hands its shards over"));
        return Ok(());
    }
    let bar = bar(output);
    let ended = until_drained(session, &id, wait_for, &bar).await;
    bar.finish_and_clear();
    output.note(&ended?);
    Ok(())
}

/// Looks again and again until the node owns nothing.
async fn until_drained(
    session: &Session,
    id: &NodeId,
    longest: Option<Span>,
    bar: &ProgressBar,
) -> Result<String, Failure> {
    let started = SystemClock.elapsed();
    // The wish takes a moment until it is seen everywhere: only what comes after that says that it was taken back.
    let mut seen = false;
    loop {
        let member = members(session).await?.into_iter().find(|member| member.id == *id);
        let Some(member) = member else {
            return Ok(format!("node {id} owns no shard, and does not live"));
        };
        bar.set_length(bar.length().unwrap_or_default().max(member.shards.into()));
        bar.set_position(bar.length().unwrap_or_default().saturating_sub(member.shards.into()));
        match member.state.as_str() {
            "drained" | "lost" if member.shards == 0 => return Ok(format!("node {id} owns no shard")),
            "ready" if seen => {
                let failure = Failure::new(Code::Conflict, format!("node {id} is not drained"));
                return Err(failure.because("somebody undrained it meanwhile"));
            }
            state => seen |= state != "ready",
        }
        if longest.is_some_and(|longest| SystemClock.elapsed().saturating_sub(started) >= longest.duration()) {
            let what = format!("node {id} still owns {} shards", member.shards);
            return Err(Failure::new(Code::TimedOut, what).because("it goes on; look by `reeve node list`"));
        }
        SystemClock.sleep(POLL).await;
    }
}

/// A bar on standard error, where a person sees it.
fn bar(output: Output) -> ProgressBar {
    if output.talk == Talk::Quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} [{bar:32}] {pos}/{len} shards handed over")
        .expect("the template is a constant");
    let bar = ProgressBar::new(0).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
