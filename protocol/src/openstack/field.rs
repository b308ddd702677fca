//! Reading single values of a message, each with an error that names its key and repeats nothing of its content.
//!
//! Structures take every value as raw text ([`Field`]): whatever a key that is not read holds is skipped without
//! becoming a value anywhere, and a key that is read is given its type here. `null` and `""` both mean "nothing":
//! Nova's versioned payloads write the one, its legacy payloads the other.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use super::error::{DecodeError, Kind, Part};
use super::fault::clean;
use super::times;
use crate::Timestamp;
use crate::id::IdError;

/// The most characters kept of a name, a word or a metadata entry; Nova's own columns hold 255.
pub(super) const MAX_TEXT_CHARS: usize = 255;

/// A value as it stands in the message; `None` if the key is absent or `null`.
pub(super) type Field<'a> = Option<&'a RawValue>;

/// Keeps `null` apart from an absent key; for use with `#[serde(default, deserialize_with)]`.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Field<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The kind of a value.
pub(super) fn kind(raw: &RawValue) -> Kind {
    let first = raw.get().as_bytes().first().copied().unwrap_or(b'n');
    Kind::starting_with(first).expect("a raw value is a JSON value")
}

/// Reads the keys of an object that a structure names, and skips all others.
pub(super) fn object<'a, T: Deserialize<'a>>(part: Part, key: &'static str, text: &'a str) -> Result<T, DecodeError> {
    // serde would take a list for a structure too
    if let Some(found) = text.trim_start().bytes().next().and_then(Kind::starting_with)
        && found != Kind::Object
    {
        return Err(DecodeError::WrongType { key, found, expected: "an object" });
    }
    serde_json::from_str(text).map_err(|error| json_error(part, &error))
}

/// Where a text is no JSON. serde's own words may quote the text, so they are not passed on.
pub(super) fn json_error(part: Part, error: &serde_json::Error) -> DecodeError {
    if error.is_data() {
        // Every field is raw, so the only data error is a key of ours that stands there twice.
        let text = error.to_string();
        let key = text.split('`').nth(1).filter(|_| text.starts_with("duplicate field")).unwrap_or("a key");
        return DecodeError::Duplicate { part, key: key.to_owned() };
    }
    DecodeError::NotJson { part, line: error.line(), column: error.column() }
}

/// A text, `None` if there is nothing.
pub(super) fn text(key: &'static str, field: Field<'_>) -> Result<Option<String>, DecodeError> {
    let Some(raw) = field else { return Ok(None) };
    match kind(raw) {
        Kind::Null => Ok(None),
        Kind::Text => Ok(Some(string(raw)).filter(|text| !text.is_empty())),
        found @ (Kind::Bool | Kind::Number | Kind::List | Kind::Object) => {
            Err(DecodeError::WrongType { key, found, expected: "a string" })
        }
    }
}

/// A text that must be there.
pub(super) fn required_text(part: Part, key: &'static str, field: Field<'_>) -> Result<String, DecodeError> {
    text(key, field)?.ok_or(DecodeError::Missing { part, key })
}

/// A word of the cloud, without tokens and shortened to [`MAX_TEXT_CHARS`].
pub(super) fn word(key: &'static str, field: Field<'_>) -> Result<Option<String>, DecodeError> {
    Ok(text(key, field)?.map(|text| kept(&text)))
}

/// What is kept of a text: no tokens, and at most [`MAX_TEXT_CHARS`] characters.
pub(super) fn kept(text: &str) -> String {
    const MOST_BYTES_OF_A_CHAR: usize = 4;
    shorten(&clean(text, MAX_TEXT_CHARS * MOST_BYTES_OF_A_CHAR)).into_owned()
}

/// The first [`MAX_TEXT_CHARS`] characters.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => Cow::Owned(text[..end].to_owned()),
        None => Cow::Borrowed(text),
    }
}

/// `true` or `false`, `None` if there is nothing.
pub(super) fn flag(key: &'static str, field: Field<'_>) -> Result<Option<bool>, DecodeError> {
    let Some(raw) = field else { return Ok(None) };
    match kind(raw) {
        Kind::Null => Ok(None),
        Kind::Bool => Ok(Some(raw.get() == "true")),
        found @ (Kind::Number | Kind::Text | Kind::List | Kind::Object) => {
            Err(DecodeError::WrongType { key, found, expected: "a boolean" })
        }
    }
}

/// A point in time, `None` if there is nothing.
pub(super) fn time(key: &'static str, field: Field<'_>) -> Result<Option<Timestamp>, DecodeError> {
    let Some(text) = text(key, field)? else { return Ok(None) };
    times::millis(&text).map(Some).ok_or_else(|| wrong_text(key, &text, times::EXPECTED))
}

/// An identifier, `None` if there is nothing.
pub(super) fn id<T>(
    key: &'static str,
    field: Field<'_>,
    expected: &'static str,
    read: impl FnOnce(&str) -> Result<T, IdError>,
) -> Result<Option<T>, DecodeError> {
    let Some(text) = text(key, field)? else { return Ok(None) };
    // the text itself is left out: IdError may quote it
    read(&text).map(Some).map_err(|_| wrong_text(key, &text, expected))
}

pub(super) fn wrong_text(key: &'static str, text: &str, expected: &'static str) -> DecodeError {
    DecodeError::WrongText { key, length: text.chars().count(), expected }
}

/// The content of a JSON string. Python writes lone surrogates for bytes that are no UTF-8; they become U+FFFD.
pub(super) fn string(raw: &RawValue) -> String {
    struct Lossy(String);
    struct LossyVisitor;
    impl Visitor<'_> for LossyVisitor {
        type Value = Lossy;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Lossy, E> {
            Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Lossy, E> {
            Ok(Lossy(text.to_owned()))
        }
    }
    impl<'de> Deserialize<'de> for Lossy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_bytes(LossyVisitor)
        }
    }
    // What is no string, or none that can be read, has no text.
    serde_json::from_str::<Lossy>(raw.get()).map_or_else(|_| String::new(), |lossy| lossy.0)
}
