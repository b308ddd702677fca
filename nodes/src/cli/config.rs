//! `reeve config …`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::fail::{Code, Failure};
use super::output::{Format, Output};
use crate::config::{self, Checked, Config, ConfigError};

/// Where the packaged service keeps its configuration.
pub(super) const DEFAULT_CONFIG: &str = "/etc/reeve/reeve.toml";

/// What to do with configurations.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file: every key that is wrong, its line, and what was expected; and the secrets and certificates it names
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the effective configuration, defaults and environment included, with secrets masked
    Show {
        /// The file [default: /etc/reeve/reeve.toml if it is there, else the defaults]
        file: Option<PathBuf>,
    },
}

/// Carries it out.
pub(super) fn run(output: Output, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { file } => {
            let Checked { config, unseen } = config::inspect(&file).map_err(failure)?;
            let (clouds, policies) = (config.cloud.len(), config.policy.len());
            let sound = json!({
                "file": file, "ok": true, "clouds": clouds, "policies": policies, "credentials_not_seen": unseen,
            });
            if !unseen.is_empty() {
                let keys = unseen.join(", ");
                output.note(&format!("not looked at, because only the service has its credentials: {keys}"));
            }
            match output.format {
                Format::Json | Format::Yaml => output.value(&sound),
                Format::Table => {
                    output.note(&format!("{}: sound", file.display()));
                    Ok(())
                }
            }
        }
        ConfigCommand::Show { file } => {
            let packaged = PathBuf::from(DEFAULT_CONFIG);
            let file = file.or_else(|| packaged.exists().then_some(packaged));
            let config = file.map_or_else(config::with_defaults, |file| config::load(&file)).map_err(failure)?;
            show(output, &config)
        }
    }
}

fn show(output: Output, config: &Config) -> Result<(), Failure> {
    match output.format {
        Format::Json | Format::Yaml => output.value(config),
        Format::Table => {
            let text = toml::to_string(config)
                .map_err(|error| Failure::new(Code::Failed, "cannot write the configuration as TOML").because(error))?;
            output.text(&text)
        }
    }
}

/// A configuration that cannot be used.
pub(super) fn failure(error: ConfigError) -> Failure {
    match error {
        ConfigError::Read { path, source } => {
            Failure::new(Code::Failed, format!("cannot read the configuration {}", path.display())).because(source)
        }
        ConfigError::Invalid(problems) => {
            let details: Vec<_> = problems
                .iter()
                .map(|one| json!({"place": one.place, "key": one.key, "message": one.message}))
                .collect();
            let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(Code::Failed, text.join("\n")).with_details(json!(details))
        }
    }
}
