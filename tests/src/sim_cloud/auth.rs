//! Keystone: tokens, the catalog, and who calls.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::InternalError;
use actix_web::http::header::HeaderMap;
use actix_web::{Error, FromRequest, HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::openstack::{Credential, Domain, Login, OpenStackAuth, Reference};
use reeve_drivers::cloud::sim::as_caller;
use reeve_ports::CloudError;
use reeve_protocol::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::reply::{self, Dialect};
use super::server::{Shared, SimCloudOptions};

/// Tokens kept; the oldest go first.
const MAX_TOKENS: usize = 10_000;
/// The one project that tokens are for, whatever its name.
pub(super) const PROJECT: &str = "5a1d0000000000000000000000000001";

/// The user's application credential.
const CREDENTIAL: &str = "5a1d0000000000000000000000000002";

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) String);

pub(super) struct Tokens {
    username: String,
    password: String,
    life: Duration,
    issued: AtomicU64,
    refused: AtomicU64,
    /// Until when each is good, and whose it is.
    known: Mutex<BTreeMap<String, (Timestamp, String)>>,
}

impl Tokens {
    pub(super) fn new(options: &SimCloudOptions) -> Self {
        Self {
            username: options.username.clone(),
            password: options.password.clone(),
            life: options.token_life,
            issued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// How the one user logs in at this Keystone.
    pub(super) fn login(&self, auth_url: String) -> OpenStackAuth {
        let named = |name: &str| Reference::Named { name: name.to_owned(), domain: Domain::default() };
        let (user, project) = (named(&self.username), named("reeve"));
        OpenStackAuth { auth_url, login: Login::Password { user, password: self.password.clone(), project } }
    }

    /// How the user's application credential logs in. Its secret is the password.
    pub(super) fn credential_login(&self, auth_url: String) -> OpenStackAuth {
        let credential = Credential::Id(CREDENTIAL.to_owned());
        OpenStackAuth { auth_url, login: Login::ApplicationCredential { credential, secret: self.password.clone() } }
    }

    /// Whether somebody who asks for a token is the user.
    fn knows(&self, auth: &Value) -> bool {
        let identity = &auth["identity"];
        if identity["methods"] == json!(["application_credential"]) {
            let credential = &identity["application_credential"];
            // It has the scope that it was made with, and takes no other.
            return credential["id"] == CREDENTIAL && credential["secret"] == *self.password && auth["scope"].is_null();
        }
        let user = &identity["password"]["user"];
        user["name"] == *self.username && user["password"] == *self.password && auth["scope"].is_object()
    }

    pub(super) fn revoke_all(&self) {
        self.known().clear();
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, (Timestamp, String)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, user: &str, now: Timestamp) -> (String, Timestamp) {
        let (token, until) = (Uuid::new_v4().simple().to_string(), now + self.life);
        let mut known = self.known();
        known.retain(|_, (until, _)| *until > now);
        if known.len() >= MAX_TOKENS {
            known.pop_first();
        }
        known.insert(token.clone(), (until, user.to_owned()));
        self.issued.fetch_add(1, Ordering::Relaxed);
        (token, until)
    }

    fn user(&self, token: &str, now: Timestamp) -> Option<String> {
        self.known().get(token).filter(|(until, _)| *until > now).map(|(_, user)| user.clone())
    }
}

impl Caller {
    /// Makes a change in the caller's name, to its end: as in a real cloud, it goes on although the caller hangs up.
    pub(super) async fn changes<T: Send + 'static>(
        self,
        change: impl Future<Output = Result<T, CloudError>> + Send + 'static,
    ) -> Result<T, CloudError> {
        let changed = tokio::spawn(as_caller(self.0, change)).await;
        changed.unwrap_or_else(|why| Err(CloudError::Unknown(format!("the simulated cloud failed: {why}"))))
    }
}

impl FromRequest for Caller {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let shared = request.app_data::<web::Data<Shared>>().expect("every app has it");
        let token = header(request.headers(), "x-auth-token");
        let user = token.and_then(|token| shared.tokens.user(token, shared.clock.now()));
        ready(match user {
            Some(user) => Ok(Self(named(request.headers()).unwrap_or(user))),
            None => {
                shared.tokens.refused.fetch_add(1, Ordering::Relaxed);
                let response = unauthorized("The request you have made requires authentication.");
                Err(InternalError::from_response("no valid token", response).into())
            }
        })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn named(headers: &HeaderMap) -> Option<String> {
    let by_agent = || header(headers, "user-agent")?.split(' ').find_map(|word| word.strip_prefix("node/"));
    header(headers, "x-reeve-node").or_else(by_agent).map(str::to_owned)
}

fn unauthorized(why: &str) -> HttpResponse {
    let mut response = reply::error(Dialect::Identity, 401, why);
    let challenge = actix_web::http::header::HeaderValue::from_static("Keystone uri=\"/identity\"");
    response.headers_mut().insert(actix_web::http::header::WWW_AUTHENTICATE, challenge);
    response
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/identity/v3/auth/tokens", web::post().to(log_in));
}

async fn log_in(shared: web::Data<Shared>, body: web::Json<Value>) -> HttpResponse {
    if !shared.tokens.knows(&body["auth"]) {
        return unauthorized("The request you have made requires authentication.");
    }
    let now = shared.clock.now();
    let (token, until) = shared.tokens.issue(&shared.tokens.username, now);
    let micros = |at: Timestamp| at.to_string().replace('Z', "000Z");
    let body = json!({ "token": {
        "methods": body["auth"]["identity"]["methods"],
        "issued_at": micros(now),
        "expires_at": micros(until),
        "user": { "id": "sim-admin", "name": shared.tokens.username, "domain": { "id": "default", "name": "Default" } },
        "project": { "id": PROJECT, "name": "reeve", "domain": { "id": "default", "name": "Default" } },
        "roles": [{ "id": "1", "name": "admin" }],
        "catalog": catalog(&shared.base),
    } });
    HttpResponse::Created().insert_header(("X-Subject-Token", token)).json(body)
}

fn catalog(base: &str) -> Value {
    let entry = |kind: &str, path: &str| {
        let endpoints: Vec<Value> = ["public", "internal", "admin"]
            .iter()
            .map(|interface| {
                json!({ "id": format!("{kind}-{interface}"), "interface": interface, "region": "RegionOne",
                    "region_id": "RegionOne", "url": format!("{base}{path}") })
            })
            .collect();
        json!({ "id": kind, "type": kind, "name": kind, "endpoints": endpoints })
    };
    json!([
        entry("identity", "/identity/v3"),
        entry("compute", "/compute/v2.1"),
        entry("volumev3", &format!("/volume/v3/{PROJECT}")),
        entry("image", "/image"),
        entry("network", "/network"),
    ])
}
