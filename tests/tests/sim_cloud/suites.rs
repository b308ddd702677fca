//! The ports' own suites, over HTTP.

use reeve_ports::conformance;

use crate::fixture::Fixture;

#[tokio::test]
async fn the_driver_passes_the_suite_of_clouds() {
    conformance::cloud::run(&Fixture::start().await).await;
}

#[tokio::test]
async fn the_driver_passes_the_suite_of_probes() {
    conformance::probe::run(&Fixture::start().await).await;
}
