//! The frames of a peer, within its time.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::frame;
use super::server::Limits;

/// How much is read at once at least.
const CHUNK: usize = 8 * 1024;

/// Why no further call is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer is done, or was quiet for too long.
    Quiet,
    /// The connection broke: nobody can be answered.
    Broken,
    /// The peer sent what cannot be read; it is told why.
    Unreadable(String),
}

/// Reads frames. A peer may be quiet between frames for `Limits::idle`; a frame that has begun must end within
/// `Limits::frame`, or a byte now and then would hold the connection for ever.
pub(super) struct Incoming<R> {
    read: R,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    idle: Duration,
    frame: Duration,
    /// Since when the peer is quiet.
    quiet: Instant,
    /// Since when a part of a frame is here.
    begun: Option<Instant>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(read: R, limits: &Limits) -> Self {
        let (idle, frame) = (limits.idle, limits.frame);
        let buffer = BytesMut::with_capacity(CHUNK);
        Self { read, codec: frame::framing(), buffer, idle, frame, quiet: Instant::now(), begun: None }
    }

    /// Begins the peer's time anew: it was the node that kept it waiting, or it has calls under way.
    pub(super) fn touch(&mut self) {
        self.quiet = Instant::now();
        self.begun = self.begun.map(|_| self.quiet);
    }

    /// The next frame. Cancel safe: bytes read so far stay here.
    pub(super) async fn next(&mut self) -> Result<BytesMut, End> {
        loop {
            // The length alone may have been taken from the buffer, so what was there before counts.
            let some = !self.buffer.is_empty();
            let decoded = self.codec.decode(&mut self.buffer).map_err(|error| {
                End::Unreadable(format!("{error} (a frame holds at most {} bytes)", frame::MAX_FRAME_BYTES))
            })?;
            if let Some(frame) = decoded {
                self.begun = None;
                self.quiet = Instant::now();
                return Ok(frame);
            }
            if some && self.begun.is_none() {
                self.begun = Some(Instant::now());
            }
            let until = self.begun.map_or(self.quiet + self.idle, |begun| begun + self.frame);
            self.buffer.reserve(CHUNK);
            match tokio::time::timeout_at(until, self.read.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) | Err(_) => return Err(End::Quiet),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(End::Broken),
            }
        }
    }
}
