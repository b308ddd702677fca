//! The body of `vm.provision`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::CommandError;
use crate::provision::{Ingress, ProvisionRequest, Readiness, ServerPlan, VolumePlan};
use crate::{CloudName, Span, UserId};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    image: String,
    flavor: String,
    network: String,
    cloud: Option<CloudName>,
    owner: Option<UserId>,
    key: Option<String>,
    zone: Option<String>,
    #[serde(default)]
    ingress: Vec<Ingress>,
    public_network: Option<String>,
    #[serde(default)]
    volumes: Vec<VolumePlan>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    ready: Readiness,
    template: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    policy: Option<String>,
    within: Option<Span>,
}

/// Reads what is left of the body once the keys that all commands have are taken.
pub(super) fn request(rest: BTreeMap<String, Value>) -> Result<ProvisionRequest, CommandError> {
    let body = serde_json::from_value::<Body>(Value::Object(rest.into_iter().collect()));
    let body = body.map_err(|error| CommandError::Body(error.to_string()))?;
    let plan = ServerPlan {
        name: body.name,
        image: body.image,
        flavor: body.flavor,
        network: body.network,
        key: body.key,
        zone: body.zone,
        ingress: body.ingress,
        public_network: body.public_network,
        volumes: body.volumes,
        metadata: body.metadata,
        ready: body.ready,
    };
    let request = ProvisionRequest {
        cloud: body.cloud,
        owner: body.owner,
        plan,
        template: body.template,
        parameters: body.parameters,
        policy: body.policy,
        within: body.within,
    };
    request.check().map_err(|error| CommandError::Key { key: error.key.to_owned(), why: error.why })?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use crate::command::{CommandKind, parse};
    use crate::provision::{IpProtocol, Part, Readiness, VolumePlan};
    use crate::{MessageId, VmId};

    fn read(rest: &str) -> Result<crate::command::Command, String> {
        let body =
            format!(r#"{{"by":"alice","name":"web","image":"debian","flavor":"tiny","network":"inside"{rest}}}"#);
        parse(Some("vm.provision"), Some("m1"), body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_read_and_has_an_id_of_its_own() {
        let rest = r#","ingress":[{"protocol":"tcp","ports":[22,22],"from":"192.0.2.0/24"}],"public_network":"outside",
            "volumes":[{"gib":2},{"gib":3,"type":"fast"}],"ready":{"tcp":22},"template":"web","parameters":{"a":"b"}"#;
        let command = read(rest).unwrap();
        assert_eq!(command.vm, VmId::of_request(&MessageId::new("m1").unwrap()));
        let CommandKind::VmProvision(request) = command.kind else { panic!("{command:?}") };
        let rule = &request.plan.ingress[0];
        assert_eq!((rule.protocol, rule.ports), (IpProtocol::Tcp, Some((22, 22))));
        assert_eq!(rule.from.unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(request.plan.volumes[1], VolumePlan { gib: 3, kind: Some("fast".into()) });
        assert_eq!(request.plan.ready, Readiness::Tcp(22));
        let parts: Vec<Part> = request.plan.parts().collect();
        assert_eq!(parts, [Part::Firewall, Part::Port, Part::Address, Part::Volume(0), Part::Volume(1), Part::Server]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let say = |rest: &str| read(rest).unwrap_err();
        assert!(say(r#","colour":"red""#).contains("colour"));
        assert!(say(r#","volumes":[{"gib":0}]"#).contains("volumes"));
        assert!(say(r#","metadata":{"reeve_owner":"eve"}"#).contains("reeve_owner"));
        assert!(say(r#","parameters":{"a":"b"}"#).contains("template"));
        assert!(say(r#","ingress":[{"protocol":"tcp","ports":[9,2]}]"#).contains("ingress"));
        assert!(say(r#","ingress":[{"protocol":"tcp","from":"192.0.2.0/33"}]"#).contains("192.0.2.0/33"));
        assert!(say(r#","ready":{"console":""}"#).contains("ready"));
        assert!(say(&format!(r#","zone":"{}""#, "z".repeat(256))).contains("zone"));
        assert!(say(r#","within":"0s""#).contains("within"));
        let without = parse(Some("vm.provision"), Some("m"), br#"{"by":"alice","name":"web"}"#).unwrap_err();
        assert!(without.to_string().contains("image"), "{without}");
    }
}
