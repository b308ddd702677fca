//! One part as it is stored. Pure.
//!
//! ```text
//! "RVP" form                                  4 bytes; form: 1 compressed (zstd) | 2 encrypted
//! body                                        not encrypted
//! nonce (12)  body, AES-256-GCM  tag (16)     encrypted
//! ```
//!
//! Compressed first, then encrypted. What is authenticated beside the body: the four bytes before it, the part's number,
//! whether it is the last, and its plain length. So parts cannot change places, and a shortened object has no last part.
//! A part that does not shrink is not compressed.

use aws_lc_rs::aead::{Aad, Nonce};
use reeve_ports::vault::Damage;

use super::key::ObjectKeys;

const MAGIC: &[u8; 3] = b"RVP";
const COMPRESSED: u8 = 1;
const ENCRYPTED: u8 = 2;
const HEAD: usize = 4;
const NONCE: usize = 12;
const TAG: usize = 16;
/// What a stored part may have beyond its plain bytes.
pub(super) const OVERHEAD: usize = HEAD + NONCE + TAG;
/// zstd's own default: about 300 MB/s a core, and most of what higher levels gain.
const LEVEL: i32 = 3;

/// Whether parts are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zstd, where it shrinks.
    #[default]
    Zstd,
    /// As they are.
    None,
}

/// Which part of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) number: u32,
    pub(super) last: bool,
    /// Plain bytes.
    pub(super) bytes: u32,
}

impl Spot {
    fn authenticated(self, head: [u8; HEAD]) -> [u8; HEAD + 9] {
        let mut all = [0; HEAD + 9];
        all[..HEAD].copy_from_slice(&head);
        all[HEAD..HEAD + 4].copy_from_slice(&self.number.to_be_bytes());
        all[HEAD + 4] = u8::from(self.last);
        all[HEAD + 5..].copy_from_slice(&self.bytes.to_be_bytes());
        all
    }
}

/// As it is stored.
///
/// # Panics
/// When the plain bytes are not as many as the spot says, or the cipher refuses, which it does for 64 GiB only.
pub(super) fn encode(plain: &[u8], spot: Spot, compression: Compression, keys: Option<&ObjectKeys>) -> Vec<u8> {
    assert_eq!(plain.len(), spot.bytes as usize, "a part is as long as its spot says");
    let head = HEAD + if keys.is_some() { NONCE } else { 0 };
    // With room for the tag: a buffer that grew for it would take twice its size.
    let mut stored = Vec::with_capacity(plain.len() + OVERHEAD);
    stored.resize(head + plain.len(), 0);
    let shrunk = match compression {
        Compression::Zstd => compress(plain, &mut stored[head..]),
        Compression::None => None,
    };
    match shrunk {
        Some(length) => stored.truncate(head + length),
        None => stored[head..].copy_from_slice(plain),
    }
    let mark = [MAGIC[0], MAGIC[1], MAGIC[2], form(shrunk.is_some(), keys.is_some())];
    stored[..HEAD].copy_from_slice(&mark);
    if let Some(keys) = keys {
        let sealed = keys.part.seal_in_place_separate_tag(Aad::from(spot.authenticated(mark)), &mut stored[head..]);
        let (nonce, tag) = sealed.expect("a part is far below what AES-GCM takes");
        stored[HEAD..head].copy_from_slice(nonce.as_ref());
        stored.extend_from_slice(tag.as_ref());
    }
    stored
}

const fn form(compressed: bool, encrypted: bool) -> u8 {
    (if compressed { COMPRESSED } else { 0 }) | (if encrypted { ENCRYPTED } else { 0 })
}

/// The length of the compressed bytes, if they are fewer.
fn compress(plain: &[u8], into: &mut [u8]) -> Option<usize> {
    // What does not fit has not shrunk.
    let room = plain.len().saturating_sub(1);
    zstd::bulk::Compressor::new(LEVEL).and_then(|mut zstd| zstd.compress_to_buffer(plain, &mut into[..room])).ok()
}

/// The plain bytes of a stored part.
pub(super) fn decode(mut stored: Vec<u8>, spot: Spot, keys: Option<&ObjectKeys>) -> Result<Vec<u8>, Damage> {
    let head: [u8; HEAD] = stored.first_chunk().copied().ok_or(Damage::NoPart)?;
    if head[..3] != MAGIC[..] {
        return Err(Damage::NoPart);
    }
    let body = match (head[3] & !COMPRESSED, keys) {
        (0, None) => HEAD..stored.len(),
        (ENCRYPTED, Some(keys)) => {
            let nonce = stored.get(HEAD..HEAD + NONCE).and_then(|nonce| Nonce::try_assume_unique_for_key(nonce).ok());
            let nonce = nonce.ok_or(Damage::NoPart)?;
            let opened =
                keys.part.open_in_place(nonce, Aad::from(spot.authenticated(head)), &mut stored[HEAD + NONCE..]);
            let length = opened.map_err(|_| Damage::Forged)?.len();
            HEAD + NONCE..HEAD + NONCE + length
        }
        // Encrypted or not is known before: a part that says otherwise is not ours.
        _ => return Err(Damage::NoPart),
    };
    let wanted = spot.bytes as usize;
    let plain = if head[3] & COMPRESSED == 0 {
        stored.truncate(body.end);
        stored.drain(..body.start);
        stored
    } else {
        // It never takes more room than the part is to have, whatever it claims.
        zstd::bulk::decompress(&stored[body], wanted).map_err(|_| Damage::Compression)?
    };
    if plain.len() == wanted {
        Ok(plain)
    } else {
        Err(Damage::Length { found: plain.len() as u64, listed: wanted as u64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::key::VaultKey;
    use super::*;

    fn keys(place: &str) -> ObjectKeys {
        VaultKey::new("k", &"5".repeat(64)).unwrap().of_object(place)
    }

    const SPOT: Spot = Spot { number: 7, last: false, bytes: 5_000 };

    #[test]
    fn a_part_opens_only_where_it_belongs() {
        let plain = vec![9; 5_000];
        let stored = encode(&plain, SPOT, Compression::Zstd, Some(&keys("a")));
        assert!(stored.len() < 200, "{} bytes", stored.len());
        assert_eq!(decode(stored.clone(), SPOT, Some(&keys("a"))), Ok(plain));
        for spot in [Spot { number: 8, ..SPOT }, Spot { last: true, ..SPOT }, Spot { bytes: 4_999, ..SPOT }] {
            assert_eq!(decode(stored.clone(), spot, Some(&keys("a"))), Err(Damage::Forged), "{spot:?}");
        }
        assert_eq!(decode(stored.clone(), SPOT, Some(&keys("b"))), Err(Damage::Forged), "another object's");
        assert_eq!(decode(stored, SPOT, None), Err(Damage::NoPart), "an encrypted one where none is expected");
        let open = encode(&[9; 5_000], SPOT, Compression::None, None);
        assert_eq!(decode(open, SPOT, Some(&keys("a"))), Err(Damage::NoPart), "an open one where none is expected");
    }

    #[test]
    fn every_flipped_bit_of_an_encrypted_part_is_seen() {
        let spot = Spot { bytes: 20, ..SPOT };
        let stored = encode(&[1; 20], spot, Compression::None, Some(&keys("a")));
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(bad, spot, Some(&keys("a"))).is_err(), "bit {bit}");
        }
        for length in 0..stored.len() {
            assert!(decode(stored[..length].to_vec(), spot, Some(&keys("a"))).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_would_unpack_to_more_than_its_part_is_refused() {
        let bomb = encode(&vec![0; 1 << 20], Spot { bytes: 1 << 20, ..SPOT }, Compression::Zstd, None);
        assert_eq!(decode(bomb, SPOT, None), Err(Damage::Compression));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            plain in prop::collection::vec(any::<u8>(), 0..3_000),
            repeated in 1_usize..20,
            compressed: bool,
            encrypted: bool,
        ) {
            let plain = plain.repeat(repeated);
            let spot = Spot { number: 1, last: true, bytes: u32::try_from(plain.len()).unwrap() };
            let compression = if compressed { Compression::Zstd } else { Compression::None };
            let keys = encrypted.then(|| keys("x"));
            let stored = encode(&plain, spot, compression, keys.as_ref());
            prop_assert!(stored.len() <= plain.len() + OVERHEAD);
            prop_assert_eq!(decode(stored, spot, keys.as_ref()), Ok(plain));
        }

        #[test]
        fn any_bytes_are_refused_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), form in 0_u8..6) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[b'R', b'V', b'P', form]);
            }
            let _ = decode(bytes.clone(), SPOT, None);
            prop_assert!(decode(bytes, SPOT, Some(&keys("a"))).is_err());
        }
    }
}
