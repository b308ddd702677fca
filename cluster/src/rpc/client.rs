//! The caller's end of a connection.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::codec::FramedRead;

use super::frame::{self, CONNECTION, Envelope, Reply};
use super::outgoing::Outgoing;
use super::tls::alert;

/// How many calls of one client may be in flight; more wait. The server's own bound is the same.
const MAX_IN_FLIGHT: usize = 64;
/// How many frames may wait to be written: the calls, and as many cancellations.
const MAX_OUTGOING: usize = 2 * MAX_IN_FLIGHT;
/// How long a last reply is awaited after writing failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// Nobody listens there.
    #[error("cannot connect to {endpoint}: {why}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system says.
        why: String,
    },
    /// The own certificate, key or authorities cannot be used.
    #[error("{0}")]
    Files(String),
    /// Somebody else answers there.
    #[error("{endpoint} is not trusted: {why}")]
    Untrusted {
        /// Where.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// No answer in time; the request may have been carried out.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection ended before the answer; the request may have been carried out.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The node does not talk with this client.
    #[error("the node refused the connection: {0}")]
    Refused(Refusal),
    /// The request exceeds the limits of a frame; it was not sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

/// What the reader and the callers share: who waits for which number, or why nobody may wait any more.
#[derive(Debug, Default)]
struct Waiting {
    calls: BTreeMap<u64, oneshot::Sender<Result<AdminReply, RpcError>>>,
    over: Option<RpcError>,
    /// How many replies came, to whatever call.
    heard: u64,
}

type Shared = Arc<Mutex<Waiting>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Waiting> {
    // Every change under the lock is one step, so a panic elsewhere leaves it sound.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to a node. Calls may be made from many tasks at once. Dropped, it closes.
#[derive(Debug)]
pub struct RpcClient {
    waiting: Shared,
    outgoing: mpsc::Sender<Vec<u8>>,
    in_flight: Semaphore,
    last_id: AtomicU64,
    // Holds the reader and the writer; dropping it ends both.
    _tasks: JoinSet<()>,
}

/// A call that is waited for. Dropped before its answer, it is forgotten here and cancelled at the node.
struct Call<'a> {
    client: &'a RpcClient,
    id: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if lock(&self.client.waiting).calls.remove(&self.id).is_none() {
            return;
        }
        let cancel = Envelope { id: CONNECTION, deadline_ms: 0, request: AdminRequest::Cancel(self.id) };
        let Ok(cancel) = frame::write(&cancel) else { return };
        // With a node that reads nothing, the cancellation may find no room: the call's deadline then ends it there.
        let _ = self.client.outgoing.try_send(cancel);
    }
}

impl RpcClient {
    /// Connects to the private socket of a node on this machine.
    ///
    /// # Errors
    /// [`RpcError::Unreachable`] when nobody listens there or the socket may not be opened.
    pub async fn connect_unix(path: &Path) -> Result<Self, RpcError> {
        let stream = tokio::net::UnixStream::connect(path).await.map_err(|error| RpcError::Unreachable {
            endpoint: format!("unix:{}", path.display()),
            why: error.to_string(),
        })?;
        Ok(Self::new(stream))
    }

    /// Speaks over an established byte stream. Needs a tokio runtime.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (outgoing, frames) = mpsc::channel(MAX_OUTGOING);
        let waiting = Shared::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(read_replies(read, Arc::clone(&waiting)));
        let ended = Arc::clone(&waiting);
        tasks.spawn(async move {
            if let Err(error) = write_calls(Outgoing::new(write), frames).await {
                // The reader often knows better why, from a last reply: it has the time to say so first.
                tokio::time::sleep(LAST_WORDS).await;
                end(&ended, &RpcError::Closed(error.to_string()));
            }
        });
        let in_flight = Semaphore::new(MAX_IN_FLIGHT);
        Self { waiting, outgoing, in_flight, last_id: AtomicU64::new(CONNECTION), _tasks: tasks }
    }

    /// Asks and waits for the answer, at most `timeout`; the node is told how long. Dropped before, or out of time, it
    /// cancels the call at the node.
    ///
    /// # Errors
    /// [`RpcError`]; after `TimedOut` and `Closed` the request may have been carried out.
    pub async fn call(&self, request: AdminRequest, timeout: Duration) -> Result<AdminReply, RpcError> {
        let deadline_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match tokio::time::timeout(timeout, self.exchange(request, deadline_ms)).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::TimedOut(timeout)),
        }
    }

    /// Whether no call can be made any more.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.waiting).over.is_some()
    }

    /// How many replies came so far, to whatever call.
    pub(super) fn heard(&self) -> u64 {
        lock(&self.waiting).heard
    }

    async fn exchange(&self, request: AdminRequest, deadline_ms: u64) -> Result<AdminReply, RpcError> {
        let _permit = self.in_flight.acquire().await.expect("the semaphore of a client is never closed");
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = frame::write(&Envelope { id, deadline_ms, request });
        let bytes = bytes.map_err(|error| RpcError::Request(error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if let Some(why) = &waiting.over {
                return Err(why.clone());
            }
            waiting.calls.insert(id, answer);
        }
        let _call = Call { client: self, id };
        // If the writer is gone, `end` has answered or is about to.
        let _ = self.outgoing.send(bytes).await;
        answered.await.unwrap_or_else(|_| Err(RpcError::Closed("the client was closed".into())))
    }
}

/// Writes the frames of calls until nobody makes any more.
async fn write_calls(
    mut outgoing: Outgoing<impl AsyncWrite + Unpin>,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(first) = frames.recv().await {
        outgoing.push_frame(&first);
        while outgoing.has_room()
            && let Ok(frame) = frames.try_recv()
        {
            outgoing.push_frame(&frame);
        }
        while outgoing.frames() > 0 {
            outgoing.write().await?;
        }
    }
    Ok(())
}

/// Hands each reply to whoever waits for it, until the connection ends.
async fn read_replies(read: impl AsyncRead + Unpin, waiting: Shared) {
    let mut frames = FramedRead::new(read, frame::framing());
    let why = loop {
        let frame = match frames.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let refused = alert::refusal(&error).map(RpcError::Refused);
                break refused.unwrap_or_else(|| RpcError::Closed(error.to_string()));
            }
            None => break RpcError::Closed("the node closed it".into()),
        };
        match frame::read::<Reply>(&frame) {
            Ok(Reply { id: CONNECTION, reply: AdminReply::Refused(refusal) }) => break RpcError::Refused(refusal),
            Ok(Reply { id, reply }) => {
                // Nobody waits any more for the answer of a call that timed out.
                let mut waiting = lock(&waiting);
                waiting.heard += 1;
                if let Some(answer) = waiting.calls.remove(&id) {
                    let _ = answer.send(Ok(reply));
                }
            }
            Err(error) => break RpcError::Closed(format!("unreadable reply: {error}")),
        }
    };
    end(&waiting, &why);
}

/// Answers everybody who waits, now and later, with the reason of the end. The first reason stands.
fn end(shared: &Shared, why: &RpcError) {
    let mut waiting = lock(shared);
    let why = waiting.over.get_or_insert_with(|| why.clone()).clone();
    for (_, answer) in std::mem::take(&mut waiting.calls) {
        let _ = answer.send(Err(why.clone()));
    }
}
