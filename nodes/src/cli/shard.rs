//! `reeve shard …`

use clap::Subcommand;
use reeve_protocol::admin::{AdminReply, AdminRequest, ShardView};

use super::fail::Failure;
use super::output::{Output, View};
use super::session::{Session, unexpected};
use super::table::{self, Cell};

/// What to ask about shards.
#[derive(Debug, Subcommand)]
pub(super) enum ShardCommand {
    /// List the shards: which node owns each, and which is to own it
    List,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: ShardCommand) -> Result<(), Failure> {
    let ShardCommand::List = command;
    let shards = match session.ask(AdminRequest::ShardList).await? {
        AdminReply::Shards(shards) => shards,
        other => return Err(unexpected(&other)),
    };
    let row = |shard: &ShardView| {
        let node = |id: Option<&reeve_protocol::NodeId>| Cell::new(id.map_or("", |id| id.as_str()));
        vec![
            Cell::new(shard.id.0.to_string()),
            node(shard.owner.as_ref()),
            Cell::new(shard.epoch.map(|epoch| epoch.0.to_string()).unwrap_or_default()),
            node(shard.wanted.as_ref()),
        ]
    };
    let rows: Vec<Vec<Cell>> = shards.iter().map(row).collect();
    let ids = shards.iter().map(|shard| shard.id.0.to_string()).collect();
    let header = ["SHARD", "OWNER", "EPOCH", "WANTED"];
    output.show(&View { value: &shards, table: &|color| table::rows(&header, &rows, color), ids })
}
