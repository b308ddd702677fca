//! The login: a token and the catalog that comes with it.
//!
//! ```text
//! none ─► logging in ─┬─► ticket ── nearly over, or thrown away after a 401 ─► logging in
//!                     └─► failed ── a moment later ─► logging in
//! ```
//!
//! One login at a time: who finds one under way waits for it. A failure is told to everybody for a moment, so that a
//! dead Keystone is not asked once for each call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reeve_ports::{Clock, CloudError};
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::answer::{self, Effect};
use super::api;
use super::config::{OpenStackAuth, OpenStackConfig};
use super::time;

/// A ticket is renewed so long before its end, or a quarter of its life if that is less.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// The life of a token whose times cannot be read.
const ASSUMED_LIFE: Duration = Duration::from_secs(300);
/// How long a failed login is everybody's answer.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// A catalog is small; one of a large cloud has some 100 KiB.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A service that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Compute,
    Volume,
    Image,
    Network,
}

impl Service {
    const ALL: [Self; 4] = [Self::Compute, Self::Volume, Self::Image, Self::Network];

    /// What the catalog may call it.
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Volume => &["volumev3", "block-storage", "volume"],
            Self::Image => &["image"],
            Self::Network => &["network"],
        }
    }
}

/// What a login gives.
pub(super) struct Ticket {
    pub(super) token: HeaderValue,
    /// By the clock that never steps.
    renew_at: Duration,
    endpoints: BTreeMap<Service, String>,
}

impl Ticket {
    /// Where a service is, without a slash at the end.
    pub(super) fn endpoint(&self, service: Service) -> Result<&str, CloudError> {
        let found = self.endpoints.get(&service).map(String::as_str);
        found.ok_or_else(|| CloudError::Unavailable(format!("the catalog has no endpoint of {service:?}")))
    }
}

enum State {
    None,
    Ticket(Arc<Ticket>),
    Failed { until: Duration, why: CloudError },
}

/// The one login of a driver.
pub(super) struct Session {
    url: String,
    state: Mutex<State>,
}

#[derive(Deserialize)]
struct Login {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    #[serde(default)]
    issued_at: String,
    #[serde(default)]
    catalog: Vec<CatalogEntry>,
}

#[derive(Deserialize)]
struct CatalogEntry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

impl Session {
    pub(super) fn new(auth: &OpenStackAuth) -> Self {
        let base = auth.auth_url.trim_end_matches('/');
        let base = base.strip_suffix("/v3").unwrap_or(base);
        Self { url: format!("{base}/v3/auth/tokens"), state: Mutex::new(State::None) }
    }

    /// The ticket, new if need be.
    pub(super) async fn ticket(
        &self,
        http: &reqwest::Client,
        config: &OpenStackConfig,
        clock: &dyn Clock,
    ) -> Result<Arc<Ticket>, CloudError> {
        let mut state = self.state.lock().await;
        let now = clock.elapsed();
        match &*state {
            State::Ticket(ticket) if now < ticket.renew_at => return Ok(Arc::clone(ticket)),
            State::Failed { until, why } if now < *until => return Err(why.clone()),
            State::None | State::Ticket(_) | State::Failed { .. } => {}
        }
        let login = self.log_in(http, config, now).await;
        let (next, answer) = match login {
            Ok(ticket) => {
                let ticket = Arc::new(ticket);
                (State::Ticket(Arc::clone(&ticket)), Ok(ticket))
            }
            Err(why) => (State::Failed { until: clock.elapsed() + FAILURE_HOLDS, why: why.clone() }, Err(why)),
        };
        *state = next;
        answer
    }

    /// A service did not take this ticket. One that somebody has got meanwhile stays.
    pub(super) async fn throw_away(&self, refused: &Arc<Ticket>) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Ticket(current) if Arc::ptr_eq(current, refused)) {
            *state = State::None;
        }
    }

    async fn log_in(
        &self,
        http: &reqwest::Client,
        config: &OpenStackConfig,
        now: Duration,
    ) -> Result<Ticket, CloudError> {
        let sent = http.post(&self.url).json(&credentials(&config.auth)).timeout(config.timeout.duration()).send();
        let response = sent.await.map_err(|error| in_login(answer::no_answer(Effect::Look, &error)))?;
        let (status, token) = (response.status(), response.headers().get("x-subject-token").cloned());
        let body = api::bounded(response, MAX_BODY, Effect::Look).await.map_err(in_login)?;
        if !status.is_success() {
            return Err(in_login(answer::failure(Effect::Look, status, None, &body)));
        }
        let unreadable = || CloudError::Unavailable("login: the answer cannot be read".to_owned());
        let mut token = token.ok_or_else(unreadable)?;
        token.set_sensitive(true);
        // What it says is not repeated: it may hold more than the catalog.
        let login: Login = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let life = life(&login.token);
        let renew_at = now + life.saturating_sub(RENEW_BEFORE.min(life / 4));
        Ok(Ticket { token, renew_at, endpoints: endpoints(&login.token.catalog, config) })
    }
}

/// Every failure of a login may go by: what is to be done in the cloud is not given up for it.
fn in_login(error: CloudError) -> CloudError {
    let (CloudError::NotFound(why)
    | CloudError::Refused(why)
    | CloudError::Unavailable(why)
    | CloudError::Unknown(why)) = error;
    CloudError::Unavailable(format!("login: {why}"))
}

fn credentials(auth: &OpenStackAuth) -> Value {
    let user_domain = json!({ "name": auth.user_domain_name });
    let project = match (&auth.project_id, &auth.project_name) {
        (Some(id), _) => json!({ "id": id }),
        (None, name) => json!({ "name": name, "domain": { "name": auth.project_domain_name } }),
    };
    json!({ "auth": {
        "identity": { "methods": ["password"], "password": {
            "user": { "name": auth.username, "domain": user_domain, "password": auth.password },
        } },
        "scope": { "project": project },
    } })
}

/// How long it lasts: both times are of Keystone's clock, so that ours need not be right.
fn life(token: &Token) -> Duration {
    let times = time::openstack(&token.issued_at).zip(time::openstack(&token.expires_at));
    times.map_or(ASSUMED_LIFE, |(issued, expires)| expires.since(issued))
}

fn endpoints(catalog: &[CatalogEntry], config: &OpenStackConfig) -> BTreeMap<Service, String> {
    let mut found = BTreeMap::new();
    for service in Service::ALL {
        let named = service.types().iter().find_map(|kind| catalog.iter().find(|entry| entry.kind == *kind));
        let mut fitting = named.into_iter().flat_map(|entry| &entry.endpoints).filter(|endpoint| {
            endpoint.interface == config.interface.as_catalog()
                && config.region_name.as_ref().is_none_or(|region| endpoint.region_id.as_ref() == Some(region))
        });
        if let Some(endpoint) = fitting.next() {
            let url = endpoint.url.trim_end_matches('/');
            // Some catalogs name the version, others do not; the paths of this driver do.
            let url = match service {
                Service::Image => url.strip_suffix("/v2").unwrap_or(url),
                Service::Network => url.strip_suffix("/v2.0").unwrap_or(url),
                Service::Compute | Service::Volume => url,
            };
            found.insert(service, url.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OpenStackConfig {
        let auth = json!({ "auth_url": "http://k/identity/v3/", "username": "u", "password": "p", "project_id": "1" });
        serde_json::from_value(json!({ "auth": auth, "region_name": "B", "interface": "internal" })).unwrap()
    }

    #[test]
    fn the_catalog_is_read_by_type_interface_and_region() {
        let endpoint = |interface: &str, region: &str, url: &str| json!({ "interface": interface, "region_id": region, "url": url });
        let catalog: Vec<CatalogEntry> = serde_json::from_value(json!([
            { "type": "compute", "endpoints": [endpoint("public", "B", "http://p/"), endpoint("internal", "A", "http://a"),
                endpoint("internal", "B", "http://b/v2.1/")] },
            { "type": "image", "endpoints": [endpoint("internal", "B", "http://g/v2/")] },
            { "type": "block-storage", "endpoints": [endpoint("internal", "B", "http://c/v3/1")] },
            { "type": "network", "endpoints": [endpoint("public", "B", "http://n")] },
        ]))
        .unwrap();
        let found = endpoints(&catalog, &config());
        assert_eq!(found[&Service::Compute], "http://b/v2.1");
        assert_eq!(found[&Service::Image], "http://g");
        assert_eq!(found[&Service::Volume], "http://c/v3/1");
        assert_eq!(found.get(&Service::Network), None);
        assert_eq!(Session::new(&config().auth).url, "http://k/identity/v3/auth/tokens");
    }
}
