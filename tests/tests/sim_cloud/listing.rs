//! Listings: pages, cells that do not answer, and a large fleet.

use std::collections::BTreeSet;

use reeve_drivers::SimConfig;
use reeve_drivers::cloud::openstack::OpenStackConfig;
use reeve_ports::Cloud;
use reeve_ports::cloud::ListPage;
use reeve_tests::sim_cloud::SimCloudOptions;

use crate::fixture::{Fixture, config, driver, driver_config, options};

async fn pages(cloud: &dyn Cloud) -> Vec<ListPage> {
    let mut pages: Vec<ListPage> = Vec::new();
    let mut from = None;
    loop {
        let page = cloud.list(from).await.expect("a listing");
        from = page.next.clone();
        pages.push(page);
        if from.is_none() {
            return pages;
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_until_the_last() {
    let fixture = Fixture::start().await;
    let pages = pages(&*fixture.driver).await;
    assert_eq!(pages.iter().map(|page| page.vms.len()).collect::<Vec<_>>(), [2, 2, 1]);
    let listed: Vec<_> = pages.iter().flat_map(|page| &page.vms).map(|facts| facts.vm).collect();
    assert_eq!(listed, fixture.sim().vm_ids());
    assert!(pages.is_sorted_by_key(|page| page.said), "what is said later is said later");
}

#[tokio::test]
async fn a_page_over_a_silent_cell_is_incomplete_and_the_rest_is_listed() {
    let fixture = Fixture::start().await;
    let answering: BTreeSet<_> = {
        fixture.sim().cell_down(1).unwrap();
        let silent: BTreeSet<_> = fixture.sim().unanswered_vms().into_iter().collect();
        assert!(!silent.is_empty(), "the seed puts somebody there");
        fixture.sim().vm_ids().into_iter().filter(|vm| !silent.contains(vm)).collect()
    };
    let pages = pages(&*fixture.driver).await;
    assert!(pages.iter().any(|page| !page.complete));
    let listed: BTreeSet<_> = pages.iter().flat_map(|page| &page.vms).map(|facts| facts.vm).collect();
    assert_eq!(listed, answering);
}

#[tokio::test]
async fn what_is_said_is_told_by_the_clouds_clock_and_never_too_late() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let (_, said) = fixture.driver.show(vm).await.unwrap();
    let (_, by_cloud) = fixture.sim().show(vm).await.unwrap();
    assert!(said <= by_cloud, "{said:?} was asked before {by_cloud:?}");
    assert!(by_cloud.at_us - said.at_us < 60_000_000, "{said:?} is about now, as {by_cloud:?} is");
}

#[tokio::test]
async fn twenty_thousand_are_listed_in_pages_of_a_thousand() {
    let small = SimConfig { vms: 20_000, volumes_per_vm: [0, 0], disk_bytes: [64, 64], ..config() };
    let fixture = Fixture::with(SimCloudOptions { sim: small, ..options() }).await;
    let driver = driver(OpenStackConfig { page: 1_000, ..driver_config(&fixture.server) });
    let pages = pages(&*driver).await;
    assert_eq!(pages.len(), 20);
    let listed: BTreeSet<_> = pages.iter().flat_map(|page| &page.vms).map(|facts| facts.vm).collect();
    assert_eq!(listed.len(), 20_000);
}
