//! Who gets in, as whom, and who is believed to be a node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use reeve_cluster::rpc::{Credentials, RpcClient, RpcError, TlsError, TlsFiles, TlsServer};
use reeve_protocol::NodeId;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::command::RefusalCode;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Node, Stranger, Valid, both, read};
use crate::service::{Fake, NEVER, PATIENCE, who};

fn id(node: &str) -> NodeId {
    NodeId::new(node).unwrap()
}

/// What a caller with this certificate is told.
async fn refused(node: &Node, stranger: Stranger) -> String {
    let client = RpcClient::new(stranger.connect(&node.address).await.unwrap());
    match client.call(AdminRequest::Node, PATIENCE).await {
        Err(RpcError::Refused(refusal)) => {
            assert_eq!(refusal.code, RefusalCode::Denied);
            refusal.message
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_certificate_may_what_its_role_may_and_asks_in_its_own_name() {
    let authority = Authority::new();
    let fake = Fake::new();
    let node = Node::start(&authority.of("node/n1"), fake.clone());
    let drain = || AdminRequest::NodeDrain(id("n1"));
    let list = || AdminRequest::VmList { limit: 1, marker: None, lease: None };
    let forwarded = || AdminRequest::Forwarded { by: Principal::local(), request: Box::new(drain()) };
    let table = [
        ("viewer/v", vec![list(), AdminRequest::NodeList], vec![AdminRequest::DeadDrop(0), drain(), forwarded()]),
        ("operator/o", vec![list(), AdminRequest::DeadDrop(0)], vec![drain(), forwarded()]),
        ("admin/a", vec![list(), AdminRequest::DeadDrop(0), drain()], vec![forwarded()]),
        ("tenant:p/t", vec![list()], vec![AdminRequest::NodeList, AdminRequest::DeadDrop(0), drain(), forwarded()]),
        ("node/n2", vec![AdminRequest::NodeList, forwarded()], vec![AdminRequest::DeadDrop(0), drain()]),
    ];
    for (whom, allowed, denied) in table {
        let client = node.client(&authority.of(whom)).await.unwrap();
        for request in allowed {
            let reply = client.call(request.clone(), PATIENCE).await.unwrap();
            assert!(!matches!(reply, AdminReply::Refused(_)), "{whom} {request:?} {reply:?}");
        }
        let asked = fake.asked.load(Ordering::SeqCst);
        for request in denied {
            let reply = client.call(request.clone(), PATIENCE).await.unwrap();
            let AdminReply::Refused(refusal) = reply else { panic!("{whom} {request:?} {reply:?}") };
            assert_eq!(refusal.code, RefusalCode::Denied);
        }
        assert_eq!(fake.asked.load(Ordering::SeqCst), asked, "the service is not asked what {whom} may not");
    }
    let client = node.client(&authority.of("operator/olga")).await.unwrap();
    assert_eq!(who(&client.call(AdminRequest::ActorTree(None), PATIENCE).await.unwrap()), ("fake", "operator olga"));
    drop(client);
    node.stop().await;
}

#[tokio::test]
async fn who_is_nobody_in_the_cluster_is_told_so() {
    let authority = Authority::new();
    let node = Node::start(&authority.of("node/n1"), Fake::new());
    let client_only = [ExtendedKeyUsagePurpose::ClientAuth];
    for (uris, why) in [
        (&["reeve://south/admin/a"][..], "reeve://south/admin/a, and this is a node of cluster north"),
        (&[], "no URI name"),
        (&["https://north/admin/a"], "no URI name"),
        (&["reeve://north/admin/a", "reeve://north/viewer/a"], "2 URI names"),
        (&["reeve://north/emperor/a"], "no role"),
        (&["REEVE://north/admin/a"], "form"),
        (&["reeve://north/admin"], "form"),
    ] {
        let files = authority.issue(uris, Valid::Now, &client_only);
        let told = refused(&node, Stranger::with(&files)).await;
        assert!(told.contains(why), "{uris:?}: {told}");
    }
    // A name of another scheme is nobody's business.
    let files = authority.issue(&["spiffe://x/y", "reeve://north/viewer/v"], Valid::Now, &client_only);
    let client = node.client(&files).await.unwrap();
    assert_eq!(
        client.call(AdminRequest::DeadDrop(0), PATIENCE).await.map(|reply| code(&reply)),
        Ok(Some(RefusalCode::Denied))
    );
    assert_eq!(client.call(AdminRequest::NodeList, PATIENCE).await.map(|reply| code(&reply)), Ok(None));
}

fn code(reply: &AdminReply) -> Option<RefusalCode> {
    match reply {
        AdminReply::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_opens_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = Fake::new();
    let node = Node::start(&authority.of("node/n1"), fake.clone());
    let admin = &["reeve://north/admin/a"][..];
    for (files, why) in [
        (other.of("admin/a"), "another authority"),
        (authority.issue(admin, Valid::Past, &both()), "expired"),
        (authority.issue(admin, Valid::Future, &both()), "does not accept"),
        (authority.issue(admin, Valid::Now, &[ExtendedKeyUsagePurpose::ServerAuth]), "clientAuth"),
    ] {
        let told = refused(&node, Stranger::with(&files)).await;
        assert!(told.contains(why), "{why}: {told}");
    }
    let nothing = Stranger { files: None, ..Stranger::with(&authority.of("admin/a")) };
    assert!(refused(&node, nothing).await.contains("there is none"));
    assert_eq!(fake.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_protocol_or_an_older_tls_is_not_spoken() {
    let authority = Authority::new();
    let node = Node::start(&authority.of("node/n1"), Fake::new());
    let admin = authority.of("admin/a");
    let without = Stranger { alpn: Vec::new(), ..Stranger::with(&admin) };
    assert!(refused(&node, without).await.contains("reeve/1"));
    let other = Stranger { alpn: vec![b"h2".to_vec()], ..Stranger::with(&admin) };
    assert!(other.connect(&node.address).await.is_err());
    let old = Stranger { version: &rustls::version::TLS12, ..Stranger::with(&admin) };
    assert!(old.connect(&node.address).await.is_err());
    assert!(Stranger::with(&admin).connect(&node.address).await.is_ok());
}

#[tokio::test]
async fn a_caller_believes_only_the_node_that_it_means() {
    let (authority, other) = (Authority::new(), Authority::new());
    let node = Node::start(&authority.of("node/n2"), Fake::new());
    let admin = authority.of("admin/a");
    let credentials = Credentials::client(admin.clone()).unwrap();
    let to = |node: &'static str| id(node);
    assert!(RpcClient::connect_tls_to(&node.address, &credentials, &to("n2")).await.is_ok());
    let why = untrusted(RpcClient::connect_tls_to(&node.address, &credentials, &to("n1")).await);
    assert!(why.contains("reeve://north/node/n2") && why.contains("reeve://north/node/n1 was meant"), "{why}");
    assert!(untrusted(node.client(&other.of("admin/a")).await).contains("another authority"));
    let southern = authority.issue(&["reeve://south/admin/a"], Valid::Now, &both());
    assert!(untrusted(node.client(&southern).await).contains("reeve://south/node/ID was meant"));

    let n1 = &["reeve://north/node/n1"][..];
    for (files, why) in [
        (authority.of("admin/a"), "of reeve://north/admin/a"),
        (authority.issue(&[], Valid::Now, &both()), "no URI name"),
        (authority.issue(n1, Valid::Past, &both()), "expired"),
        (authority.issue(n1, Valid::Now, &[ExtendedKeyUsagePurpose::ClientAuth]), "usage"),
    ] {
        let impostor = impostor(&files, b"reeve/1").await;
        let told = untrusted(RpcClient::connect_tls(&impostor, &admin).await);
        assert!(told.contains(why), "{why}: {told}");
    }
    let mute = impostor(&authority.of("node/n1"), b"").await;
    let answer = RpcClient::connect_tls(&mute, &admin).await;
    assert!(matches!(&answer, Err(RpcError::Unreachable { why, .. }) if why.contains("reeve/1")), "{answer:?}");
}

fn untrusted(answer: Result<RpcClient, RpcError>) -> String {
    match answer {
        Err(RpcError::Untrusted { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

/// A server with any certificate.
async fn impostor(files: &TlsFiles, alpn: &[u8]) -> String {
    let (chain, key) = read(files);
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_and_never_shown() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.of("node/n1");
    let bind = |files: &TlsFiles| TlsServer::bind("127.0.0.1:0", files.clone(), "north").unwrap_err();
    let swap = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        bind(&files)
    };
    let text = authority.path("text");
    let label = "PRIVATE KEY";
    std::fs::write(&text, format!("-----BEGIN {label}-----\nSECRET\n-----END {label}-----\n")).unwrap();
    assert!(
        matches!(swap(&|files| files.cert = "/nowhere".into()), TlsError::Read { path, .. } if path.starts_with("/nowhere"))
    );
    for error in [
        swap(&|files| files.cert = text.clone()),
        swap(&|files| files.cert = files.key.clone()),
        swap(&|files| files.key = text.clone()),
        swap(&|files| files.key = files.cert.clone()),
        swap(&|files| files.ca = text.clone()),
    ] {
        assert!(matches!(error, TlsError::Content { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
    assert!(matches!(swap(&|files| files.key = authority.of("node/n1").key), TlsError::KeyMismatch { .. }));
    assert!(matches!(swap(&|files| files.ca = other.path("ca.pem")), TlsError::NotAccepted { .. }));
    let n1 = &["reeve://north/node/n1"][..];
    assert!(matches!(bind(&authority.issue(n1, Valid::Past, &both())), TlsError::Expired { .. }));
    assert!(matches!(bind(&authority.issue(n1, Valid::Future, &both())), TlsError::NotYetValid { .. }));
    for usage in both() {
        assert!(matches!(bind(&authority.issue(n1, Valid::Now, &[usage])), TlsError::NotAccepted { .. }));
    }
    assert!(matches!(bind(&authority.issue(&[], Valid::Now, &both())), TlsError::Identity { .. }));
    assert!(matches!(bind(&authority.of("admin/a")), TlsError::NotANode { .. }));
    let southern = authority.issue(&["reeve://south/node/n1"], Valid::Now, &both());
    assert!(matches!(bind(&southern), TlsError::NotANode { .. }));
    let error = RpcClient::connect_tls("127.0.0.1:1", &TlsFiles { cert: "/nowhere".into(), ..good.clone() }).await;
    assert!(matches!(&error, Err(RpcError::Files(why)) if why.contains("/nowhere")), "{error:?}");
    assert!(matches!(TlsServer::bind("256.0.0.1:1", good, "north"), Err(TlsError::Bind { .. })));
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_all_answered() {
    let authority = Authority::new();
    let node = Node::start(&authority.of("node/n1"), Fake::new());
    let client = node.client(&authority.of("operator/o")).await.unwrap();
    let calls = (0..1000).map(|_| client.call(AdminRequest::DeadDrop(0), Duration::from_secs(30)));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| *answer == Ok(AdminReply::Done)));
}

#[tokio::test]
async fn giving_up_and_leaving_both_end_what_is_under_way() {
    let authority = Authority::new();
    let fake = Fake::new();
    let node = Node::start(&authority.of("node/n1"), fake.clone());
    let client = node.client(&authority.of("operator/o")).await.unwrap();
    let hour = Duration::from_secs(3600);
    tokio::select! {
        answer = client.call(AdminRequest::DeadDrop(NEVER), hour) => panic!("{answer:?}"),
        () = fake.until(1) => {}
    }
    fake.until(0).await;
    tokio::select! {
        answer = client.call(AdminRequest::DeadDrop(NEVER), hour) => panic!("{answer:?}"),
        () = fake.until(1) => drop(client),
    }
    fake.until(0).await;
}

#[tokio::test]
async fn nobody_there_is_said_in_time() {
    let authority = Authority::new();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let answer = RpcClient::connect_tls(&closed, &authority.of("admin/a")).await;
    assert!(matches!(answer, Err(RpcError::Unreachable { .. })), "{answer:?}");
}
