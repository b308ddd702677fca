//! `EtcdCluster` against a real etcd: the conformance suite of the port, and what only several nodes, an etcd that
//! stops, and a cut network can show.
//!
//! One etcd serves every test that does not harm it; each test has a cluster of its own in it.

mod answers;
mod fixture;
mod joining;
mod outage;
mod sharing;
mod threads;

mod live_conformance {
    //! The suite that every coordination runs.
    reeve_ports::coordination_conformance!(
        #[tokio::test]
        crate::fixture::Alone::new().await
    );
}
