//! From text to sections.
//!
//! A key that cannot be read is complained of and taken out, and its section is read again without it: so that all that
//! is wrong is said at once.

use std::collections::BTreeSet;
use std::path::Path;

use reeve_drivers::SimConfig;
use reeve_protocol::CloudName;
use reeve_protocol::rule::Rule;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::check;
use super::environment::{self, Overrides};
use super::problem::{ConfigError, Problem};
use super::sections::{CloudSection, Config, Driver, NotificationsSection};

/// The most bytes that a configuration may have.
const MAX_BYTES: usize = 1024 * 1024;
/// How many wrong keys of one section are looked for.
const MAX_WRONG: usize = 64;

/// Sections of INTERFACE that belong to later versions.
const LATER_SECTIONS: [&str; 3] = ["otlp", "auth", "host"];
/// Channels of `[notify]` that belong to later versions.
const LATER_CHANNELS: [&str; 2] = ["sms", "amqp"];
/// Drivers that belong to later versions.
const LATER_DRIVERS: [&str; 1] = ["qemu"];

/// Reads and checks a configuration file, with the overrides of this process's environment, and the templates that it names.
///
/// # Errors
/// [`ConfigError`] names every key that is wrong, its line or variable, and what was expected.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let config = parse(&path.display().to_string(), &text, environment())?;
    let wrong = check::templates(&config);
    if wrong.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(wrong)) }
}

/// A configuration whose files were looked into as well.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// The keys whose credential could not be looked at: systemd provides them to the service only.
    pub unseen: Vec<String>,
}

/// As [`load`], and opens every secret and certificate that the configuration names.
///
/// # Errors
/// As [`load`], and for each file that cannot be read or does not hold what it should.
pub fn inspect(path: &Path) -> Result<Checked, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let file = path.display().to_string();
    let mut reader = Reader::new(&file, &text, environment())?;
    let config = reader.config()?;
    let check::Found { wrong, unseen } = check::look(&config, &reader);
    if wrong.is_empty() { Ok(Checked { config, unseen }) } else { Err(ConfigError::Invalid(wrong)) }
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
pub(in crate::config) struct Reader<'a> {
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

    fn config(&mut self) -> Result<Config, ConfigError> {
        let mut wrong = self.later();
        let root = Value::Table(std::mem::take(&mut self.root));
        match self.sections(root, &mut wrong) {
            Some(config) => {
                let told: BTreeSet<String> = wrong.iter().map(|problem| section(&problem.key)).collect();
                match check::completed(config, self) {
                    Ok(config) if wrong.is_empty() => return Ok(config),
                    Ok(_) => {}
                    // What was taken out of a section may be what the check misses there.
                    Err(more) => {
                        wrong.extend(more.into_iter().filter(|problem| !told.contains(&section(&problem.key))));
                    }
                }
            }
            None => assert!(!wrong.is_empty(), "a section that cannot be read is complained of"),
        }
        Err(ConfigError::Invalid(wrong))
    }

    /// Reads every section; `None` if one of them cannot be read at all.
    fn sections(&self, root: Value, wrong: &mut Vec<Problem>) -> Option<Config> {
        let RawConfig { node, cluster, bus, rpc, http, vault, notify, provision, log, runtime, cloud, policy, rule } =
            self.typed("", root, wrong).unwrap_or_default();
        let tables: Option<Vec<Table>> =
            self.required("cloud", cloud.or_else(|| Some(Value::Array(Vec::new()))), wrong);
        let clouds = tables.map(|tables| {
            let read = |(index, table)| self.cloud(&format!("cloud[{index}]"), table, wrong);
            tables.into_iter().enumerate().map(read).collect::<Vec<Option<CloudSection>>>()
        });
        let node = self.required("node", node, wrong);
        let cluster = self.optional("cluster", cluster, wrong);
        let bus = self.optional("bus", bus, wrong);
        let rpc = self.required("rpc", rpc, wrong);
        let http = self.optional("http", http, wrong);
        let vault = self.required("vault", vault, wrong);
        let notify = self.optional("notify", notify, wrong);
        let provision = self.required("provision", provision, wrong);
        let log = self.required("log", log, wrong);
        let runtime = self.required("runtime", runtime, wrong);
        let policy = self.required("policy", policy, wrong);
        let rule = self.rules(rule, wrong);
        Some(Config {
            node: node?,
            cluster: cluster?,
            bus: bus?,
            rpc: rpc?,
            http: http?,
            vault: vault?,
            notify: notify?,
            provision: provision?,
            log: log?,
            runtime: runtime?,
            cloud: clouds?.into_iter().collect::<Option<_>>()?,
            policy: policy?,
            rule: rule?,
        })
    }

    /// Each rule by itself, so that a complaint names its place.
    fn rules(&self, value: Option<Value>, wrong: &mut Vec<Problem>) -> Option<Vec<Rule>> {
        let tables: Vec<Value> = self.typed("rule", value.unwrap_or_else(|| Value::Array(Vec::new())), wrong)?;
        let read = |(index, table)| self.typed(&format!("rule[{index}]"), table, wrong);
        let rules: Vec<Option<Rule>> = tables.into_iter().enumerate().map(read).collect();
        rules.into_iter().collect()
    }

    /// Takes out what this version does not have yet, and complains of it.
    fn later(&mut self) -> Vec<Problem> {
        let there: Vec<&str> = LATER_SECTIONS.into_iter().filter(|name| self.root.remove(*name).is_some()).collect();
        let mut there: Vec<String> = there.into_iter().map(str::to_owned).collect();
        if let Some(Value::Table(notify)) = self.root.get_mut("notify") {
            let channels = LATER_CHANNELS.into_iter().filter(|name| notify.remove(*name).is_some());
            there.extend(channels.map(|name| format!("notify.{name}")));
        }
        let message = |name: &str| format!("section [{name}] is not supported by this version: leave it out");
        there.iter().map(|name| self.problem(name, message(name))).collect()
    }

    fn cloud(&self, path: &str, mut table: Table, wrong: &mut Vec<Problem>) -> Option<CloudSection> {
        let mut take = |key: &str| table.remove(key);
        let (name, driver, notifications) = (take("name"), take("driver"), take("notifications"));
        for (key, value, what) in [
            ("name", &name, "what is the cloud called?"),
            ("driver", &driver, "expected driver = \"openstack\" or \"sim\""),
        ] {
            if value.is_none() {
                wrong.push(self.problem(path, format!("key {key} is missing: {what}")));
            }
        }
        let name = name.and_then(|name| self.typed::<CloudName>(&format!("{path}.name"), name, wrong));
        let key = format!("{path}.driver");
        let driver = driver.and_then(|driver| self.typed::<String>(&key, driver, wrong));
        let driver = driver.and_then(|driver| match driver.as_str() {
            "sim" => Some(Driver::Sim(self.typed::<SimConfig>(path, Value::Table(table), wrong)?)),
            "openstack" => Some(Driver::OpenStack(Box::new(self.typed(path, Value::Table(table), wrong)?))),
            _ if LATER_DRIVERS.contains(&driver.as_str()) => {
                let why =
                    format!("driver {driver:?} is not supported by this version, which has \"openstack\" and \"sim\"");
                wrong.push(self.problem(&key, why));
                None
            }
            _ => {
                wrong.push(
                    self.problem(&key, format!("no driver is called {driver:?}, expected \"openstack\" or \"sim\"")),
                );
                None
            }
        });
        let notifications =
            self.optional::<NotificationsSection>(&format!("{path}.notifications"), notifications, wrong);
        Some(CloudSection { name: name?, driver: driver?, notifications: notifications? })
    }

    /// Reads a section that is there even if the file leaves it out.
    fn required<T: DeserializeOwned>(&self, path: &str, value: Option<Value>, wrong: &mut Vec<Problem>) -> Option<T> {
        self.typed(path, value.unwrap_or_else(|| Value::Table(Table::new())), wrong)
    }

    /// Reads a section that may be left out.
    fn optional<T: DeserializeOwned>(
        &self,
        path: &str,
        value: Option<Value>,
        wrong: &mut Vec<Problem>,
    ) -> Option<Option<T>> {
        match value {
            Some(value) => self.typed(path, value, wrong).map(Some),
            None => Some(None),
        }
    }

    /// Reads a value that stands at a path of keys, without those of its keys that are wrong.
    fn typed<T: DeserializeOwned>(&self, path: &str, mut value: Value, wrong: &mut Vec<Problem>) -> Option<T> {
        let mut taken = BTreeSet::new();
        for _ in 0..MAX_WRONG {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let (key, mut within) = self.key(path, &error);
            let message = error.inner().message().to_owned();
            // A key that was taken out because it is wrong is not missing.
            if missing_field(&message).is_some_and(|missing| taken.contains(&join(&key, missing))) {
                return None;
            }
            wrong.push(self.problem(&key, message));
            // Taking out an entry would move the others of its list.
            within.truncate(within.iter().position(|name| name.parse::<usize>().is_ok()).unwrap_or(within.len()));
            take_out(&mut value, &within)?;
            taken.insert(key);
        }
        None
    }

    /// The key that an error is about, and its path within the value that was read.
    fn key(&self, path: &str, error: &serde_path_to_error::Error<toml::de::Error>) -> (String, Vec<String>) {
        use serde_path_to_error::Segment;

        let within = error.path().iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let mut within: Vec<String> = within.collect();
        let inner = error.path().to_string();
        let mut key = match inner.as_str() {
            "." => path.to_owned(),
            _ if inner.starts_with('[') => format!("{path}{inner}"),
            _ => join(path, &inner),
        };
        if let Some(unknown) = unknown_field(error.inner().message()) {
            // The path names the section, or already the key.
            if !(key == unknown || key.ends_with(&format!(".{unknown}"))) {
                key = join(&key, unknown);
            }
            if within.last().is_none_or(|last| last != unknown) {
                within.push(unknown.to_owned());
            }
        }
        (key, within)
    }

    /// A complaint about a key, with the place where it or the nearest thing above it was said.
    pub(in crate::config) fn problem(&self, key: &str, message: String) -> Problem {
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

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The section of a key: its first segment, or the policy that it belongs to.
fn section(key: &str) -> String {
    let segments = if key.starts_with("policy.") { 2 } else { 1 };
    key.split('.').take(segments).collect::<Vec<_>>().join(".")
}

/// Takes a key out of a table of tables; `None` if it is not there.
fn take_out(value: &mut Value, path: &[String]) -> Option<()> {
    let (last, above) = path.split_last()?;
    let table = above.iter().try_fold(value, |value, name| value.get_mut(name.as_str()));
    table?.as_table_mut()?.remove(last.as_str()).map(|_| ())
}

fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

fn unknown_field(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// The sections, before each is read by itself.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    node: Option<Value>,
    cluster: Option<Value>,
    bus: Option<Value>,
    rpc: Option<Value>,
    http: Option<Value>,
    vault: Option<Value>,
    notify: Option<Value>,
    provision: Option<Value>,
    log: Option<Value>,
    runtime: Option<Value>,
    cloud: Option<Value>,
    policy: Option<Value>,
    rule: Option<Value>,
}
