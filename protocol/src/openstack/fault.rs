//! Why something failed, as a class and a short text.
//!
//! Texts of failures come from anywhere, even from a request that quoted its own headers, so anything that looks like a
//! Keystone token is blotted out of them before they are kept.

use std::iter::Peekable;
use std::str::Chars;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use crate::observation::Fault;

/// The most bytes kept of what a cloud says of a failure, 1 KiB.
pub const MAX_FAULT_BYTES: usize = 1024;

/// How a Fernet token and the two usual headers of a JWS token begin.
const TOKEN_STARTS: [&str; 3] = ["gAAAAA", "eyJhbGci", "eyJ0eXAi"];

const UNKNOWN_KIND: &str = "unknown";

/// A serialised exception: `nova_object.data` of an ExceptionPayload, or the dictionary of older Novas.
#[derive(Deserialize)]
struct Exception<'a> {
    #[serde(borrow, rename = "nova_object.data")]
    data: Field<'a>,
    #[serde(borrow)]
    exception: Field<'a>,
    #[serde(borrow)]
    exception_message: Field<'a>,
    #[serde(borrow)]
    class: Field<'a>,
    #[serde(borrow)]
    message: Field<'a>,
}

/// The failure in `fault` or `reason`: an object of a versioned payload, or whatever form a legacy one has.
pub(super) fn read(key: &'static str, field: Field<'_>) -> Result<Option<Fault>, DecodeError> {
    let Some(raw) = field else { return Ok(None) };
    match field::kind(raw) {
        Kind::Null => Ok(None),
        Kind::Text => {
            let text = field::string(raw);
            Ok((!text.is_empty()).then(|| from_text(&text)))
        }
        Kind::Object => from_object(raw).map(Some),
        found @ (Kind::Bool | Kind::Number | Kind::List) => {
            Err(DecodeError::WrongType { key, found, expected: "an exception" })
        }
    }
}

/// The failure of a legacy payload: `exception` has the class, `message` the text, `code` the HTTP status.
pub(super) fn read_legacy(
    exception: Field<'_>,
    message: Field<'_>,
    code: Field<'_>,
) -> Result<Option<Fault>, DecodeError> {
    let message = field::text("message", message)?;
    let Some(mut fault) = read("exception", exception)?.or_else(|| message.as_ref().map(|_| fault(None, ""))) else {
        return Ok(None);
    };
    if let Some(text) = message {
        fault.message = clean(&text, MAX_FAULT_BYTES);
    }
    if fault.kind == UNKNOWN_KIND
        && let Some(code) = code.filter(|raw| field::kind(raw) == Kind::Number)
    {
        fault.kind = format!("code {}", field::shorten(code.get()));
    }
    Ok(Some(fault))
}

fn from_object(raw: &RawValue) -> Result<Fault, DecodeError> {
    let mut exception: Exception<'_> = field::object(Part::Nested, "exception", raw.get())?;
    if let Some(data) = exception.data {
        exception = field::object(Part::Nested, "nova_object.data", data.get())?;
    }
    // Whatever a failure looks like, the message that tells of it is worth more: another type counts as nothing.
    let text = |field: Field<'_>| field.filter(|raw| field::kind(raw) == Kind::Text).map(field::string);
    let kind = text(exception.exception).or_else(|| text(exception.class));
    let message = text(exception.exception_message).or_else(|| text(exception.message));
    Ok(fault(kind.as_deref(), message.as_deref().unwrap_or_default()))
}

/// `{'kwargs': {…}, 'message': '…', 'class': 'NoValidHost'}` as Python prints it, or any other text.
fn from_text(text: &str) -> Fault {
    match (repr_entry(text, "class"), repr_entry(text, "message")) {
        (None, None) => fault(None, text),
        (class, message) => fault(class.as_deref(), message.as_deref().unwrap_or_default()),
    }
}

fn fault(kind: Option<&str>, message: &str) -> Fault {
    let kind = kind.filter(|kind| !kind.is_empty()).unwrap_or(UNKNOWN_KIND);
    Fault { kind: clean(kind, field::MAX_TEXT_CHARS), message: clean(message, MAX_FAULT_BYTES) }
}

/// Blots out tokens, and keeps at most `limit` bytes. One pass, however many tokens there are.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(limit));
    let mut rest = text;
    while let Some(next) = rest.chars().next()
        && cleaned.len() <= limit
    {
        if TOKEN_STARTS.iter().any(|start| rest.starts_with(start)) {
            cleaned.push_str("[token]");
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_=.".contains(c));
        } else {
            cleaned.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    cleaned.truncate(cleaned.floor_char_boundary(limit));
    cleaned
}

/// The string value of a key at the top level of a dictionary that Python's `repr` printed.
fn repr_entry(text: &str, key: &str) -> Option<String> {
    let mut chars = text.strip_prefix('{')?.chars().peekable();
    let mut depth = 0_usize;
    while let Some(c) = chars.next() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.checked_sub(1)?,
            '\'' | '"' => {
                let word = quoted(&mut chars, c)?;
                if depth == 0 && word == key && chars.next_if_eq(&':').is_some() {
                    while chars.next_if_eq(&' ').is_some() {}
                    let quote = chars.next_if(|c| matches!(c, '\'' | '"'))?;
                    return quoted(&mut chars, quote);
                }
            }
            _ => {}
        }
    }
    None
}

/// The rest of a Python string literal up to its closing quote; escapes other than of quotes and newlines stay.
fn quoted(chars: &mut Peekable<Chars<'_>>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            '\\' => match chars.next()? {
                'n' => text.push('\n'),
                c @ ('\'' | '"' | '\\') => text.push(c),
                c => text.extend(['\\', c]),
            },
            c if c == quote => return Some(text),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_that_python_printed_gives_class_and_text() {
        let text =
            r#"{'kwargs': {'class': 'no', 'code': 500}, 'message': "it's \"it\"", 'class': 'NoValidHost_Remote'}"#;
        let fault = from_text(text);
        assert_eq!((fault.kind.as_str(), fault.message.as_str()), ("NoValidHost_Remote", "it's \"it\""));
        assert_eq!(from_text("plain words").message, "plain words");
        assert_eq!(repr_entry("{'class': None}", "class"), None);
        assert_eq!(repr_entry("{'class': 'unfinished", "class"), None);
    }

    #[test]
    fn tokens_are_blotted_out_and_texts_are_short() {
        assert_eq!(clean("X-Auth-Token: gAAAAAB-live_one== is bad", 100), "X-Auth-Token: [token] is bad");
        assert_eq!(clean("eyJhbGciOiJFUzI1NiJ9.e30.abc", 100), "[token]");
        assert_eq!(clean(&"ä".repeat(2000), MAX_FAULT_BYTES).len(), MAX_FAULT_BYTES);
        assert_eq!(clean(&"gAAAAA ".repeat(2000), 100).len(), 100);
    }
}
