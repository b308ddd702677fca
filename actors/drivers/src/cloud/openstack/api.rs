//! One request to a service: permit, token, time-outs, bounds, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reeve_ports::{Clock, CloudError};
use reeve_protocol::CloudName;
use reeve_protocol::observation::Said;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::OpenStackError;
use super::answer::{self, Effect};
use super::config::OpenStackConfig;
use super::session::{Service, Session, Ticket};
use super::time::CloudTime;

/// A page of 1,000 servers has some 5 MiB.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// Shorter than servers keep a connection that nobody uses, so that a request seldom meets one that is being closed.
const IDLE: Duration = Duration::from_secs(4);

/// Content that is sent slower than so many bytes a second is not waited for.
const LEAST_RATE: u64 = 256 * 1024;

/// The microversion of Nova that everything but what says otherwise is written for (Train).
const COMPUTE: &str = "2.79";
/// The same of Cinder (Ussuri).
const VOLUME: &str = "3.59";

/// What all calls of a driver share.
pub(super) struct Api {
    pub(super) name: CloudName,
    pub(super) config: OpenStackConfig,
    pub(super) clock: Arc<dyn Clock>,
    http: reqwest::Client,
    /// For content that is sent: an answer comes only after the last byte of it.
    uploader: reqwest::Client,
    session: Session,
    permits: Semaphore,
    time: CloudTime,
}

/// A request that is to be made.
pub(super) struct Ask {
    pub(super) effect: Effect,
    method: Method,
    service: Service,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    microversion: Option<&'static str>,
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

    pub(super) fn delete(service: Service, path: impl Into<String>) -> Self {
        Self::new(Effect::Change, Method::DELETE, service, path)
    }

    fn new(effect: Effect, method: Method, service: Service, path: impl Into<String>) -> Self {
        Self { effect, method, service, path: path.into(), query: Vec::new(), body: None, microversion: None }
    }

    pub(super) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// Written for another microversion than the rest.
    pub(super) const fn version(mut self, microversion: &'static str) -> Self {
        self.microversion = Some(microversion);
        self
    }
}

/// A success.
pub(super) struct Answer {
    body: Bytes,
    effect: Effect,
    /// When it was asked, by the clock that never steps.
    asked: Duration,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CloudError> {
        // What was changed was changed, whatever the body.
        serde_json::from_slice(&self.body)
            .map_err(|error| self.effect.lost(format!("the answer cannot be read: {error}")))
    }
}

impl Api {
    pub(super) fn new(
        name: CloudName,
        config: OpenStackConfig,
        clock: Arc<dyn Clock>,
        user_agent: &str,
    ) -> Result<Self, OpenStackError> {
        let client = || {
            reqwest::Client::builder()
                .user_agent(user_agent)
                .connect_timeout(config.connect_timeout.duration())
                .pool_idle_timeout(IDLE)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let (mut asking, mut sending) = (client().read_timeout(config.timeout.duration()), client());
        if let Some(path) = &config.cacert {
            let wrong = |why: String| OpenStackError::Certificates { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|why| wrong(why.to_string()))?;
            let more = reqwest::Certificate::from_pem_bundle(&pem).map_err(|why| wrong(why.to_string()))?;
            asking = asking.tls_certs_merge(more.clone());
            sending = sending.tls_certs_merge(more);
        }
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| OpenStackError::Client(error.to_string()))
        };
        let (http, uploader) = (built(asking)?, built(sending)?);
        Ok(Self {
            name,
            session: Session::new(&config.auth),
            permits: Semaphore::new(config.max_concurrent.into()),
            time: CloudTime::default(),
            config,
            clock,
            http,
            uploader,
        })
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, CloudError> {
        let _permit = self.permit().await?;
        let (response, asked) = self.sent(&ask, Some(self.config.timeout.duration())).await?;
        let body = bounded(response, MAX_BODY, ask.effect).await?;
        Ok(Answer { body, effect: ask.effect, asked })
    }

    /// Asks, and leaves the content to be read. The permit is for the asking alone: readers are bounded by whoever reads.
    pub(super) async fn stream(&self, ask: Ask) -> Result<Response, CloudError> {
        let _permit = self.permit().await?;
        Ok(self.sent(&ask, None).await?.0)
    }

    /// Sends content. It cannot be sent twice, so a token that is not taken ends it.
    pub(super) async fn upload(&self, path: &str, content: reqwest::Body, bytes: u64) -> Result<(), CloudError> {
        let _permit = self.permit().await?;
        let ticket = self.ticket().await?;
        let url = format!("{}{path}", ticket.endpoint(Service::Image)?);
        let limit = self.config.timeout.duration() + Duration::from_secs(bytes / LEAST_RATE);
        let request = self.uploader.put(url).timeout(limit).header("content-type", "application/octet-stream");
        let request = request.body(content);
        let response = with_token(request, &ticket).send().await;
        let response = response.map_err(|error| answer::no_answer(Effect::Change, &error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.session.throw_away(&ticket).await;
        }
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        if status.is_success() {
            return Ok(());
        }
        let body = bounded(response, MAX_BODY, Effect::Change).await?;
        Err(answer::failure(Effect::Change, status, retry_after, &body))
    }

    /// When the cloud was asked for this answer, by the cloud's clock if it tells it.
    pub(super) fn said(&self, answer: &Answer) -> Said {
        let us = self.time.at_us(answer.asked);
        Said::new(us.unwrap_or_else(|| self.clock.now().as_millis().saturating_mul(1_000)), "")
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, CloudError> {
        let crowded = || CloudError::Unavailable("too many calls are under way".to_owned());
        let permit = tokio::time::timeout(self.config.timeout.duration(), self.permits.acquire()).await;
        permit.map_err(|_| crowded())?.map_err(|_| crowded())
    }

    async fn ticket(&self) -> Result<Arc<Ticket>, CloudError> {
        self.session.ticket(&self.http, &self.config, &*self.clock).await
    }

    /// A success and when it was asked for; a token that is not taken is renewed once.
    async fn sent(&self, ask: &Ask, limit: Option<Duration>) -> Result<(Response, Duration), CloudError> {
        let mut renewed = false;
        loop {
            let ticket = self.ticket().await?;
            let asked = self.clock.elapsed();
            let mut request = self.request(ask, &ticket)?;
            if let Some(limit) = limit {
                request = request.timeout(limit);
            }
            let response = request.send().await.map_err(|error| answer::no_answer(ask.effect, &error))?;
            if let Some(date) = response.headers().get("date").and_then(|date| date.to_str().ok()) {
                self.time.note(date, asked, self.clock.elapsed());
            }
            let (status, retry_after) = (response.status(), retry_after(response.headers()));
            if status.is_success() {
                return Ok((response, asked));
            }
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                self.session.throw_away(&ticket).await;
                continue;
            }
            // The failure is known by its status; its body only says more.
            let body = bounded(response, MAX_BODY, ask.effect).await.unwrap_or_default();
            return Err(answer::failure(ask.effect, status, retry_after, &body));
        }
    }

    fn request(&self, ask: &Ask, ticket: &Ticket) -> Result<RequestBuilder, CloudError> {
        // Ids come from records and from clouds; one that is none must not lead to another resource.
        if !ask.path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b)) || ask.path.contains("..") {
            return Err(CloudError::NotFound("an id that cannot be".to_owned()));
        }
        let url = format!("{}{}", ticket.endpoint(ask.service)?, ask.path);
        let mut request = self.http.request(ask.method.clone(), url).header("accept", "application/json");
        if !ask.query.is_empty() {
            request = request.query(&ask.query);
        }
        let version = match ask.service {
            Service::Compute => Some(("compute", COMPUTE)),
            Service::Volume => Some(("volume", VOLUME)),
            Service::Image | Service::Network => None,
        };
        if let Some((service, usual)) = version {
            request =
                request.header("openstack-api-version", format!("{service} {}", ask.microversion.unwrap_or(usual)));
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        Ok(with_token(request, ticket))
    }
}

fn with_token(request: RequestBuilder, ticket: &Ticket) -> RequestBuilder {
    request.header("x-auth-token", ticket.token.clone())
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let header = headers.get(RETRY_AFTER)?.to_str().ok()?;
    // A date instead of seconds is a wait too, of whatever length.
    Some(header.trim().parse().unwrap_or(1))
}

/// Reads a body of at most so many bytes.
pub(super) async fn bounded(mut response: Response, most: usize, effect: Effect) -> Result<Bytes, CloudError> {
    let mut all = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| answer::no_answer(effect, &error))? {
        if all.len() + chunk.len() > most {
            return Err(effect.lost(format!("the answer has more than {most} bytes")));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}
