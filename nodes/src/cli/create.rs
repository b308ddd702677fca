//! `reeve vm create`: asks for a VM.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Args;
use reeve_protocol::command::CommandKind;
use reeve_protocol::provision::{Ingress, IpProtocol, Prefix, ProvisionRequest, Readiness, ServerPlan, VolumePlan};
use reeve_protocol::{CloudName, Span, UserId, VmId};

use super::fail::{Code, Failure};
use super::follow::{Until, Wait};
use super::output::Output;
use super::session::{Key, Session};
use super::vm::send_as;

/// What is wanted.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The VM's name
    name: String,
    /// The image that its disk is made of: an id or a name
    #[arg(long)]
    image: String,
    /// Its size: an id or a name
    #[arg(long)]
    flavor: String,
    /// The network that it is on: an id or a name
    #[arg(long)]
    network: String,
    /// The cloud [default: the only one]
    #[arg(long)]
    cloud: Option<CloudName>,
    /// Whom it belongs to, by the cloud's id of the user [default: nobody]
    #[arg(long, value_name = "USER")]
    owner: Option<UserId>,
    /// The key pair that lets its owner in
    #[arg(long)]
    key: Option<String>,
    /// The availability zone [default: the cloud's choice]
    #[arg(long)]
    zone: Option<String>,
    /// Let in PROTOCOL[:PORT[-PORT]][@PREFIX], for example tcp:22@192.0.2.0/24 or icmp; may be repeated
    #[arg(long, value_name = "RULE")]
    open: Vec<Rule>,
    /// Give it a public address from this external network
    #[arg(long, value_name = "NETWORK")]
    public: Option<String>,
    /// Make and attach a volume of GIB[:TYPE]; may be repeated
    #[arg(long, value_name = "VOLUME")]
    volume: Vec<Volume>,
    /// Metadata KEY=VALUE; may be repeated
    #[arg(long, value_name = "PAIR")]
    metadata: Vec<Pair>,
    /// When it counts as ready: active, tcp:PORT or console:TEXT
    #[arg(long, default_value = "active")]
    ready: Ready,
    /// The template of its user data
    #[arg(long)]
    template: Option<String>,
    /// A value of the template, KEY=VALUE; may be repeated
    #[arg(long = "set", value_name = "PAIR", requires = "template")]
    parameters: Vec<Pair>,
    /// The policy of its lease [default: its project's]
    #[arg(long)]
    policy: Option<String>,
    /// What is not ready within this time is taken back [default: as configured]
    #[arg(long, value_name = "DURATION")]
    within: Option<Span>,
    #[command(flatten)]
    idempotency: Key,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Clone)]
struct Pair(String, String);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

#[derive(Debug, Clone)]
struct Volume(VolumePlan);

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (gib, kind) = text.split_once(':').map_or((text, None), |(gib, kind)| (gib, Some(kind.to_owned())));
        let gib = gib.parse().map_err(|_| "expected GIB[:TYPE], for example 10 or 10:fast".to_owned())?;
        Ok(Self(VolumePlan { gib, kind }))
    }
}

#[derive(Debug, Clone)]
struct Ready(Readiness);

impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected active, tcp:PORT or console:TEXT".to_owned();
        let ready = match text.split_once(':') {
            None if text == "active" => Readiness::Active,
            Some(("tcp", port)) => Readiness::Tcp(port.parse().map_err(|_| expected())?),
            Some(("console", pattern)) => Readiness::Console(pattern.to_owned()),
            Some(_) | None => return Err(expected()),
        };
        Ok(Self(ready))
    }
}

#[derive(Debug, Clone)]
struct Rule(Ingress);

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected PROTOCOL[:PORT[-PORT]][@PREFIX], PROTOCOL being tcp, udp or icmp".to_owned();
        let (what, from) = text.split_once('@').map_or((text, None), |(what, from)| (what, Some(from)));
        let (protocol, ports) = what.split_once(':').map_or((what, None), |(protocol, ports)| (protocol, Some(ports)));
        let protocol = match protocol {
            "tcp" => IpProtocol::Tcp,
            "udp" => IpProtocol::Udp,
            "icmp" if ports.is_none() => IpProtocol::Icmp,
            _ => return Err(expected()),
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| expected());
        let ports = match ports.map(|ports| ports.split_once('-').unwrap_or((ports, ports))) {
            Some((first, last)) => Some((port(first)?, port(last)?)),
            None => None,
        };
        let from = from.map(str::parse::<Prefix>).transpose()?;
        Ok(Self(Ingress { protocol, ports, from }))
    }
}

fn pairs(pairs: Vec<Pair>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|Pair(key, value)| (key, value)).collect()
}

fn request(args: CreateArgs) -> ProvisionRequest {
    ProvisionRequest {
        cloud: args.cloud,
        owner: args.owner,
        plan: ServerPlan {
            name: args.name,
            image: args.image,
            flavor: args.flavor,
            network: args.network,
            key: args.key,
            zone: args.zone,
            ingress: args.open.into_iter().map(|Rule(rule)| rule).collect(),
            public_network: args.public,
            volumes: args.volume.into_iter().map(|Volume(volume)| volume).collect(),
            metadata: pairs(args.metadata),
            ready: args.ready.0,
        },
        template: args.template,
        parameters: pairs(args.parameters),
        policy: args.policy,
        within: args.within,
    }
}

/// Asks for a VM.
pub(super) async fn run(session: &Session, output: Output, args: CreateArgs) -> Result<(), Failure> {
    let (id, wait) = (args.idempotency.message_id()?, args.wait.clone());
    let request = request(args);
    request.check().map_err(|error| Failure::new(Code::Usage, "the VM cannot be asked for").because(error))?;
    let vm = VmId::of_request(&id);
    let kind = CommandKind::VmProvision(Box::new(request));
    send_as(session, output, (id, vm), kind, Some((&wait, Until::Delivered))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_protocol_ports_and_prefix() {
        let read = |text: &str| text.parse::<Rule>().map(|Rule(rule)| rule);
        let rule = read("tcp:80-443@192.0.2.0/24").unwrap();
        assert_eq!((rule.protocol, rule.ports), (IpProtocol::Tcp, Some((80, 443))));
        assert_eq!(rule.from.unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(read("udp:53").unwrap().ports, Some((53, 53)));
        assert_eq!(read("icmp").unwrap(), Ingress { protocol: IpProtocol::Icmp, ports: None, from: None });
        for wrong in ["", "ssh", "tcp:", "tcp:70000", "icmp:1", "tcp:1@here"] {
            read(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn readiness_and_volumes_are_read() {
        assert_eq!("tcp:22".parse::<Ready>().unwrap().0, Readiness::Tcp(22));
        assert_eq!("console:login:".parse::<Ready>().unwrap().0, Readiness::Console("login:".into()));
        "up".parse::<Ready>().expect_err("no such state");
        assert_eq!("10:fast".parse::<Volume>().unwrap().0, VolumePlan { gib: 10, kind: Some("fast".into()) });
        "fast".parse::<Volume>().expect_err("no size");
    }
}
