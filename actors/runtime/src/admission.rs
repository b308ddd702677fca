//! Whether a request for a VM may be, by configuration; and the user data that its template gives.

use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use reeve_lifecycle::{Admission, Policies};
use reeve_protocol::Span;
use reeve_protocol::command::{Refusal, RefusalCode, Requester};
use reeve_protocol::provision::{MAX_USER_DATA, ProvisionRequest};

/// The most steps that rendering a template may take.
const MAX_STEPS: u64 = 20_000;

/// `[provision]`. Who may ask for VMs, and for which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionRules {
    /// Roles of which a user needs one; operators need none. Default none: operators alone may ask.
    pub roles: Vec<String>,
    /// The images that may be asked for, as they are named in requests; any if empty. Default empty.
    pub images: Vec<String>,
    /// The same of flavors.
    pub flavors: Vec<String>,
    /// The same of networks.
    pub networks: Vec<String>,
    /// The same of the networks that public addresses are taken from.
    pub public_networks: Vec<String>,
    /// The most volumes of a VM. Default 4.
    pub max_volumes: usize,
    /// The most GiB of all volumes of a VM. Default 1,024.
    pub max_volume_gib: u64,
    /// How long a VM may take until it is ready, where a request does not say. Default 15 min.
    pub within: Span,
    /// How long a request may say. Default 2 h.
    pub max_within: Span,
    /// The templates of user data by name (<https://docs.rs/minijinja>); they see the request's parameters, `name` and
    /// `owner`.
    pub templates: BTreeMap<String, String>,
}

impl Default for ProvisionRules {
    fn default() -> Self {
        Self {
            roles: Vec::new(),
            images: Vec::new(),
            flavors: Vec::new(),
            networks: Vec::new(),
            public_networks: Vec::new(),
            max_volumes: 4,
            max_volume_gib: 1_024,
            within: Span::from_secs(15 * 60),
            max_within: Span::from_hours(2),
            templates: BTreeMap::new(),
        }
    }
}

impl ProvisionRules {
    /// Whether this may be asked for, and what configuration adds to it.
    ///
    /// # Errors
    /// A refusal that says what stands against it and what would be possible.
    pub(crate) fn admit(
        &self,
        by: &Requester,
        request: &ProvisionRequest,
        policies: &Policies,
    ) -> Result<Admission, Refusal> {
        self.person(by, request)?;
        request.check().map_err(|error| Refusal::new(RefusalCode::Invalid, error.to_string()))?;
        let plan = &request.plan;
        offered("image", &plan.image, &self.images)?;
        offered("flavor", &plan.flavor, &self.flavors)?;
        offered("network", &plan.network, &self.networks)?;
        if let Some(network) = &plan.public_network {
            offered("public network", network, &self.public_networks)?;
        }
        if plan.volumes.len() > self.max_volumes {
            return denied(format!("{} volumes, at most {} may be asked for", plan.volumes.len(), self.max_volumes));
        }
        let gib: u64 = plan.volumes.iter().map(|volume| u64::from(volume.gib)).sum();
        if gib > self.max_volume_gib {
            return denied(format!("{gib} GiB of volumes, at most {} may be asked for", self.max_volume_gib));
        }
        if let Some(policy) = request.policy.as_deref().filter(|name| policies.get(name).is_none()) {
            return Err(Refusal::new(RefusalCode::NotFound, format!("no policy {policy:?} is configured")));
        }
        let within = request.within.unwrap_or(self.within);
        if within > self.max_within {
            return denied(format!("{within} until it is ready, at most {} may be asked for", self.max_within));
        }
        Ok(Admission { user_data: self.user_data(by, request)?, within })
    }

    fn person(&self, by: &Requester, request: &ProvisionRequest) -> Result<(), Refusal> {
        let Requester::User { id, roles, .. } = by else { return Ok(()) };
        if !self.roles.iter().any(|role| roles.contains(role)) {
            let may = if self.roles.is_empty() { "operators alone".to_owned() } else { self.roles.join(", ") };
            return denied(format!("{id} may not ask for VMs (may: {may})"));
        }
        match &request.owner {
            Some(owner) if owner != id => denied(format!("{id} may not ask for a VM of {owner}")),
            Some(_) | None => Ok(()),
        }
    }

    fn user_data(&self, by: &Requester, request: &ProvisionRequest) -> Result<String, Refusal> {
        let Some(name) = &request.template else { return Ok(String::new()) };
        let wrong = |why: String| Refusal::new(RefusalCode::Invalid, format!("template {name:?}: {why}"));
        let Some(source) = self.templates.get(name) else {
            let names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
            return Err(wrong(format!("there is none (there are: {})", names.join(", "))));
        };
        let owner = request.owner.as_ref().map_or_else(|| by.to_string(), ToString::to_string);
        let mut values = request.parameters.clone();
        values.insert("name".to_owned(), request.plan.name.clone());
        values.insert("owner".to_owned(), owner);
        let rendered = environment().render_str(source, &values).map_err(|error| wrong(error.to_string()))?;
        if rendered.len() > MAX_USER_DATA {
            return Err(wrong(format!("it gives {} bytes, at most {MAX_USER_DATA}", rendered.len())));
        }
        Ok(rendered)
    }
}

/// Whether a template can be read; its parameters are known only when it is filled.
///
/// # Errors
/// What is wrong, and the line where there is one.
pub fn check_template(source: &str) -> Result<(), (Option<usize>, String)> {
    let read = environment().template_from_str(source).map(|_| ());
    read.map_err(|error| (error.line(), error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)))
}

/// What a template can do: loop and branch over its values, and no more. A value that is not given is an error.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.add_filter("tojson", quoted);
    environment
}

/// A value as JSON, which is YAML too. Jinja's own makes `null` of a value that is not there.
fn quoted(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    serde_json::to_string(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn offered(what: &str, asked: &str, may: &[String]) -> Result<(), Refusal> {
    if may.is_empty() || may.iter().any(|offered| offered == asked) {
        return Ok(());
    }
    denied(format!("{what} {asked:?} may not be asked for (may: {})", may.join(", ")))
}

fn denied<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalCode::Denied, why))
}

#[cfg(test)]
mod tests {
    use reeve_protocol::UserId;
    use reeve_protocol::provision::{Readiness, ServerPlan, VolumePlan};

    use super::*;

    fn request() -> ProvisionRequest {
        ProvisionRequest {
            cloud: None,
            owner: None,
            plan: ServerPlan {
                name: "web".into(),
                image: "debian".into(),
                flavor: "tiny".into(),
                network: "inside".into(),
                key: None,
                zone: None,
                ingress: Vec::new(),
                public_network: None,
                volumes: Vec::new(),
                metadata: BTreeMap::new(),
                ready: Readiness::Active,
            },
            template: None,
            parameters: BTreeMap::new(),
            policy: None,
            within: None,
        }
    }

    fn alice(roles: &[&str]) -> Requester {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Requester::User { id: UserId::new("alice").unwrap(), project: None, roles }
    }

    fn operator() -> Requester {
        Requester::Operator("root".into())
    }

    fn rules() -> ProvisionRules {
        let template = "#cloud-config\nhostname: {{ name }}\nmotd: {{ motd|tojson }}\n# for {{ owner }}\n";
        ProvisionRules {
            roles: vec!["member".into()],
            images: vec!["debian".into()],
            templates: BTreeMap::from([("web".into(), template.into())]),
            ..ProvisionRules::default()
        }
    }

    fn admit(by: &Requester, change: impl FnOnce(&mut ProvisionRequest)) -> Result<Admission, Refusal> {
        let mut request = request();
        change(&mut request);
        rules().admit(by, &request, &Policies::new(BTreeMap::new()).unwrap())
    }

    #[test]
    fn users_need_a_role_and_ask_for_themselves() {
        assert!(admit(&alice(&["member"]), |_| {}).is_ok());
        assert_eq!(admit(&alice(&["reader"]), |_| {}).unwrap_err().code, RefusalCode::Denied);
        let for_bob = |request: &mut ProvisionRequest| request.owner = Some(UserId::new("bob").unwrap());
        assert!(admit(&alice(&["member"]), for_bob).unwrap_err().message.contains("bob"));
        assert!(admit(&operator(), for_bob).is_ok());
    }

    #[test]
    fn what_is_not_offered_is_denied_with_what_is() {
        let say = |change: fn(&mut ProvisionRequest)| admit(&operator(), change).unwrap_err().message;
        assert!(say(|request| request.plan.image = "windows".into()).contains("debian"));
        let large = |request: &mut ProvisionRequest| request.plan.volumes = vec![VolumePlan { gib: 2_000, kind: None }];
        assert!(say(large).contains("1024"));
        let many = |request: &mut ProvisionRequest| request.plan.volumes = vec![VolumePlan { gib: 1, kind: None }; 5];
        assert!(say(many).contains("at most 4"));
        assert!(say(|request| request.policy = Some("gold".into())).contains("gold"));
        assert!(say(|request| request.within = Some(Span::from_hours(9))).contains("2h"));
        assert!(say(|request| request.plan.name.clear()).contains("name"));
    }

    #[test]
    fn user_data_is_what_the_template_gives() {
        let fill = |values: &[(&str, &str)]| {
            let pairs = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            admit(&alice(&["member"]), |request| {
                request.template = Some("web".into());
                request.parameters = pairs;
            })
        };
        let given = fill(&[("motd", "say \"hi\": all")]).unwrap().user_data;
        assert_eq!(given, "#cloud-config\nhostname: web\nmotd: \"say \\\"hi\\\": all\"\n# for alice");
        assert!(fill(&[]).unwrap_err().message.contains("undefined"), "a value that is missing");
        let other = admit(&operator(), |request| request.template = Some("db".into()));
        assert!(other.unwrap_err().message.contains("web"));
        assert_eq!(check_template("one\n{% if %}").unwrap_err().0, Some(2));
    }
}
