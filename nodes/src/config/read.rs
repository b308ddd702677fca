//! From text to sections.

use std::collections::BTreeMap;
use std::path::Path;

use reeve_drivers::SimConfig;
use reeve_lifecycle::policy::Policy;
use reeve_protocol::CloudName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::check;
use super::environment::{self, Overrides};
use super::problem::{ConfigError, Problem};
use super::runtime::RuntimeSection;
use super::sections::{
    BusSection, CloudSection, Config, Driver, LogSection, NodeSection, NotificationsSection, RpcSection, VaultSection,
};

/// The most bytes that a configuration may have.
const MAX_BYTES: usize = 1024 * 1024;

/// Sections of INTERFACE that belong to later versions.
const LATER_SECTIONS: [&str; 6] = ["cluster", "http", "otlp", "auth", "notify", "host"];
/// Keys of `[rpc]` that belong to later versions.
const LATER_RPC: [&str; 4] = ["listen", "cert", "key", "ca"];
/// Drivers that belong to later versions.
const LATER_DRIVERS: [&str; 2] = ["openstack", "qemu"];

/// Reads and checks a configuration file, with the overrides of this process's environment.
///
/// # Errors
/// [`ConfigError`] names every key that is wrong, its line or variable, and what was expected.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text, environment())
}

/// The configuration of an empty file, with the overrides of this process's environment.
///
/// # Errors
/// [`ConfigError`] when an override is wrong.
pub fn with_defaults() -> Result<Config, ConfigError> {
    parse("defaults", "", environment())
}

/// The environment, less what is no text: no key and no value of ours is otherwise.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads and checks a configuration. `file` is what the text is called in complaints.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, text: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    Reader::new(file, text, variables)?.config()
}

/// The table to read, and what is needed to say where something in it stands.
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    spans: Spanned<DeTable<'a>>,
    root: Table,
    overrides: Overrides,
}

impl<'a> Reader<'a> {
    fn new(
        file: &'a str,
        text: &'a str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let whole =
            |place: String, message: String| ConfigError::Invalid(vec![Problem { place, key: String::new(), message }]);
        if text.len() > MAX_BYTES {
            return Err(whole(file.into(), format!("{} bytes, at most {MAX_BYTES} are read", text.len())));
        }
        // Only the message: the error's own text quotes the line, and the line may hold a secret.
        let not_toml = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            whole(format!("{file}:{line}"), format!("not TOML: {}", error.message()))
        };
        let spans = DeTable::parse(text).map_err(not_toml)?;
        let mut root: Table = toml::from_str(text).map_err(not_toml)?;
        let overrides = environment::apply(&mut root, variables).map_err(ConfigError::Invalid)?;
        Ok(Self { file, text, spans, root, overrides })
    }

    fn config(mut self) -> Result<Config, ConfigError> {
        let later = self.later();
        if !later.is_empty() {
            return Err(ConfigError::Invalid(later));
        }
        let root = Value::Table(std::mem::take(&mut self.root));
        let one = |problem| ConfigError::Invalid(vec![problem]);
        let raw: RawConfig = self.typed("", root).map_err(one)?;
        let mut cloud = Vec::new();
        for (index, table) in raw.cloud.iter().cloned().enumerate() {
            cloud.push(self.cloud(&format!("cloud[{index}]"), table).map_err(one)?);
        }
        let RawConfig { node, bus, rpc, vault, log, runtime, policy, cloud: _ } = raw;
        check::completed(Config { node, bus, rpc, vault, log, runtime, cloud, policy }, &self)
            .map_err(ConfigError::Invalid)
    }

    /// What this version does not have yet.
    fn later(&self) -> Vec<Problem> {
        let sections = LATER_SECTIONS
            .iter()
            .filter(|name| self.root.contains_key(**name))
            .map(|name| self.problem(name, format!("section [{name}] is not supported by this version: leave it out")));
        let rpc = self.root.get("rpc").and_then(Value::as_table);
        let keys = LATER_RPC.iter().filter(|key| rpc.is_some_and(|rpc| rpc.contains_key(**key))).map(|key| {
            let why = "is not supported by this version, which answers on rpc.socket only: leave it out";
            self.problem(&format!("rpc.{key}"), why.into())
        });
        sections.chain(keys).collect()
    }

    fn cloud(&self, path: &str, mut table: Table) -> Result<CloudSection, Problem> {
        let mut take = |key: &str| table.remove(key);
        let (name, driver, notifications) = (take("name"), take("driver"), take("notifications"));
        let required = |key: &str, value: Option<Value>, what: &str| {
            value.ok_or_else(|| self.problem(path, format!("key {key} is missing: {what}")))
        };
        let name: CloudName =
            self.typed(&format!("{path}.name"), required("name", name, "what is the cloud called?")?)?;
        let key = format!("{path}.driver");
        let driver: String = self.typed(&key, required("driver", driver, "expected driver = \"sim\"")?)?;
        let driver = match driver.as_str() {
            "sim" => Driver::Sim(self.typed::<SimConfig>(path, Value::Table(table))?),
            _ if LATER_DRIVERS.contains(&driver.as_str()) => {
                let why = format!("driver {driver:?} is not supported by this version, which has \"sim\" only");
                return Err(self.problem(&key, why));
            }
            _ => return Err(self.problem(&key, format!("no driver is called {driver:?}, expected \"sim\""))),
        };
        let notifications = notifications
            .map(|value| self.typed::<NotificationsSection>(&format!("{path}.notifications"), value))
            .transpose()?;
        Ok(CloudSection { name, driver, notifications })
    }

    /// Reads a value that stands at a path of keys.
    fn typed<T: DeserializeOwned>(&self, path: &str, value: Value) -> Result<T, Problem> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let inner = error.path().to_string();
            let mut key = match (path.is_empty(), inner.as_str()) {
                (_, ".") => path.to_owned(),
                (true, _) => inner,
                (false, _) if inner.starts_with('[') => format!("{path}{inner}"),
                (false, _) => format!("{path}.{inner}"),
            };
            let message = error.inner().message().to_owned();
            if let Some(unknown) = unknown_field(&message) {
                // The path names the section, or already the key.
                if !(key == unknown || key.ends_with(&format!(".{unknown}"))) {
                    key = if key.is_empty() { unknown.to_owned() } else { format!("{key}.{unknown}") };
                }
            }
            self.problem(&key, message)
        })
    }

    /// A complaint about a key, with the place where it or the nearest thing above it was said.
    pub(super) fn problem(&self, key: &str, message: String) -> Problem {
        let place = match self.overrides.variable(key) {
            Some(name) => format!("environment variable {name}"),
            None => match self.line(key) {
                Some(line) => format!("{}:{line}", self.file),
                None => self.file.to_owned(),
            },
        };
        Problem { place, key: key.to_owned(), message }
    }

    fn line(&self, key: &str) -> Option<usize> {
        let mut table = self.spans.get_ref();
        let mut found = None;
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for segment in key.split(['.', '[']) {
            if let Some(index) = segment.strip_suffix(']') {
                let entry = value?.get_ref().as_array()?.get(index.parse::<usize>().ok()?);
                let Some(entry) = entry else { break };
                found = Some(entry.span().start);
                value = Some(entry);
            } else {
                match value.map(Spanned::get_ref) {
                    None => {}
                    Some(DeValue::Table(inner)) => table = inner,
                    Some(_) => break,
                }
                let Some((name, inner)) = table.iter().find(|(name, _)| name.get_ref() == segment) else { break };
                found = Some(name.span().start);
                value = Some(inner);
            }
        }
        found.map(|start| line_at(self.text, start))
    }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    node: NodeSection,
    bus: Option<BusSection>,
    #[serde(default)]
    rpc: RpcSection,
    #[serde(default)]
    vault: VaultSection,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    runtime: RuntimeSection,
    #[serde(default)]
    cloud: Vec<Table>,
    #[serde(default)]
    policy: BTreeMap<String, Policy>,
}
