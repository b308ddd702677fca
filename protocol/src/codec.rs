//! The one place that names bincode: records and RPC frames as `[version byte][bincode]`.
//!
//! Fixed-width integers (`config::legacy`-style), so that a byte-equal codec can take over without a change on disk or
//! on the wire. Every decode has a byte limit: without one a forged length aborts the process.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes that one value may take, 4 MiB.
pub const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No bytes at all.
    #[error("empty value, expected a format byte")]
    Empty,
    /// Written by a newer version of Reeve.
    #[error("format {found} is newer than this version reads ({supported})")]
    Newer {
        /// The format byte found.
        found: u8,
        /// The newest that this version reads.
        supported: u8,
    },
    /// More bytes than [`MAX_VALUE_BYTES`].
    #[error("value of {0} bytes exceeds the limit of {MAX_VALUE_BYTES}")]
    TooLarge(usize),
    /// Bytes that are no value of this format.
    #[error("malformed value: {0}")]
    Malformed(String),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_VALUE_BYTES>()
}

/// Writes the format byte and the value.
///
/// # Errors
/// [`CodecError`] when the value exceeds [`MAX_VALUE_BYTES`] or cannot be written in this format.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    append(format, value, &mut bytes)?;
    Ok(bytes)
}

/// Writes the format byte and the value behind what is there; after an error that alone is there.
///
/// # Errors
/// As [`encode`].
pub fn append<T: Serialize>(format: u8, value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = bytes.len();
    bytes.push(format);
    let written = bincode::serde::encode_into_std_write(value, bytes, config());
    let outcome = match written.map_err(|error| CodecError::Malformed(error.to_string())) {
        Ok(_) if bytes.len() - before > MAX_VALUE_BYTES => Err(CodecError::TooLarge(bytes.len() - before)),
        Ok(_) => return Ok(()),
        Err(error) => Err(error),
    };
    bytes.truncate(before);
    outcome
}

/// Reads a value written by [`encode`] with a format up to `supported`; returns the format found beside it.
///
/// # Errors
/// [`CodecError`] on a newer format, trailing bytes, or anything that is no value.
pub fn decode<T: DeserializeOwned>(supported: u8, bytes: &[u8]) -> Result<(u8, T), CodecError> {
    let (&found, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if found > supported {
        return Err(CodecError::Newer { found, supported });
    }
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, read) =
        bincode::serde::decode_from_slice(rest, config()).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if read != rest.len() {
        return Err(CodecError::Malformed(format!("{} bytes after the value", rest.len() - read)));
    }
    Ok((found, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_format_1() {
        assert_eq!(encode(1, &(7u16, "ab")).unwrap(), [1, 7, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn what_is_appended_leaves_what_was_there() {
        let mut bytes = b"before".to_vec();
        append(1, &(7u16, "ab"), &mut bytes).unwrap();
        assert_eq!(bytes, [b"before", &encode(1, &(7u16, "ab")).unwrap()[..]].concat());
        let whole = bytes.clone();
        let huge = "x".repeat(MAX_VALUE_BYTES);
        assert!(matches!(append(1, &huge, &mut bytes), Err(CodecError::TooLarge(_))));
        assert_eq!(bytes, whole);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(decode::<u8>(1, &[]), Err(CodecError::Empty));
        assert_eq!(decode::<u8>(1, &[2, 0]), Err(CodecError::Newer { found: 2, supported: 1 }));
        assert!(matches!(decode::<u8>(1, &[1, 0, 0]), Err(CodecError::Malformed(_))));
        let terabyte = [1, 0, 0, 0, 0, 0, 1, 0, 0, b'x'];
        assert!(matches!(decode::<String>(1, &terabyte), Err(CodecError::Malformed(_))));
    }
}
