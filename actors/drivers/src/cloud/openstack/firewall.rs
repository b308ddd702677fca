//! Security groups: one for a server, with a rule for each thing that may come in. What goes out is left to the rules that
//! Neutron gives every group.
//!
//! A group and its rules are made one by one: a group that lacks rules counts as not there, and making it completes it.

use std::net::IpAddr;

use reeve_ports::CloudError;
use reeve_ports::cloud::PartState;
use reeve_protocol::provision::{Ingress, IpProtocol, Prefix, ServerPlan};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Ask};
use super::pages::Item;
use super::session::Service;

/// A security group with its rules.
#[derive(Deserialize)]
pub(super) struct Group {
    pub(super) id: String,
    #[serde(default)]
    pub(super) created_at: Option<String>,
    #[serde(rename = "security_group_rules", default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    direction: String,
    ethertype: Option<String>,
    protocol: Option<String>,
    port_range_min: Option<u16>,
    port_range_max: Option<u16>,
    remote_ip_prefix: Option<String>,
    #[serde(default)]
    remote_group_id: Option<String>,
}

#[derive(Deserialize)]
struct OneGroup {
    security_group: Group,
}

impl Item for Group {
    const LIST: &'static str = "security_groups";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

/// A rule that is wanted, as Neutron has it: of one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    ethertype: &'static str,
    protocol: &'static str,
    ports: Option<(u16, u16)>,
    /// Without the bits that do not count; anywhere if absent.
    from: Option<Prefix>,
}

impl Wanted {
    /// The rules that let this in: one of each address family where it may come from anywhere.
    fn of(ingress: &Ingress) -> Vec<Self> {
        let from = ingress.from.map(network);
        let families: &[bool] = match from {
            None => &[true, false],
            Some(prefix) if prefix.address.is_ipv4() => &[true],
            Some(_) => &[false],
        };
        let rule = |is_v4: &bool| {
            let protocol = match (ingress.protocol, is_v4) {
                (IpProtocol::Tcp, _) => "tcp",
                (IpProtocol::Udp, _) => "udp",
                (IpProtocol::Icmp, true) => "icmp",
                (IpProtocol::Icmp, false) => "ipv6-icmp",
            };
            let ports = match ingress.protocol {
                IpProtocol::Tcp | IpProtocol::Udp => narrow(ingress.ports),
                IpProtocol::Icmp => None,
            };
            // Neutron takes the prefix of everything for none at all.
            let from = from.filter(|prefix| prefix.length > 0);
            Self { ethertype: if *is_v4 { "IPv4" } else { "IPv6" }, protocol, ports, from }
        };
        families.iter().map(rule).collect()
    }

    fn all(plan: &ServerPlan) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for wanted in plan.ingress.iter().flat_map(Self::of) {
            if !all.contains(&wanted) {
                all.push(wanted);
            }
        }
        all
    }

    fn is(&self, rule: &Rule) -> bool {
        let protocol = match rule.protocol.as_deref() {
            Some("6") => "tcp",
            Some("17") => "udp",
            Some("1") => "icmp",
            Some("icmpv6" | "58") => "ipv6-icmp",
            Some(other) => other,
            None => return false,
        };
        let prefix = rule.remote_ip_prefix.as_ref().map(|prefix| prefix.parse::<Prefix>().map(network));
        let from = match prefix {
            None => None,
            Some(Ok(prefix)) => Some(prefix).filter(|prefix| prefix.length > 0),
            Some(Err(_)) => return false,
        };
        rule.direction == "ingress"
            && rule.ethertype.as_deref() == Some(self.ethertype)
            && protocol == self.protocol
            && narrow(rule.port_range_min.zip(rule.port_range_max)) == self.ports
            && rule.remote_group_id.is_none()
            && from == self.from
    }

    fn body(&self, group: &str) -> Value {
        json!({ "security_group_rule": {
            "security_group_id": group, "direction": "ingress", "ethertype": self.ethertype,
            "protocol": self.protocol,
            "port_range_min": self.ports.map(|(first, _)| first), "port_range_max": self.ports.map(|(_, last)| last),
            "remote_ip_prefix": self.from.map(|from| from.to_string()),
        } })
    }
}

/// Neutron takes a range of all ports for none at all.
fn narrow(ports: Option<(u16, u16)>) -> Option<(u16, u16)> {
    ports.filter(|(first, last)| *first > 1 || *last < u16::MAX)
}

/// The prefix without the bits that do not count.
fn network(prefix: Prefix) -> Prefix {
    let length = u32::from(prefix.length);
    let address = match prefix.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    };
    Prefix { address, length: prefix.length }
}

impl Group {
    fn lacks(&self, plan: &ServerPlan) -> Vec<Wanted> {
        let mut wanted = Wanted::all(plan);
        wanted.retain(|wanted| !self.rules.iter().any(|rule| wanted.is(rule)));
        wanted
    }
}

impl Api {
    /// The group of this tag.
    pub(super) async fn group(&self, tag: &str) -> Result<Option<Group>, CloudError> {
        let found = self.groups("name", tag).await?;
        self.the_one(found).await
    }

    pub(super) async fn groups(&self, key: &'static str, value: &str) -> Result<Vec<Group>, CloudError> {
        self.every(Ask::get(Service::Network, "/v2.0/security-groups").query(key, value)).await
    }

    pub(super) async fn find_firewall(&self, tag: &str, plan: &ServerPlan) -> Result<PartState, CloudError> {
        Ok(match self.group(tag).await? {
            Some(group) if group.lacks(plan).is_empty() => PartState::Ready { id: group.id, addresses: Vec::new() },
            Some(_) | None => PartState::Absent,
        })
    }

    pub(super) async fn make_firewall(&self, tag: &str, plan: &ServerPlan) -> Result<(), CloudError> {
        let group = match self.group(tag).await? {
            Some(group) => group,
            None => {
                let body = json!({ "security_group": { "name": tag, "description": "" } });
                let made = self.ask(Ask::post(Service::Network, "/v2.0/security-groups", body)).await?;
                made.json::<OneGroup>()?.security_group
            }
        };
        for wanted in group.lacks(plan) {
            let made =
                self.ask(Ask::post(Service::Network, "/v2.0/security-group-rules", wanted.body(&group.id))).await;
            match made {
                Ok(_) => {}
                // An attempt whose answer was lost may have made it meanwhile; a quota is 409 too.
                Err(CloudError::Refused(why)) if why.starts_with("409") => {
                    let now =
                        self.ask(Ask::get(Service::Network, format!("/v2.0/security-groups/{}", group.id))).await?;
                    if now.json::<OneGroup>()?.security_group.lacks(plan).contains(&wanted) {
                        return Err(CloudError::Refused(why));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(protocol: IpProtocol, ports: Option<(u16, u16)>, from: Option<&str>) -> Ingress {
        Ingress { protocol, ports, from: from.map(|from| from.parse().unwrap()) }
    }

    fn told(wanted: &Wanted) -> Rule {
        let mut rule = wanted.body("g")["security_group_rule"].clone();
        rule["remote_group_id"] = Value::Null;
        serde_json::from_value(rule).unwrap()
    }

    #[test]
    fn anywhere_is_a_rule_of_each_family_and_a_prefix_one_of_its_own() {
        let kinds = |ingress: &Ingress| -> Vec<_> {
            Wanted::of(ingress).into_iter().map(|wanted| (wanted.ethertype, wanted.protocol)).collect()
        };
        let icmp = ingress(IpProtocol::Icmp, Some((1, 2)), None);
        assert_eq!(kinds(&icmp), [("IPv4", "icmp"), ("IPv6", "ipv6-icmp")]);
        assert!(Wanted::of(&icmp).iter().all(|wanted| wanted.ports.is_none()));
        assert_eq!(kinds(&ingress(IpProtocol::Tcp, None, Some("10.0.0.0/8"))), [("IPv4", "tcp")]);
        assert_eq!(kinds(&ingress(IpProtocol::Udp, None, Some("2001:db8::/32"))), [("IPv6", "udp")]);
    }

    #[test]
    fn a_rule_is_known_again_as_neutron_writes_it() {
        let wanted = &Wanted::of(&ingress(IpProtocol::Tcp, Some((22, 23)), Some("192.0.2.77/24")))[0];
        assert_eq!(wanted.body("g")["security_group_rule"]["remote_ip_prefix"], "192.0.2.0/24");
        assert!(wanted.is(&told(wanted)));
        assert!(wanted.is(&Rule { protocol: Some("6".to_owned()), ..told(wanted) }));
        assert!(!wanted.is(&Rule { port_range_max: Some(24), ..told(wanted) }));
        assert!(!wanted.is(&Rule { direction: "egress".to_owned(), ..told(wanted) }));
        assert!(!wanted.is(&Rule { remote_group_id: Some("g".to_owned()), ..told(wanted) }));
        let anywhere = &Wanted::of(&ingress(IpProtocol::Tcp, None, Some("0.0.0.0/0")))[0];
        assert_eq!(anywhere.from, None);
        assert!(anywhere.is(&Rule { remote_ip_prefix: Some("0.0.0.0/0".to_owned()), ..told(anywhere) }));
        let wide = Wanted::of(&ingress(IpProtocol::Tcp, Some((1, 65_535)), None));
        assert_eq!(wide, Wanted::of(&ingress(IpProtocol::Tcp, None, None)), "a second one would be refused");
        let icmp = &Wanted::of(&ingress(IpProtocol::Icmp, None, Some("::/0")))[0];
        assert!(icmp.is(&Rule { protocol: Some("icmpv6".to_owned()), ..told(icmp) }));
    }
}
