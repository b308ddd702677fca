//! What is said about a link: pure functions of the link, the VM and the node's answer.

use actix_web::http::StatusCode;
use reeve_protocol::Timestamp;
use reeve_protocol::admin::VmView;
use reeve_protocol::command::{Accepted, Refusal, RefusalCode};
use reeve_protocol::event::Offer;
use reeve_protocol::link::{ExtendLink, LinkError};
use serde_json::{Value, json};

/// The most characters of a foreign text that get onto a page.
const MAX_TEXT: usize = 300;

/// A VM as it was seen, and what may be extended.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) vm: VmView,
    pub(super) offer: Offer,
}

/// The button of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Button {
    pub(super) token: String,
    pub(super) button: String,
}

/// An answer, before it is written.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    /// For programs.
    pub(super) code: &'static str,
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    /// What is known of the VM, with a name for each.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) form: Option<Button>,
    /// The answer for programs, or what a problem says beside its words.
    pub(super) json: Value,
}

impl Page {
    /// What the link would do.
    pub(super) fn shown(link: &ExtendLink, seen: &Seen, token: &str) -> Self {
        let name = plain(&seen.vm.name);
        let offer = offered(link, seen);
        let title = format!("The lease of {name}");
        let (line, form) = match &offer {
            Offer::Extend { by, .. } => {
                let line =
                    format!("This link extends the lease of {name} once, by {by}. Nothing has been changed yet.");
                (line, Some(Button { token: token.to_owned(), button: format!("Extend by {by}") }))
            }
            Offer::No { why } => (format!("This link does not extend the lease of {name}: {}.", plain(why)), None),
        };
        let mut json = about(seen);
        json["offer"] = json!(offer);
        json["good_until"] = json!(link.expires_at);
        Self { facts: facts(seen), form, json, ..Self::new(StatusCode::OK, "shown", title, line) }
    }

    /// It is extended, by this click or by an earlier one.
    pub(super) fn extended(link: &ExtendLink, before: &Seen, after: &Seen, accepted: &Accepted) -> Self {
        let name = plain(&after.vm.name);
        let until = accepted.ends_at.map_or_else(|| "a later time".to_owned(), minute);
        let is_first = link.is_of(before.vm.lease.ends_at).is_ok();
        let (code, title, line) = if is_first {
            ("extended", format!("{name} is extended"), format!("The lease is extended until {until}."))
        } else {
            let line = format!("This link has extended the lease until {until}. It was not extended again.");
            ("already_extended", format!("{name} is already extended"), line)
        };
        let mut json = about(after);
        json["result"] = json!(code);
        json["ends_at"] = json!(accepted.ends_at);
        json["message"] = json!(accepted.message);
        Self { facts: facts(after), json, ..Self::new(StatusCode::OK, code, title, line) }
    }

    /// It is not, and what would be possible.
    pub(super) fn not_extended(link: &ExtendLink, seen: &Seen, refusal: &Refusal) -> Self {
        let page = Self::refused(refusal);
        let mut lines = page.lines;
        let code = match (refusal.code, link.is_of(seen.vm.lease.ends_at)) {
            (RefusalCode::Conflict, Err(_)) => "another_period",
            (RefusalCode::Conflict, Ok(())) => "too_late",
            (RefusalCode::Denied | RefusalCode::NotFound | RefusalCode::Invalid | RefusalCode::Unavailable, _) => {
                page.code
            }
        };
        match (&seen.offer, refusal.code) {
            (Offer::No { .. }, RefusalCode::Denied) => {
                lines.push("No extension is possible under its policy; an operator can give it another one.".into());
            }
            (Offer::Extend { by, left }, RefusalCode::Conflict | RefusalCode::Denied) => {
                lines.push(format!("An extension by up to {by} may still be asked for in another way; {left} left."));
            }
            (Offer::No { .. } | Offer::Extend { .. }, _) => {}
        }
        Self { code, lines, facts: facts(seen), json: about(seen), ..page }
    }

    /// The node says no.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        let (status, code, title) = match refusal.code {
            RefusalCode::Denied => (StatusCode::FORBIDDEN, "denied", "Not extended"),
            RefusalCode::NotFound => (StatusCode::NOT_FOUND, "not_found", "There is no such VM any more"),
            RefusalCode::Conflict => (StatusCode::CONFLICT, "conflict", "Not extended"),
            RefusalCode::Invalid => (StatusCode::BAD_REQUEST, "invalid", "Not extended"),
            RefusalCode::Unavailable => return Self::unavailable(&refusal.message),
        };
        Self::new(status, code, title.to_owned(), sentence(&refusal.message))
    }

    /// Nobody can say now. What was asked for may have been done, and may be asked again.
    pub(super) fn unavailable(why: &str) -> Self {
        let mut page = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not now".to_owned(), sentence(why));
        page.lines.push("Open the link again in a while: it extends once, however often it is used.".to_owned());
        page
    }

    /// The link is none, or none any more.
    pub(super) fn bad_link(error: &LinkError) -> Self {
        let (status, code, title) = match error {
            LinkError::Malformed => (StatusCode::BAD_REQUEST, "malformed_link", "This link is not complete"),
            LinkError::Tampered | LinkError::OtherPurpose => {
                (StatusCode::FORBIDDEN, "wrong_link", "This link is not valid")
            }
            LinkError::Expired { .. } => (StatusCode::GONE, "expired_link", "This link has expired"),
            LinkError::EarlierPeriod { .. } => (StatusCode::CONFLICT, "another_period", "This link was used"),
        };
        Self::new(status, code, title.to_owned(), sentence(&error.to_string()))
    }

    /// Whom the link was made for does not own the VM now.
    pub(super) fn not_owner() -> Self {
        let why = "The VM is not of the user any more for whom this link was made.";
        Self::new(StatusCode::FORBIDDEN, "denied", "Not extended".to_owned(), why.to_owned())
    }

    pub(super) fn no_such_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such page".into(), "There is nothing here.".into())
    }

    pub(super) fn no_such_method() -> Self {
        let line = "The page is looked at with GET and extends with POST.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid", "Not possible".into(), line.into())
    }

    pub(super) fn no_form() -> Self {
        let line = "Expected application/x-www-form-urlencoded with the field token.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid", "Not possible".into(), line.into())
    }

    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", "Not possible".into(), "No link is that long.".into())
    }

    pub(super) fn too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid",
            "Not possible".into(),
            "The request did not come in time.".into(),
        )
    }

    fn new(status: StatusCode, code: &'static str, title: String, line: String) -> Self {
        Self { status, code, title, lines: vec![line], facts: Vec::new(), form: None, json: json!({}) }
    }
}

/// What this link may do: the VM's offer, unless the link or the lease is past it.
fn offered(link: &ExtendLink, seen: &Seen) -> Offer {
    let lease = &seen.vm.lease;
    let no = |why: String| Offer::No { why };
    match (lease.state.as_str(), lease.ends_at) {
        ("ending", _) => no("the lease is being ended".into()),
        ("parked", _) => no("the VM is soft-deleted".into()),
        (_, None) => no("it has no lease now".into()),
        (_, Some(ends_at)) if link.is_of(Some(ends_at)).is_err() => {
            no("the lease was extended since the link was made, or its end was moved".into())
        }
        ("ended", Some(_)) if seen.vm.state == "deleted" => {
            no("the VM is gone; it may be revived from a backup".into())
        }
        (_, Some(_)) => seen.offer.clone(),
    }
}

fn facts(seen: &Seen) -> Vec<(&'static str, String)> {
    let lease = &seen.vm.lease;
    let mut facts = vec![("VM", format!("{} ({})", plain(&seen.vm.name), seen.vm.id))];
    facts.push(("Lease", lease.state.clone()));
    facts.extend(lease.ends_at.map(|at| ("Ends at", minute(at))));
    facts.push(("Extensions", format!("{} of {} used", lease.extensions, lease.max_extensions)));
    facts
}

/// The VM for programs: what is on the page, and no more.
fn about(seen: &Seen) -> Value {
    let lease = &seen.vm.lease;
    json!({
        "vm": { "id": seen.vm.id, "name": seen.vm.name },
        "lease": {
            "state": lease.state,
            "ends_at": lease.ends_at,
            "extensions": lease.extensions,
            "max_extensions": lease.max_extensions,
        },
        "offer": seen.offer,
    })
}

/// For people: `2026-01-31 12:00 UTC`.
fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    let (day, time) = text.split_once('T').unwrap_or((&text, "00:00"));
    format!("{day} {} UTC", time.get(..5).unwrap_or(time))
}

/// A foreign text on one line, not too long.
fn plain(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// A message of the node as a sentence.
fn sentence(message: &str) -> String {
    let text = plain(message);
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let rest = letters.as_str();
    let stop = if rest.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{rest}{stop}")
}
