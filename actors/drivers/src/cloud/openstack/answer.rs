//! What an answer means: every status that OpenStack gives, as one of the port's four errors.

use reeve_ports::CloudError;
use reqwest::StatusCode;
use serde_json::Value;

/// The most characters kept of what a cloud says of a failure.
const MAX_MESSAGE: usize = 300;

/// Whether a call may change something: what a lost answer means depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Looks only.
    Look,
    /// Changes something once it is taken.
    Change,
}

impl Effect {
    /// Nobody knows what came of the call.
    pub(super) fn lost(self, why: String) -> CloudError {
        match self {
            Self::Look => CloudError::Unavailable(why),
            Self::Change => CloudError::Unknown(why),
        }
    }
}

/// What a status that is no success means. `retry_after` is the header, in seconds.
pub(super) fn failure(effect: Effect, status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> CloudError {
    let why = format!("{} {}", status.as_u16(), message(status, body));
    match status.as_u16() {
        404 | 410 => CloudError::NotFound(why),
        // A token that is not taken although it is new, or a login that fails, is for people to put right: what is to be
        // done is not given up for it.
        401 => CloudError::Unavailable(why),
        429 => CloudError::Unavailable(why),
        // Cinder says 413 with `Retry-After: 0` for a quota; a rate limit says how long.
        413 if retry_after.is_some_and(|seconds| seconds > 0) => CloudError::Unavailable(why),
        503 if retry_after.is_some() => CloudError::Unavailable(why),
        408 => effect.lost(why),
        501 => CloudError::Refused(why),
        400..=499 => CloudError::Refused(why),
        // 5xx, and what no API of OpenStack answers: something between may have failed after the effect.
        _ => effect.lost(why),
    }
}

/// What no answer means.
pub(super) fn no_answer(effect: Effect, error: &reqwest::Error) -> CloudError {
    if error.is_connect() {
        return CloudError::Unavailable("cannot connect".to_owned());
    }
    if error.is_builder() {
        return CloudError::Refused("the request cannot be built".to_owned());
    }
    effect.lost(if error.is_timeout() { "timed out" } else { "the connection was lost" }.to_owned())
}

/// The message in any of OpenStack's bodies of errors, or the status' own words.
fn message(status: StatusCode, body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
        let nested = body.as_object()?.values().find_map(|value| value.get("message"));
        nested.or_else(|| body.get("message")).and_then(Value::as_str).map(str::to_owned)
    });
    let said = said.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason").to_owned());
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: &CloudError) -> char {
        match error {
            CloudError::NotFound(_) => 'N',
            CloudError::Refused(_) => 'R',
            CloudError::Unavailable(_) => 'A',
            CloudError::Unknown(_) => 'U',
        }
    }

    /// (status, `Retry-After`, meaning of a look, meaning of a change)
    const MEANINGS: &[(u16, Option<u64>, char, char)] = &[
        (302, None, 'A', 'U'),
        (400, None, 'R', 'R'),
        (401, None, 'A', 'A'),
        (403, None, 'R', 'R'),
        (404, None, 'N', 'N'),
        (406, None, 'R', 'R'),
        (408, None, 'A', 'U'),
        (409, None, 'R', 'R'),
        (412, None, 'R', 'R'),
        (413, None, 'R', 'R'),
        (413, Some(0), 'R', 'R'),
        (413, Some(3), 'A', 'A'),
        (429, None, 'A', 'A'),
        (429, Some(3), 'A', 'A'),
        (500, None, 'A', 'U'),
        (501, None, 'R', 'R'),
        (502, None, 'A', 'U'),
        (503, None, 'A', 'U'),
        (503, Some(1), 'A', 'A'),
        (504, None, 'A', 'U'),
    ];

    #[test]
    fn every_status_has_its_meaning() {
        for &(status, retry_after, look, change) in MEANINGS {
            let status = StatusCode::from_u16(status).unwrap();
            let of = |effect| kind(&failure(effect, status, retry_after, b""));
            assert_eq!((of(Effect::Look), of(Effect::Change)), (look, change), "{status} {retry_after:?}");
        }
    }

    #[test]
    fn the_message_is_found_in_every_form_of_body_and_bounded() {
        let said = |body: &str| failure(Effect::Look, StatusCode::CONFLICT, None, body.as_bytes()).to_string();
        for body in [
            r#"{"conflictingRequest": {"code": 409, "message": "it is\nlocked"}}"#,
            r#"{"NeutronError": {"type": "T", "message": "it is\nlocked", "detail": ""}}"#,
            r#"{"error": {"code": 409, "title": "Conflict", "message": "it is\nlocked"}}"#,
            r#"{"message": "it is\nlocked", "code": "409 Conflict", "title": "Conflict"}"#,
        ] {
            assert_eq!(said(body), "refused: 409 it is locked", "{body}");
        }
        assert_eq!(said("<html>"), "refused: 409 Conflict");
        assert_eq!(said(""), "refused: 409 Conflict");
        assert!(said(&format!(r#"{{"message": "{}"}}"#, "x".repeat(10_000))).len() < 400);
    }
}
