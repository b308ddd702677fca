//! The command line: one file per family of commands.
//!
//! Results go to standard output, everything said to people beside them to standard error. Exit status: 0 done, 1 failed,
//! 2 usage, 3 not found, 4 denied, 5 conflict, 6 unavailable, 7 timed out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use reeve_protocol::Span;

mod actor;
mod backup;
mod cert;
mod config;
mod create;
mod dead;
mod decode;
mod endpoint;
mod event;
mod fail;
mod find;
mod follow;
mod health;
mod lease;
mod node;
mod output;
mod serve;
mod session;
mod shard;
mod table;
mod vm;
mod when;

use fail::{Code, Failure};
use output::{Format, Output, Talk};
use session::Session;

use crate::config::LogSection;
use crate::demo::{self, DemoArgs, Ending};
use crate::logging;

/// Keeps virtual machines through their whole life: lease, watching, repair, verified backups, ending and revival.
#[derive(Debug, Parser)]
#[command(name = "reeve", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Where a node answers: unix:PATH or tls://HOST:PORT; several separated by commas are tried in turn
    /// [default: /run/reeve/reeve.sock, /var/lib/reeve/reeve.sock, then `reeve dev`'s]
    #[arg(long, global = true, env = "REEVE_ENDPOINT", value_name = "ENDPOINT", help_heading = "Common options")]
    endpoint: Option<String>,
    #[command(flatten)]
    identity: endpoint::Identity,
    /// How results look
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = "Common options")]
    output: Format,
    /// Only ids in lists, nothing from commands that only do something
    #[arg(long, short, global = true, help_heading = "Common options")]
    quiet: bool,
    /// No colour, also on a terminal (as the variable NO_COLOR)
    #[arg(long, global = true, help_heading = "Common options")]
    no_color: bool,
    /// How long one answer of the node is awaited
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", help_heading = "Common options")]
    timeout: Span,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Play whole VM lives in seconds on the embedded engine and a simulated cloud
    Demo(DemoArgs),
    /// Run a full node with nothing else installed: embedded store and bus, simulated cloud
    Dev(serve::DevArgs),
    /// Run a control node
    Control(serve::ControlArgs),
    /// Check or show a configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print what Reeve makes of notification bodies, one JSON object a line
    Decode {
        /// Files of one document each or of JSON lines, `-` for standard input [default: standard input]
        files: Vec<PathBuf>,
    },
    /// VMs
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Leases
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Health
    #[command(subcommand)]
    Health(health::HealthCommand),
    /// Backups
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// The nodes of the cluster
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// The shards of the cluster
    #[command(subcommand)]
    Shard(shard::ShardCommand),
    /// The actors inside the nodes
    #[command(subcommand)]
    Actor(actor::ActorCommand),
    /// Events
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Dead letters
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Make a private authority and certificates for nodes and people
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Reads the arguments, carries the command out, and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    let Common { output: format, quiet, no_color, .. } = cli.common;
    let talk = if quiet { Talk::Quiet } else { Talk::Normal };
    let output = Output { format, talk, color: output::color(no_color) };
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.code != Code::BrokenPipe {
                output.failure(&failure);
            }
            failure.exit_code()
        }
    }
}

/// Help and version are no errors. Usage errors are JSON where JSON was asked for.
fn unparsed(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let pair = |two: &[String]| matches!(two, [flag, value] if (flag == "-o" || flag == "--output") && value == "json");
    let json = arguments.iter().any(|one| one == "-ojson" || one == "--output=json" || one == "-o=json")
        || arguments.windows(2).any(pair);
    if json && error.use_stderr() {
        let output = Output { format: Format::Json, talk: Talk::Normal, color: table::Color::Off };
        let text = error.render().to_string();
        output.failure(&Failure::new(Code::Usage, text.trim().trim_start_matches("error: ")));
    } else {
        // Nobody can be told that nobody listens.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    match cli.command {
        Command::Demo(args) => play(&args),
        Command::Dev(args) => serve::dev(output, &args),
        Command::Control(args) => serve::control(&args),
        Command::Config(command) => config::run(output, command),
        Command::Cert(command) => cert::run(output, command),
        Command::Decode { files } => decode::run(output, &files),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "reeve", &mut text);
            output.text(&String::from_utf8_lossy(&text))
        }
        Command::Vm(command) => ask(&cli.common, async |session| vm::run(session, output, command).await),
        Command::Lease(command) => ask(&cli.common, async |session| lease::run(session, output, command).await),
        Command::Health(command) => ask(&cli.common, async |session| health::run(session, output, command).await),
        Command::Backup(command) => ask(&cli.common, async |session| backup::run(session, output, command).await),
        Command::Node(command) => ask(&cli.common, async |session| node::run(session, output, command).await),
        Command::Shard(command) => ask(&cli.common, async |session| shard::run(session, output, command).await),
        Command::Actor(command) => ask(&cli.common, async |session| actor::run(session, output, command).await),
        Command::Event(command) => ask(&cli.common, async |session| event::run(session, output, command).await),
        Command::Dead(command) => ask(&cli.common, async |session| dead::run(session, output, command).await),
    }
}

/// Plays the demo; a broken rule is a failure.
fn play(args: &DemoArgs) -> Result<(), Failure> {
    let failed =
        |error: anyhow::Error| Failure::new(Code::Failed, "the demo cannot be played").because(format!("{error:#}"));
    logging::start(&LogSection { level: "error".into(), ..LogSection::default() }).map_err(failed)?;
    match demo::run(args).map_err(failed)? {
        Ending::Well => Ok(()),
        Ending::Badly => Err(Failure::new(Code::Failed, "a safety rule was broken or a VM lost").because("see above")),
    }
}

/// Connects to a node and has a command use the connection.
fn ask(common: &Common, command: impl AsyncFnOnce(&Session) -> Result<(), Failure>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Code::Failed, "cannot start").because(error))?;
    runtime.block_on(async { command(&Session::open(common).await?).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
