//! A service that fails as a whole: left alone, tried again, told once. One server that fails is none.

use std::sync::Arc;
use std::time::Duration;

use reeve_drivers::cloud::openstack::OpenStackCloud;
use reeve_ports::{Cloud, CloudError};
use reeve_tests::sim_cloud::HttpFault;

use crate::fixture::{Fixture, MovedClock, driver_at, driver_config};

const PAST_EVERY_WAIT: Duration = Duration::from_secs(61);

async fn with_clock() -> (Fixture, Arc<OpenStackCloud>, Arc<MovedClock>) {
    let fixture = Fixture::start().await;
    let clock = Arc::new(MovedClock::default());
    let driver = driver_at(driver_config(&fixture.server), Arc::<MovedClock>::clone(&clock));
    (fixture, driver, clock)
}

async fn order(fixture: &Fixture, path: &str, status: u16, times: usize) {
    for _ in 0..times {
        let fault = HttpFault { path: path.to_owned(), status, ..HttpFault::default() };
        fixture.control.http_fault(&fault).await.expect("the simulated cloud takes the fault");
    }
}

#[tokio::test]
async fn a_service_that_is_away_is_left_alone_tried_and_told_once() {
    let (fixture, driver, clock) = with_clock().await;
    let vm = fixture.first();
    driver.show(vm).await.unwrap();
    let mut outages = driver.outages();
    order(&fixture, "/compute/", 502, 7).await;
    for _ in 0..5 {
        driver.list(None).await.unwrap_err();
    }
    assert!(outages.has_changed().unwrap());
    assert_eq!(outages.borrow_and_update().keys().copied().collect::<Vec<_>>(), ["compute"]);
    let before = fixture.server.requests();
    for _ in 0..20 {
        let answer = driver.stop(vm).await;
        assert!(matches!(&answer, Err(CloudError::Unavailable(why)) if why.contains("does not answer")), "{answer:?}");
    }
    assert_eq!(fixture.server.requests(), before, "nobody asks meanwhile");
    assert_eq!(driver.find_snapshots(vm, "none").await, Ok(Vec::new()), "Glance is there");
    for _ in 0..2 {
        clock.pass(PAST_EVERY_WAIT);
        let tried = fixture.server.requests();
        driver.list(None).await.unwrap_err();
        driver.list(None).await.unwrap_err();
        assert_eq!(fixture.server.requests() - tried, 1, "one call tries");
    }
    assert!(!outages.has_changed().unwrap(), "the same outage is told once");
    clock.pass(PAST_EVERY_WAIT);
    driver.list(None).await.unwrap();
    assert!(outages.borrow_and_update().is_empty());
    driver.show(vm).await.unwrap();
}

#[tokio::test]
async fn failures_about_single_servers_never_close_the_way() {
    let (fixture, driver, _) = with_clock().await;
    let vm = fixture.first();
    for status in [400, 403, 404, 409, 413, 500, 503, 504] {
        order(&fixture, "/servers/", status, 8).await;
        for _ in 0..8 {
            driver.show(vm).await.unwrap_err();
        }
        driver.show(vm).await.unwrap_or_else(|error| panic!("{status}: {error}"));
    }
    assert!(driver.outages().borrow().is_empty());
}

#[tokio::test]
async fn an_answer_of_any_kind_between_two_failures_shows_that_the_service_lives() {
    let (fixture, driver, _) = with_clock().await;
    for _ in 0..4 {
        order(&fixture, "/servers/detail", 503, 4).await;
        for _ in 0..4 {
            driver.list(None).await.unwrap_err();
        }
        order(&fixture, "/servers/detail", 403, 1).await;
        driver.list(None).await.unwrap_err();
    }
    driver.list(None).await.unwrap();
}

#[tokio::test]
async fn keystone_that_is_away_is_an_outage_of_its_own() {
    let (fixture, driver, clock) = with_clock().await;
    order(&fixture, "/identity/", 503, 5).await;
    for _ in 0..5 {
        driver.list(None).await.unwrap_err();
        clock.pass(Duration::from_secs(2));
    }
    assert_eq!(driver.outages().borrow().keys().copied().collect::<Vec<_>>(), ["identity"]);
    let before = fixture.server.requests();
    let answer = driver.list(None).await.unwrap_err();
    assert!(answer.to_string().contains("login: identity does not answer"), "{answer}");
    assert_eq!(fixture.server.requests(), before);
    clock.pass(PAST_EVERY_WAIT);
    driver.list(None).await.unwrap();
    assert!(driver.outages().borrow().is_empty());
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_listing_was_not_answered() {
    let (fixture, driver, clock) = with_clock().await;
    driver.list(None).await.unwrap();
    for _ in 0..5 {
        // Longer than anybody waits here, by the driver's clock.
        let kind = reeve_drivers::cloud::sim::FaultKind::Slow(reeve_protocol::Span::from_secs(5));
        let call = reeve_drivers::cloud::sim::CallKind::List;
        let slow = reeve_tests::sim_cloud::OrderFault { call, vm: None, skip: 0, kind };
        fixture.control.fault(&slow).await.unwrap();
        let asking = driver.list(None);
        let given_up = tokio::time::timeout(Duration::from_millis(200), asking);
        let (answer, ()) = futures::future::join(given_up, async { clock.pass(Duration::from_secs(6)) }).await;
        assert!(answer.is_err(), "it was given up");
    }
    assert_eq!(driver.outages().borrow().keys().copied().collect::<Vec<_>>(), ["compute"]);
}
