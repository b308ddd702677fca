//! How an answer is written: a page without scripts and foreign parts, or JSON.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, HttpResponseBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Desk;
use super::negotiation::Form;
use super::says::Page;

/// Its name ends in `.html`, so that what is put into it is escaped: a VM's name is foreign text.
const TEMPLATE: &str = "page.html";
const SOURCE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// The most steps that writing a page may take.
const MAX_STEPS: u64 = 20_000;
/// What a page may do at a browser that was given another than JSON: nothing.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// When whoever was told "not now" may come again, in seconds.
const AGAIN_SECS: &str = "5";

/// Writes pages.
pub(super) struct Pages {
    environment: Environment<'static>,
    /// Allows the one style there is, by its hash, and forms to where the page came from.
    policy: String,
}

impl Pages {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_template(TEMPLATE, SOURCE).expect("the template is well-formed; a test renders it");
        let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        );
        Self { environment, policy }
    }

    fn html(&self, page: &Page, action: &str) -> String {
        let form =
            page.form.as_ref().map(|form| json!({ "action": action, "token": form.token, "button": form.button }));
        let says =
            json!({ "title": page.title, "lines": page.lines, "facts": page.facts, "form": form, "style": STYLE });
        let written = self.environment.get_template(TEMPLATE).and_then(|template| template.render(Serde(&says)));
        written.unwrap_or_else(|error| {
            tracing::error!(%error, "the page of links is not written");
            "<!doctype html><title>Reeve</title><p>This page cannot be shown.</p>".to_owned()
        })
    }
}

impl Desk {
    /// Writes an answer as whoever asks wants it.
    pub(super) fn write(&self, form: Form, page: &Page) -> HttpResponse {
        let mut response = match form {
            Form::Html => {
                let action = self.links.as_ref().map_or("", |links| links.action.as_str());
                guarded(page.status)
                    .insert_header((CONTENT_SECURITY_POLICY, self.pages.policy.as_str()))
                    .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
                    .body(self.pages.html(page, action))
            }
            Form::Json if page.status.is_success() => guarded(page.status).json(&page.json),
            Form::Json => problem(page.status, page.code, &page.lines.join(" "), page.json.clone()),
        };
        let headers = response.headers_mut();
        if page.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, actix_web::http::header::HeaderValue::from_static(AGAIN_SECS));
        }
        if page.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, actix_web::http::header::HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }
}

/// A response that is kept by nobody, leads nowhere and is what it says: a link is a secret.
pub(super) fn guarded(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CONTENT_SECURITY_POLICY, NOTHING));
    response
}

/// A problem document (RFC 9457): `code` is for programs, `detail` for people, and `more` whatever else there is to say.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str, more: Value) -> HttpResponse {
    let mut document = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
    });
    if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
        document.extend(more);
    }
    guarded(status).insert_header((CONTENT_TYPE, "application/problem+json")).body(document.to_string())
}
