//! Why bytes are no notification.
//!
//! No variant repeats a value of the message: older Novas put live Keystone tokens beside and even inside payloads, and
//! an error is logged and travels into the dead-letter queue. Only lengths, positions, our own key names and version
//! numbers are named.

use std::fmt;

use super::body::{MAX_BODY_BYTES, MAX_INFLATED_BYTES};
use crate::bounds::MAX_DEPTH;

/// Which part of a message a failure is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The input document of `reeve decode`: a body, or a record of one.
    Document,
    /// The AMQP body: an envelope, or the message itself.
    Body,
    /// The message: `oslo.message`, or the whole of a body without envelope.
    Message,
    /// The payload of the message.
    Payload,
    /// An object within the payload.
    Nested,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document => "document",
            Self::Body => "body",
            Self::Message => "message",
            Self::Payload => "payload",
            Self::Nested => "object in the payload",
        })
    }
}

/// What kind of JSON value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    Text,
    /// An array.
    List,
    /// An object.
    Object,
}

impl Kind {
    /// The kind of the JSON value that starts with this byte; `None` if no value does.
    pub(super) fn starting_with(byte: u8) -> Option<Self> {
        match byte {
            b'n' => Some(Self::Null),
            b't' | b'f' => Some(Self::Bool),
            b'-' | b'0'..=b'9' => Some(Self::Number),
            b'"' => Some(Self::Text),
            b'[' => Some(Self::List),
            b'{' => Some(Self::Object),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Object => "an object",
        })
    }
}

/// Why bytes are no notification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("empty body, expected a JSON object")]
    Empty,
    /// More bytes than may be looked at.
    #[error("body has {found} bytes, at most {limit} are read")]
    TooLarge {
        /// Its length in bytes.
        found: usize,
        /// [`MAX_BODY_BYTES`], or what a record of one may take.
        limit: usize,
    },
    /// Inflates to more than [`MAX_INFLATED_BYTES`].
    #[error("compressed body inflates to more than {MAX_INFLATED_BYTES} bytes")]
    InflatesTooLarge,
    /// Said to be compressed, or looks so, but does not inflate.
    #[error("compressed body of {found} bytes is no complete zlib stream")]
    NotZlib {
        /// Its length in bytes.
        found: usize,
    },
    /// The header names a compression that is not read.
    #[error("compression {found:?} is not known, expected application/x-gzip (zlib) or none")]
    UnknownCompression {
        /// The start of its name.
        found: String,
    },
    /// Bytes that are no UTF-8.
    #[error("byte {at} of the body is not UTF-8")]
    NotUtf8 {
        /// Where the first wrong byte is.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("{part} is nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Where.
        part: Part,
        /// The byte that opens the level too many.
        at: usize,
    },
    /// No JSON.
    #[error("{part} is no JSON, at line {line} column {column}")]
    NotJson {
        /// Where.
        part: Part,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A key that is read stands there twice, so that it has no single value.
    #[error("{part} has a key twice: {key}")]
    Duplicate {
        /// Where.
        part: Part,
        /// The key, one of those that are read.
        key: String,
    },
    /// A required key is not there.
    #[error("{part} has no {key}")]
    Missing {
        /// Where.
        part: Part,
        /// The key.
        key: &'static str,
    },
    /// A value of another type.
    #[error("{key} is {found}, expected {expected}")]
    WrongType {
        /// The key, or the part.
        key: &'static str,
        /// What was found.
        found: Kind,
        /// What was expected.
        expected: &'static str,
    },
    /// A text that does not mean what its key promises.
    #[error("{key} holds {length} characters that are not {expected}")]
    WrongText {
        /// The key.
        key: &'static str,
        /// How many characters were found.
        length: usize,
        /// What was expected.
        expected: &'static str,
    },
    /// An envelope of another major version.
    #[error("envelope version {found:?} is not known, expected 2.x")]
    UnknownEnvelope {
        /// The start of the version found.
        found: String,
    },
    /// A payload object of another major version: its keys may mean something else.
    #[error("{object} has major version {found}, expected {supported}")]
    UnknownMajor {
        /// `nova_object.name`, or `payload`.
        object: String,
        /// The major version found.
        found: u32,
        /// Those that are read.
        supported: &'static str,
    },
}

impl DecodeError {
    /// The length of a body over the limit.
    pub(super) const fn body_too_large(found: usize) -> Self {
        Self::TooLarge { found, limit: MAX_BODY_BYTES }
    }
}
