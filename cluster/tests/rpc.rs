//! Administrators' calls, over a pipe and over a real socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reeve_cluster::rpc::{
    BindError, CONNECTION, Envelope, Limits, MAX_FRAME_BYTES, Reply, RpcClient, RpcError, UnixServer, serve_connection,
};
use reeve_ports::AdminService;
use reeve_protocol::admin::{ADMIN_FORMAT, AdminReply, AdminRequest, EventView, Principal};
use reeve_protocol::codec;
use reeve_protocol::command::RefusalCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Semaphore;

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers `DeadDrop(n)` as the number tells.
struct Fake {
    gate: Semaphore,
    most: AtomicUsize,
    now: AtomicUsize,
}

const NEVER: u64 = 1;
const GATED: u64 = 2;
const PANIC: u64 = 3;
const HUGE: u64 = 4;

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(0), most: AtomicUsize::new(0), now: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl AdminService for Fake {
    async fn ask(&self, _: &Principal, request: AdminRequest) -> AdminReply {
        let AdminRequest::DeadDrop(what) = request else { return AdminReply::Vms(Vec::new()) };
        match what {
            NEVER => std::future::pending().await,
            PANIC => panic!("on purpose"),
            HUGE => AdminReply::Events(vec![EventView { position: 1, json: "x".repeat(MAX_FRAME_BYTES) }]),
            GATED => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                self.now.fetch_sub(1, Ordering::SeqCst);
                AdminReply::Done
            }
            _ => AdminReply::Done,
        }
    }
}

fn served(service: Arc<Fake>, limits: Limits) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serve_connection(theirs, service, Principal::local(), limits));
    ours
}

async fn raw_frame(stream: &mut DuplexStream, body: &[u8]) {
    stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
}

/// The next reply, and then whether the connection is closed.
async fn raw_reply(stream: &mut DuplexStream) -> Reply {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    codec::decode::<Reply>(ADMIN_FORMAT, &body).unwrap().1
}

async fn refused_and_closed(mut stream: DuplexStream) -> String {
    let Reply { id: CONNECTION, reply: AdminReply::Refused(refusal) } = raw_reply(&mut stream).await else {
        panic!("expected a refusal of the connection");
    };
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection is closed");
    refusal.message
}

#[test]
fn the_bytes_of_a_call_and_a_reply_never_change() {
    let call = Envelope { id: 7, deadline_ms: 500, request: AdminRequest::DeadDrop(9) };
    let expected = [&[1, 7][..], &[0; 7], &[0xf4, 1], &[0; 6], &[8, 0, 0, 0], &[9], &[0; 7]].concat();
    assert_eq!(codec::encode(ADMIN_FORMAT, &call).unwrap(), expected);
    let reply = Reply { id: 7, reply: AdminReply::Done };
    assert_eq!(codec::encode(ADMIN_FORMAT, &reply).unwrap(), [&[1, 7][..], &[0; 7], &[7, 0, 0, 0]].concat());
}

#[tokio::test(start_paused = true)]
async fn replies_find_their_calls_whatever_their_order() {
    let fake = Fake::new();
    let client = RpcClient::new(served(Arc::clone(&fake), Limits::default()));
    let slow = client.call(AdminRequest::DeadDrop(GATED), PATIENCE);
    let quick = async {
        let reply = client.call(AdminRequest::Node, PATIENCE).await;
        fake.gate.add_permits(1);
        reply
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!(slow, Ok(AdminReply::Done));
    assert_eq!(quick, Ok(AdminReply::Vms(Vec::new())));
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_bounded_and_all_are_answered() {
    let fake = Fake::new();
    let limits = Limits { in_flight: 4, ..Limits::default() };
    let client = RpcClient::new(served(Arc::clone(&fake), limits));
    let calls = (0..50).map(|_| client.call(AdminRequest::DeadDrop(GATED), PATIENCE));
    let open = async {
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            fake.gate.add_permits(1);
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(calls), open);
    assert!(answers.iter().all(|answer| *answer == Ok(AdminReply::Done)), "{answers:?}");
    assert_eq!(fake.most.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_times_out_and_the_next_one_works() {
    let client = RpcClient::new(served(Fake::new(), Limits::default()));
    let timeout = Duration::from_millis(200);
    let late = client.call(AdminRequest::DeadDrop(NEVER), timeout).await;
    // The node gives up at the same moment; either word for it is right.
    match late {
        Err(RpcError::TimedOut(after)) => assert_eq!(after, timeout),
        Ok(AdminReply::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::Unavailable),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.call(AdminRequest::DeadDrop(0), timeout).await, Ok(AdminReply::Done));
}

#[tokio::test(start_paused = true)]
async fn the_node_ends_a_call_at_its_own_limit() {
    let limits = Limits { call: Duration::from_secs(1), ..Limits::default() };
    let client = RpcClient::new(served(Fake::new(), limits));
    let reply = client.call(AdminRequest::DeadDrop(NEVER), Duration::from_secs(60)).await.unwrap();
    let AdminReply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!((refusal.code, refusal.message.as_str()), (RefusalCode::Unavailable, "not answered within 1000 ms"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_call_is_answered_and_harms_no_other() {
    let client = RpcClient::new(served(Fake::new(), Limits::default()));
    let reply = client.call(AdminRequest::DeadDrop(PANIC), PATIENCE).await.unwrap();
    assert!(matches!(reply, AdminReply::Refused(refusal) if refusal.code == RefusalCode::Unavailable));
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fits_no_frame_is_refused_with_advice() {
    let client = RpcClient::new(served(Fake::new(), Limits::default()));
    let reply = client.call(AdminRequest::DeadDrop(HUGE), PATIENCE).await.unwrap();
    assert!(matches!(reply, AdminReply::Refused(refusal) if refusal.message.contains("fewer rows")));
}

#[tokio::test(start_paused = true)]
async fn a_frame_too_large_is_refused_before_it_is_read() {
    let mut stream = served(Fake::new(), Limits::default());
    stream.write_u32(u32::try_from(MAX_FRAME_BYTES + 1).unwrap()).await.unwrap();
    assert!(refused_and_closed(stream).await.contains("at most 4194304 bytes"));
    let mut stream = served(Fake::new(), Limits::default());
    stream.write_u32(u32::MAX).await.unwrap();
    assert!(refused_and_closed(stream).await.contains("at most 4194304 bytes"));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_with_a_reason() {
    for body in [&b"GET / HTTP/1.1"[..], b"", &[1], &[1, 0, 0], &[1; 4096]] {
        let mut stream = served(Fake::new(), Limits::default());
        raw_frame(&mut stream, body).await;
        assert!(!refused_and_closed(stream).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_format_is_refused_and_both_versions_are_named() {
    let mut stream = served(Fake::new(), Limits::default());
    raw_frame(&mut stream, &[2, 0, 0]).await;
    assert_eq!(refused_and_closed(stream).await, "format 2 is newer than this version reads (1)");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_why_its_connection_was_refused() {
    let (ours, mut node) = tokio::io::duplex(1024);
    let client = RpcClient::new(ours);
    let refusal = reeve_protocol::command::Refusal::new(RefusalCode::Unavailable, "full");
    let reply = Reply { id: CONNECTION, reply: AdminReply::Refused(refusal.clone()) };
    raw_frame(&mut node, &codec::encode(ADMIN_FORMAT, &reply).unwrap()).await;
    drop(node);
    assert_eq!(client.call(AdminRequest::Node, PATIENCE).await, Err(RpcError::Refused(refusal)));
}

#[tokio::test(start_paused = true)]
async fn every_waiting_call_learns_that_the_node_went_away() {
    let (ours, node) = tokio::io::duplex(64 * 1024);
    let client = RpcClient::new(ours);
    let calls = futures::future::join_all((0..3).map(|_| client.call(AdminRequest::Node, PATIENCE)));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(node);
    };
    let (answers, ()) = tokio::join!(calls, leave);
    assert!(answers.iter().all(|answer| matches!(answer, Err(RpcError::Closed(_)))), "{answers:?}");
    assert!(matches!(client.call(AdminRequest::Node, PATIENCE).await, Err(RpcError::Closed(_))), "and every later one");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_is_let_go() {
    let mut stream = served(Fake::new(), Limits { idle: Duration::from_secs(2), ..Limits::default() });
    stream.write_all(&[0, 0]).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_socket_is_private_replaced_when_stale_and_refused_when_live() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reeve.sock");
    // A socket whose process is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = UnixServer::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(UnixServer::bind(&path), Err(BindError::AlreadyRunning(_))));

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(Fake::new(), async {
        let _ = stopped.await;
    }));
    let client = RpcClient::connect_unix(&path).await.unwrap();
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
    drop(client);
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(!path.exists(), "the socket is removed");
    assert!(matches!(RpcClient::connect_unix(&path).await, Err(RpcError::Unreachable { .. })));
    UnixServer::bind(&path).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reeve.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(UnixServer::bind(&path), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reeve.sock");
    tokio::spawn(UnixServer::bind(&path).unwrap().serve(Fake::new(), std::future::pending()));
    let mut clients = Vec::new();
    for _ in 0..64 {
        let client = RpcClient::connect_unix(&path).await.unwrap();
        client.call(AdminRequest::DeadDrop(0), PATIENCE).await.unwrap();
        clients.push(client);
    }
    let one_more = RpcClient::connect_unix(&path).await.unwrap();
    let answer = one_more.call(AdminRequest::DeadDrop(0), PATIENCE).await;
    let Err(RpcError::Refused(refusal)) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, RefusalCode::Unavailable);
}
