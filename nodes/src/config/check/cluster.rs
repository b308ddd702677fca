//! What `[cluster]` and `[rpc]` need of each other and of the rest.

use std::net::Ipv6Addr;

use reeve_protocol::Span;

use crate::config::cluster::{ClusterSection, RpcSection};
use crate::config::sections::{Config, Driver, host_name};

/// The longest name of a cluster, in bytes: it is part of every key in etcd.
const MAX_NAME: usize = 63;
const MAX_SHARDS: u16 = 1024;
const MIN_LEASE_TTL: Span = Span::from_secs(2);
const MAX_LEASE_TTL: Span = Span::from_secs(60);
const MIN_CLOCK_SKEW: Span = Span::from_millis(100);
const MAX_CLOCK_SKEW: Span = Span::from_secs(3600);
/// How many of etcd's members may be named.
const MAX_ENDPOINTS: usize = 16;

/// Whether a text is plain enough for keys, files and the names in certificates.
pub(crate) fn is_plain_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(plain) && !text.starts_with(['.', '-'])
}

/// Fills in where the node is reached, and checks that all of TLS is there or nothing.
pub(super) fn complete_rpc(rpc: &mut RpcSection, complain: &mut impl FnMut(&str, String)) {
    let files = [("cert", rpc.cert.is_some()), ("key", rpc.key.is_some()), ("ca", rpc.ca.is_some())];
    let Some(listen) = rpc.listen else {
        for (key, _) in files.iter().filter(|(_, there)| *there) {
            complain(&format!("rpc.{key}"), "is set, but rpc.listen is not: expected both or neither".into());
        }
        if rpc.advertise.is_some() {
            complain("rpc.advertise", "is set, but rpc.listen is not: expected both or neither".into());
        }
        return;
    };
    for (key, _) in files.iter().filter(|(_, there)| !there) {
        complain("rpc.listen", format!("needs rpc.{key}: whoever asks over the network shows a certificate"));
    }
    match &rpc.advertise {
        Some(text) if !is_host_port(text) => {
            complain("rpc.advertise", format!("is {text:?}, expected HOST:PORT, for example control-1.example:7471"));
        }
        Some(_) => {}
        None if listen.port() == 0 => {
            complain("rpc.listen", "has port 0: nobody would know where to ask".into());
        }
        None if listen.ip().is_unspecified() => match host_name() {
            name if name.is_empty() => {
                complain("rpc.advertise", "is left out, and this machine has no host name: expected HOST:PORT".into());
            }
            name => rpc.advertise = Some(format!("{name}:{}", listen.port())),
        },
        None => rpc.advertise = Some(listen.to_string()),
    }
}

/// Whether a text is `HOST:PORT`, an IPv6 address in brackets.
pub(crate) fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = |host: &str| {
        let label = |label: &str| {
            !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        host.len() <= 253 && host.split('.').all(label)
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = address.map_or_else(|| name(host), |address| address.parse::<Ipv6Addr>().is_ok());
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Checks the section, and what it needs of the others.
pub(super) fn check(section: &ClusterSection, config: &Config, complain: &mut impl FnMut(&str, String)) {
    if !is_plain_name(&section.name) {
        let message = format!("is {:?}, expected 1 to {MAX_NAME} letters, digits, - _ .", section.name);
        complain("cluster.name", message);
    }
    if !is_plain_name(config.node.id.as_str()) {
        let message = format!("is {:?}, expected 1 to {MAX_NAME} letters, digits, - _ .", config.node.id.as_str());
        complain("node.id", message);
    }
    check_etcd(section, complain);
    if section.shards == 0 || section.shards > MAX_SHARDS {
        complain("cluster.shards", format!("is {}, expected 1 to {MAX_SHARDS}", section.shards));
    }
    let ttl = section.lease_ttl;
    if ttl < MIN_LEASE_TTL || ttl > MAX_LEASE_TTL || !ttl.as_millis().is_multiple_of(1000) {
        complain(
            "cluster.lease_ttl",
            format!("is {ttl}, expected {MIN_LEASE_TTL} to {MAX_LEASE_TTL} in whole seconds"),
        );
    }
    let skew = section.max_clock_skew;
    if skew < MIN_CLOCK_SKEW || skew > MAX_CLOCK_SKEW {
        complain("cluster.max_clock_skew", format!("is {skew}, expected {MIN_CLOCK_SKEW} to {MAX_CLOCK_SKEW}"));
    }
    if !(0.1..=100.0).contains(&section.weight) {
        complain("cluster.weight", format!("is {}, expected 0.1 to 100", section.weight));
    }
    let (quarantine, call) = (config.runtime.quarantine.unwrap_or_default(), config.runtime.timeouts.call);
    if quarantine < call {
        let message = format!("is {quarantine}, expected at least runtime.timeouts.call, which is {call}");
        complain("runtime.quarantine", message);
    }
    if config.bus.is_none() {
        complain("cluster", "needs [bus]: the nodes hand each other's messages on over a broker".into());
    }
    if config.rpc.listen.is_none() {
        complain("cluster", "needs rpc.listen: the other nodes ask this one there".into());
    }
    for (index, cloud) in config.cloud.iter().enumerate() {
        match cloud.driver {
            Driver::Sim(_) => {
                let why = "is \"sim\", but each node of [cluster] would simulate a cloud of its own";
                complain(&format!("cloud[{index}].driver"), why.into());
            }
            Driver::OpenStack(_) => {}
        }
    }
}

fn check_etcd(section: &ClusterSection, complain: &mut impl FnMut(&str, String)) {
    let ClusterSection { etcd, etcd_ca, etcd_cert, etcd_key, etcd_user, etcd_password, .. } = section;
    if etcd.is_empty() || etcd.len() > MAX_ENDPOINTS {
        complain("cluster.etcd", format!("names {} members, expected 1 to {MAX_ENDPOINTS}", etcd.len()));
    }
    let (mut plain, mut secure) = (false, false);
    for (index, url) in etcd.iter().enumerate() {
        let (rest, kind) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (rest, &mut secure),
            (None, Some(rest)) => (rest, &mut plain),
            (None, None) => ("", &mut plain),
        };
        *kind = true;
        if !is_host_port(rest) {
            // A URL with a password in it is not repeated.
            complain(&format!("cluster.etcd[{index}]"), "expected https://HOST:PORT, or http://HOST:PORT".into());
        }
    }
    if plain && secure {
        complain("cluster.etcd", "has https:// and http://: expected all of one kind".into());
    }
    if plain && !secure && (etcd_ca.is_some() || etcd_cert.is_some()) {
        let key = if etcd_ca.is_some() { "etcd_ca" } else { "etcd_cert" };
        complain(&format!("cluster.{key}"), "is set, but cluster.etcd is http://, which has no certificates".into());
    }
    if secure && etcd_ca.is_none() {
        complain(
            "cluster.etcd_ca",
            "is left out, but cluster.etcd is https://: whom are its members certified by?".into(),
        );
    }
    let pairs = [
        ("etcd_cert", etcd_cert.is_some(), "etcd_key", etcd_key.is_some()),
        ("etcd_user", etcd_user.is_some(), "etcd_password", etcd_password.is_some()),
    ];
    for (one, has_one, other, has_other) in pairs {
        if has_one != has_other {
            let (there, missing) = if has_one { (one, other) } else { (other, one) };
            complain(
                &format!("cluster.{there}"),
                format!("is set, but cluster.{missing} is not: expected both or neither"),
            );
        }
    }
}
