//! What is ready together is written together, and nothing that a call by itself was promised changes by it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use reeve_cluster::rpc::{Envelope, Limits, Reply, RpcClient, serve_connection};
use reeve_protocol::admin::{ADMIN_FORMAT, AdminReply, AdminRequest, Principal};
use reeve_protocol::codec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::service::{Fake, GATED, HUGE, LONG, NEVER, PANIC, PATIENCE};

const MINUTE: Duration = Duration::from_secs(60);

/// Counts the writes.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A connection whose pipe holds so many bytes, and its node.
fn served(fake: &Arc<Fake>, limits: Limits, pipe: usize) -> (DuplexStream, Arc<AtomicUsize>, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let writes = Arc::new(AtomicUsize::new(0));
    let theirs = Counted(theirs, Arc::clone(&writes));
    let serving = tokio::spawn(serve_connection(theirs, fake.clone(), Principal::local(), limits));
    (ours, writes, serving)
}

/// Calls, numbered from 1, as one piece of bytes.
fn calls(requests: impl IntoIterator<Item = (AdminRequest, Duration)>) -> Vec<u8> {
    let frame = |(id, (request, wait)): (u64, (AdminRequest, Duration))| {
        let deadline_ms = u64::try_from(wait.as_millis()).unwrap();
        let body = codec::encode(ADMIN_FORMAT, &Envelope { id, deadline_ms, request }).unwrap();
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat()
    };
    (1..).zip(requests).flat_map(frame).collect()
}

async fn reply(stream: &mut DuplexStream) -> Reply {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    codec::decode::<Reply>(ADMIN_FORMAT, &body).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_ready_together_are_written_together_and_none_waits_for_more() {
    let fake = Fake::new();
    let (mut stream, writes, _serving) = served(&fake, Limits::default(), 64 * 1024);
    for many in [1, 50, 1, 1] {
        let before = writes.load(Ordering::SeqCst);
        let requests = (0..many).map(|_| (AdminRequest::DeadDrop(0), MINUTE));
        stream.write_all(&calls(requests)).await.unwrap();
        let began = Instant::now();
        for _ in 0..many {
            assert_eq!(reply(&mut stream).await.reply, AdminReply::Done);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(writes.load(Ordering::SeqCst) - before, 1, "for {many} replies");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_made_together_are_written_together() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serve_connection(theirs, Fake::new(), Principal::local(), Limits::default()));
    let writes = Arc::new(AtomicUsize::new(0));
    let client = RpcClient::new(Counted(ours, Arc::clone(&writes)));
    for many in [1, 50, 1] {
        let before = writes.load(Ordering::SeqCst);
        let calls = (0..many).map(|_| client.call(AdminRequest::DeadDrop(0), PATIENCE));
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().all(|answer| *answer == Ok(AdminReply::Done)), "{answers:?}");
        assert_eq!(writes.load(Ordering::SeqCst) - before, 1, "for {many} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_a_failing_and_an_endless_call_harm_none_of_those_that_came_with_them() {
    let fake = Fake::new();
    let (mut stream, ..) = served(&fake, Limits::default(), 64 * 1024);
    let requests = [
        AdminRequest::DeadDrop(GATED),
        AdminRequest::DeadDrop(NEVER),
        AdminRequest::DeadDrop(0),
        AdminRequest::DeadDrop(PANIC),
        AdminRequest::Cancel(2),
        AdminRequest::DeadDrop(NEVER),
        AdminRequest::DeadDrop(HUGE),
        AdminRequest::DeadDrop(0),
    ];
    stream.write_all(&calls(requests.map(|request| (request, MINUTE)))).await.unwrap();
    let mut first = Vec::new();
    for _ in 0..4 {
        let Reply { id, reply } = reply(&mut stream).await;
        first.push((id, reply == AdminReply::Done));
    }
    first.sort_unstable();
    assert_eq!(first, [(3, true), (4, false), (7, false), (8, true)]);
    fake.until(2).await;
    fake.gate.add_permits(1);
    assert_eq!(reply(&mut stream).await, Reply { id: 1, reply: AdminReply::Done });
    let last = reply(&mut stream).await;
    assert!(last.id == 6 && matches!(last.reply, AdminReply::Refused(_)), "{last:?}");
    fake.until(0).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_ends_at_its_own_deadline_whatever_their_order() {
    let fake = Fake::new();
    let (mut stream, ..) = served(&fake, Limits { call: Duration::from_secs(7), ..Limits::default() }, 64 * 1024);
    let began = Instant::now();
    let endless = [5, 1, 3, 3, 60].map(|wait| (AdminRequest::DeadDrop(NEVER), Duration::from_secs(wait)));
    stream.write_all(&calls(endless)).await.unwrap();
    let mut ended = Vec::new();
    for _ in 0..5 {
        let Reply { id, reply: AdminReply::Refused(refusal) } = reply(&mut stream).await else { panic!("no refusal") };
        ended.push((began.elapsed().as_secs(), id, refusal.message));
    }
    ended.sort_unstable();
    let expected = [(1, 2), (3, 3), (3, 4), (5, 1), (7, 5)];
    let expected = expected.map(|(after, id)| (after, id, format!("not answered within {after}000 ms")));
    assert_eq!(ended, expected);
    // The alarm of calls that ended before their time rings for nothing.
    stream.write_all(&calls([(AdminRequest::DeadDrop(0), MINUTE)])).await.unwrap();
    assert_eq!(reply(&mut stream).await.reply, AdminReply::Done);
    tokio::time::sleep(MINUTE).await;
    stream.write_all(&calls([(AdminRequest::DeadDrop(0), MINUTE)])).await.unwrap();
    assert_eq!(reply(&mut stream).await.reply, AdminReply::Done);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_answered_up_to_the_bound_and_then_let_go() {
    let fake = Fake::new();
    let limits = Limits { in_flight: 4, write: Duration::from_secs(2), ..Limits::default() };
    let (mut stream, _, serving) = served(&fake, limits, 1024);
    let began = Instant::now();
    let requests = std::iter::once(NEVER).chain(std::iter::repeat_n(LONG, 20));
    let requests = requests.map(|what| (AdminRequest::DeadDrop(what), MINUTE));
    stream.write_all(&calls(requests)).await.unwrap();
    serving.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(fake.asked.load(Ordering::SeqCst), 4, "what is answered and not read takes a place");
    fake.until(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_that_reads_on_keeps_its_connection() {
    let fake = Fake::new();
    let limits = Limits { write: Duration::from_secs(2), ..Limits::default() };
    let (mut stream, ..) = served(&fake, limits, 1024);
    let longs = (0..8).map(|_| (AdminRequest::DeadDrop(LONG), MINUTE));
    stream.write_all(&calls(longs)).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(matches!(reply(&mut stream).await.reply, AdminReply::Events(_)));
    }
}
