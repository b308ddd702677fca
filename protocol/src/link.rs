//! Links that let whoever holds one do one thing: extend one VM's lease, once, in its owner's name, for a while.
//!
//! ```text
//! token = PURPOSE "." PAYLOAD "." TAG
//! PAYLOAD = base64url of JSON: which VM, the end of the lease period it was made for, whose name, until when
//! TAG     = base64url of HMAC-SHA256(key, "reeve-link-1:" PURPOSE "." PAYLOAD)
//! ```
//!
//! HMAC is RFC 2104, base64url is RFC 4648 section 5 without padding. The tag is compared in constant time, and nothing
//! is read of what it does not cover. A token holds no secret but itself: whoever has it may extend, until it expires or
//! the period that it was made for is over.
//!
//! What a token asks for is decided by the VM's own rules ([`CommandKind::LeaseExtendIf`]): there the period is compared
//! once more, in the same decision that extends. So a link that is clicked twice, or that was made for an earlier period,
//! extends nothing, whatever was seen before the click.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::command::{Command, CommandKind, Requester};
use crate::{MessageId, Timestamp, UserId, VmId};

/// The most bytes of a token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 2048;
/// The least bytes of a key: as many as the hash gives (RFC 2104 section 3).
pub const MIN_KEY_BYTES: usize = 32;

/// What the tag covers begins with this, so that a tag made for anything else is none here.
const DOMAIN: &str = "reeve-link-1:";
/// The one purpose there is.
const EXTEND: &str = "lease-extend";

/// The secret that signs links. Every node of a cluster has the same. Shows nothing.
#[derive(Clone)]
pub struct LinkKey(Box<[u8]>);

/// A secret is too short to sign with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has {found} bytes, expected at least {MIN_KEY_BYTES}")]
pub struct LinkKeyError {
    found: usize,
}

/// Why a link is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It is no token of ours: too long, cut off, or other characters.
    #[error("this is no link of Reeve, or only a part of one")]
    Malformed,
    /// Somebody else made it, or changed it.
    #[error("the link's signature is wrong")]
    Tampered,
    /// It was made for something else.
    #[error("the link was made for something else")]
    OtherPurpose,
    /// Its time is over.
    #[error("the link was good until {at}")]
    Expired {
        /// When that was.
        at: Timestamp,
    },
    /// The lease was extended since, or ended, or its end was moved.
    #[error("the link was made for the lease that was to end at {of}, and this is another one")]
    EarlierPeriod {
        /// The end that it was made for.
        of: Timestamp,
    },
}

/// What a link for an extension says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendLink {
    /// Which VM.
    pub vm: VmId,
    /// The end of the lease period that it was made for.
    pub ends_at: Timestamp,
    /// In whose name it extends.
    pub owner: UserId,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    vm: VmId,
    /// Milliseconds since 1970, as is `until`.
    end: i64,
    owner: UserId,
    until: i64,
}

impl LinkKey {
    /// Takes a secret.
    ///
    /// # Errors
    /// [`LinkKeyError`] when it has less than [`MIN_KEY_BYTES`] bytes.
    pub fn new(secret: &[u8]) -> Result<Self, LinkKeyError> {
        if secret.len() < MIN_KEY_BYTES { Err(LinkKeyError { found: secret.len() }) } else { Ok(Self(secret.into())) }
    }

    /// The token of a link. The same link always has the same token.
    #[must_use]
    pub fn token(&self, link: &ExtendLink) -> String {
        let ExtendLink { vm, ends_at, owner, expires_at } = link;
        let (end, until) = (ends_at.as_millis(), expires_at.as_millis());
        let payload = serde_json::to_vec(&Payload { vm: *vm, end, owner: owner.clone(), until });
        self.sign(EXTEND, &payload.expect("plain data with text keys is JSON"))
    }

    /// Reads a token that somebody shows at this time.
    ///
    /// # Errors
    /// [`LinkError`], but never [`LinkError::EarlierPeriod`]: that takes the lease, see [`ExtendLink::is_of`].
    pub fn open(&self, token: &str, now: Timestamp) -> Result<ExtendLink, LinkError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(LinkError::Malformed);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(LinkError::Malformed)?;
        let (purpose, payload) = signed.split_once('.').ok_or(LinkError::Malformed)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| LinkError::Malformed)?;
        // Compares in constant time.
        self.mac(signed).verify_slice(&tag).map_err(|_| LinkError::Tampered)?;
        if purpose != EXTEND {
            return Err(LinkError::OtherPurpose);
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| LinkError::Malformed)?;
        let Payload { vm, end, owner, until } = serde_json::from_slice(&payload).map_err(|_| LinkError::Malformed)?;
        let [ends_at, expires_at] = [end, until].map(Timestamp::from_millis);
        if now >= expires_at {
            return Err(LinkError::Expired { at: expires_at });
        }
        Ok(ExtendLink { vm, ends_at, owner, expires_at })
    }

    /// The command that a token asks for at this time. The same link gives the same command under the same message id, so
    /// that it may be sent as often as somebody clicks.
    ///
    /// # Errors
    /// As [`LinkKey::open`]. A link of an earlier period is refused by the command itself.
    pub fn command(&self, token: &str, now: Timestamp) -> Result<Command, LinkError> {
        self.open(token, now).map(|link| link.command())
    }

    fn sign(&self, purpose: &str, payload: &[u8]) -> String {
        let signed = format!("{purpose}.{}", URL_SAFE_NO_PAD.encode(payload));
        let tag = URL_SAFE_NO_PAD.encode(self.mac(&signed).finalize().into_bytes());
        format!("{signed}.{tag}")
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        mac.update(DOMAIN.as_bytes());
        mac.update(signed.as_bytes());
        mac
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ExtendLink {
    /// The command that it asks for: `lease.extend` by as much as the policy gives, as its owner, of this period alone.
    #[must_use]
    pub fn command(&self) -> Command {
        let Self { vm, ends_at, owner, .. } = self;
        // The owner is part of it: the answer that somebody got who is no owner any more is not the next owner's.
        let name = format!("extend/{}/{owner}", ends_at.as_millis());
        let id = format!("link/{}", Uuid::new_v5(&vm.uuid(), name.as_bytes()));
        Command {
            id: MessageId::new(id).expect("a short plain text is a message id"),
            vm: *vm,
            by: Requester::User { id: owner.clone(), project: None, roles: Vec::new() },
            kind: CommandKind::LeaseExtendIf { by: None, ends_at: *ends_at },
        }
    }

    /// Whether it was made for the lease that now ends at this time, for whoever shows a page before the click.
    ///
    /// # Errors
    /// [`LinkError::EarlierPeriod`] when it was not, or when there is no lease.
    pub fn is_of(&self, ends_at: Option<Timestamp>) -> Result<(), LinkError> {
        if ends_at == Some(self.ends_at) { Ok(()) } else { Err(LinkError::EarlierPeriod { of: self.ends_at }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn key() -> LinkKey {
        LinkKey::new(&[7; MIN_KEY_BYTES]).unwrap()
    }

    fn link() -> ExtendLink {
        ExtendLink {
            vm: "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap(),
            ends_at: NOW + Span::from_days(1),
            owner: UserId::new("alice").unwrap(),
            expires_at: NOW + Span::from_days(3),
        }
    }

    #[test]
    fn a_link_gives_its_owners_command_for_its_period() {
        let (token, link) = (key().token(&link()), link());
        assert_eq!(key().open(&token, NOW), Ok(link.clone()));
        let command = key().command(&token, NOW).unwrap();
        assert_eq!(command.vm, link.vm);
        assert_eq!(command.by, Requester::User { id: link.owner.clone(), project: None, roles: Vec::new() });
        assert_eq!(command.kind, CommandKind::LeaseExtendIf { by: None, ends_at: link.ends_at });
    }

    /// The formula, so that it does not change under links that are in somebody's mailbox.
    #[test]
    fn a_token_never_changes() {
        assert_eq!(key().token(&link()), GOLDEN);
        assert_eq!(link().command().id.as_str(), "link/029c1d1f-e1b5-59de-9803-51d671e0c2b3");
    }
    const GOLDEN: &str = "lease-extend.eyJ2bSI6IjE3OGIwOTIxLThmODUtNDI1Ny04OGI2LTJlNzQzYjVhOTc1YyIsImVuZCI6MTcwMDA4NjQwMDAwMCwib3duZXIiOiJhbGljZSIsInVudGlsIjoxNzAwMjU5MjAwMDAwfQ.PT4egSxlX07KRurz9X5nTKGobEfBrD-2KX2TB9P3Z90";

    #[test]
    fn two_clicks_have_one_id_and_another_period_or_owner_has_another() {
        let first = link().command();
        assert_eq!(first, link().command());
        let later = ExtendLink { expires_at: NOW + Span::from_days(9), ..link() };
        assert_eq!(first.id, later.command().id, "how long it is good is not what it does");
        let next = ExtendLink { ends_at: NOW + Span::from_days(31), ..link() };
        assert_ne!(first.id, next.command().id);
        let other = ExtendLink { owner: UserId::new("bob").unwrap(), ..link() };
        assert_ne!(first.id, other.command().id);
    }

    #[test]
    fn a_link_that_was_tampered_with_is_refused_at_every_byte() {
        let token = key().token(&link());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let error = key().open(std::str::from_utf8(&bytes).unwrap(), NOW).unwrap_err();
            assert!(matches!(error, LinkError::Tampered | LinkError::Malformed), "byte {at}: {error:?}");
        }
        let other = LinkKey::new(&[8; MIN_KEY_BYTES]).unwrap();
        assert_eq!(other.open(&token, NOW), Err(LinkError::Tampered));
    }

    #[test]
    fn a_part_of_a_link_is_refused() {
        let token = key().token(&link());
        for length in 0..token.len() {
            let error = key().open(&token[..length], NOW).unwrap_err();
            assert!(matches!(error, LinkError::Tampered | LinkError::Malformed), "{length} bytes: {error:?}");
        }
        for text in
            ["", ".", "..", "a.b.c", &"x".repeat(MAX_TOKEN_BYTES + 1), &format!("{token} "), &format!("{token}=")]
        {
            assert!(matches!(key().open(text, NOW), Err(LinkError::Malformed | LinkError::Tampered)), "{text}");
        }
    }

    #[test]
    fn a_link_is_over_at_its_end_and_not_before() {
        let (token, link) = (key().token(&link()), link());
        assert!(key().open(&token, link.expires_at - Span::from_millis(1)).is_ok());
        for at in [link.expires_at, Timestamp::MAX] {
            assert_eq!(key().open(&token, at), Err(LinkError::Expired { at: link.expires_at }));
        }
    }

    #[test]
    fn a_link_for_another_purpose_is_refused_although_its_signature_is_right() {
        let token = key().token(&link());
        let payload = token.split('.').nth(1).unwrap();
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
        assert_eq!(key().open(&key().sign("lease-end", &payload), NOW), Err(LinkError::OtherPurpose));
        assert_eq!(key().open(&key().sign(EXTEND, &payload), NOW), Ok(link()));
        // The purpose is covered by the tag.
        let renamed = key().sign("lease-end", &payload).replace("lease-end.", "lease-extend.");
        assert_eq!(key().open(&renamed, NOW), Err(LinkError::Tampered));
    }

    #[test]
    fn a_link_of_an_earlier_period_is_told_from_one_of_this() {
        let link = link();
        assert_eq!(link.is_of(Some(link.ends_at)), Ok(()));
        for now in [None, Some(link.ends_at + Span::from_days(30))] {
            assert_eq!(link.is_of(now), Err(LinkError::EarlierPeriod { of: link.ends_at }));
        }
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_shown() {
        assert_eq!(LinkKey::new(&[1; 31]).unwrap_err().to_string(), "has 31 bytes, expected at least 32");
        assert_eq!(format!("{:?}", LinkKey::new(b"a secret that is long enough for it").unwrap()), "***");
    }

    #[test]
    fn the_longest_owner_still_has_a_link() {
        let owner = UserId::new("\"".repeat(255)).unwrap();
        let link = ExtendLink { owner, ..link() };
        let token = key().token(&link);
        assert_eq!(key().open(&token, NOW), Ok(link), "{} bytes", token.len());
    }
}
