//! Listings: pages, cells that do not answer, and a large fleet.

use std::collections::BTreeSet;

use reeve_drivers::SimConfig;
use reeve_drivers::cloud::openstack::OpenStackConfig;
use reeve_lifecycle::effect::Disk;
use reeve_ports::Cloud;
use reeve_ports::cloud::ListPage;
use reeve_protocol::Timestamp;
use reeve_protocol::observation::VmState;
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

#[tokio::test]
async fn what_changed_is_paged_and_has_those_that_went_but_none_that_did_not_change() {
    let fixture = Fixture::start().await;
    let all = fixture.sim().vm_ids();
    let changed = async |since| {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = fixture.driver.changed(since, from).await.unwrap().expect("Nova tells what changed");
            all.extend(page.vms);
            from = page.next;
            if from.is_none() {
                return all;
            }
        }
    };
    let everything = changed(Timestamp::EPOCH).await;
    assert_eq!(everything.iter().map(|facts| facts.vm).collect::<Vec<_>>(), all);
    // Nova's times are whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let since = fixture.driver.show(all[0]).await.unwrap().1.at();
    fixture.sim().owner_delete(all[1]).unwrap();
    fixture.sim().owner_stop(all[3]).unwrap();
    while fixture.sim().vm_ids().len() == all.len() {
        tokio::task::yield_now().await;
    }
    let seen: Vec<_> = changed(since).await.into_iter().map(|facts| (facts.vm, facts.state)).collect();
    assert!(seen.contains(&(all[1], VmState::Deleted)) && seen.iter().any(|(vm, _)| *vm == all[3]), "{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn every_listing_is_read_to_its_end() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let driver = driver(OpenStackConfig { page: 1, ..driver_config(&fixture.server) });
    for _ in 0..3 {
        while fixture.sim().ground_truth(vm).unwrap().facts.task.is_some() {
            tokio::task::yield_now().await;
        }
        driver.snapshot(vm, &Disk::Root, "twice").await.unwrap();
    }
    assert_eq!(driver.find_snapshots(vm, "twice").await.unwrap().len(), 3, "one on each page");
}
