//! `RabbitBus` against a real broker: the conformance suite of the port, and what only a broker that restarts, blocks,
//! forgets or refuses can show.
//!
//! One broker serves the whole binary, so the tests take turns.

mod dead_letters;
mod fixture;
mod intake;
mod outage;
mod publishing;
mod refusal;
mod several;

mod live_conformance {
    //! The suite that every bus runs.
    reeve_ports::bus_conformance!(
        #[tokio::test]
        crate::fixture::Fixture::new().await
    );
}
