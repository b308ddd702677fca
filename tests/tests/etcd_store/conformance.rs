//! The suite of every record store.

mod live_store {
    use crate::fixture::Fixture;

    reeve_ports::store_conformance!(
        #[tokio::test]
        Fixture::shared().await
    );
}
