//! What an answer means: every status that OpenStack gives, as one of the port's four errors, and as a sign of how the
//! service is as a whole.

use std::time::Duration;

use reeve_ports::CloudError;
use reqwest::StatusCode;
use serde_json::Value;

use super::breaker::Sign;

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

/// What a failure of a call may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The service: nothing else is needed for the answer.
    Service,
    /// One thing, or what is to be made: its host may be what fails.
    Thing,
}

/// What an answer tells of the service as a whole.
pub(super) fn sign(scope: Scope, status: StatusCode) -> Sign {
    match (status.as_u16(), scope) {
        // It answers that it does not do such things.
        (501, _) => Sign::Alive,
        // Whatever stands before the service does not reach it.
        (502, _) | (500..=599, Scope::Service) => Sign::Dead,
        // A redirect is not of OpenStack.
        (500..=599, Scope::Thing) | (300..=399 | 408, _) => Sign::None,
        _ => Sign::Alive,
    }
}

/// Whether `Retry-After` in such an answer is a wish to be left alone. Elsewhere it tells when something will be ready.
pub(super) const fn asks_for_rest(status: StatusCode) -> bool {
    matches!(status.as_u16(), 413 | 429 | 503)
}

/// What an answer that did not come tells of the service as a whole.
pub(super) fn sign_of_none(scope: Scope, error: &reqwest::Error) -> Sign {
    if error.is_connect() {
        return Sign::Dead;
    }
    match scope {
        Scope::Service if !error.is_builder() => Sign::Dead,
        Scope::Service | Scope::Thing => Sign::None,
    }
}

/// What a status that is no success means. `rest` is `Retry-After`.
pub(super) fn failure(effect: Effect, status: StatusCode, rest: Option<Duration>, body: &[u8]) -> CloudError {
    let why = format!("{} {}", status.as_u16(), message(status, body));
    match status.as_u16() {
        404 | 410 => CloudError::NotFound(why),
        // A token that is not taken although it is new, or a login that fails, is for people to put right: what is to be
        // done is not given up for it.
        401 => CloudError::Unavailable(why),
        429 => CloudError::Unavailable(why),
        // Cinder says 413 with `Retry-After: 0` for a quota; a rate limit says how long.
        413 if rest.is_some_and(|rest| !rest.is_zero()) => CloudError::Unavailable(why),
        503 if rest.is_some() => CloudError::Unavailable(why),
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
mod tests;
