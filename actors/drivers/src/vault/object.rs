//! What a content is known by, and how it is found to differ.

use blake3::Hasher as Blake3;
use reeve_ports::vault::{Damage, ManifestObject};
use sha2::{Digest, Sha256};

use super::hex;

/// What a content is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) bytes: u64,
    pub(super) blake3: [u8; 32],
    pub(super) sha256: [u8; 32],
}

#[derive(Default)]
pub(super) struct Sum {
    bytes: u64,
    blake3: Blake3,
    sha256: Sha256,
}

impl Sum {
    pub(super) fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.blake3.update(chunk);
        self.sha256.update(chunk);
    }

    pub(super) fn known(self) -> Known {
        Known { bytes: self.bytes, blake3: *self.blake3.finalize().as_bytes(), sha256: self.sha256.finalize().into() }
    }
}

/// How an object differs from what its manifest says.
pub(super) fn difference(found: &Known, listed: &ManifestObject) -> Option<Damage> {
    if found.bytes != listed.bytes {
        Some(Damage::Length { found: found.bytes, listed: listed.bytes })
    } else if hex::encode(&found.blake3) != listed.blake3 {
        Some(Damage::Hash("BLAKE3"))
    } else if hex::encode(&found.sha256) != listed.sha256 {
        Some(Damage::Hash("SHA-256"))
    } else {
        None
    }
}
