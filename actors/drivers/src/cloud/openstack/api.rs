//! One request to a service: permit, gate, token, microversion, time-outs, bounds, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reeve_ports::{Clock, CloudError};
use reeve_protocol::CloudName;
use reeve_protocol::observation::Said;
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::OpenStackError;
use super::answer::{self, Effect, Scope};
pub(super) use super::ask::{Answer, Ask};
use super::breaker::Sign;
use super::clients::Clients;
use super::config::OpenStackConfig;
use super::gate::Gate;
use super::rest;
use super::session::{Line, Service, Session, Ticket};
use super::time::CloudTime;
use super::version::{self, Known, Micro, Offer};

/// A page of 1,000 servers has some 5 MiB.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// What a service tells of its versions, and of a failure.
const MAX_SMALL_BODY: usize = 1024 * 1024;
/// Content that is sent slower than so many bytes a second is not waited for.
const LEAST_RATE: u64 = 256 * 1024;

/// What all calls of a driver share.
pub(super) struct Api {
    pub(super) name: CloudName,
    pub(super) config: OpenStackConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gate: Gate,
    http: reqwest::Client,
    /// For content that is sent: an answer comes only after the last byte of it.
    uploader: reqwest::Client,
    session: Session,
    permits: Semaphore,
    time: CloudTime,
}

/// What came of sending a request once.
enum Attempt {
    /// A success, and when it was asked for.
    Answered(Response, Duration),
    /// The token was not taken.
    Stale(Arc<Ticket>, CloudError),
    Failed(CloudError),
}

/// Why the versions of a service are not known.
enum Undiscovered {
    /// The token was not taken; the request itself will find out.
    Stale,
    Failed(CloudError, Sign),
}

impl Api {
    pub(super) fn new(
        name: CloudName,
        config: OpenStackConfig,
        clock: Arc<dyn Clock>,
        user_agent: &str,
    ) -> Result<Self, OpenStackError> {
        let Clients { asking: http, sending: uploader } = Clients::new(&config, user_agent)?;
        Ok(Self {
            session: Session::new(&config.auth),
            permits: Semaphore::new(config.max_concurrent.into()),
            time: CloudTime::default(),
            gate: Gate::new(name.clone(), Arc::clone(&clock)),
            name,
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
        // Content may take hours: no other call waits to hear from this one how the service is.
        self.gate.enter(Service::Image, Sign::None).await?.tell(Sign::None);
        let ticket = self.ticket().await?;
        let url = format!("{}{path}", ticket.endpoint(Service::Image)?);
        let limit = self.config.timeout.duration() + Duration::from_secs(bytes / LEAST_RATE);
        let request = self.uploader.put(url).timeout(limit).header("content-type", "application/octet-stream");
        let response = with_token(request.body(content), &ticket).send().await;
        let response = response.map_err(|error| answer::no_answer(Effect::Change, &error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.session.throw_away(&ticket).await;
        }
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.failure(Service::Image, Effect::Change, response).await)
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
        let Self { http, config, gate, .. } = self;
        self.session.ticket(Line { http, config, clock: &*self.clock, gate }).await
    }

    /// Whether the catalog has the service.
    pub(super) async fn has(&self, service: Service) -> Result<bool, CloudError> {
        Ok(self.ticket().await?.endpoint(service).is_ok())
    }

    /// A success and when it was asked for; a token that is not taken is renewed once.
    async fn sent(&self, ask: &Ask, limit: Option<Duration>) -> Result<(Response, Duration), CloudError> {
        if !ask.is_sound() {
            return Err(CloudError::NotFound("an id that cannot be".to_owned()));
        }
        let dropped = match ask.scope() {
            Scope::Service => Sign::Dead,
            Scope::Thing => Sign::None,
        };
        let pass = self.gate.enter(ask.service, dropped).await?;
        let mut renewed = false;
        loop {
            let (sign, attempt) = self.attempt(ask, limit).await;
            let answer = match attempt {
                Attempt::Stale(ticket, _) if !renewed => {
                    renewed = true;
                    self.session.throw_away(&ticket).await;
                    continue;
                }
                Attempt::Answered(response, asked) => Ok((response, asked)),
                Attempt::Stale(_, error) | Attempt::Failed(error) => Err(error),
            };
            pass.tell(sign);
            return answer;
        }
    }

    async fn attempt(&self, ask: &Ask, limit: Option<Duration>) -> (Sign, Attempt) {
        let ticket = match self.ticket().await {
            Ok(ticket) => ticket,
            // What Keystone does says nothing of the others.
            Err(error) => return (Sign::None, Attempt::Failed(error)),
        };
        let version = match self.version(ask, &ticket).await {
            Ok(version) => version,
            Err((error, sign)) => return (sign, Attempt::Failed(error)),
        };
        let asked = self.clock.elapsed();
        let mut request = match self.request(ask, &ticket, version) {
            Ok(request) => request,
            Err(error) => return (Sign::None, Attempt::Failed(error)),
        };
        if let Some(limit) = limit {
            request = request.timeout(limit);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let sign = answer::sign_of_none(ask.scope(), &error);
                return (sign, Attempt::Failed(answer::no_answer(ask.effect, &error)));
            }
        };
        if let Some(date) = response.headers().get("date").and_then(|date| date.to_str().ok()) {
            self.time.note(date, asked, self.clock.elapsed());
        }
        let status = response.status();
        let sign = answer::sign(ask.scope(), status);
        if status.is_success() {
            return (sign, Attempt::Answered(response, asked));
        }
        let error = self.failure(ask.service, ask.effect, response).await;
        if status == StatusCode::UNAUTHORIZED {
            return (sign, Attempt::Stale(ticket, error));
        }
        (sign, Attempt::Failed(error))
    }

    /// What an answer that is no success means.
    async fn failure(&self, service: Service, effect: Effect, response: Response) -> CloudError {
        let (status, rest) = (response.status(), rest::wanted(response.headers(), self.clock.now()));
        if let Some(rest) = rest.filter(|_| answer::asks_for_rest(status)) {
            self.gate.rest(service, rest);
        }
        // The failure is known by its status; its body only says more.
        let body = bounded(response, MAX_SMALL_BODY, effect).await.unwrap_or_default();
        answer::failure(effect, status, rest, &body)
    }

    /// The microversion that is asked for, and the word for the service that goes before it.
    async fn version(&self, ask: &Ask, ticket: &Ticket) -> Result<Option<(&'static str, Micro)>, (CloudError, Sign)> {
        let nothing = |error| (error, Sign::None);
        let Some((known, offer)) = ask.service.known().zip(ticket.offer(ask.service)) else { return Ok(None) };
        let endpoint = ticket.endpoint(ask.service).map_err(nothing)?;
        let offer = match offer.get_or_try_init(|| self.discover(ask.service, known, endpoint, ticket)).await {
            Ok(offer) => *offer,
            Err(Undiscovered::Stale) => known.assumed(),
            Err(Undiscovered::Failed(error, sign)) => return Err((error, sign)),
        };
        Ok(Some((known.word, known.choose(ask.need, offer).map_err(nothing)?)))
    }

    /// What a service offers. One that does not tell is taken for one that offers what is needed.
    async fn discover(
        &self,
        service: Service,
        known: Known,
        endpoint: &str,
        ticket: &Ticket,
    ) -> Result<Offer, Undiscovered> {
        let request = self.http.get(version::document_url(endpoint)).header("accept", "application/json");
        let sent = with_token(request, ticket).timeout(self.config.timeout.duration()).send().await;
        let response = sent.map_err(|error| {
            let sign = answer::sign_of_none(Scope::Service, &error);
            Undiscovered::Failed(answer::no_answer(Effect::Look, &error), sign)
        })?;
        let status = response.status();
        match status.as_u16() {
            401 => return Err(Undiscovered::Stale),
            408 | 413 | 429 | 500..=599 => {
                let error = self.failure(service, Effect::Look, response).await;
                return Err(Undiscovered::Failed(error, answer::sign(Scope::Service, status)));
            }
            _ => {}
        }
        let document = bounded(response, MAX_SMALL_BODY, Effect::Look).await;
        let document = document.map_err(|error| Undiscovered::Failed(error, Sign::None))?;
        Ok(version::offer(known, &document).unwrap_or_else(|| {
            let (cloud, service, assumed) = (&self.name, service.name(), known.assumed().most);
            tracing::warn!(%cloud, service, %assumed, "the service does not tell its microversions");
            known.assumed()
        }))
    }

    fn request(
        &self,
        ask: &Ask,
        ticket: &Ticket,
        version: Option<(&'static str, Micro)>,
    ) -> Result<RequestBuilder, CloudError> {
        let url = format!("{}{}", ticket.endpoint(ask.service)?, ask.path);
        let mut request = self.http.request(ask.method.clone(), url).header("accept", "application/json");
        if !ask.query.is_empty() {
            request = request.query(&ask.query);
        }
        if let Some((word, version)) = version {
            request = request.header("openstack-api-version", format!("{word} {version}"));
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
