//! Notices to a web service: one signed POST for each.
//!
//! ```text
//! POST url ─┬─ 2xx ────────────────────────────► delivered
//!           ├─ 410, 413 ───────────────────────► never taken
//!           ├─ any other status, no connection ─► tried again
//!           └─ no answer ──────────────────────► perhaps delivered, tried again
//! ```
//!
//! The headers and the formula of the signature are those of [`signature`](super::signature). The body is JSON:
//!
//! ```json
//! { "type": "reeve.notice.lease-expiring", "timestamp": "2026-01-31T12:00:00.000Z",
//!   "data": { "vm": { "id": "…", "name": "…" }, "to": { "owner": ["…"] }, "notice": { … },
//!             "subject": "…", "text": "…", "link": "https://…" } }
//! ```
//!
//! `timestamp` is when the notice was decided, `to` is `{"owner": [user, …]}` or `"operators"`, and `notice` holds the kind's own
//! fields: `ends_at`, `offer` (`{"extend": {"by", "left"}}` or `{"no": {"why"}}`), `grace_until`, `new_vm`, `alert`, `message`. `link` is
//! null unless an extension is offered; whoever has it may extend, so the receiver is trusted with it. Each attempt at a
//! notice has the same id and the same body, and a timestamp and a signature of its own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::{Audience, Notice};
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::{Clock, Notifier};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::breaker::Breaker;
use super::setting::{SettingError, is_loopback};
use super::signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookSecret, seconds};
use super::wording::{Wording, Written};

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);
/// The most calls at once.
const MAX_CONNECTIONS: usize = 64;

/// Where notices are posted. Shows neither the secret nor the path of the URL, which may be one.
#[derive(Clone)]
pub struct WebhookConfig {
    /// `https://…`, or `http://…` on this machine.
    pub url: String,
    /// What signs them.
    pub secret: WebhookSecret,
    /// A file of PEM certificates that are trusted besides the system's. None: only those.
    pub ca: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
    /// How many calls are under way at once.
    pub connections: usize,
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig").field("host", &host(&self.url)).finish_non_exhaustive()
    }
}

/// The host of a URL, for messages: the rest of it may be a secret.
fn host(url: &str) -> String {
    let url = reqwest::Url::parse(url).ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| "webhook".to_owned())
}

impl WebhookConfig {
    /// To this URL, with the system's authorities.
    #[must_use]
    pub fn new(url: impl Into<String>, secret: WebhookSecret) -> Self {
        Self { url: url.into(), secret, ca: None, timeout: Duration::from_secs(10), connections: 4 }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The first setting that does not; no error repeats the URL.
    pub fn validate(&self) -> Result<(), SettingError> {
        check_url(&self.url).map_err(|why| SettingError::new("url", why))?;
        if self.timeout < Duration::from_millis(100) || self.timeout > Duration::from_secs(60) {
            return Err(SettingError::new("timeout", "expected 100ms to 1m"));
        }
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return Err(SettingError::new(
                "connections",
                format!("is {}, expected 1 to {MAX_CONNECTIONS}", self.connections),
            ));
        }
        Ok(())
    }
}

/// Whether notices may be posted to a URL, or a link may lead there.
///
/// # Errors
/// What was expected instead. Does not repeat the URL.
pub fn check_url(url: &str) -> Result<(), String> {
    let expected = "expected https://HOST/PATH, or http:// on this machine alone";
    let url = reqwest::Url::parse(url).map_err(|error| format!("is no URL ({error}), {expected}"))?;
    let host = url.host_str().ok_or_else(|| format!("has no host, {expected}"))?;
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(host) => Ok(()),
        scheme => Err(format!("is {scheme}://, {expected}")),
    }
}

/// Posts notices.
pub struct WebhookNotifier {
    config: WebhookConfig,
    host: String,
    http: reqwest::Client,
    wording: Arc<Wording>,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    breaker: Breaker,
}

impl WebhookNotifier {
    /// Posts as configured. Connects to nobody yet.
    ///
    /// # Errors
    /// [`SettingError`] when a setting makes no sense, or the file of certificates cannot be read.
    pub fn new(
        config: WebhookConfig,
        wording: Arc<Wording>,
        clock: Arc<dyn Clock>,
        user_agent: &str,
    ) -> Result<Self, SettingError> {
        config.validate()?;
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .timeout(config.timeout)
            .pool_idle_timeout(IDLE)
            // A redirect could lead what is secret elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &config.ca {
            let wrong = |why: String| SettingError::new("ca", format!("{}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let more = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
            builder = builder.tls_certs_merge(more);
        }
        let http = builder.build().map_err(|error| SettingError::new("url", error.without_url().to_string()))?;
        let turns = Semaphore::new(config.connections);
        Ok(Self { host: host(&config.url), config, http, wording, clock, turns, breaker: Breaker::default() })
    }

    async fn post(&self, id: &str, body: Vec<u8>) -> Result<(), NotifierError> {
        let at = self.clock.now();
        let sent = self
            .http
            .post(&self.config.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, seconds(at))
            .header(SIGNATURE_HEADER, self.config.secret.sign(id, at, &body))
            .body(body)
            .send()
            .await;
        match sent {
            // What it says is not read.
            Ok(response) => self.judge(response.status()),
            Err(error) if error.is_connect() => {
                let why = self.why("cannot connect");
                self.breaker.open(self.clock.as_ref(), &why);
                Err(NotifierError::Unavailable(why))
            }
            Err(error) if error.is_builder() => {
                Err(NotifierError::Undeliverable(self.why("the request cannot be built")))
            }
            Err(error) if error.is_timeout() => {
                let why = self.why("timed out");
                self.breaker.open(self.clock.as_ref(), &why);
                Err(NotifierError::Unknown(why))
            }
            Err(_) => Err(NotifierError::Unknown(self.why("the connection was lost"))),
        }
    }

    fn judge(&self, status: StatusCode) -> Result<(), NotifierError> {
        let why = self.why(&format!("answers {status}"));
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::GONE | StatusCode::PAYLOAD_TOO_LARGE => Err(NotifierError::Undeliverable(why)),
            // Also 401 and 404: that is for people to put right, and nothing is given up for it.
            _ => Err(NotifierError::Unavailable(why)),
        }
    }

    fn why(&self, what: &str) -> String {
        format!("webhook: {} {what}", self.host)
    }
}

/// The id of a notice: without a dot, which divides what is signed.
fn id(letter: &Letter) -> String {
    format!("{}-{}-{}", letter.vm, letter.key.generation, letter.key.index)
}

fn body(letter: &Letter, written: &Written) -> Value {
    let to = match &letter.to {
        Audience::Owner { users } => json!({ "owner": users }),
        Audience::Operators => json!("operators"),
    };
    let notice = match &letter.notice {
        Notice::LeaseCreated { ends_at } | Notice::Extended { ends_at } => json!({ "ends_at": ends_at }),
        Notice::Expiring { ends_at, offer } => json!({ "ends_at": ends_at, "offer": offer }),
        Notice::Expired { grace_until, offer } => json!({ "grace_until": grace_until, "offer": offer }),
        Notice::Ended => json!({}),
        Notice::Revived { new_vm } => json!({ "new_vm": new_vm }),
        Notice::Alert { alert, message } => json!({ "alert": alert, "message": message }),
        Notice::Delivered(delivery) => {
            json!({ "new_vm": delivery.vm, "addresses": delivery.addresses, "key": delivery.key })
        }
        Notice::ProvisionFailed { reason } => json!({ "reason": reason }),
    };
    json!({
        "type": format!("reeve.notice.{}", letter.notice.name()),
        "timestamp": letter.at,
        "data": {
            "vm": { "id": letter.vm, "name": letter.vm_name },
            "to": to,
            "notice": notice,
            "subject": written.subject,
            "text": written.text,
            "link": written.link,
        },
    })
}

#[async_trait]
impl Notifier for WebhookNotifier {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let _turn = self.turns.acquire().await.expect("turns are never closed");
        if let Some(why) = self.breaker.is_open(self.clock.as_ref()) {
            return Err(NotifierError::Unavailable(why));
        }
        let body = body(letter, &self.wording.write(letter));
        self.post(&id(letter), body.to_string().into_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_goes_over_tls_or_stays_on_this_machine() {
        for url in ["https://hooks.example/a?b=c", "http://127.0.0.1:8080/", "http://[::1]/x", "http://localhost"] {
            check_url(url).unwrap_or_else(|why| panic!("{url}: {why}"));
        }
        for url in ["http://hooks.example/s3cr3t", "ftp://127.0.0.1/s3cr3t", "/s3cr3t", "", "https://"] {
            let why = check_url(url).expect_err(url);
            assert!(why.contains("expected https://") && !why.contains("s3cr3t"), "{why}");
        }
    }

    #[test]
    fn the_url_and_the_secret_are_never_shown() {
        let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let config = WebhookConfig::new("https://hooks.example/s3cr3t", secret);
        let shown = format!("{config:?}");
        assert!(shown.contains("hooks.example") && !shown.contains("s3cr3t") && !shown.contains("MfKQ"), "{shown}");
    }
}
