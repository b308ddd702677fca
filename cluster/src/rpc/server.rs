//! The node's end of a connection: who may ask what is decided before the service is asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt};
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal, permit};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::codec::FramedWrite;

use super::frame::{self, CONNECTION, Envelope, Reply};
use super::incoming::{End, Incoming};

/// Bounds on what one peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many calls of one connection are worked on at once; further ones are not read meanwhile. Default 64.
    pub in_flight: usize,
    /// The longest that one call is worked on, whatever its caller allows. Default 10 minutes.
    pub call: Duration,
    /// After how long without a call a connection is closed. Default 10 minutes.
    pub idle: Duration,
    /// How long a peer may take to send one frame, from its first byte. Default 30 s.
    pub frame: Duration,
    /// How long a peer may take to read one reply. Default 30 s.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 64,
            call: Duration::from_secs(600),
            idle: Duration::from_secs(600),
            frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
        }
    }
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
    let mut incoming = Incoming::new(read, &limits);
    let mut calls = Calls::default();
    // Read when there was no room: reading on until then finds the cancellations that make room.
    let mut held: Option<Envelope> = None;
    let end = loop {
        if let Some(call) = held.take_if(|_| calls.tasks.len() < limits.in_flight.max(1)) {
            let id = call.id;
            calls.start(id, answer(call, Arc::clone(&service), by.clone(), replies.clone(), limits.call));
        }
        let frame = tokio::select! {
            // Finished calls are collected as they end, so that only those under way are counted.
            true = calls.ended() => {
                incoming.touch();
                continue;
            }
            frame = incoming.next(), if held.is_none() => frame,
        };
        match frame.and_then(|frame| frame::read(&frame).map_err(|error| End::Unreadable(error.to_string()))) {
            Ok(Envelope { request: AdminRequest::Cancel(id), .. }) => calls.cancel(id),
            Ok(call) => held = Some(call),
            Err(end) => break end,
        }
    };
    match end {
        End::Quiet => while calls.ended().await {},
        // The calls under way end with `calls`: nobody waits for them.
        End::Broken => {}
        End::Unreadable(why) => {
            while calls.ended().await {}
            tracing::warn!(%why, "an RPC peer sent what cannot be read; its connection is closed");
            let refusal = Refusal::new(RefusalCode::Invalid, why);
            let _ = replies.send(reply_frame(CONNECTION, AdminReply::Refused(refusal))).await;
        }
    }
}

/// The calls under way of one connection.
#[derive(Default)]
struct Calls {
    tasks: JoinSet<()>,
    by_id: BTreeMap<u64, AbortHandle>,
}

impl Calls {
    fn start(&mut self, id: u64, call: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(call);
        self.by_id.insert(id, task);
    }

    /// Ends a call whose caller has given up. One that is answered already, or never was, is nothing to end.
    fn cancel(&mut self, id: u64) {
        if let Some(task) = self.by_id.remove(&id) {
            task.abort();
        }
    }

    /// Waits for the end of one; `false` when there is none. Cancel safe.
    async fn ended(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else { return false };
        let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
        self.by_id.retain(|_, running| running.id() != task);
        true
    }
}

/// Whether somebody may ask this. What a node asks for somebody else is held to what they may, and goes no further:
/// requests that nodes pass on and on would never end.
fn check(by: &Principal, request: &AdminRequest) -> Result<(), Refusal> {
    permit(by, request)?;
    let AdminRequest::Forwarded { by, request } = request else { return Ok(()) };
    if matches!(**request, AdminRequest::Forwarded { .. } | AdminRequest::Cancel(_)) {
        return Err(Refusal::new(RefusalCode::Invalid, "only what people ask is forwarded, and only once"));
    }
    permit(by, request)
}

async fn answer(
    call: Envelope,
    service: Arc<dyn AdminService>,
    by: Principal,
    replies: mpsc::Sender<Bytes>,
    longest: Duration,
) {
    if let Err(refusal) = check(&by, &call.request) {
        let _ = replies.send(reply_frame(call.id, AdminReply::Refused(refusal))).await;
        return;
    }
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
