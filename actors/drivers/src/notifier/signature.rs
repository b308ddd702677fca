//! How a webhook is signed: Standard Webhooks 1.0.0, the symmetric scheme.
//!
//! ```text
//! webhook-id:        VM-GENERATION-INDEX; the same for every attempt at the same notice
//! webhook-timestamp: seconds since 1970-01-01T00:00:00Z at which it was sent
//! webhook-signature: "v1," base64(HMAC-SHA256(secret, webhook-id "." webhook-timestamp "." body))
//! ```
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>, section "Signature
//! scheme"; base64 is RFC 4648 section 4 with padding. A receiver computes the same over the bytes of the body as they came,
//! compares in constant time, refuses a timestamp that is more than five minutes from its own clock, and drops an id that it
//! has already.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reeve_protocol::Timestamp;
use sha2::Sha256;

/// The header of the id.
pub const ID_HEADER: &str = "webhook-id";
/// The header of the time at which it was sent.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header of the signature.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// How a secret in base64 begins.
const PREFIX: &str = "whsec_";
/// The least and the most bytes of a secret; the source asks for 24 to 64.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secret that a receiver shares. Shows nothing.
#[derive(Clone)]
pub struct WebhookSecret(Box<[u8]>);

/// A text is no secret to sign with. Does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookSecretError {
    /// What follows the prefix is no base64.
    #[error("begins with whsec_, but the rest is no base64")]
    NotBase64,
    /// It is too short or too long.
    #[error("has {found} bytes, expected 24 to 64")]
    Length {
        /// How many it has.
        found: usize,
    },
}

impl WebhookSecret {
    /// Reads a secret: `whsec_` and base64, or any text, whose bytes are the secret then.
    ///
    /// # Errors
    /// [`WebhookSecretError`] when it is no base64, or has less than 24 or more than 64 bytes.
    pub fn new(text: &str) -> Result<Self, WebhookSecretError> {
        let bytes = match text.strip_prefix(PREFIX) {
            Some(base64) => STANDARD.decode(base64).map_err(|_| WebhookSecretError::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if BYTES.contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err(WebhookSecretError::Length { found: bytes.len() })
        }
    }

    /// The signature of a body that is sent at this time under this id.
    #[must_use]
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        mac.update(format!("{id}.{}.", seconds(at)).as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The header's form of a time.
#[must_use]
pub const fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference libraries.
    #[test]
    fn a_body_is_signed_as_the_reference_libraries_sign_it() {
        let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let at = Timestamp::from_millis(1_614_265_330_999);
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_a_length_and_is_never_shown() {
        assert_eq!(WebhookSecret::new("short").unwrap_err(), WebhookSecretError::Length { found: 5 });
        assert_eq!(WebhookSecret::new("whsec_~").unwrap_err(), WebhookSecretError::NotBase64);
        assert!(WebhookSecret::new(&"x".repeat(65)).is_err());
        assert_eq!(format!("{:?}", WebhookSecret::new(&"s3cr3t".repeat(4)).unwrap()), "***");
    }
}
