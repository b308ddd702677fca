//! The frames of a peer, within its time.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, Sleep};
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
    /// Rings no later than the peer's time is over.
    alarm: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(read: R, limits: &Limits) -> Self {
        let (idle, frame) = (limits.idle, limits.frame);
        let buffer = BytesMut::with_capacity(CHUNK);
        let (quiet, alarm) = (Instant::now(), Box::pin(tokio::time::sleep(idle)));
        Self { read, codec: frame::framing(), buffer, idle, frame, quiet, begun: None, alarm }
    }

    /// Begins the peer's time anew: it was the node that kept it waiting, or it has calls under way.
    pub(super) fn touch(&mut self) {
        self.quiet = Instant::now();
        self.begun = self.begun.map(|_| self.quiet);
    }

    /// The next frame, if it is here already.
    pub(super) fn here(&mut self) -> Result<Option<BytesMut>, End> {
        // The length alone may have been taken from the buffer, so what was there before counts.
        let some = !self.buffer.is_empty();
        let decoded = self.codec.decode(&mut self.buffer).map_err(|error| {
            End::Unreadable(format!("{error} (a frame holds at most {} bytes)", frame::MAX_FRAME_BYTES))
        })?;
        if decoded.is_some() {
            self.begun = None;
            self.quiet = Instant::now();
        } else if some && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        Ok(decoded)
    }

    /// The next frame. Cancel safe: bytes read so far stay here.
    pub(super) async fn next(&mut self) -> Result<BytesMut, End> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<BytesMut, End>> {
        loop {
            if let Some(frame) = self.here()? {
                return Poll::Ready(Ok(frame));
            }
            self.buffer.reserve(CHUNK);
            match pin!(self.read.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Quiet)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Broken)),
                Poll::Pending => {
                    ready!(self.poll_late(cx));
                    return Poll::Ready(Err(End::Quiet));
                }
            }
        }
    }

    /// Waits until the peer's time is over. The alarm is not moved for every frame: one that rings too early is set anew.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.begun.map_or(self.quiet + self.idle, |begun| begun + self.frame);
        if self.alarm.deadline() > until {
            self.alarm.as_mut().reset(until);
        }
        while Instant::now() < until {
            ready!(self.alarm.as_mut().poll(cx));
            if self.alarm.deadline() < until {
                self.alarm.as_mut().reset(until);
            }
        }
        Poll::Ready(())
    }
}
