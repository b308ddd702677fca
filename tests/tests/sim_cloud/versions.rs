//! Microversions: the newest that both know, and a cloud that is too old.

use reeve_ports::{Cloud, CloudError};
use reeve_tests::sim_cloud::{HttpFault, Microversions, SimCloudOptions};

use crate::fixture::{Fixture, options};

fn offering(compute: [&'static str; 2], volume: [&'static str; 2]) -> SimCloudOptions {
    SimCloudOptions { microversions: Microversions { compute, volume }, ..options() }
}

#[tokio::test]
async fn clouds_of_every_age_that_is_spoken_are_understood() {
    // What is not offered is refused by the simulated cloud, as by a real one.
    for most in ["2.79", "2.90", "2.96", "2.104"] {
        let fixture = Fixture::with(offering(["2.1", most], ["3.0", "3.71"])).await;
        let vm = fixture.first();
        fixture.driver.show(vm).await.unwrap_or_else(|error| panic!("{most}: {error}"));
        assert!(!fixture.driver.inventory(vm).await.unwrap().volumes.is_empty(), "{most}");
    }
}

#[tokio::test]
async fn a_cloud_that_is_too_old_is_told_and_what_is_to_be_done_waits() {
    let fixture = Fixture::with(offering(["2.1", "2.53"], ["3.0", "3.27"])).await;
    let answer = fixture.driver.stop(fixture.first()).await.unwrap_err();
    let said = "unavailable: compute of this cloud offers the microversions 2.1 to 2.53, and 2.79 to 2.96 are spoken here \
                (Train and later)";
    assert_eq!(answer.to_string(), said);
}

#[tokio::test]
async fn versions_are_asked_for_once_a_login_and_again_after_it_could_not_be_told() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let fault = HttpFault { path: "/compute/v2.1/".to_owned(), status: 503, ..HttpFault::default() };
    fixture.control.http_fault(&fault).await.unwrap();
    let answer = fixture.driver.stop(vm).await;
    assert!(matches!(answer, Err(CloudError::Unavailable(_))), "nothing was done: {answer:?}");
    fixture.driver.show(vm).await.unwrap();
    let before = fixture.server.requests();
    fixture.driver.show(vm).await.unwrap();
    assert_eq!(fixture.server.requests() - before, 1);
    let fault =
        HttpFault { path: "/volume/v3/".to_owned(), status: 404, body: "<html>".to_owned(), ..HttpFault::default() };
    fixture.control.http_fault(&fault).await.unwrap();
    assert!(!fixture.driver.inventory(vm).await.unwrap().volumes.is_empty(), "the least that is needed is assumed");
}
