//! How many calls are under way at once, and services that ask to be left alone.

use futures::future::join_all;
use reeve_drivers::cloud::openstack::OpenStackConfig;
use reeve_drivers::cloud::sim::{CallKind, FaultKind};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::Span;
use reeve_tests::sim_cloud::{HttpFault, OrderFault};

use crate::fixture::{Fixture, driver, driver_config};

#[tokio::test]
async fn no_more_calls_are_under_way_than_are_allowed() {
    let fixture = Fixture::start().await;
    let driver = driver(OpenStackConfig { max_concurrent: 3, ..driver_config(&fixture.server) });
    for _ in 0..12 {
        let kind = FaultKind::Slow(Span::from_millis(50));
        fixture.control.fault(&OrderFault { call: CallKind::Show, vm: None, skip: 0, kind }).await.unwrap();
    }
    let all = join_all((0..12).map(|_| driver.show(fixture.first()))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(fixture.server.crowd(), 3);
}

fn asks_for_rest(status: u16, seconds: u64) -> HttpFault {
    HttpFault { path: "/servers/".to_owned(), status, retry_after: Some(seconds), ..HttpFault::default() }
}

#[tokio::test]
async fn who_asks_to_be_left_alone_is_by_all_calls_to_it_and_to_it_alone() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    for status in [413, 429, 503] {
        let driver = driver(driver_config(&fixture.server));
        fixture.control.http_fault(&asks_for_rest(status, 100)).await.unwrap();
        driver.show(vm).await.unwrap_err();
        let before = fixture.server.requests();
        let answer = driver.stop(vm).await;
        assert!(matches!(&answer, Err(CloudError::Unavailable(why)) if why.contains("left alone")), "{answer:?}");
        assert_eq!(fixture.server.requests(), before, "it was not asked");
        assert_eq!(driver.find_snapshots(vm, "none").await, Ok(Vec::new()), "Glance did not ask for it");
    }
}

#[tokio::test]
async fn a_short_rest_is_waited_for() {
    let fixture = Fixture::start().await;
    fixture.control.http_fault(&asks_for_rest(429, 1)).await.unwrap();
    fixture.driver.show(fixture.first()).await.unwrap_err();
    fixture.driver.show(fixture.first()).await.unwrap();
}
