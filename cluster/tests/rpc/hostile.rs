//! Peers that do not behave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_cluster::rpc::{MAX_FRAME_BYTES, RpcError, TlsLimits};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::RefusalCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Node, Stranger};
use crate::service::{Fake, PATIENCE};

const LONG: Duration = Duration::from_secs(60);

/// Reads until the node closes the connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    // Whether it ends in order or is reset does not matter here.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut all)).await.expect("the node closes it");
    all
}

#[tokio::test]
async fn bytes_that_are_no_tls_end_the_connection_and_nothing_else() {
    let authority = Authority::new();
    let fake = Fake::new();
    let node = Node::start(&authority.of("node/n1"), fake.clone());
    for bytes in [&b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n"[..], &[0; 64], &[0xff; 70_000], &[22, 3, 1, 0xff, 0xff, 1]] {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    }
    drop(TcpStream::connect(&node.address).await.unwrap());
    let client = node.client(&authority.of("operator/o")).await.unwrap();
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
    assert_eq!(fake.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn half_frames_and_frames_too_large_end_their_connection_only() {
    let authority = Authority::new();
    let node = Node::start(&authority.of("node/n1"), Fake::new());
    let operator = authority.of("operator/o");
    let client = node.client(&operator).await.unwrap();
    let too_large = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes();
    for (bytes, told) in [(&too_large[..], true), (&[0, 0, 0, 3, 1, 1, 1], true), (&[0, 0, 1, 0, 1, 1], false)] {
        let mut stream = Stranger::with(&operator).connect(&node.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(!closed(&mut stream).await.is_empty(), told, "{bytes:?}");
    }
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
}

#[tokio::test]
async fn a_handshake_that_does_not_come_holds_its_place_for_a_moment_only() {
    let authority = Authority::new();
    let limits = TlsLimits { handshake: Duration::from_millis(300), handshakes: 2, ..TlsLimits::default() };
    let node = Node::start_with(&authority.of("node/n1"), Fake::new(), limits);
    let operator = authority.of("operator/o");
    let mut slow = Vec::new();
    for bytes in [&[][..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        slow.push(stream);
    }
    for stream in &mut slow {
        assert!(closed(stream).await.is_empty());
    }
    let client = node.client(&operator).await.unwrap();
    assert_eq!(client.call(AdminRequest::DeadDrop(0), PATIENCE).await, Ok(AdminReply::Done));
}

#[tokio::test]
async fn one_name_cannot_take_every_place_nor_all_names_more_than_there_are() {
    let authority = Authority::new();
    let limits = TlsLimits { connections: 3, per_name: 2, ..TlsLimits::default() };
    let node = Node::start_with(&authority.of("node/n1"), Fake::new(), limits);
    let (olga, otto) = (authority.of("operator/olga"), authority.of("operator/otto"));
    let mut open = Vec::new();
    for (files, why) in [
        (&olga, None),
        (&olga, None),
        (&olga, Some("2 connections of reeve://north/operator/olga")),
        (&otto, None),
        (&otto, Some("3 connections")),
    ] {
        let client = node.client(files).await.unwrap();
        match (client.call(AdminRequest::DeadDrop(0), PATIENCE).await, why) {
            (Ok(AdminReply::Done), None) => open.push(client),
            (Err(RpcError::Refused(refusal)), Some(why)) => {
                assert_eq!(refusal.code, RefusalCode::Unavailable);
                assert!(refusal.message.contains(why), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(open);
    let again = async {
        loop {
            let client = node.client(&olga).await.unwrap();
            if client.call(AdminRequest::DeadDrop(0), PATIENCE).await == Ok(AdminReply::Done) {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, again).await.unwrap();
}
