//! The brokers of one cluster, in one URL. It is parsed where it enters, and its password is never shown again.
//!
//! Written as oslo.messaging writes the hosts of a `transport_url`, but with the login once, for all:
//! `amqps://USER:PASSWORD@HOST1:PORT1,HOST2:PORT2,HOST3/VHOST`.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

/// A dead peer is noticed after two of these.
const HEARTBEAT_SECONDS: u16 = 10;
/// More brokers than any cluster has.
const MAX_HOSTS: usize = 16;

/// Where the brokers are, the one to prefer first, and as whom to log in. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// One for each host, alike but for that; never empty.
    brokers: Vec<AMQPUri>,
    /// The password as it was written, if that differs.
    written: String,
}

/// Why a text is no URL of brokers. Never shows a part of the text: where a URL is broken, the password may be in any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlError {
    /// It is no AMQP URL.
    #[error("is no broker URL (expected amqps://USER:PASSWORD@HOST:PORT,…/VHOST or amqp://…)")]
    NoUrl,
    /// The login stands before more than one host.
    #[error("has a second @ (expected USER:PASSWORD@ once, before the first host, and %40 for an @ in the password)")]
    SecondLogin,
    /// The hosts seem to end before the login does: what stands between would be shown as a virtual host.
    #[error("has an @ after a / ? or # (expected %2F, %3F and %23 for these in the password, %40 for an @)")]
    UnescapedLogin,
    /// There are too many.
    #[error("names {0} hosts (expected at most {MAX_HOSTS})")]
    TooMany(usize),
    /// There is nothing where a host has to be, counted from 1.
    #[error("names no host at place {0} (expected HOST or HOST:PORT between commas)")]
    NoHost(usize),
    /// What stands there cannot be a host's name or address.
    #[error("host {0} is no name or address (expected HOST or HOST:PORT, an IPv6 address in brackets)")]
    BadHost(usize),
    /// Its port is none.
    #[error("host {0} has no valid port (expected HOST:PORT, PORT from 1 to 65535)")]
    BadPort(usize),
}

impl BrokerUrl {
    /// How many brokers there are, at least one.
    pub(crate) fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// One of them, counted from 0.
    pub(crate) fn uri(&self, broker: usize) -> &AMQPUri {
        &self.brokers[broker]
    }

    /// One of them, for people.
    pub(crate) fn name(&self, broker: usize) -> String {
        self.naming(&[&self.brokers[broker]])
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        match self.brokers[0].scheme {
            AMQPScheme::AMQP => false,
            AMQPScheme::AMQPS => true,
        }
    }

    /// A text of a library or the broker, with the password replaced should it be there.
    pub(crate) fn mask(&self, text: &str) -> String {
        let password = self.brokers[0].authority.userinfo.password.as_str();
        [self.written.as_str(), password]
            .into_iter()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    fn naming(&self, brokers: &[&AMQPUri]) -> String {
        let AMQPUri { scheme, authority, vhost, .. } = &self.brokers[0];
        let (user, vhost) = (&authority.userinfo.username, vhost.replace('/', "%2f"));
        let hosts: Vec<String> = brokers.iter().map(|uri| host_port(uri)).collect();
        format!("{scheme}://{user}:***@{}/{vhost}", hosts.join(","))
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(BrokerUrlError::NoUrl)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        // `u:4711/s3cret@host` would be the host `u`.
        if rest.contains('@') {
            return Err(BrokerUrlError::UnescapedLogin);
        }
        // As oslo.messaging allows it. Taken for one login, it would be wrong at every host.
        if authority.split(',').filter(|part| part.contains('@')).count() > 1 {
            return Err(BrokerUrlError::SecondLogin);
        }
        let hosts: Vec<&str> = hosts.split(',').collect();
        if hosts.len() > MAX_HOSTS {
            return Err(BrokerUrlError::TooMany(hosts.len()));
        }
        let parse = |host: &str| format!("{scheme}://{login}@{host}{rest}").parse::<AMQPUri>();
        // What is wrong with the rest is no host's fault. The parser's own errors repeat parts of the URL, so they are
        // not passed on.
        parse("host").map_err(|_| BrokerUrlError::NoUrl)?;
        let broker = |(index, host): (usize, &&str)| {
            let (name, port) = split_host(host, index + 1)?;
            let mut uri = parse(host).map_err(|_| BrokerUrlError::BadHost(index + 1))?;
            // The parser silently takes `localhost` for an IPv6 address.
            name.clone_into(&mut uri.authority.host);
            uri.authority.port = port.unwrap_or_else(|| uri.scheme.default_port());
            if uri.vhost.is_empty() {
                uri.vhost = "/".to_owned();
            }
            uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
            Ok(uri)
        };
        let brokers = hosts.iter().enumerate().map(broker).collect::<Result<Vec<_>, _>>()?;
        let written = login.split_once(':').map_or("", |(_, password)| password);
        Ok(Self { brokers, written: written.to_owned() })
    }
}

/// The name or address without brackets, and the port if it is given.
fn split_host(host: &str, place: usize) -> Result<(&str, Option<u16>), BrokerUrlError> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(BrokerUrlError::BadHost(place))?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| BrokerUrlError::BadHost(place))?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) };
            (address, port)
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    if name.is_empty() {
        return Err(BrokerUrlError::NoHost(place));
    }
    let valid = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(BrokerUrlError::BadPort(place));
    Ok((name, port.map(valid).transpose()?))
}

fn host_port(uri: &AMQPUri) -> String {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&AMQPUri> = self.brokers.iter().collect();
        f.write_str(&self.naming(&all))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().unwrap()
    }

    fn hosts(text: &str) -> Vec<(String, u16)> {
        let authorities = url(text).brokers.into_iter().map(|uri| uri.authority);
        authorities.map(|authority| (authority.host, authority.port)).collect()
    }

    #[test]
    fn the_password_is_never_shown() {
        let url = url("amqps://reeve:s3c%2fret@one.example:5671,two.example/cloud%2f1");
        assert_eq!(url.to_string(), "amqps://reeve:***@one.example:5671,two.example:5671/cloud%2f1");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.name(1), "amqps://reeve:***@two.example:5671/cloud%2f1");
        assert_eq!(url.mask("login s3c/ret refused: s3c%2fret"), "login *** refused: ***");
    }

    #[test]
    fn hosts_share_all_but_their_names_and_ports() {
        let text = "amqps://u:p,w@one:5673,two,[::1]:5674,[::2],10.0.0.5:1/v?heartbeat=7";
        let expected = [("one", 5673), ("two", 5671), ("::1", 5674), ("::2", 5671), ("10.0.0.5", 1)];
        assert_eq!(hosts(text), expected.map(|(host, port)| (host.to_owned(), port)));
        let url = url(text);
        assert!(url.is_tls() && url.brokers() == 5);
        for broker in 0..5 {
            let uri = url.uri(broker);
            assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("v", Some(7)));
            assert_eq!(uri.authority.userinfo.password, "p,w");
        }
        assert_eq!(url.to_string(), "amqps://u:***@one:5673,two:5671,[::1]:5674,[::2]:5671,10.0.0.5:1/v");
    }

    #[test]
    fn a_broken_url_is_refused_without_showing_it() {
        use BrokerUrlError::{BadHost, BadPort, NoHost, NoUrl, SecondLogin, TooMany, UnescapedLogin};
        let many = format!("amqp://u:s3cret@{}/", vec!["host"; 17].join(","));
        for (text, expected) in [
            ("", NoUrl),
            ("rabbit:s3cret@host", NoUrl),
            ("http://u:s3cret@host/", NoUrl),
            ("amqp://u:s3cret@host/?heartbeat=s3cret", NoUrl),
            ("amqp://u:s3cret@host:port", BadPort(1)),
            ("amqp://u:s3cret/x@host", UnescapedLogin),
            ("amqps://reeve:4711/s3cret@host/v", UnescapedLogin),
            ("amqps://reeve:4711?s3cret@host/v", UnescapedLogin),
            ("amqps://reeve:4711#s3cret@host/v", UnescapedLogin),
            ("amqps://reeve:4@7/s3cret@host/v", UnescapedLogin),
            ("amqp://u:s3cret@a,b:0/", BadPort(2)),
            ("amqp://u:s3cret@a,[::1]5/", BadPort(2)),
            ("amqp://u:s3cret@a:1:2,b/", BadPort(1)),
            ("amqp://u:s3cret@/", NoHost(1)),
            ("amqp://u:s3cret@a,,b/", NoHost(2)),
            ("amqp://u:s3cret@a,b,/", NoHost(3)),
            ("amqp://u:s3cret@a,:5672/", NoHost(2)),
            ("amqp://u:s3cret@a, b/", BadHost(2)),
            ("amqp://u:s3cret@a,[b]/", BadHost(2)),
            ("amqp://u:s3cret@a,[::1/", BadHost(2)),
            ("amqp://u:s3cret@a:5672,u:s3cret@b:5672/", SecondLogin),
            (&many, TooMany(17)),
        ] {
            let refused = text.parse::<BrokerUrl>().expect_err(text);
            assert_eq!(refused, expected, "{text}");
            assert!(!format!("{refused} {refused:?}").contains("s3cret"), "{refused}");
        }
        assert_eq!(hosts(&many.replacen(",host", "", 1)).len(), 16);
    }

    #[test]
    fn an_absent_virtual_host_is_the_default_one_and_an_absent_login_the_brokers_own() {
        for text in ["amqp://u:p@h", "amqp://u:p@h,i/", "amqp://u:p@h/%2f", "amqp://h", "amqp://h,i"] {
            assert_eq!(url(text).uri(0).vhost, "/", "{text}");
        }
        assert_eq!(url("amqp://h").uri(0).authority.userinfo.username, "guest");
    }
}
