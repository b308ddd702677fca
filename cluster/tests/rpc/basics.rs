//! Administrators' calls, over a pipe and over the private socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_cluster::rpc::{
    BindError, CONNECTION, Envelope, Limits, MAX_FRAME_BYTES, Reply, RpcClient, RpcError, UnixServer, serve_connection,
};
use reeve_protocol::admin::{ADMIN_FORMAT, AdminReply, AdminRequest, Principal, Role};
use reeve_protocol::codec;
use reeve_protocol::command::RefusalCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::service::{Fake, GATED, HUGE, NEVER, PANIC, PATIENCE};

/// Longer than anything that could end a call but its cancellation.
const HOUR: Duration = Duration::from_secs(3600);

fn served(service: Arc<Fake>, limits: Limits) -> DuplexStream {
    served_to(Principal::local(), service, limits)
}

fn served_to(by: Principal, service: Arc<Fake>, limits: Limits) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serve_connection(theirs, service, by, limits));
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

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_begun_must_end_though_bytes_still_come() {
    let limits = Limits { frame: Duration::from_secs(2), ..Limits::default() };
    let stream = served(Fake::new(), limits);
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_u32(1000).await.unwrap();
    let drip = async {
        while write.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let closed = async { assert_eq!(read.read(&mut [0]).await.unwrap(), 0) };
    tokio::select! {
        () = drip => {}
        () = closed => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("the connection is still open"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_ends_at_the_node() {
    let fake = Fake::new();
    let client = RpcClient::new(served(Arc::clone(&fake), Limits::default()));
    let call = client.call(AdminRequest::DeadDrop(NEVER), HOUR);
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = fake.until(1) => {}
    }
    fake.until(0).await;
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_make_room_at_a_node_that_is_full() {
    let fake = Fake::new();
    let limits = Limits { in_flight: 64, ..Limits::default() };
    let client = RpcClient::new(served(Arc::clone(&fake), limits));
    for _ in 0..3 {
        let calls = (0..64).map(|_| client.call(AdminRequest::DeadDrop(NEVER), HOUR));
        tokio::select! {
            answers = futures::future::join_all(calls) => panic!("{answers:?}"),
            () = fake.until(64) => {}
        }
        assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
        fake.until(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_of_nothing_is_ignored_and_has_no_answer() {
    let mut stream = served(Fake::new(), Limits::default());
    let send = async |stream: &mut DuplexStream, request: AdminRequest| {
        let call = Envelope { id: 3, deadline_ms: 1000, request };
        raw_frame(stream, &codec::encode(ADMIN_FORMAT, &call).unwrap()).await;
    };
    for request in [AdminRequest::Cancel(7), AdminRequest::Cancel(0), AdminRequest::DeadDrop(0)] {
        send(&mut stream, request).await;
    }
    assert_eq!(raw_reply(&mut stream).await.id, 3);
    send(&mut stream, AdminRequest::Cancel(3)).await;
    let quiet = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0])).await;
    assert!(quiet.is_err(), "no other answer, and the connection is open");
}

#[tokio::test(start_paused = true)]
async fn calls_end_with_the_connection_that_broke() {
    let fake = Fake::new();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    // A stream that fails in place of ending, as TLS does when its peer dies.
    let broken = breaking(theirs);
    let serving = tokio::spawn(serve_connection(broken, fake.clone(), Principal::local(), Limits::default()));
    let client = RpcClient::new(ours);
    tokio::select! {
        answer = client.call(AdminRequest::DeadDrop(NEVER), HOUR) => panic!("{answer:?}"),
        () = fake.until(1) => {}
    }
    drop(client);
    fake.until(0).await;
    serving.await.unwrap();
}

/// Turns the end of a stream into an error.
fn breaking(stream: DuplexStream) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static {
    let (read, write) = tokio::io::split(stream);
    tokio::io::join(read.chain(Breaks), write)
}

struct Breaks;

impl tokio::io::AsyncRead for Breaks {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_forwarded_is_held_to_what_its_asker_may_and_goes_no_further() {
    let fake = Fake::new();
    let node = Principal { role: Role::Node, name: "n2".to_owned() };
    let client = RpcClient::new(served_to(node, Arc::clone(&fake), Limits::default()));
    let forwarded = |role: Role, request: AdminRequest| {
        let by = Principal { role, name: "somebody".to_owned() };
        client.call(AdminRequest::Forwarded { by, request: Box::new(request) }, PATIENCE)
    };
    let code = |answer: Result<AdminReply, RpcError>| match answer.unwrap() {
        AdminReply::Refused(refusal) => Some(refusal.code),
        _ => None,
    };
    assert_eq!(code(forwarded(Role::Operator, AdminRequest::DeadDrop(0)).await), None);
    let asked = fake.asked.load(Ordering::SeqCst);
    assert_eq!(code(forwarded(Role::Viewer, AdminRequest::DeadDrop(0)).await), Some(RefusalCode::Denied));
    let inner = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(AdminRequest::Node) };
    assert_eq!(code(forwarded(Role::Node, inner).await), Some(RefusalCode::Invalid));
    assert_eq!(code(forwarded(Role::Admin, AdminRequest::Cancel(1)).await), Some(RefusalCode::Invalid));
    assert_eq!(fake.asked.load(Ordering::SeqCst), asked, "the service is not asked what may not be asked");

    let local = RpcClient::new(served(Arc::clone(&fake), Limits::default()));
    let request = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(AdminRequest::Node) };
    assert_eq!(code(local.call(request, PATIENCE).await), Some(RefusalCode::Denied), "nodes alone forward");
}

#[tokio::test(start_paused = true)]
async fn requests_nested_without_end_are_unreadable_and_harm_nobody() {
    let plain = Envelope { id: 1, deadline_ms: 1000, request: AdminRequest::Node };
    let plain = codec::encode(ADMIN_FORMAT, &plain).unwrap();
    let request = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(AdminRequest::Node) };
    let once = codec::encode(ADMIN_FORMAT, &Envelope { id: 1, deadline_ms: 1000, request }).unwrap();
    let (head, level) = (&plain[..plain.len() - 4], &once[plain.len() - 4..once.len() - 4]);
    let body = [head, &level.repeat(150_000), &plain[plain.len() - 4..]].concat();
    assert!(body.len() < MAX_FRAME_BYTES);
    let mut stream = served(Fake::new(), Limits::default());
    raw_frame(&mut stream, &body).await;
    assert!(refused_and_closed(stream).await.contains("within each other"));
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
