//! The node's end of a connection: who may ask what is decided before the service is asked.
//!
//! ```text
//! peer ─► Incoming ─► Calls ─► Outgoing ─► peer
//!            │  ▲ held: no room   (what is ready together is written together)
//!            └──┘
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::calls::Calls;
use super::frame::{self, CONNECTION, Envelope, Reply};
use super::incoming::{End, Incoming};
use super::outgoing::Outgoing;

/// Bounds on what one peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many calls of one connection are worked on, or answered and not written, at once; further ones are not read
    /// meanwhile. Default 64.
    pub in_flight: usize,
    /// The longest that one call is worked on, whatever its caller allows. Default 10 minutes.
    pub call: Duration,
    /// After how long without a call a connection is closed. Default 10 minutes.
    pub idle: Duration,
    /// How long a peer may take to send one frame, from its first byte. Default 30 s.
    pub frame: Duration,
    /// How long a peer may take to read one reply, or the short ones that are written together (64 KiB). Default 30 s.
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
    let calls = Calls::new(service, by, limits.call);
    let mut connection = Connection { calls, held: None, outgoing: Outgoing::new(write), ended: Vec::new(), limits };
    // Without a writer nobody can be answered: then the calls under way end with the connection.
    let Ok(end) = connection.answer(Incoming::new(read, &limits)).await else { return };
    let last = match end {
        End::Quiet => None,
        // Nobody waits for the calls under way.
        End::Broken => return,
        End::Unreadable(why) => Some(why),
    };
    if connection.drain().await.is_err() {
        return;
    }
    if let Some(why) = last {
        tracing::warn!(%why, "an RPC peer sent what cannot be read; its connection is closed");
        let refusal = Refusal::new(RefusalCode::Invalid, why);
        connection.reply(Reply { id: CONNECTION, reply: AdminReply::Refused(refusal) });
    }
    connection.outgoing.finish(limits.write).await;
}

/// What is between a peer's calls and their replies.
struct Connection<W> {
    calls: Calls,
    /// Read when there was no room: reading on until then finds the cancellations that make room.
    held: Option<Envelope>,
    outgoing: Outgoing<W>,
    /// Kept for its room.
    ended: Vec<Reply>,
    limits: Limits,
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    /// Answers calls until no further one is read.
    ///
    /// # Errors
    /// Nothing can be written.
    async fn answer(&mut self, mut incoming: Incoming<impl AsyncRead + Unpin>) -> io::Result<End> {
        loop {
            tokio::select! {
                () = self.calls.ended(&mut self.ended), if !self.calls.is_empty() => {
                    incoming.touch();
                    self.collect();
                }
                frame = incoming.next(), if self.held.is_none() => {
                    if let Err(end) = frame.and_then(|frame| self.take(&frame)) {
                        return Ok(end);
                    }
                }
                written = self.outgoing.write_within(self.limits.write), if self.outgoing.frames() > 0 => {
                    incoming.touch();
                    written?;
                }
            }
            self.begin_held();
            // What came with it needs no look at anything else.
            while self.held.is_none() {
                match incoming.here().and_then(|frame| frame.map(|frame| self.take(&frame)).transpose()) {
                    Ok(Some(())) => self.begin_held(),
                    Ok(None) => break,
                    Err(end) => return Ok(end),
                }
            }
        }
    }

    /// Answers the calls under way.
    async fn drain(&mut self) -> io::Result<()> {
        while !self.calls.is_empty() {
            tokio::select! {
                () = self.calls.ended(&mut self.ended) => self.collect(),
                written = self.outgoing.write_within(self.limits.write), if self.outgoing.frames() > 0 => written?,
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: &BytesMut) -> Result<(), End> {
        match frame::read(frame).map_err(|error| End::Unreadable(error.to_string()))? {
            Envelope { request: AdminRequest::Cancel(id), .. } => self.calls.cancel(id),
            call => self.held = Some(call),
        }
        Ok(())
    }

    /// Begins the call that is held, if there is room.
    fn begin_held(&mut self) {
        let has_room = self.calls.len() + self.outgoing.frames() < self.limits.in_flight.max(1);
        if let Some(call) = self.held.take_if(|_| has_room)
            && let Err(refused) = self.calls.begin(call)
        {
            self.reply(refused);
        }
    }

    fn collect(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        for reply in ended.drain(..) {
            self.reply(reply);
        }
        self.ended = ended;
    }

    fn reply(&mut self, reply: Reply) {
        let id = reply.id;
        let Err(error) = self.outgoing.push(&reply) else { return };
        let message = format!("the answer does not fit a frame ({error}); ask for fewer rows");
        let reply = AdminReply::Refused(Refusal::new(RefusalCode::Invalid, message));
        self.outgoing.push(&Reply { id, reply }).expect("a short refusal fits a frame");
    }
}
