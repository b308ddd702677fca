//! What types cannot say: completes the defaults that depend on other keys, and checks what must fit together.

use std::collections::BTreeSet;
use std::path::Path;

use reeve_cluster::rabbitmq::BrokerUrl;
use reeve_lifecycle::policy::Policies;
use reeve_protocol::{Span, rule};
use tracing_subscriber::EnvFilter;

use super::openstack::OpenStackProblem;
use super::problem::Problem;
use super::read::Reader;
use super::secret::Secret;
use super::sections::{BusSection, CloudSection, Config, Driver, NotificationsSection};

mod cluster;
mod files;
mod http;
mod notify;

pub(crate) use cluster::{is_host_port, is_plain_name};
pub(super) use files::{Found, look};

/// The longest path that a socket's address holds, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// By how much the default of the quarantine is longer than the longest call: a call is not cut off on the dot.
const QUARANTINE_MARGIN: Span = Span::from_secs(5);
/// The shortest wait for the broker's confirmation.
const MIN_PUBLISH_TIMEOUT: Span = Span::from_millis(100);
/// The longest wait for the broker's confirmation.
const MAX_PUBLISH_TIMEOUT: Span = Span::from_secs(600);

/// Fills in what depends on other keys, and returns the configuration or everything that is wrong with it.
pub(super) fn completed(mut config: Config, reader: &Reader<'_>) -> Result<Config, Vec<Problem>> {
    let mut wrong = Vec::new();
    let mut complain = |key: &str, message: String| wrong.push(reader.problem(key, message));

    match std::path::absolute(&config.node.data_dir) {
        Ok(path) => config.node.data_dir = path,
        Err(error) => complain("node.data_dir", format!("is no path: {error}")),
    }
    let data_dir = config.node.data_dir.clone();
    if config.rpc.socket.as_os_str().is_empty() {
        config.rpc.socket = data_dir.join("reeve.sock");
    }
    let own_vault = config.vault.url.is_empty();
    if own_vault {
        config.vault.url = folder_url(&data_dir.join("vault"));
    }
    if config.cluster.is_some() && config.runtime.quarantine.is_none() {
        config.runtime.quarantine = Some(config.runtime.timeouts.call + QUARANTINE_MARGIN);
    }
    cluster::complete_rpc(&mut config.rpc, &mut complain);
    if let Some(section) = &config.cluster {
        cluster::check(section, &config, &mut complain);
        if own_vault {
            complain(
                "vault.url",
                "is left out, but the nodes of [cluster] need one vault that all of them reach".into(),
            );
        }
    }
    let length = config.rpc.socket.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        complain("rpc.socket", format!("has {length} bytes, a socket's path has at most {MAX_SOCKET_PATH}"));
    }
    for (key, message) in config.vault.wrong() {
        complain(&format!("vault.{key}"), message);
    }
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        complain("log.level", format!("{error} (expected for example info, or info,lapin=warn)"));
    }
    if let Some(bus) = &config.bus {
        check_bus(bus, &mut complain);
    }
    if let Some(section) = &config.http {
        http::check(section, &mut complain);
    }
    if let Some(section) = &config.notify {
        notify::check(section, &mut complain);
    }
    for (key, message) in config.provision.wrong() {
        complain(&format!("provision.{key}"), message);
    }
    for (key, expected) in config.runtime.wrong() {
        complain(&format!("runtime.{key}"), expected.into());
    }
    check_clouds(&config.cloud, config.bus.is_some(), &mut complain);
    check_policies(&mut config, &mut complain);
    check_rules(&config, &mut complain);
    if wrong.is_empty() { Ok(config) } else { Err(wrong) }
}

/// Everything that is wrong with the templates that a configuration names.
pub(super) fn templates(config: &Config) -> Vec<Problem> {
    let folder = config.notify.as_ref().and_then(|section| section.templates.as_deref());
    let mut wrong = folder.map(notify::templates).unwrap_or_default();
    wrong.extend(config.provision.to_rules().err().unwrap_or_default());
    wrong
}

fn check_bus(bus: &BusSection, complain: &mut impl FnMut(&str, String)) {
    if let Secret::Inline(url) = &bus.url {
        match url.expose().parse::<BrokerUrl>() {
            Err(error) => complain("bus.url", error.to_string()),
            Ok(url) if bus.ca.is_some() && !url.is_tls() => {
                complain(
                    "bus.ca",
                    "is set, but bus.url is amqp://, which has no certificate: expected amqps://".into(),
                );
            }
            Ok(_) => {}
        }
    }
    if bus.prefetch == 0 {
        complain("bus.prefetch", "is 0, expected 1 to 65535".into());
    }
    if bus.publish_timeout < MIN_PUBLISH_TIMEOUT || bus.publish_timeout > MAX_PUBLISH_TIMEOUT {
        let message = format!("is {}, expected {MIN_PUBLISH_TIMEOUT} to {MAX_PUBLISH_TIMEOUT}", bus.publish_timeout);
        complain("bus.publish_timeout", message);
    }
}

fn check_clouds(clouds: &[CloudSection], bus: bool, complain: &mut impl FnMut(&str, String)) {
    let (mut names, mut seeds) = (BTreeSet::new(), BTreeSet::new());
    for (index, cloud) in clouds.iter().enumerate() {
        let path = format!("cloud[{index}]");
        if !names.insert(&cloud.name) {
            complain(&format!("{path}.name"), format!("two clouds are called {:?}", cloud.name.as_str()));
        }
        // It names queues and folders: what is special to either would lead astray.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !cloud.name.as_str().chars().all(plain) || cloud.name.as_str().starts_with('.') {
            let message = format!("{:?} has other characters than letters, digits, - _ .", cloud.name.as_str());
            complain(&format!("{path}.name"), message);
        }
        match &cloud.driver {
            Driver::Sim(sim) => {
                if let Err(error) = sim.validate() {
                    complain(&path, error.to_string());
                }
                if !seeds.insert(sim.seed) {
                    let why = format!("two simulated clouds have seed {}: their VMs would have the same ids", sim.seed);
                    complain(&format!("{path}.seed"), why);
                }
            }
            Driver::OpenStack(section) => {
                if let Some(OpenStackProblem { key, why }) = section.wrong() {
                    let why = why.to_string();
                    let expected = why.trim_start_matches("expected ");
                    complain(&format!("{path}.{key}"), format!("expected {expected}"));
                }
            }
        }
        if let Some(notifications) = &cloud.notifications {
            check_notifications(&format!("{path}.notifications"), notifications, bus, complain);
        }
    }
}

fn check_notifications(
    path: &str,
    notifications: &NotificationsSection,
    bus: bool,
    complain: &mut impl FnMut(&str, String),
) {
    if !bus {
        complain(path, "notifications come over a broker: add [bus] url, or leave this out".into());
    }
    if notifications.exchange.is_empty()
        || notifications.exchange.len() > 255
        || notifications.exchange.starts_with("reeve.")
    {
        complain(&format!("{path}.exchange"), "expected the cloud's own exchange, 1 to 255 bytes".into());
    }
    let topics = &notifications.topics;
    if topics.is_empty() || topics.len() > 16 || topics.iter().any(|topic| topic.is_empty() || topic.len() > 200) {
        complain(&format!("{path}.topics"), "expected 1 to 16 topics of 1 to 200 bytes".into());
    }
}

/// Every policy by itself, then all together; each complaint names the key within its policy.
fn check_policies(config: &mut Config, complain: &mut impl FnMut(&str, String)) {
    config.policy.entry("default".to_owned()).or_default();
    let mut sound = true;
    for (name, policy) in &config.policy {
        if let Err(error) = policy.check(name) {
            sound = false;
            complain(&format!("policy.{name}.{}", error.key), error.why);
        }
    }
    if sound && let Err(error) = Policies::new(config.policy.clone()) {
        complain(&format!("policy.{}.{}", error.policy, error.key), error.why);
    }
}

/// Every rule, and that what it names is there: a rule that never acts is a mistake.
fn check_rules(config: &Config, complain: &mut impl FnMut(&str, String)) {
    for (key, why) in rule::check(&config.rule) {
        complain(&format!("rule{key}"), why);
    }
    for (index, rule) in config.rule.iter().enumerate() {
        if let Some(cloud) = &rule.on.cloud
            && !config.cloud.iter().any(|section| section.name == *cloud)
        {
            complain(&format!("rule[{index}].on.cloud"), format!("no cloud is called {:?}", cloud.as_str()));
        }
        if let Some(policy) = &rule.on.policy
            && !config.policy.contains_key(policy)
        {
            complain(&format!("rule[{index}].on.policy"), format!("no policy is called {policy:?}"));
        }
    }
}

/// The `file://` URL of a folder.
#[must_use]
pub fn folder_url(folder: &Path) -> String {
    // The one character that is special to whoever reads the URL.
    format!("file://{}", folder.display().to_string().replace('%', "%25"))
}
