//! `reeve node …`

use clap::Subcommand;
use reeve_protocol::admin::{AdminReply, AdminRequest};

use super::fail::Failure;
use super::output::{Output, View};
use super::session::{Session, now, unexpected};
use super::table::{self, Cell};
use super::when;

/// What to ask about nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Show the node that answers
    Show,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: NodeCommand) -> Result<(), Failure> {
    let NodeCommand::Show = command;
    let node = match session.ask(AdminRequest::Node).await? {
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
