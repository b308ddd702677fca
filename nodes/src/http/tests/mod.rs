//! The pages, over a node that does as it is told.

mod fake;

use std::sync::Arc;

use actix_web::body::to_bytes;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use actix_web::middleware::from_fn;
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, web};
use reeve_protocol::Span;
use reeve_protocol::admin::AdminRequest;
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::link::{ExtendLink, MAX_TOKEN_BYTES};
use serde_json::Value;

use self::fake::{BY, Fake, desk, desk_of, ends_at, key, link, token};
use super::{Desk, in_time, path_of, routes};

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }
}

async fn call(desk: Desk, requests: Vec<TestRequest>) -> Vec<Got> {
    let app = App::new().wrap(from_fn(in_time)).app_data(web::Data::new(desk)).configure(routes);
    let service = init_service(app).await;
    let mut all = Vec::new();
    for request in requests {
        let response = call_service(&service, request.to_request()).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body()).await.unwrap_or_else(|_| panic!("a body"));
        all.push(Got { status, headers, text: String::from_utf8(body.to_vec()).unwrap() });
    }
    all
}

async fn one(fake: &Arc<Fake>, request: TestRequest) -> Got {
    call(desk_of(fake), vec![request]).await.remove(0)
}

fn get(token: &str) -> TestRequest {
    TestRequest::get().uri(&format!("/extend?token={token}"))
}

fn post(token: &str) -> TestRequest {
    let form = "application/x-www-form-urlencoded";
    TestRequest::post().uri("/extend").insert_header((CONTENT_TYPE, form)).set_payload(format!("token={token}"))
}

fn json(request: TestRequest) -> TestRequest {
    request.insert_header((ACCEPT, "application/json"))
}

#[actix_web::test]
async fn a_get_shows_what_the_link_would_do_and_changes_nothing() {
    let fake = Fake::new();
    for request in [get(&token()), get(&format!("{}&utm_source=mail", token()))] {
        let got = one(&fake, request).await;
        assert_eq!(got.status, StatusCode::OK);
        for expected in ["2099-01-31 12:00 UTC", "0 of 2 used", "Extend by 30d", "method=\"post\"", &token()] {
            assert!(got.text.contains(expected), "{expected}\n{}", got.text);
        }
    }
    let head =
        one(&fake, TestRequest::with_uri(&format!("/extend?token={}", token())).method(actix_web::http::Method::HEAD));
    assert_eq!(head.await.status, StatusCode::OK);
    let asked = fake.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|one| matches!(one, AdminRequest::VmShow(_) | AdminRequest::LeaseOffer(_))), "{asked:?}");
    assert_eq!(fake.vm.lock().unwrap().lease.ends_at, Some(ends_at()));
}

#[actix_web::test]
async fn a_page_runs_nothing_leads_nowhere_and_is_kept_by_nobody() {
    let got = one(&Fake::new(), get(&token())).await;
    assert!(got.text.contains("&lt;b&gt;web") && !got.text.contains("<b>"), "{}", got.text);
    assert!(!got.text.contains("<script") && !got.text.contains("http://") && !got.text.contains("https://"));
    assert!(got.text.contains("&#x2f;reeve&#x2f;extend") || got.text.contains("action=\"/reeve/extend\""));
    let policy = got.header("content-security-policy");
    for expected in ["default-src 'none'", "style-src 'sha256-", "form-action 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(expected), "{policy}");
    }
    // The hash is of what stands between the tags.
    let style = got.text.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).unwrap().0;
    let hash = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        <sha2::Sha256 as sha2::Digest>::digest(style.as_bytes()),
    );
    assert!(policy.contains(&hash), "{policy}");
    assert_eq!(got.header("referrer-policy"), "no-referrer");
    assert_eq!(got.header("cache-control"), "no-store");
    assert_eq!(got.header("x-content-type-options"), "nosniff");
}

#[actix_web::test]
async fn a_post_extends_once_however_often_and_by_whichever_node_it_comes() {
    let fake = Fake::new();
    let first = one(&fake, json(post(&token()))).await;
    assert_eq!((first.status, first.json()["result"].as_str()), (StatusCode::OK, Some("extended")));
    let until = ends_at() + BY;
    assert_eq!(first.json()["ends_at"], until.to_string());
    assert!(first.json()["lease"].get("delegates").is_none(), "{}", first.text);
    // Another desk: another node.
    let again = one(&fake, json(post(&token()))).await;
    assert_eq!((again.status, again.json()["result"].as_str()), (StatusCode::OK, Some("already_extended")));
    assert_eq!(again.json()["ends_at"], until.to_string());
    let page = one(&fake, post(&token())).await;
    assert!(page.text.contains("It was not extended again.") && !page.text.contains("<form"), "{}", page.text);
    assert_eq!(fake.vm.lock().unwrap().lease.extensions, 1);
    // The link is shown for what it is now.
    let shown = one(&fake, get(&token())).await;
    assert!(shown.text.contains("was extended since") && !shown.text.contains("<form"), "{}", shown.text);
}

#[actix_web::test]
async fn a_click_after_another_extension_extends_nothing() {
    let fake = Fake::new();
    let other = ends_at() + Span::from_days(1);
    fake.vm.lock().unwrap().lease.ends_at = Some(other);
    let got = one(&fake, json(post(&token()))).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::CONFLICT, Some("another_period")));
    assert_eq!(got.json()["lease"]["ends_at"], other.to_string());
    assert_eq!(fake.vm.lock().unwrap().lease.extensions, 0);
}

#[actix_web::test]
async fn beyond_the_cap_it_is_refused_and_said_what_is_possible() {
    let fake = Fake::new();
    fake.vm.lock().unwrap().lease.extensions = 2;
    let shown = one(&fake, get(&token())).await;
    assert!(shown.text.contains("all 2 extensions are used") && !shown.text.contains("<form"), "{}", shown.text);
    let got = one(&fake, json(post(&token()))).await;
    assert_eq!(got.status, StatusCode::FORBIDDEN);
    assert_eq!(got.header("content-type"), "application/problem+json");
    let problem = got.json();
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(403), Some("denied")));
    assert!(problem["detail"].as_str().unwrap().contains("All 2 extensions are used. No extension is possible"));
    assert_eq!(problem["offer"]["no"]["why"], "all 2 extensions are used");
}

#[actix_web::test]
async fn too_late_is_said_as_such() {
    let fake = Fake::new();
    fake.vm.lock().unwrap().lease.state = "ending".into();
    let shown = one(&fake, get(&token())).await;
    assert!(shown.text.contains("being ended") && !shown.text.contains("<form"), "{}", shown.text);
    let got = one(&fake, json(post(&token()))).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::CONFLICT, Some("too_late")));
}

#[actix_web::test]
async fn a_wrong_link_never_gets_to_the_node() {
    let fake = Fake::new();
    let expired = key().token(&ExtendLink { expires_at: reeve_protocol::Timestamp::from_millis(1), ..link() });
    let tampered = token().replacen("lease-extend.ey", "lease-extend.eX", 1);
    let (long, longer) = ("x".repeat(MAX_TOKEN_BYTES + 1), "x".repeat(3 * MAX_TOKEN_BYTES));
    let part = token()[..40].to_owned();
    for (token, status, code) in [
        (tampered.as_str(), StatusCode::FORBIDDEN, "wrong_link"),
        (expired.as_str(), StatusCode::GONE, "expired_link"),
        (part.as_str(), StatusCode::BAD_REQUEST, "malformed_link"),
        (long.as_str(), StatusCode::BAD_REQUEST, "malformed_link"),
        (longer.as_str(), StatusCode::PAYLOAD_TOO_LARGE, "invalid"),
    ] {
        for request in [get(token), post(token)] {
            let got = one(&fake, json(request)).await;
            assert_eq!((got.status, got.json()["code"].as_str()), (status, Some(code)), "{}", got.text);
            assert!(!got.text.contains(token), "an answer repeats the token");
        }
    }
    let without = TestRequest::get().uri("/extend");
    assert_eq!(one(&fake, without).await.status, StatusCode::BAD_REQUEST);
    assert!(fake.asked.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn what_is_no_form_or_no_page_is_refused() {
    let fake = Fake::new();
    let plain = TestRequest::post().uri("/extend").set_payload(format!("token={}", token()));
    assert_eq!(one(&fake, plain).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let put = one(&fake, TestRequest::put().uri("/extend")).await;
    assert_eq!((put.status, put.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, POST"));
    assert_eq!(one(&fake, TestRequest::get().uri("/v1/vms")).await.status, StatusCode::NOT_FOUND);
    let in_query = TestRequest::post().uri(&format!("/extend?token={}", token()));
    assert!(one(&fake, in_query).await.status.is_client_error());
    assert_eq!(fake.commands(), 0);
    let mut linkless = desk_of(&fake);
    linkless.links = None;
    assert_eq!(call(linkless, vec![get(&token())]).await[0].status, StatusCode::NOT_FOUND);
}

#[actix_web::test]
async fn who_does_not_own_the_vm_any_more_is_not_told_about_it() {
    let fake = Fake::new();
    fake.vm.lock().unwrap().user = Some(reeve_protocol::UserId::new("bob").unwrap());
    for request in [get(&token()), post(&token())] {
        let got = one(&fake, request).await;
        assert_eq!(got.status, StatusCode::FORBIDDEN);
        assert!(!got.text.contains("web"), "{}", got.text);
    }
    assert_eq!(fake.commands(), 0);
    let gone = key().token(&ExtendLink { vm: reeve_protocol::VmId::new(uuid::Uuid::from_u128(8)), ..link() });
    assert_eq!(one(&fake, post(&gone)).await.status, StatusCode::NOT_FOUND);
}

#[actix_web::test]
async fn a_node_that_cannot_answer_says_come_again() {
    let fake = Fake::new();
    *fake.refuses.lock().unwrap() = Some(Refusal::new(RefusalCode::Unavailable, "its owner does not answer"));
    for request in [get(&token()), post(&token())] {
        let got = one(&fake, json(request)).await;
        assert_eq!((got.status, got.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
        assert!(got.json()["detail"].as_str().unwrap().starts_with("Its owner does not answer."), "{}", got.text);
    }
    let starting = call(desk(), vec![json(post(&token()))]).await;
    assert_eq!(starting[0].status, StatusCode::SERVICE_UNAVAILABLE);
}

#[actix_web::test]
async fn monitoring_is_told_whether_the_node_lives_and_serves() {
    let ask = || vec![TestRequest::get().uri("/healthz"), TestRequest::get().uri("/readyz")];
    let states = |got: &[Got]| got.iter().map(|got| got.status.as_u16()).collect::<Vec<_>>();
    let starting = call(desk(), ask()).await;
    assert_eq!(states(&starting), [200, 503]);
    assert_eq!(starting[1].json()["reasons"][0], "the node is being started");

    let fake = Fake::new();
    assert_eq!(states(&call(desk_of(&fake), ask()).await), [200, 200]);
    *fake.lacks.lock().unwrap() = vec!["the broker is away".into(), "etcd too".into()];
    let lacking = call(desk_of(&fake), ask()).await;
    assert_eq!(states(&lacking), [200, 503]);
    let problem = lacking[1].json();
    assert_eq!(
        (problem["code"].as_str(), problem["detail"].as_str()),
        (Some("not_ready"), Some("the broker is away; etcd too"))
    );

    *fake.refuses.lock().unwrap() = Some(Refusal::new(RefusalCode::Unavailable, "an arbiter thread does not answer"));
    let hung = call(desk_of(&fake), ask()).await;
    assert_eq!(states(&hung), [503, 503]);
    assert_eq!(hung[0].json()["detail"], "an arbiter thread does not answer");

    let stopping = desk_of(&fake);
    stopping.stage.stopping();
    assert_eq!(states(&call(stopping, ask()).await), [200, 503]);
}

#[actix_web::test]
async fn however_many_ask_whether_it_lives_the_node_is_asked_once() {
    let fake = Fake::new();
    let ask = || TestRequest::get().uri("/healthz");
    call(desk_of(&fake), vec![ask(), ask(), ask()]).await;
    assert_eq!(fake.asked.lock().unwrap().len(), 1);
}

#[test]
fn the_form_goes_where_the_link_came_from() {
    assert_eq!(path_of("https://reeve.example/extend"), "/extend");
    assert_eq!(path_of("https://reeve.example/a/b"), "/a/b");
    assert_eq!(path_of("https://reeve.example"), "/");
}
