//! `reeve-bench`: Reeve measured against the physical limit and a peer, on the same work in the same run.
//!
//! | name | what is measured, and beside what |
//! |---|---|
//! | `footprint` | resident bytes of a VM with its whole tree; the same tree in Erlang/OTP and on ractor |
//! | `activate` | VMs from stored bytes to live trees that have called `recover()`; decoding alone |
//! | `activate_etcd` | 100,000 records from a real etcd into live trees |
//! | `commit` | record writes through the fenced, grouped writer; raw transactions of etcd of the same size and depth |
//! | `intake` | Nova's notifications from the queue to a committed record and a confirmed event; a bare consumer |
//! | `timers` | how late the notices of leases are; the processor time of a node that waits |
//! | `poll` | probes a second of a core; calls of the cloud's API |
//! | `restart` | children that panic and are restarted |
//! | `rpc` | pipelined `vm show` over TLS; an echo over the same frames |
//! | `backup` | an image of 4 GiB into the vault and verified, in memory and MiB/s; `curl \| sha256sum` of the same |
//! | `takeover` | until every VM of a node that is killed is answered for again |
//! | `step` | instructions of a decision, for the ten commonest inputs; those that were recorded |
//!
//! Machines differ and are noisy, so a ratio is what counts. A goal that is missed is a figure and not a failure; the
//! process fails when something could not be measured.

mod activate;
mod activate_etcd;
mod backup;
mod broker;
mod child;
mod commit;
mod footprint;
mod intake;
mod machine;
mod node;
mod nova;
mod pki;
mod poll;
mod processes;
mod quiet_node;
mod records;
mod restart;
mod rpc;
mod runner;
mod scale;
mod servers;
mod site;
mod step;
mod takeover;
mod timers;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use futures::future::LocalBoxFuture;
use reeve_tests::chaos::cloud::CloudOptions;
use reeve_tests::chaos::roles;
use tracing_subscriber::EnvFilter;

use crate::runner::{Figure, Options};

/// The same as the binary `reeve` has: a footprint is the allocator's as well.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A benchmark.
struct Benchmark {
    name: &'static str,
    run: for<'a> fn(&'a Options) -> LocalBoxFuture<'a, Result<Vec<Figure>>>,
}

/// Every benchmark, in the order in which `all` runs them.
const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "footprint", run: footprint::run },
    Benchmark { name: "activate", run: activate::run },
    Benchmark { name: "activate_etcd", run: activate_etcd::run },
    Benchmark { name: "commit", run: commit::run },
    Benchmark { name: "intake", run: intake::run },
    Benchmark { name: "timers", run: timers::run },
    Benchmark { name: "poll", run: poll::run },
    Benchmark { name: "restart", run: restart::run },
    Benchmark { name: "rpc", run: rpc::run },
    Benchmark { name: "backup", run: backup::run },
    Benchmark { name: "takeover", run: takeover::run },
    Benchmark { name: "step", run: step::run },
];

/// Measures Reeve.
#[derive(Debug, Parser)]
#[command(name = "reeve-bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Which benchmarks; `all` runs every one.
    names: Vec<String>,
    /// One JSON object a line, the machine first.
    #[arg(long)]
    json: bool,
    /// Small sizes and few rounds: shows that everything works, and measures little.
    #[arg(long)]
    quick: bool,
    /// Fails when a goal is missed.
    #[arg(long)]
    strict: bool,
    /// Writes plots (SVG) into this folder.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// One measurement in this process; the answer is the last line.
    #[command(hide = true)]
    Child {
        /// Which.
        name: String,
        /// What it is told.
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A control node, for a measurement.
    #[command(hide = true)]
    Node {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
        /// The file with the offset of its wall clock.
        #[arg(long)]
        clock: Option<PathBuf>,
    },
    /// Writes what a large cluster needs, and the table of figures, out of the figures of a run.
    Scale(scale::ScaleOptions),
    /// A simulated cloud, for a measurement.
    #[command(hide = true)]
    Cloud(CloudOptions),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Task::Node { config, clock }) = &arguments.task {
        return roles::node(config, clock.as_deref()).map(|()| ExitCode::SUCCESS);
    }
    // Logging is part of what a restart costs: that part logs as the product does.
    if !matches!(&arguments.task, Some(Task::Child { name, .. }) if name == restart::CHILD) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error,lapin=off"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    // Whoever was first decides; it is the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(Task::Child { name, arguments }) = &arguments.task {
        return child::answer(name, arguments);
    }
    if let Some(Task::Cloud(options)) = &arguments.task {
        return roles::cloud(options.clone()).map(|()| ExitCode::SUCCESS);
    }
    if let Some(Task::Scale(options)) = &arguments.task {
        return scale::write(options);
    }
    reeve_runtime::run_system(|| measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = choose(&arguments.names)?;
    let options = Options { quick: arguments.quick };
    let machine = machine::Machine::look();
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&machine)?)?;
    } else {
        writeln!(out, "{machine}")?;
    }
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for benchmark in chosen {
        match (benchmark.run)(&options).await {
            Ok(measured) => {
                for figure in &measured {
                    if arguments.json {
                        writeln!(out, "{}", figure.json())?;
                    }
                }
                figures.extend(measured);
            }
            Err(error) => failed.push(format!("{} could not be measured: {error:#}", benchmark.name)),
        }
    }
    if !arguments.json {
        write!(out, "{}", runner::table(&figures))?;
    }
    out.flush()?;
    let mut err = std::io::stderr();
    for failure in &failed {
        writeln!(err, "{failure}")?;
    }
    if let Some(folder) = &arguments.plots {
        scale::draw(folder, figures.iter().map(Figure::json))?;
    }
    let missed = arguments.strict && figures.iter().any(|figure| figure.met() == Some(false));
    Ok(if failed.is_empty() && !missed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(names: &[String]) -> Result<Vec<&'static Benchmark>> {
    let known = || BENCHMARKS.iter().map(|benchmark| benchmark.name).collect::<Vec<_>>().join(", ");
    ensure!(!names.is_empty(), "which benchmarks? all, or some of {}", known());
    if names.iter().any(|name| name == "all") {
        return Ok(BENCHMARKS.iter().collect());
    }
    let mut chosen = Vec::new();
    for name in names {
        let found = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
        let found = found.with_context(|| format!("there is no benchmark {name}; there are all, {}", known()))?;
        chosen.push(found);
    }
    if chosen.is_empty() {
        bail!("nothing is left to measure");
    }
    Ok(chosen)
}
