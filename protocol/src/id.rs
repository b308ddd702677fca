//! Identifiers. Each is a type of its own, so that a project cannot be passed where a host is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// The most characters that a textual identifier may have. Nova's own columns hold 255.
pub const MAX_TEXT_ID: usize = 255;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{kind} is empty")]
    Empty {
        /// Which identifier was expected.
        kind: &'static str,
    },
    /// The text is longer than [`MAX_TEXT_ID`] characters.
    #[error("{kind} has {length} bytes, at most {MAX_TEXT_ID} are allowed")]
    TooLong {
        /// Which identifier was expected.
        kind: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The text holds a control character.
    #[error("{kind} holds a control character")]
    Control {
        /// Which identifier was expected.
        kind: &'static str,
    },
    /// The text is not a UUID.
    #[error("{kind} {text:?} is not a UUID")]
    NotUuid {
        /// Which identifier was expected.
        kind: &'static str,
        /// The start of what was given.
        text: String,
    },
}

fn check_text(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if text.len() > MAX_TEXT_ID {
        return Err(IdError::TooLong { kind, length: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control { kind });
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, over [`MAX_TEXT_ID`] bytes or holds a control character.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check_text($kind, &text)?;
                Ok(Self(text.into_boxed_str()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A project (tenant) of a cloud: 32 hex digits in Keystone, any text elsewhere.
    ProjectId, "project"
);
text_id!(
    /// A user of a cloud, as the cloud names it.
    UserId, "user"
);
text_id!(
    /// A compute host, as the cloud names it.
    HostName, "host"
);
text_id!(
    /// A cloud, as `[[cloud]] name` calls it.
    CloudName, "cloud name"
);
text_id!(
    /// A control node, `[node] id`.
    NodeId, "node id"
);
text_id!(
    /// The id of a message: the idempotency key of a command, Nova's `message_id` of a notification.
    MessageId, "message_id"
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError::NotUuid {
                    kind: $kind,
                    text: text.chars().take(64).collect(),
                })
            }
        }
    };
}

uuid_id!(
    /// A VM: the cloud's own UUID of the instance.
    VmId, "vm"
);
uuid_id!(
    /// A backup. Made from the VM's id and the decision's generation, so that a repeated decision names the same backup.
    BackupId, "backup"
);

/// The namespace of the ids of requests: made once at random, so that no VM's id falls into it.
const REQUESTS: Uuid = Uuid::from_u128(0x7be0_4c0d_29a5_4e0c_9d1b_3f66_52ac_1e07);

impl VmId {
    /// The id of the request for a VM that came under this message id: the same message is the same request.
    #[must_use]
    pub fn of_request(message: &MessageId) -> Self {
        Self(Uuid::new_v5(&REQUESTS, message.as_str().as_bytes()))
    }
}

impl BackupId {
    /// The backup that a VM's decision at this generation makes: the same decision always gives the same id.
    #[must_use]
    pub fn of(vm: VmId, generation: Generation) -> Self {
        Self(Uuid::new_v5(&vm.uuid(), format!("backup/{}", generation.0).as_bytes()))
    }
}

/// One of the cluster's shards, `0..cluster.shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard of a VM among `shards`: its two halves folded and mixed (SplitMix64 finaliser,
    /// <https://prng.di.unimi.it/splitmix64.c>), modulo the count. Never changes for a cluster.
    ///
    /// # Panics
    /// When `shards` is 0, which configuration refuses.
    #[must_use]
    pub fn of(vm: VmId, shards: u16) -> Self {
        assert!(shards > 0, "a cluster has at least one shard");
        let (high, low) = vm.uuid().as_u64_pair();
        let mut z = high ^ low.rotate_left(32);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let shard = u16::try_from(z % u64::from(shards)).expect("a remainder of a u16 fits a u16");
        Self(shard)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The term of one owner of a shard. A write with an older epoch than the store's is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The version of a record: one more with every commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The id of an event: its subject and its place in the subject's sequence, so it is stable across redelivery.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub String);

impl EventId {
    /// The id of the `sequence`th event about a VM.
    #[must_use]
    pub fn of_vm(vm: VmId, sequence: u64) -> Self {
        Self(format!("{vm}/{sequence}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_never_changes() {
        let vm: VmId = "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap();
        assert_eq!(ShardId::of(vm, 64), ShardId(GOLDEN_SHARD));
    }
    const GOLDEN_SHARD: u16 = 24;

    #[test]
    fn shards_are_even() {
        let mut counts = [0u32; 64];
        for n in 0..64_000u128 {
            counts[usize::from(ShardId::of(VmId::new(Uuid::from_u128(n)), 64).0)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_text_id_is_bounded_and_clean() {
        assert!(HostName::new("").is_err());
        assert!(HostName::new("a\nb").is_err());
        assert!(HostName::new("x".repeat(256)).is_err());
        assert_eq!(HostName::new("compute-1").unwrap().as_str(), "compute-1");
    }
}
