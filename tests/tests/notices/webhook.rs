//! Notices to a web service that checks every signature.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reeve_drivers::{WebhookConfig, WebhookNotifier, WebhookSecret};
use reeve_ports::conformance::notifier::{notices, run};
use reeve_ports::notifier::NotifierError;
use reeve_ports::{Clock, Notifier};
use reeve_protocol::Timestamp;
use serde_json::Value;
use sha2::Sha256;

use crate::fixture::{Ahead, clock, expiring, key, vm, wording};

/// The secret that both sides share.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A call as the service got it, its signature checked.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    id: String,
    at: i64,
    body: Value,
}

/// What the service answers with, and what it got.
#[derive(Default)]
struct Inbox {
    calls: Mutex<Vec<Call>>,
    forged: Mutex<Vec<String>>,
    answers: Mutex<Vec<u16>>,
}

struct Receiver {
    url: String,
    inbox: web::Data<Inbox>,
    handle: ServerHandle,
}

impl Receiver {
    async fn start() -> Self {
        let inbox = web::Data::new(Inbox::default());
        let (state, listener) = (inbox.clone(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}/hook?for=reeve", listener.local_addr().unwrap());
        let server = HttpServer::new(move || App::new().app_data(state.clone()).route("/hook", web::post().to(take)));
        let server = server.workers(1).disable_signals().shutdown_timeout(1).listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, inbox, handle }
    }

    /// The next calls are answered with these, then all with 204.
    fn answers(&self, codes: &[u16]) {
        *self.inbox.answers.lock().unwrap() = codes.to_vec();
    }

    fn calls(&self) -> Vec<Call> {
        assert_eq!(*self.inbox.forged.lock().unwrap(), Vec::<String>::new(), "a signature was wrong");
        self.inbox.calls.lock().unwrap().clone()
    }
}

async fn take(request: HttpRequest, body: web::Bytes, inbox: web::Data<Inbox>) -> HttpResponse {
    match verified(&request, &body) {
        Ok(call) => inbox.calls.lock().unwrap().push(call),
        Err(why) => inbox.forged.lock().unwrap().push(why.to_owned()),
    }
    let mut answers = inbox.answers.lock().unwrap();
    let code = if answers.is_empty() { 204 } else { answers.remove(0) };
    let mut answer = HttpResponse::build(StatusCode::from_u16(code).unwrap());
    // Whoever followed it would come again.
    answer.insert_header(("location", "/hook")).finish()
}

/// What a receiver does by the documentation, word for word, with nothing of ours.
fn verified(request: &HttpRequest, body: &[u8]) -> Result<Call, &'static str> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).ok_or("a header is missing");
    let (id, at, signatures) = (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").ok_or("no prefix")?).map_err(|_| "no base64")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| "no key")?;
    mac.update(&[id.as_bytes(), b".", at.as_bytes(), b".", body].concat());
    let expected = STANDARD.encode(mac.finalize().into_bytes());
    let is_ours = |signature: &str| signature.strip_prefix("v1,") == Some(expected.as_str());
    if !signatures.split(' ').any(is_ours) {
        return Err("the signature is wrong");
    }
    if header("content-type")? != "application/json" {
        return Err("it is no JSON");
    }
    let body = serde_json::from_slice(body).map_err(|_| "it is no JSON")?;
    Ok(Call { id: id.to_owned(), at: at.parse().map_err(|_| "no time")?, body })
}

fn channel(url: &str, clock: &Arc<Ahead>) -> WebhookNotifier {
    let config = WebhookConfig {
        timeout: Duration::from_secs(5),
        ..WebhookConfig::new(url, WebhookSecret::new(SECRET).unwrap())
    };
    WebhookNotifier::new(config, wording(), Arc::clone(clock) as Arc<dyn Clock>, "reeve/test").unwrap()
}

#[actix_web::test]
async fn every_notice_is_signed_and_comes_as_json() {
    let (receiver, clock) = (Receiver::start().await, clock());
    run(&channel(&receiver.url, &clock)).await;
    let calls = receiver.calls();
    assert_eq!(calls.len(), 3 * notices().len());
    for call in &calls {
        assert!(call.body["type"].as_str().unwrap().starts_with("reeve.notice."), "{call:?}");
        assert!(call.body["data"]["subject"].is_string() && call.body["data"]["text"].is_string(), "{call:?}");
        let age = clock.now().as_millis() / 1000 - call.at;
        assert!((0..300).contains(&age), "{age} s");
    }
    receiver.handle.stop(true).await;
}

#[actix_web::test]
async fn each_attempt_has_the_same_id_and_body_and_a_signature_of_its_own() {
    let (receiver, clock) = (Receiver::start().await, clock());
    let channel = channel(&receiver.url, &clock);
    receiver.answers(&[503, 401, 302]);
    let letter = expiring(&["ann"]);
    for _ in 0..3 {
        let answer = channel.deliver(&letter).await;
        assert!(matches!(answer, Err(NotifierError::Unavailable(_))), "{answer:?}");
        clock.by(Duration::from_secs(60));
    }
    channel.deliver(&letter).await.unwrap();
    let calls = receiver.calls();
    assert_eq!(calls.len(), 4, "a redirect is not followed");
    assert!(calls.iter().all(|call| (&call.id, &call.body) == (&calls[0].id, &calls[0].body)));
    assert!(calls.windows(2).all(|two| two[0].at < two[1].at), "a receiver that refuses old ones takes each");
    assert!(!calls[0].id.contains('.'), "{}", calls[0].id);
    let data = &calls[0].body["data"];
    assert_eq!(
        (data["vm"]["id"].as_str(), data["to"]["owner"][0].as_str()),
        (Some(vm().to_string().as_str()), Some("ann"))
    );
    let token = data["link"].as_str().unwrap().split_once("?token=").unwrap().1;
    assert_eq!(key().open(token, Timestamp::EPOCH).unwrap().vm, vm());
    receiver.handle.stop(true).await;
}

#[actix_web::test]
async fn a_service_that_is_gone_for_ever_is_told_from_one_that_is_away() {
    let (receiver, clock) = (Receiver::start().await, clock());
    let channel = channel(&receiver.url, &clock);
    receiver.answers(&[410, 413, 404, 500]);
    for expected in [true, true, false, false] {
        let answer = channel.deliver(&expiring(&["ann"])).await;
        assert_eq!(matches!(answer, Err(NotifierError::Undeliverable(_))), expected, "{answer:?}");
    }
    receiver.handle.stop(true).await;
    let why = loop {
        match channel.deliver(&expiring(&["ann"])).await {
            Err(NotifierError::Unavailable(why)) if why.contains("cannot connect") => break why,
            Ok(()) => panic!("it is stopped"),
            // A connection that was kept ends first.
            Err(_) => clock.by(Duration::from_secs(60)),
        }
    };
    assert!(!why.contains("for=reeve") && why.contains("127.0.0.1"), "the URL may be a secret: {why}");
}

#[actix_web::test]
async fn a_service_that_never_answers_leaves_the_outcome_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let secret = WebhookSecret::new(SECRET).unwrap();
    let config = WebhookConfig { timeout: Duration::from_millis(300), ..WebhookConfig::new(url, secret) };
    let channel = WebhookNotifier::new(config, wording(), clock(), "reeve/test").unwrap();
    let answer = channel.deliver(&expiring(&["ann"])).await;
    assert!(matches!(answer, Err(NotifierError::Unknown(_))), "{answer:?}");
    drop(listener);
}
