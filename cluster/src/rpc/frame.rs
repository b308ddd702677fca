//! What stands in a frame.

use reeve_protocol::admin::{ADMIN_FORMAT, AdminReply, AdminRequest};
use reeve_protocol::codec::{self, CodecError, MAX_VALUE_BYTES};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

/// The most bytes that a frame may have, without its length.
pub const MAX_FRAME_BYTES: usize = MAX_VALUE_BYTES;

/// How many bytes a frame's length takes.
const LENGTH_BYTES: usize = 4;
/// Room for a usual call.
const USUAL_BYTES: usize = 128;

/// The id of a reply that is about the connection itself. Calls count from 1.
pub const CONNECTION: u64 = 0;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The caller's number of the call.
    pub id: u64,
    /// How long the caller waits, in milliseconds from now. A span and not a time: clocks differ.
    pub deadline_ms: u64,
    /// What is asked.
    pub request: AdminRequest,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The number of the call.
    pub id: u64,
    /// The answer.
    pub reply: AdminReply,
}

/// Splits a byte stream into frames as [`append`] makes them; a length over [`MAX_FRAME_BYTES`] is an error before anything
/// is allocated.
pub(super) fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().max_frame_length(MAX_FRAME_BYTES).new_codec()
}

/// Appends a frame, with its length. Nothing is appended when there is an error.
pub(super) fn append<T: Serialize>(value: &T, frames: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = frames.len();
    frames.extend_from_slice(&[0; LENGTH_BYTES]);
    let body = frames.len();
    codec::append(ADMIN_FORMAT, value, frames).inspect_err(|_| frames.truncate(start))?;
    let length = u32::try_from(frames.len() - body).expect("the codec's limit is less than 4 GiB");
    frames[start..body].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A frame, with its length.
pub(super) fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = Vec::with_capacity(USUAL_BYTES);
    append(value, &mut frame)?;
    Ok(frame)
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(ADMIN_FORMAT, bytes).map(|(_, value)| value)
}
