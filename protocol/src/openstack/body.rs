//! Bounds before parsing: length, compression, UTF-8 and nesting, in that order.
//!
//! A broker's clients are not all ours. A body is looked at only after its length is known to be bounded, inflated only
//! up to a bound, and parsed only after its nesting is known to be bounded.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::error::{DecodeError, Part};
#[cfg(doc)]
use crate::bounds::MAX_DEPTH;
use crate::bounds::too_deep_at;

/// The most bytes that a body may have as it arrives, 4 MiB.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes that a compressed body may inflate to, 16 MiB.
pub const MAX_INFLATED_BYTES: usize = 16 * 1024 * 1024;

/// First byte of the zlib streams that kombu writes: deflate with a window of 32 KiB. No JSON text starts with it.
const ZLIB_FIRST_BYTE: u8 = 0x78;

/// The text of a body. `compression` is the AMQP header of that name, if the message has it; without it a zlib stream
/// is known by its first two bytes.
pub(super) fn text<'a>(body: &'a [u8], compression: Option<&str>) -> Result<Cow<'a, str>, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    if body.len() > MAX_BODY_BYTES {
        return Err(DecodeError::body_too_large(body.len()));
    }
    let compressed = match compression {
        None | Some("") => looks_like_zlib(body),
        // kombu calls its zlib bodies x-gzip (kombu/compression.py)
        Some("application/x-gzip" | "application/gzip" | "gzip" | "zlib") => true,
        Some(other) => return Err(DecodeError::UnknownCompression { found: other.chars().take(32).collect() }),
    };
    let text = if compressed { Cow::Owned(inflate(body)?) } else { Cow::Borrowed(utf8(body)?) };
    check_depth(Part::Body, &text)?;
    Ok(text)
}

/// Whether these bytes start as a zlib stream (RFC 1950, section 2.2: the first two bytes divide by 31).
pub(super) fn looks_like_zlib(bytes: &[u8]) -> bool {
    match bytes {
        [ZLIB_FIRST_BYTE, second, ..] => u16::from_be_bytes([ZLIB_FIRST_BYTE, *second]).is_multiple_of(31),
        _ => false,
    }
}

fn inflate(body: &[u8]) -> Result<String, DecodeError> {
    let limit = u64::try_from(MAX_INFLATED_BYTES).expect("16 MiB fit 64 bits");
    let mut inflated = Vec::new();
    // One byte more than allowed tells a bomb from a body that fits exactly.
    ZlibDecoder::new(body)
        .take(limit + 1)
        .read_to_end(&mut inflated)
        .map_err(|_| DecodeError::NotZlib { found: body.len() })?;
    if inflated.len() > MAX_INFLATED_BYTES {
        return Err(DecodeError::InflatesTooLarge);
    }
    String::from_utf8(inflated).map_err(|error| DecodeError::NotUtf8 { at: error.utf8_error().valid_up_to() })
}

pub(super) fn utf8(body: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(body).map_err(|error| DecodeError::NotUtf8 { at: error.valid_up_to() })
}

/// Refuses text that opens more than [`MAX_DEPTH`] levels.
pub(super) fn check_depth(part: Part, text: &str) -> Result<(), DecodeError> {
    match too_deep_at(text) {
        None => Ok(()),
        Some(at) => Err(DecodeError::TooDeep { part, at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MAX_DEPTH;

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!(r#"{{"a":"{}\"{}\\"}}"#, "[".repeat(100), "{".repeat(100));
        assert_eq!(check_depth(Part::Body, &text), Ok(()));
    }

    #[test]
    fn the_deepest_level_is_allowed_and_one_more_is_not() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_depth(Part::Body, &nested(MAX_DEPTH)), Ok(()));
        assert_eq!(
            check_depth(Part::Body, &nested(MAX_DEPTH + 1)),
            Err(DecodeError::TooDeep { part: Part::Body, at: MAX_DEPTH })
        );
        assert!(check_depth(Part::Body, &"[]".repeat(1000)).is_ok(), "siblings are not nesting");
    }

    #[test]
    fn no_json_text_is_taken_for_zlib() {
        assert!(!looks_like_zlib(b"{}"));
        assert!(!looks_like_zlib(b"x"));
        assert!(looks_like_zlib(&[0x78, 0x9c]) && looks_like_zlib(&[0x78, 0x01]) && looks_like_zlib(&[0x78, 0xda]));
    }
}
