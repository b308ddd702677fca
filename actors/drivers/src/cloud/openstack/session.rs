//! The login: a token and the catalog that comes with it.
//!
//! ```text
//! none ─► logging in ─┬─► ticket ── nearly over, or thrown away after a 401 ─► logging in
//!                     └─► failed ── a moment later ─► logging in
//! ```
//!
//! One login at a time: who finds one under way waits for it. A failure is told to everybody for a moment, so that a
//! dead Keystone is not asked once for each call, and a refusal for longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reeve_ports::{Clock, CloudError};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};

use super::answer::{self, Effect, Scope};
use super::api;
use super::breaker::Sign;
pub(super) use super::catalog::Service;
use super::catalog::{CatalogEntry, endpoints};
use super::config::OpenStackConfig;
use super::gate::Gate;
use super::login::OpenStackAuth;
use super::version::Offer;
use super::{rest, time};

/// A ticket is renewed so long before its end, or a quarter of its life if that is less.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// The life of a token whose times cannot be read.
const ASSUMED_LIFE: Duration = Duration::from_secs(300);
/// How long a failed login is everybody's answer.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// How long one is that was refused: a Keystone may lock out whoever tries a wrong password again and again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);
/// A catalog is small; one of a large cloud has some 100 KiB.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// What a login gives.
pub(super) struct Ticket {
    pub(super) token: HeaderValue,
    /// By the clock that never steps.
    renew_at: Duration,
    endpoints: BTreeMap<Service, String>,
    /// Which endpoints were looked for, for people.
    looked_for: String,
    /// What the services offer; asked again with each ticket, because clouds are upgraded.
    offers: BTreeMap<Service, OnceCell<Offer>>,
}

impl Ticket {
    /// Where a service is, without a slash at the end.
    pub(super) fn endpoint(&self, service: Service) -> Result<&str, CloudError> {
        let found = self.endpoints.get(&service).map(String::as_str);
        let why = || format!("the catalog has no endpoint of {} {}", service.name(), self.looked_for);
        found.ok_or_else(|| CloudError::Unavailable(why()))
    }

    /// What a service offers, once it is known.
    pub(super) fn offer(&self, service: Service) -> Option<&OnceCell<Offer>> {
        self.offers.get(&service)
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

/// How Keystone is reached.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) http: &'a reqwest::Client,
    pub(super) config: &'a OpenStackConfig,
    pub(super) clock: &'a dyn Clock,
    pub(super) gate: &'a Gate,
}

/// Why nobody was logged in.
struct Failure {
    why: CloudError,
    holds: Duration,
    sign: Sign,
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

impl Session {
    pub(super) fn new(auth: &OpenStackAuth) -> Self {
        let base = auth.auth_url.trim_end_matches('/');
        let base = base.strip_suffix("/v3").unwrap_or(base);
        Self { url: format!("{base}/v3/auth/tokens"), state: Mutex::new(State::None) }
    }

    /// The ticket, new if need be.
    pub(super) async fn ticket(&self, line: Line<'_>) -> Result<Arc<Ticket>, CloudError> {
        let mut state = self.state.lock().await;
        let now = line.clock.elapsed();
        match &*state {
            State::Ticket(ticket) if now < ticket.renew_at => return Ok(Arc::clone(ticket)),
            State::Failed { until, why } if now < *until => return Err(why.clone()),
            State::None | State::Ticket(_) | State::Failed { .. } => {}
        }
        let pass = line.gate.enter(Service::Identity, Sign::Dead).await.map_err(in_login)?;
        let (next, sign, answer) = match self.log_in(line, now).await {
            Ok(ticket) => {
                let ticket = Arc::new(ticket);
                (State::Ticket(Arc::clone(&ticket)), Sign::Alive, Ok(ticket))
            }
            Err(Failure { why, holds, sign }) => {
                let why = in_login(why);
                (State::Failed { until: line.clock.elapsed() + holds, why: why.clone() }, sign, Err(why))
            }
        };
        pass.tell(sign);
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

    async fn log_in(&self, line: Line<'_>, now: Duration) -> Result<Ticket, Failure> {
        let failed = |why: CloudError, sign: Sign| Failure { why, holds: FAILURE_HOLDS, sign };
        let config = line.config;
        let request = line.http.post(&self.url).json(&config.auth.login.body()).timeout(config.timeout.duration());
        let response = request.send().await.map_err(|error| {
            failed(answer::no_answer(Effect::Look, &error), answer::sign_of_none(Scope::Service, &error))
        })?;
        let (status, token) = (response.status(), response.headers().get("x-subject-token").cloned());
        let rest = rest::wanted(response.headers(), line.clock.now());
        let body = api::bounded(response, MAX_BODY, Effect::Look).await.map_err(|why| failed(why, Sign::Dead))?;
        if !status.is_success() {
            line.gate.rest(Service::Identity, rest.filter(|_| answer::asks_for_rest(status)).unwrap_or_default());
            let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let holds = if is_refused { REFUSAL_HOLDS } else { FAILURE_HOLDS };
            let sign = answer::sign(Scope::Service, status);
            return Err(Failure { why: answer::failure(Effect::Look, status, rest, &body), holds, sign });
        }
        let unreadable = || failed(CloudError::Unavailable("the answer cannot be read".to_owned()), Sign::Alive);
        let mut token = token.ok_or_else(unreadable)?;
        token.set_sensitive(true);
        // What it says is not repeated: it may hold more than the catalog.
        let login: Login = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let life = life(&login.token);
        let region = config.region_name.as_ref().map(|region| format!(" in region {region}")).unwrap_or_default();
        Ok(Ticket {
            token,
            renew_at: now + life.saturating_sub(RENEW_BEFORE.min(life / 4)),
            endpoints: endpoints(&login.token.catalog, config),
            looked_for: format!("with interface {}{region}", config.interface.as_catalog()),
            offers: Service::LISTED.into_iter().map(|service| (service, OnceCell::new())).collect(),
        })
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

/// How long it lasts: both times are of Keystone's clock, so that ours need not be right.
fn life(token: &Token) -> Duration {
    let times = time::openstack(&token.issued_at).zip(time::openstack(&token.expires_at));
    times.map_or(ASSUMED_LIFE, |(issued, expires)| expires.since(issued))
}

#[cfg(test)]
mod tests {
    use super::super::login::{Credential, Login as As};
    use super::*;

    #[test]
    fn keystone_is_found_with_and_without_its_version() {
        let login = As::ApplicationCredential { credential: Credential::Id("1".to_owned()), secret: "s".to_owned() };
        for auth_url in ["http://k/identity/v3/", "http://k/identity/v3", "http://k/identity"] {
            let auth = OpenStackAuth { auth_url: auth_url.to_owned(), login: login.clone() };
            assert_eq!(Session::new(&auth).url, "http://k/identity/v3/auth/tokens");
        }
    }
}
