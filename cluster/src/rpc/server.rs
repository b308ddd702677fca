//! The node's end of a connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, SinkExt, StreamExt};
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::frame::{self, CONNECTION, Envelope, Reply};

/// Bounds on what one peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many calls of one connection are worked on at once; further ones are not read meanwhile. Default 64.
    pub in_flight: usize,
    /// The longest that one call is worked on, whatever its caller allows. Default 10 minutes.
    pub call: Duration,
    /// After how long without a call a connection is closed. Default 10 minutes.
    pub idle: Duration,
    /// How long a peer may take to read one reply. Default 30 s.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 64,
            call: Duration::from_secs(600),
            idle: Duration::from_secs(600),
            write: Duration::from_secs(30),
        }
    }
}

/// Why no further call is read.
enum End {
    /// The peer is done or gone, or was quiet for too long.
    Quiet,
    /// The peer sent what cannot be read; it is told why.
    Unreadable(String),
}

/// Answers the calls of one peer until it leaves, breaks the rules, or is quiet for too long. Replies come in the order
/// in which they are ready. Dropped, it abandons the calls under way.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    service: Arc<dyn AdminService>,
    by: Principal,
    limits: Limits,
) {
    let (read, write) = tokio::io::split(stream);
    let (replies, outgoing) = mpsc::channel(limits.in_flight);
    let mut writer = std::pin::pin!(write_replies(write, outgoing, limits.write));
    let mut reader = std::pin::pin!(read_calls(read, service, by, replies, limits));
    // Without a writer nobody can be answered: then reading on is pointless, and the calls under way end with it.
    tokio::select! {
        () = &mut reader => writer.await,
        () = &mut writer => {}
    }
}

async fn read_calls(
    read: impl AsyncRead + Unpin,
    service: Arc<dyn AdminService>,
    by: Principal,
    replies: mpsc::Sender<Bytes>,
    limits: Limits,
) {
    let mut frames = FramedRead::new(read, frame::framing());
    let mut calls = JoinSet::new();
    let end = loop {
        if calls.len() >= limits.in_flight {
            calls.join_next().await;
            continue;
        }
        let frame = tokio::select! {
            // Finished calls are collected as they end, so that only those under way are counted.
            Some(_) = calls.join_next() => continue,
            frame = next_frame(&mut frames, limits.idle) => frame,
        };
        match frame.and_then(|frame| frame::read(&frame).map_err(|error| End::Unreadable(error.to_string()))) {
            Ok(call) => calls.spawn(answer(call, Arc::clone(&service), by.clone(), replies.clone(), limits.call)),
            Err(end) => break end,
        };
    };
    while calls.join_next().await.is_some() {}
    if let End::Unreadable(why) = end {
        tracing::warn!(%why, "an RPC peer sent what cannot be read; its connection is closed");
        let refusal = Refusal::new(RefusalCode::Invalid, why);
        let _ = replies.send(reply_frame(CONNECTION, AdminReply::Refused(refusal))).await;
    }
}

/// The next frame. Cancel safe: bytes read so far stay in the decoder.
async fn next_frame<R: AsyncRead + Unpin>(
    frames: &mut FramedRead<R, tokio_util::codec::LengthDelimitedCodec>,
    idle: Duration,
) -> Result<BytesMut, End> {
    match tokio::time::timeout(idle, frames.next()).await {
        Ok(Some(Ok(frame))) => Ok(frame),
        Ok(Some(Err(error))) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(End::Unreadable(format!("{error} (a frame holds at most {} bytes)", frame::MAX_FRAME_BYTES)))
        }
        Ok(Some(Err(_)) | None) | Err(_) => Err(End::Quiet),
    }
}

async fn answer(
    call: Envelope,
    service: Arc<dyn AdminService>,
    by: Principal,
    replies: mpsc::Sender<Bytes>,
    longest: Duration,
) {
    let wait = Duration::from_millis(call.deadline_ms).min(longest);
    let answer = AssertUnwindSafe(tokio::time::timeout(wait, service.ask(&by, call.request))).catch_unwind().await;
    let reply = match answer {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => unavailable(format!("not answered within {} ms", wait.as_millis())),
        // The panic hook has logged it; the caller shall not wait for nothing.
        Err(_) => unavailable("the node failed at this request; its log says how".into()),
    };
    // The connection may have ended meanwhile; then nobody waits.
    let _ = replies.send(reply_frame(call.id, reply)).await;
}

fn unavailable(message: String) -> AdminReply {
    AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, message))
}

fn reply_frame(id: u64, reply: AdminReply) -> Bytes {
    frame::write(&Reply { id, reply }).unwrap_or_else(|error| {
        let message = format!("the answer does not fit a frame ({error}); ask for fewer rows");
        let reply = AdminReply::Refused(Refusal::new(RefusalCode::Invalid, message));
        frame::write(&Reply { id, reply }).expect("a short refusal fits a frame")
    })
}

async fn write_replies(write: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Bytes>, longest: Duration) {
    let mut sink = FramedWrite::new(write, frame::framing());
    while let Some(frame) = outgoing.recv().await {
        match tokio::time::timeout(longest, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = tokio::time::timeout(longest, SinkExt::<Bytes>::close(&mut sink)).await;
}
