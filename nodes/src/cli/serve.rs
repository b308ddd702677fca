//! `reeve dev` and `reeve control`: the commands that are a node.

use std::path::{Path, PathBuf};

use clap::Args;
use reeve_drivers::SimConfig;
use reeve_protocol::CloudName;
use serde_json::json;

use super::config::{DEFAULT_CONFIG, failure};
use super::fail::{Code, Failure};
use super::output::{Format, Output, Talk};
use super::session::dev_data_dir;
use crate::config::{self, CloudSection, Config, Driver};
use crate::daemon::{self, AfterStart};
use crate::replay;

/// The most bytes of a recording.
const MAX_RECORDING_BYTES: u64 = 256 * 1024 * 1024;

/// How to run a node for trying things out.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The folder of everything it keeps; the same folder goes on where it stopped [default: $XDG_STATE_HOME/reeve/dev]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// VMs that the simulated cloud has from the start [default: 8]
    #[arg(long, value_name = "N")]
    vms: Option<u32>,
    /// Feed recorded notifications, one JSON document a line, through the ordinary intake
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Take policies, [runtime], [log] and simulated clouds from this configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How to run a control node.
#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Runs a control node until it is told to stop.
pub(super) fn control(args: &ControlArgs) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(failure)?;
    if config.cloud.is_empty() {
        let what = format!("{}: no [[cloud]] is configured", args.config.display());
        return Err(Failure::new(Code::Failed, what).because("there would be nothing to care for"));
    }
    daemon::run(&config, AfterStart::default()).map_err(|error| not_running(&error))
}

/// Runs a node on the embedded engine and a simulated cloud until it is told to stop.
pub(super) fn dev(output: Output, args: &DevArgs) -> Result<(), Failure> {
    let config = dev_config(args)?;
    let recording = match &args.replay {
        Some(file) => Some((config.cloud[0].name.clone(), replay::messages(&read_recording(file)?))),
        None => None,
    };
    let after = AfterStart { greeting: greeting(output, &config), replay: recording };
    daemon::run(&config, after).map_err(|error| not_running(&error))
}

fn not_running(error: &anyhow::Error) -> Failure {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let failure = Failure::new(Code::Failed, error.to_string());
    if causes.is_empty() { failure } else { failure.because(causes.join(": ")) }
}

fn dev_config(args: &DevArgs) -> Result<Config, Failure> {
    let mut config = match &args.config {
        Some(file) => config::load(file).map_err(failure)?,
        None => config::with_defaults().map_err(failure)?,
    };
    for (section, there) in [("[cluster]", config.cluster.is_some()), ("[bus]", config.bus.is_some())] {
        if there {
            let failure = Failure::new(Code::Usage, format!("{section} in a configuration for `reeve dev`"));
            return Err(failure.because("dev keeps everything in one process; use `reeve control`"));
        }
    }
    let folder = args.data.clone().or_else(dev_data_dir).ok_or_else(|| {
        Failure::new(Code::Usage, "no data folder").because("neither $XDG_STATE_HOME nor $HOME is set: give --data DIR")
    })?;
    let folder = std::path::absolute(&folder)
        .map_err(|error| Failure::new(Code::Usage, format!("--data {}", folder.display())).because(error))?;
    if config.cloud.is_empty() {
        let name = CloudName::new("sim").expect("a short plain word is a cloud's name");
        let driver = Driver::Sim(SimConfig::default());
        config.cloud.push(CloudSection { name, driver, notifications: None });
    }
    if let Some(vms) = args.vms {
        let usage = || Failure::new(Code::Usage, format!("--vms {vms}"));
        match &mut config.cloud[0].driver {
            Driver::Sim(sim) => {
                sim.vms = vms;
                sim.validate().map_err(|error| usage().because(error))?;
            }
            Driver::OpenStack(_) => return Err(usage().because("the first cloud is not simulated")),
        }
    }
    config.rpc.socket = folder.join("reeve.sock");
    config.vault.url = config::folder_url(&folder.join("vault"));
    config.node.data_dir = folder;
    Ok(config)
}

fn read_recording(file: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;

    let cannot = |error: std::io::Error| {
        Failure::new(Code::Failed, format!("cannot read the recording {}", file.display())).because(error)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(MAX_RECORDING_BYTES + 1).read_to_end(&mut bytes))
        .map_err(cannot)?;
    if bytes.len() as u64 > MAX_RECORDING_BYTES {
        return Err(cannot(std::io::Error::other(format!("more than {MAX_RECORDING_BYTES} bytes: split it"))));
    }
    Ok(bytes)
}

fn greeting(output: Output, config: &Config) -> String {
    let (data, socket) = (config.node.data_dir.display(), config.rpc.socket.display());
    if output.talk == Talk::Quiet {
        return String::new();
    }
    match output.format {
        Format::Json => {
            format!("{}\n", json!({"data": data.to_string(), "endpoint": format!("unix:{socket}")}))
        }
        Format::Yaml => format!("data: {data:?}\nendpoint: \"unix:{socket}\"\n"),
        Format::Table => {
            let usual = dev_data_dir().is_some_and(|usual| usual == config.node.data_dir);
            let endpoint = if usual { String::new() } else { format!(" --endpoint unix:{socket}") };
            format!(
                "A node runs here and keeps everything in {data}. Talk to it from another terminal:\n\
                 \x20 reeve{endpoint} vm list\n\
                 \x20 reeve{endpoint} event tail --follow\n\
                 \x20 reeve{endpoint} actor tree\n\
                 Ctrl-C stops it; the next start goes on where it stopped.\n"
            )
        }
    }
}
