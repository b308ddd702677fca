//! Certificates that change while the node runs.

use std::time::Duration;

use reeve_cluster::rpc::{RpcClient, RpcError, TlsFiles, TlsLimits};
use reeve_protocol::admin::{AdminReply, AdminRequest};

use crate::certificates::{Authority, Node, Valid, both, replace};
use crate::service::{Fake, PATIENCE};

const N1: &[&str] = &["reeve://north/node/n1"];

fn never() -> TlsLimits {
    TlsLimits { refresh: Duration::from_secs(3600), ..TlsLimits::default() }
}

async fn asks(client: &RpcClient) -> Result<AdminReply, RpcError> {
    client.call(AdminRequest::DeadDrop(0), PATIENCE).await
}

fn refused(answer: &Result<AdminReply, RpcError>) -> bool {
    matches!(answer, Err(RpcError::Refused(refusal)) if refusal.message.contains("another authority"))
}

#[tokio::test]
async fn an_authority_is_replaced_step_by_step_under_open_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.of("node/n1");
    let node = Node::start_with(&files, Fake::new(), never());
    let (of_old, of_new) = (old.of("operator/o"), new.of("operator/o"));
    let trusting_both = TlsFiles { ca: old.path("both.pem"), ..of_new.clone() };
    replace(&trusting_both.ca, &(old.pem() + &new.pem()));
    let open = node.client(&of_old).await.unwrap();
    assert_eq!(asks(&open).await, Ok(AdminReply::Done));
    // The node does not trust the new authority yet.
    let early = asks(&node.client(&trusting_both).await.unwrap()).await;
    assert!(refused(&early), "{early:?}");
    assert!(matches!(node.client(&of_new).await, Err(RpcError::Untrusted { .. })));

    replace(&files.ca, &(old.pem() + &new.pem()));
    node.credentials.reload().unwrap();
    let between = node.client(&trusting_both).await.unwrap();
    assert_eq!(asks(&between).await, Ok(AdminReply::Done));

    new.issue_to(&files, N1, Valid::Now, &both());
    node.credentials.reload().unwrap();
    let after = node.client(&of_new).await.unwrap();
    assert_eq!(asks(&after).await, Ok(AdminReply::Done));

    replace(&files.ca, &new.pem());
    node.credentials.reload().unwrap();
    let late = TlsFiles { ca: trusting_both.ca, ..old.of("operator/o") };
    replace(&late.ca, &(old.pem() + &new.pem()));
    let told = asks(&node.client(&late).await.unwrap()).await;
    assert!(refused(&told), "{told:?}");
    for client in [&open, &between, &after] {
        assert_eq!(asks(client).await, Ok(AdminReply::Done), "what was open stays open");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_leaves_the_one_before() {
    let authority = Authority::new();
    let files = authority.of("node/n1");
    let node = Node::start_with(&files, Fake::new(), never());
    let operator = authority.of("operator/o");
    let key = std::fs::read_to_string(&files.key).unwrap();
    for broken in ["", "nonsense", "-----BEGIN NONSENSE-----"] {
        replace(&files.key, broken);
        let error = node.credentials.reload().unwrap_err().to_string();
        assert!(error.contains(files.key.to_str().unwrap()), "{error}");
        assert_eq!(asks(&node.client(&operator).await.unwrap()).await, Ok(AdminReply::Done));
    }
    authority.issue_to(&files, N1, Valid::Past, &both());
    assert!(node.credentials.reload().unwrap_err().to_string().contains("expired"));
    authority.issue_to(&files, &["reeve://north/node/n2"], Valid::Now, &both());
    assert!(node.credentials.reload().unwrap_err().to_string().contains("this node is reeve://north/node/n1"));
    authority.issue_to(&files, N1, Valid::Now, &both());
    // Its key is not there yet.
    replace(&files.key, &key);
    assert!(node.credentials.reload().unwrap_err().to_string().contains("does not belong"));
    std::fs::remove_file(&files.ca).unwrap();
    assert!(node.credentials.reload().is_err());
    replace(&files.ca, &authority.pem());
    authority.issue_to(&files, N1, Valid::Now, &both());
    node.credentials.reload().unwrap();
    assert_eq!(asks(&node.client(&operator).await.unwrap()).await, Ok(AdminReply::Done));
}

#[tokio::test]
async fn a_change_is_noticed_without_being_told() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.of("node/n1");
    let limits = TlsLimits { refresh: Duration::from_millis(20), ..TlsLimits::default() };
    let node = Node::start_with(&files, Fake::new(), limits);
    let open = node.client(&old.of("operator/o")).await.unwrap();
    replace(&files.ca, &new.pem());
    new.issue_to(&files, N1, Valid::Now, &both());
    let operator = new.of("operator/o");
    let noticed = async {
        while node.client(&operator).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noticed).await.unwrap();
    assert_eq!(asks(&node.client(&operator).await.unwrap()).await, Ok(AdminReply::Done));
    assert_eq!(asks(&open).await, Ok(AdminReply::Done));
}
