//! The frames to a peer: what is ready together is written together, and nothing waits for more.
//!
//! ```text
//! frame ─► ready ─ nothing is being written ─► batch ─ at most 64 KiB, or one longer frame ─► written, flushed
//! ```
//!
//! A write each would cost a system call and a TLS record for every frame. While a batch is being written, further frames
//! gather for the next one; when there is none, the first frame is a batch by itself.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use reeve_protocol::codec::CodecError;
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::frame;

/// The most that is written together, unless one frame is longer.
pub(super) const MAX_BATCH: usize = 64 * 1024;
/// The largest buffer that is kept for the next frames.
const MAX_KEPT: usize = 4 * MAX_BATCH;

/// Frames on their way to a peer. Bounded by whoever pushes: see [`Outgoing::frames`].
pub(super) struct Outgoing<W> {
    write: W,
    /// Frames, in their order.
    ready: Vec<u8>,
    /// Frames from which is written, and how much of them is.
    batch: Vec<u8>,
    written: usize,
    /// The lengths of the frames of both that do not belong to the write under way.
    lengths: VecDeque<usize>,
    under_way: Option<UnderWay>,
}

/// What is to be written before the next flush.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    frames: usize,
    /// Up to where in the batch.
    end: usize,
    since: Instant,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    pub(super) fn new(write: W) -> Self {
        let (ready, batch, lengths) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { write, ready, batch, written: 0, lengths, under_way: None }
    }

    /// Adds the frame of a value. Nothing is added when there is an error.
    pub(super) fn push<T: Serialize>(&mut self, value: &T) -> Result<(), CodecError> {
        let before = self.ready.len();
        frame::append(value, &mut self.ready)?;
        self.lengths.push_back(self.ready.len() - before);
        Ok(())
    }

    /// Adds a frame that was written before.
    pub(super) fn push_frame(&mut self, frame: &[u8]) {
        self.ready.extend_from_slice(frame);
        self.lengths.push_back(frame.len());
    }

    /// How many frames are not known to be written.
    pub(super) fn frames(&self) -> usize {
        self.lengths.len() + self.under_way.map_or(0, |under_way| under_way.frames)
    }

    /// Whether another frame may join the next batch.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < MAX_BATCH
    }

    /// Writes the next frames and flushes them. Cancel safe: the next call goes on.
    pub(super) async fn write(&mut self) -> io::Result<()> {
        let Some(under_way) = self.begin() else { return Ok(()) };
        while self.written < under_way.end {
            let some = self.write.write(&self.batch[self.written..under_way.end]).await?;
            if some == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += some;
        }
        self.write.flush().await?;
        self.under_way = None;
        if self.written == self.batch.len() {
            self.batch.clear();
            self.batch.shrink_to(MAX_KEPT);
            self.written = 0;
        }
        Ok(())
    }

    /// As [`Outgoing::write`]; the peer may take so long for what is written together.
    pub(super) async fn write_within(&mut self, longest: Duration) -> io::Result<()> {
        let Some(under_way) = self.begin() else { return Ok(()) };
        match tokio::time::timeout_at(under_way.since + longest, self.write()).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Writes all there is and ends the stream; the peer may take so long for each batch.
    pub(super) async fn finish(mut self, longest: Duration) {
        while self.frames() > 0 {
            if self.write_within(longest).await.is_err() {
                return;
            }
        }
        let _ = tokio::time::timeout(longest, self.write.shutdown()).await;
    }

    /// The write under way, or the next one.
    fn begin(&mut self) -> Option<UnderWay> {
        if self.under_way.is_none() && !self.lengths.is_empty() {
            if self.batch.is_empty() {
                std::mem::swap(&mut self.batch, &mut self.ready);
            }
            let (mut frames, mut end) = (0, self.written);
            while let Some(length) = self.lengths.front()
                && end < self.batch.len()
                && (frames == 0 || end + length - self.written <= MAX_BATCH)
            {
                (frames, end) = (frames + 1, end + length);
                self.lengths.pop_front();
            }
            self.under_way = Some(UnderWay { frames, end, since: Instant::now() });
        }
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Counts the writes and takes everything.
    #[derive(Default)]
    struct Sink {
        writes: Vec<usize>,
        bytes: Vec<u8>,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            self.writes.push(bytes.len());
            self.bytes.extend_from_slice(bytes);
            std::task::Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_written_together_up_to_the_bound_and_never_split() {
        let mut outgoing = Outgoing::new(Sink::default());
        let lengths = [10, 20, MAX_BATCH - 30, 1, 3 * MAX_BATCH, 2];
        let mut all = Vec::new();
        for (byte, length) in (1..).zip(lengths) {
            let frame = vec![byte; length];
            outgoing.push_frame(&frame);
            all.extend(frame);
        }
        assert_eq!(outgoing.frames(), lengths.len());
        while outgoing.frames() > 0 {
            outgoing.write().await.unwrap();
        }
        assert_eq!(outgoing.write.writes, [MAX_BATCH, 1, 3 * MAX_BATCH, 2]);
        assert_eq!(outgoing.write.bytes, all);
        outgoing.push_frame(&[7; 5]);
        assert!(outgoing.has_room());
        outgoing.write().await.unwrap();
        assert_eq!(outgoing.write.writes.last(), Some(&5), "one frame alone waits for no other");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_goes_on_where_it_was_and_later_frames_come_behind_it() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut outgoing = Outgoing::new(ours);
        outgoing.push_frame(&[1; 20]);
        let moment = Duration::from_secs(1);
        assert!(tokio::time::timeout(moment, outgoing.write()).await.is_err(), "the peer does not read");
        outgoing.push_frame(&[2; 20]);
        assert_eq!(outgoing.frames(), 2);
        let mut came = Vec::new();
        let finish = outgoing.finish(moment * 3);
        let (_, read) = tokio::join!(finish, theirs.read_to_end(&mut came));
        assert_eq!(read.unwrap(), 40);
        assert_eq!(came, [[1; 20], [2; 20]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_has_no_more_time_by_further_frames() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let mut outgoing = Outgoing::new(ours);
        let longest = Duration::from_secs(3);
        outgoing.push_frame(&[1; 20]);
        for _ in 0..2 {
            let step = tokio::time::timeout(Duration::from_secs(1), outgoing.write_within(longest)).await;
            assert!(step.is_err(), "it may still read");
            outgoing.push_frame(&[2; 20]);
        }
        let late = tokio::time::timeout(Duration::from_millis(1500), outgoing.write_within(longest)).await;
        assert_eq!(late.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
