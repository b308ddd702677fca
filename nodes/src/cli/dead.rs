//! `reeve dead …`

use clap::{Args, Subcommand};
use reeve_protocol::admin::{AdminReply, AdminRequest, DeadView};

use super::fail::{Code, Failure};
use super::output::{Output, View};
use super::session::{Session, now, unexpected};
use super::table::{self, Cell, clean_lines};
use super::vm::{Sure, confirm};
use super::when;

/// Rows on one page: each may hold 4 KiB of a body.
const PAGE: u32 = 200;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum DeadCommand {
    /// List what could not be handled, oldest first
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// Show one dead letter, with the start of its body
    Show(Number),
    /// Publish a dead letter again where it came from
    Replay(Number),
    /// Remove a dead letter for good
    Drop {
        #[command(flatten)]
        number: Number,
        #[command(flatten)]
        sure: Sure,
    },
}

/// Which dead letter.
#[derive(Debug, Args)]
pub(super) struct Number {
    /// Its number
    number: u64,
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: DeadCommand) -> Result<(), Failure> {
    match command {
        DeadCommand::List { limit } => list(session, output, limit).await,
        DeadCommand::Show(Number { number }) => show(session, output, number).await,
        DeadCommand::Replay(Number { number }) => {
            done(session, AdminRequest::DeadReplay(number)).await?;
            output.note(&format!("dead letter {number} is published again"));
            Ok(())
        }
        DeadCommand::Drop { number: Number { number }, sure } => {
            confirm(&sure, &format!("Remove dead letter {number} for good?"))?;
            done(session, AdminRequest::DeadDrop(number)).await?;
            output.note(&format!("dead letter {number} is removed"));
            Ok(())
        }
    }
}

/// Asks for something that has no result.
pub(super) async fn done(session: &Session, request: AdminRequest) -> Result<(), Failure> {
    match session.ask(request).await? {
        AdminReply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

async fn page(session: &Session, from: u64, limit: u32) -> Result<Vec<DeadView>, Failure> {
    match session.ask(AdminRequest::DeadList { from, limit }).await? {
        AdminReply::Dead(letters) => Ok(letters),
        other => Err(unexpected(&other)),
    }
}

async fn list(session: &Session, output: Output, limit: usize) -> Result<(), Failure> {
    let (mut letters, mut from) = (Vec::new(), 0);
    loop {
        let page = page(session, from, PAGE).await?;
        let Some(last) = page.last().map(|letter| letter.number) else { break };
        letters.extend(page);
        if letters.len() >= limit || last < from || last == u64::MAX {
            break;
        }
        from = last + 1;
    }
    letters.truncate(limit);
    let now = now();
    let row = |letter: &DeadView| {
        vec![
            Cell::new(letter.number.to_string()),
            Cell::new(when::relative(letter.at, now)),
            Cell::new(&letter.source),
            Cell::new(letter.kind.as_deref().unwrap_or_default()),
            Cell::new(letter.bytes.to_string()),
            Cell::new(&letter.reason),
        ]
    };
    let rows: Vec<Vec<Cell>> = letters.iter().map(row).collect();
    let header = ["NUMBER", "GIVEN UP", "QUEUE", "TYPE", "BYTES", "REASON"];
    let ids = letters.iter().map(|letter| letter.number.to_string()).collect();
    output.show(&View { value: &letters, table: &|color| table::rows(&header, &rows, color), ids })
}

async fn show(session: &Session, output: Output, number: u64) -> Result<(), Failure> {
    let letter = page(session, number, 1).await?.into_iter().find(|letter| letter.number == number);
    let letter = letter.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no dead letter {number}")))?;
    let pairs = [
        ("number", Cell::new(letter.number.to_string())),
        ("given up", Cell::new(when::both(letter.at, now()))),
        ("reason", Cell::new(&letter.reason)),
        ("queue", Cell::new(&letter.source)),
        ("type", Cell::new(letter.kind.as_deref().unwrap_or_default())),
        ("message id", Cell::new(letter.message_id.as_deref().unwrap_or_default())),
        ("bytes", Cell::new(letter.bytes.to_string())),
    ];
    let table = |color| format!("{}\n{}\n", table::pairs(&pairs, color), clean_lines(&letter.body));
    output.show(&View { value: &letter, table: &table, ids: vec![number.to_string()] })
}
