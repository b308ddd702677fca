//! The keys that backups are encrypted with.
//!
//! ```text
//! vault key (32 random bytes, named by its id)
//!   └─ HKDF-SHA-256 ─► check           8 bytes in the manifest: tells a wrong key from damage
//!                  ├─► part  + place   AES-256-GCM of this object's parts
//!                  └─► name  + place   keyed BLAKE3 that names this object's parts
//! ```
//!
//! `place` is the object's path in the vault, so a part that is moved to another object, VM or cloud does not open there.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use serde::{Deserialize, Serialize};

use super::hex;

/// Salt of the derivation; part of the format.
const SALT: &[u8] = b"reeve vault format 2";
/// The most keys of a vault.
pub const MAX_KEYS: usize = 32;
const MAX_ID: usize = 63;

/// Why a key cannot be used. Never tells anything of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The id is empty, too long, or has other characters than letters, digits, `-`, `_`, `.`.
    #[error("a key's id has 1 to {MAX_ID} letters, digits, - _ .")]
    Id,
    /// Not 64 hex digits.
    #[error("key {0:?} is not 64 hexadecimal digits (openssl rand -hex 32)")]
    Secret(String),
    /// Two keys have one id.
    #[error("two keys are called {0:?}")]
    Twice(String),
    /// Too many.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

/// A key of a vault.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultKey {
    id: String,
    secret: [u8; 32],
}

impl VaultKey {
    /// From its id and 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] when either is not what it should be.
    pub fn new(id: &str, secret: &str) -> Result<Self, KeyError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
            return Err(KeyError::Id);
        }
        let secret = hex::decode(&secret.to_ascii_lowercase()).ok_or_else(|| KeyError::Secret(id.to_owned()))?;
        Ok(Self { id: id.to_owned(), secret })
    }

    fn derive<const N: usize>(&self, label: &[u8], place: &str) -> [u8; N] {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&self.secret);
        let info = [label, &b"\0"[..], place.as_bytes()];
        let mut derived = [0; N];
        let expanded = root.expand(&info, Length(N)).and_then(|okm| okm.fill(&mut derived));
        expanded.expect("HKDF-SHA-256 gives up to 8160 bytes");
        derived
    }

    /// How a manifest names this key.
    pub(super) fn mark(&self) -> KeyMark {
        KeyMark { id: self.id.clone(), check: hex::encode(&self.derive::<8>(b"check", "")) }
    }

    /// The keys of one object.
    pub(super) fn of_object(&self, place: &str) -> ObjectKeys {
        let part = RandomizedNonceKey::new(&AES_256_GCM, &self.derive::<32>(b"part", place));
        ObjectKeys { part: part.expect("AES-256 takes 32 bytes"), name: self.derive(b"name", place) }
    }
}

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultKey").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Which key an object is encrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyMark {
    pub(super) id: String,
    /// Derived from the key.
    check: String,
}

/// What one object's parts are encrypted and named with.
pub(super) struct ObjectKeys {
    pub(super) part: RandomizedNonceKey,
    pub(super) name: [u8; 32],
}

/// The keys of a vault: the first encrypts, all of them read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(Vec<VaultKey>);

/// Why an object cannot be decrypted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoKey {
    #[error("it is encrypted with key {0:?}, which this node does not have")]
    Missing(String),
    #[error("it is encrypted with another key {0:?} than this node's of that name")]
    Other(String),
}

impl KeyRing {
    /// # Errors
    /// [`KeyError`] when two have one id, or there are too many.
    pub fn new(keys: Vec<VaultKey>) -> Result<Self, KeyError> {
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.id == key.id) {
                return Err(KeyError::Twice(key.id.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// What new backups are encrypted with; none: they are not.
    pub(super) fn current(&self) -> Option<&VaultKey> {
        self.0.first()
    }

    pub(super) fn find(&self, mark: &KeyMark) -> Result<&VaultKey, NoKey> {
        let found = self.0.iter().find(|key| key.id == mark.id);
        let key = found.ok_or_else(|| NoKey::Missing(mark.id.clone()))?;
        if key.mark() == *mark { Ok(key) } else { Err(NoKey::Other(mark.id.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, digit: &str) -> VaultKey {
        VaultKey::new(id, &digit.repeat(64)).unwrap()
    }

    #[test]
    fn a_key_is_64_hex_digits_with_a_plain_name_and_is_never_shown() {
        assert_eq!(VaultKey::new("a/b", &"0".repeat(64)), Err(KeyError::Id));
        for wrong in ["", "abc", &"g".repeat(64), &"0".repeat(65)] {
            let error = VaultKey::new("k", wrong).unwrap_err();
            assert!(matches!(error, KeyError::Secret(_)));
            assert!(wrong.is_empty() || !error.to_string().contains(wrong), "{error}");
        }
        assert!(!format!("{:?}", key("k", "7")).contains("77"));
        assert_eq!(VaultKey::new("k", &"A".repeat(64)), VaultKey::new("k", &"a".repeat(64)));
    }

    #[test]
    fn old_keys_are_found_and_others_told_apart() {
        let ring = KeyRing::new(vec![key("new", "1"), key("old", "2")]).unwrap();
        assert_eq!(ring.current(), Some(&key("new", "1")));
        assert_eq!(ring.find(&key("old", "2").mark()), Ok(&key("old", "2")));
        assert_eq!(ring.find(&key("old", "3").mark()), Err(NoKey::Other("old".into())));
        assert_eq!(ring.find(&key("lost", "2").mark()), Err(NoKey::Missing("lost".into())));
        assert_eq!(KeyRing::new(vec![key("a", "1"), key("a", "2")]), Err(KeyError::Twice("a".into())));
    }

    /// The derivation is part of the format: what another version derives it cannot open.
    #[test]
    fn keys_differ_by_purpose_and_place() {
        let key = key("k", "1");
        let names =
            [key.of_object("a").name, key.of_object("b").name, key.derive(b"part", "a"), key.derive(b"part", "b")];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{at}");
        }
    }
}
