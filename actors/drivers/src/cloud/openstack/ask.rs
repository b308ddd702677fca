//! A request that is to be made, and what a success says.

use std::time::Duration;

use bytes::Bytes;
use reeve_ports::CloudError;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::{Effect, Scope};
use super::session::Service;
use super::version::{Micro, Need};

/// What every healthy service answers soon, whatever its hosts do.
const LISTINGS: [&str; 9] = [
    "/servers/detail",
    "/os-services",
    "/flavors/detail",
    "/v2/images",
    "/v2.0/networks",
    "/v2.0/ports",
    "/v2.0/floatingips",
    "/v2.0/security-groups",
    "/volumes/detail",
];

/// A request that is to be made.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) effect: Effect,
    pub(super) method: Method,
    pub(super) service: Service,
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Value>,
    pub(super) need: Need,
}

impl Ask {
    pub(super) fn get(service: Service, path: impl Into<String>) -> Self {
        Self::new(Effect::Look, Method::GET, service, path)
    }

    /// Servers of all projects, whole.
    pub(super) fn servers() -> Self {
        Self::get(Service::Compute, "/servers/detail").query("all_tenants", "1")
    }

    pub(super) fn post(service: Service, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(Effect::Change, Method::POST, service, path) }
    }

    pub(super) fn put(service: Service, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(Effect::Change, Method::PUT, service, path) }
    }

    /// A POST that only looks.
    pub(super) fn look(service: Service, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(Effect::Look, Method::POST, service, path) }
    }

    pub(super) fn delete(service: Service, path: impl Into<String>) -> Self {
        Self::new(Effect::Change, Method::DELETE, service, path)
    }

    fn new(effect: Effect, method: Method, service: Service, path: impl Into<String>) -> Self {
        let (path, query) = (path.into(), Vec::new());
        Self { effect, method, service, path, query, body: None, need: Need::Usual }
    }

    pub(super) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// Written for this microversion.
    pub(super) const fn exactly(mut self, major: u16, minor: u16) -> Self {
        self.need = Need::Exactly(Micro(major, minor));
        self
    }

    /// Needs more than the rest.
    pub(super) const fn at_least(mut self, major: u16, minor: u16) -> Self {
        self.need = Need::AtLeast(Micro(major, minor));
        self
    }

    /// What a failure of it may be about.
    pub(super) fn scope(&self) -> Scope {
        if self.method == Method::GET && LISTINGS.contains(&self.path.as_str()) { Scope::Service } else { Scope::Thing }
    }

    /// Ids come from records and from clouds; one that is none must not lead to another resource.
    pub(super) fn is_sound(&self) -> bool {
        self.path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b)) && !self.path.contains("..")
    }
}

/// A success.
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) effect: Effect,
    /// When it was asked, by the clock that never steps.
    pub(super) asked: Duration,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CloudError> {
        // What was changed was changed, whatever the body.
        serde_json::from_slice(&self.body)
            .map_err(|error| self.effect.lost(format!("the answer cannot be read: {error}")))
    }
}
