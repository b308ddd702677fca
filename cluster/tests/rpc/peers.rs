//! Nodes that ask each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reeve_cluster::rpc::{Credentials, RpcPeers, TlsLimits};
use reeve_ports::Peers;
use reeve_protocol::NodeId;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal, Role};
use reeve_protocol::command::RefusalCode;
use tokio::net::TcpListener;

use crate::certificates::{Authority, Node, Valid, both, replace};
use crate::service::{Fake, NEVER, PATIENCE, who};

type Book = Arc<Mutex<BTreeMap<NodeId, String>>>;

fn id(node: &str) -> NodeId {
    NodeId::new(node).unwrap()
}

fn olga() -> Principal {
    Principal { role: Role::Operator, name: "olga".to_owned() }
}

fn peers(authority: &Authority, book: &Book) -> RpcPeers {
    let credentials = Credentials::node(authority.of("node/n1"), "north").unwrap();
    let book = Arc::clone(book);
    RpcPeers::new(credentials, move |node| book.lock().unwrap().get(node).cloned())
}

fn enter(book: &Book, node: &str, address: &str) {
    book.lock().unwrap().insert(id(node), address.to_owned());
}

async fn ask(peers: &RpcPeers, node: &str) -> AdminReply {
    ask_for(peers, node, AdminRequest::ActorTree(None), PATIENCE).await
}

async fn ask_for(peers: &RpcPeers, node: &str, request: AdminRequest, patience: Duration) -> AdminReply {
    peers.ask(&id(node), &olga(), request, patience).await
}

fn unavailable(reply: &AdminReply, node: &str) -> String {
    let AdminReply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert!(refusal.message.contains(&format!("node {node} ")), "{refusal}");
    refusal.message.clone()
}

#[tokio::test]
async fn a_node_is_asked_in_the_name_of_whoever_asks() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    let (n2, n3) = (Fake::named("n2"), Fake::named("n3"));
    let nodes = [Node::start(&authority.of("node/n2"), n2.clone()), Node::start(&authority.of("node/n3"), n3.clone())];
    enter(&book, "n2", &nodes[0].address);
    enter(&book, "n3", &nodes[1].address);
    assert_eq!(who(&ask(&peers, "n2").await), ("n2", "operator olga"));
    assert_eq!(who(&ask(&peers, "n3").await), ("n3", "operator olga"));
    let viewer = Principal { role: Role::Viewer, name: "v".to_owned() };
    let reply = peers.ask(&id("n2"), &viewer, AdminRequest::DeadDrop(0), PATIENCE).await;
    let AdminReply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!(refusal.code, RefusalCode::Denied, "what the asker may not is not had by asking through a node");
    assert!(unavailable(&ask(&peers, "n4").await, "n4").contains("not there"));
}

#[tokio::test]
async fn all_that_ask_at_once_share_one_connection() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    let one = TlsLimits { connections: 1, ..TlsLimits::default() };
    let node = Node::start_with(&authority.of("node/n2"), Fake::named("n2"), one);
    enter(&book, "n2", &node.address);
    for reply in futures::future::join_all((0..200).map(|_| ask(&peers, "n2"))).await {
        assert_eq!(who(&reply).0, "n2");
    }
}

#[tokio::test]
async fn a_node_that_was_away_is_asked_again_and_another_in_its_place_is_not() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    let node = Node::start(&authority.of("node/n2"), Fake::named("n2"));
    let address = node.address.clone();
    enter(&book, "n2", &address);
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2");
    node.stop().await;
    unavailable(&ask(&peers, "n2").await, "n2");
    unavailable(&ask(&peers, "n2").await, "n2");

    let other = Node::start_at(&address, &authority.of("node/n3"), Fake::named("n3"), TlsLimits::default());
    let told = unavailable(&ask(&peers, "n2").await, "n2");
    assert!(told.contains("not trusted") && told.contains("reeve://north/node/n3"), "{told}");
    other.stop().await;

    let back = Node::start_at(&address, &authority.of("node/n2"), Fake::named("n2 again"), TlsLimits::default());
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2 again");
    // It moves, and the old place lives on: whoever has the address book's word follows it.
    let moved = Node::start(&authority.of("node/n2"), Fake::named("n2 elsewhere"));
    enter(&book, "n2", &moved.address);
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2 elsewhere");
    drop(back);
}

#[tokio::test]
async fn those_that_wait_for_a_connection_learn_of_its_failure_together() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    enter(&book, "n2", &listener.local_addr().unwrap().to_string());
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    for round in 1..=3 {
        for reply in futures::future::join_all((0..50).map(|_| ask(&peers, "n2"))).await {
            unavailable(&reply, "n2");
        }
        assert_eq!(attempts.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_waited_for_no_longer_than_the_patience() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    // Accepts, as the kernel does for a stopped process, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    enter(&book, "n2", &listener.local_addr().unwrap().to_string());
    let patience = Duration::from_millis(200);
    let quiet = ask_for(&peers, "n2", AdminRequest::ActorTree(None), patience);
    let reply = tokio::time::timeout(Duration::from_secs(60), quiet).await.unwrap();
    assert!(unavailable(&reply, "n2").contains("within 200 ms"));
    drop(listener);

    let fake = Fake::named("n2");
    let node = Node::start(&authority.of("node/n2"), fake.clone());
    enter(&book, "n2", &node.address);
    let hanging = ask_for(&peers, "n2", AdminRequest::DeadDrop(NEVER), patience);
    let reply = tokio::time::timeout(Duration::from_secs(60), hanging).await.unwrap();
    unavailable(&reply, "n2");
    fake.until(0).await;
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2");
}

#[tokio::test]
async fn who_gives_up_asking_ends_the_work_at_the_other_node() {
    let authority = Authority::new();
    let book = Book::default();
    let peers = peers(&authority, &book);
    let fake = Fake::named("n2");
    let node = Node::start(&authority.of("node/n2"), fake.clone());
    enter(&book, "n2", &node.address);
    tokio::select! {
        reply = ask_for(&peers, "n2", AdminRequest::DeadDrop(NEVER), Duration::from_secs(3600)) => panic!("{reply:?}"),
        () = fake.until(1) => {}
    }
    fake.until(0).await;
}

#[tokio::test]
async fn new_certificates_are_used_with_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let book = Book::default();
    let files = old.of("node/n1");
    let credentials = Credentials::node(files.clone(), "north").unwrap();
    let addresses = Arc::clone(&book);
    let peers = RpcPeers::new(credentials, move |node| addresses.lock().unwrap().get(node).cloned());
    let node = Node::start(&old.of("node/n2"), Fake::named("n2"));
    enter(&book, "n2", &node.address);
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2");
    node.stop().await;

    let node = Node::start(&new.of("node/n2"), Fake::named("n2 of the new authority"));
    enter(&book, "n2", &node.address);
    assert!(unavailable(&ask(&peers, "n2").await, "n2").contains("another authority"));
    new.issue_to(&files, &["reeve://north/node/n1"], Valid::Now, &both());
    replace(&files.ca, &new.pem());
    assert_eq!(who(&ask(&peers, "n2").await).0, "n2 of the new authority");
}
