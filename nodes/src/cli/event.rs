//! `reeve event …`

use std::time::Duration;

use clap::{Args, Subcommand};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::event::{Category, CloudEvent};
use reeve_protocol::{Span, Timestamp};
use serde_json::Value;

use super::fail::{Code, Failure};
use super::find;
use super::follow;
use super::output::{Format, Output, Talk};
use super::session::{Session, now};
use super::table::{Color, Tone, clean};
use super::when;

/// How often the node is asked for news.
const POLL: Duration = Duration::from_millis(500);
/// Events asked for at once.
const BATCH: u32 = 500;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub(super) enum EventCommand {
    /// Print past events, one a line, and with --follow those to come
    Tail(TailArgs),
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Not before this time: RFC 3339, or how long ago, for example 1h30m
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = since)]
    since: Since,
    /// Only about this: vm/ID, or a VM by its id, the start of it, or its name
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only of this category: information, warning or exception
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    /// Go on until interrupted
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    At(Timestamp),
    Ago(Span),
}

fn since(text: &str) -> Result<Since, String> {
    let ago = text.parse::<Span>().map(Since::Ago);
    ago.or_else(|_| text.parse::<Timestamp>().map(Since::At))
        .map_err(|_| "expected RFC 3339 (2026-12-01T10:00:00Z) or how long ago (1h30m)".into())
}

/// Carries it out.
pub(super) async fn run(session: &Session, output: Output, command: EventCommand) -> Result<(), Failure> {
    let EventCommand::Tail(args) = command;
    let since = match args.since {
        Since::At(at) => at,
        Since::Ago(span) => now() - span,
    };
    let subject = match args.subject {
        Some(text) => Some(full_subject(session, &text).await?),
        None => None,
    };
    let mut after = None;
    loop {
        let batch = follow::events(session, since, after, subject.clone(), BATCH).await?;
        let full = batch.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX);
        let mut text = String::new();
        for (position, event) in &batch {
            after = Some(*position);
            if args.category.is_some_and(|category| category != event.category) {
                continue;
            }
            text.push_str(&line(event, output)?);
        }
        output.text(&text)?;
        if !full {
            if !args.follow {
                return Ok(());
            }
            SystemClock.sleep(POLL).await;
        }
    }
}

async fn full_subject(session: &Session, text: &str) -> Result<String, Failure> {
    match text.split_once('/') {
        Some(("vm", vm)) => Ok(format!("vm/{}", find::vm_id(session, vm).await?)),
        Some(_) => Ok(text.to_owned()),
        None => Ok(format!("vm/{}", find::vm_id(session, text).await?)),
    }
}

fn line(event: &CloudEvent, output: Output) -> Result<String, Failure> {
    let unwritable = |why: &dyn std::fmt::Display| Failure::new(Code::Failed, "cannot write an event").because(why);
    match output.format {
        Format::Json => serde_json::to_string(event).map(|text| text + "\n").map_err(|error| unwritable(&error)),
        Format::Yaml => {
            let text = serde_norway::to_string(event).map_err(|error| unwritable(&error))?;
            Ok(format!("---\n{text}"))
        }
        Format::Table if output.talk == Talk::Quiet => Ok(format!("{}\n", clean(&event.id.0))),
        Format::Table => Ok(for_people(event, output.color)),
    }
}

fn for_people(event: &CloudEvent, color: Color) -> String {
    let kind = clean(event.kind.strip_prefix("reeve.").unwrap_or(&event.kind));
    let tone = match (event.category, kind.as_str()) {
        (Category::Exception, _) => Tone::Bad,
        (Category::Warning, _) => Tone::Notice,
        (
            Category::Information,
            "backup.verified" | "health.recovered" | "repair.succeeded" | "lease.extended" | "vm.revived",
        ) => Tone::Good,
        (Category::Information, _) => Tone::Plain,
    };
    // Padded before it is coloured: escape sequences have no width.
    let kind = tone.paint(&format!("{kind:<26}"), color);
    let category = match event.category {
        Category::Information => Tone::Faint,
        Category::Warning => Tone::Notice,
        Category::Exception => Tone::Bad,
    };
    let category = category.paint(&format!("{:<11}", event.category.as_str()), color);
    let subject = Tone::Faint.paint(&clean(&event.subject), color);
    let line = format!("{}  {category}  {kind}  {subject}  {}", when::absolute(event.time), data(&event.data));
    format!("{}\n", line.trim_end())
}

fn data(data: &Value) -> String {
    let Value::Object(fields) = data else { return clean(&data.to_string()) };
    let field = |(key, value): (&String, &Value)| match value {
        Value::Null => None,
        Value::String(text) if text.contains(' ') => Some(format!("{key}={text:?}")),
        Value::String(text) => Some(format!("{key}={text}")),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(format!("{key}={value}")),
    };
    clean(&fields.iter().filter_map(field).collect::<Vec<_>>().join(" "))
}
