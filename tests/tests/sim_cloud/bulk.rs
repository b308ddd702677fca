//! One listing for the probes of all VMs: who shares it, who is looked at alone, and what comes of a listing that fails.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use reeve_drivers::SimConfig;
use reeve_drivers::cloud::openstack::{OpenStackCloud, OpenStackConfig};
use reeve_drivers::cloud::sim::{CallKind, FaultKind};
use reeve_lifecycle::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::{Freshness, GuestProbe};
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{Span, VmId};
use reeve_tests::sim_cloud::{HttpFault, OrderFault, SimCloudOptions};

use crate::fixture::{Fixture, config, driver, driver_config, options};

const LONG: Duration = Duration::from_secs(60);
/// Anything that was seen in a test.
const AGED: Freshness = Freshness::Within(Duration::from_secs(3_600));

async fn ask(driver: &OpenStackCloud, vm: VmId, freshness: Freshness) -> ProbeVerdict {
    driver.probe(vm, None, ProbeKind::Cloud, freshness, LONG).await
}

async fn ask_all(fixture: &Fixture, freshness: Freshness) -> Vec<(VmId, ProbeVerdict)> {
    let all = fixture.sim().vm_ids().into_iter();
    join_all(all.map(async |vm| (vm, ask(&fixture.driver, vm, freshness).await))).await
}

/// How many pages and how many single servers the cloud was asked for.
fn calls(fixture: &Fixture) -> (usize, usize) {
    let audit = fixture.sim().audit();
    let of = |kind: CallKind| audit.iter().filter(|entry| entry.call == kind).count();
    (of(CallKind::List), of(CallKind::Show))
}

fn is_unclear(verdict: &ProbeVerdict) -> bool {
    matches!(verdict, ProbeVerdict::Inconclusive { .. })
}

fn is_down(verdict: &ProbeVerdict) -> bool {
    matches!(verdict, ProbeVerdict::Down { .. })
}

async fn until_power(fixture: &Fixture, vm: VmId, power: PowerState) {
    let wanted = if power == PowerState::Running { VmState::Active } else { VmState::Stopped };
    for _ in 0..1_000 {
        let facts = fixture.sim().ground_truth(vm).expect("the VM is there").facts;
        if (facts.state, facts.power, facts.task) == (wanted, Some(power), None) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{vm} does not become {power:?}");
}

#[tokio::test]
async fn all_probes_share_one_listing() {
    let fixture = Fixture::start().await;
    for _ in 0..3 {
        let rounds = join_all((0..20).map(|_| ask_all(&fixture, AGED))).await;
        assert!(rounds.iter().flatten().all(|(_, verdict)| *verdict == ProbeVerdict::Up), "{rounds:?}");
        assert_eq!(calls(&fixture), (3, 0), "five servers in pages of two, once");
    }
}

#[tokio::test]
async fn a_fleet_that_is_well_is_listed_once_an_interval() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let many = SimConfig { vms: 3_000, volumes_per_vm: [0, 0], disk_bytes: [64, 64], ..config() };
    let mut fixture = Fixture::with(SimCloudOptions { sim: many, ..options() }).await;
    fixture.driver = driver(driver_config(&fixture.server));
    let began = tokio::time::Instant::now();
    let pollers = fixture.sim().vm_ids().into_iter().enumerate().map(async |(number, vm)| {
        tokio::time::sleep(INTERVAL.mul_f64(number as f64 / 3_000.0)).await;
        for _ in 0..3 {
            let verdict = ask(&fixture.driver, vm, Freshness::Within(INTERVAL)).await;
            assert_eq!(verdict, ProbeVerdict::Up, "{vm}");
            tokio::time::sleep(INTERVAL.mul_f64(0.9 + 0.2 * (number % 100) as f64 / 100.0)).await;
        }
    });
    join_all(pollers).await;
    // What was seen is too old after an interval and no sooner, so this holds on a machine of any speed.
    let listings = began.elapsed().as_millis() / INTERVAL.as_millis() + 1;
    let (pages, looks) = calls(&fixture);
    assert!(pages as u128 <= 3 * listings && looks == 0, "{pages} pages and {looks} looks in {listings} intervals");
}

#[tokio::test]
async fn who_is_not_up_in_the_view_is_looked_at_by_itself() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    fixture.sim().owner_stop(vm).unwrap();
    until_power(&fixture, vm, PowerState::Shutdown).await;
    assert!(is_down(&ask(&fixture.driver, vm, AGED).await), "seen by a listing that began after it was asked");
    assert_eq!(calls(&fixture), (3, 0));
    assert!(is_down(&ask(&fixture.driver, vm, AGED).await));
    assert_eq!(calls(&fixture), (3, 1));
    fixture.sim().owner_start(vm).unwrap();
    until_power(&fixture, vm, PowerState::Running).await;
    assert_eq!(ask(&fixture.driver, vm, AGED).await, ProbeVerdict::Up, "what was seen before makes no false alarm");
    let stranger = VmId::new(uuid::Uuid::from_u128(1));
    assert!(is_unclear(&ask(&fixture.driver, stranger, AGED).await));
    assert_eq!(calls(&fixture).0, 3);
}

#[tokio::test]
async fn who_asks_for_now_is_told_what_is_so_now() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    assert_eq!(ask(&fixture.driver, vm, AGED).await, ProbeVerdict::Up);
    fixture.sim().owner_stop(vm).unwrap();
    until_power(&fixture, vm, PowerState::Shutdown).await;
    assert_eq!(ask(&fixture.driver, vm, AGED).await, ProbeVerdict::Up, "seen within the age that is good enough");
    assert!(is_down(&ask(&fixture.driver, vm, Freshness::Now).await));
    assert_eq!(calls(&fixture), (3, 1));
}

#[tokio::test]
async fn a_crowd_that_asks_for_now_shares_a_listing_made_after_it_asked() {
    let many = SimConfig { vms: 200, volumes_per_vm: [0, 0], disk_bytes: [64, 64], ..config() };
    let mut fixture = Fixture::with(SimCloudOptions { sim: many, ..options() }).await;
    fixture.driver = driver(OpenStackConfig { max_concurrent: 8, ..driver_config(&fixture.server) });
    for vm in fixture.sim().vm_ids() {
        fixture.sim().owner_stop(vm).unwrap();
    }
    for vm in fixture.sim().vm_ids() {
        until_power(&fixture, vm, PowerState::Shutdown).await;
    }
    let all = ask_all(&fixture, Freshness::Now).await;
    assert!(all.iter().all(|(_, verdict)| is_down(verdict)), "{all:?}");
    assert_eq!(calls(&fixture), (1, 2), "no more looks than may be made at once");
}

#[tokio::test]
async fn a_listing_that_fails_is_inconclusive_for_all_and_not_begun_again_at_once() {
    let fixture = Fixture::start().await;
    let refused = HttpFault { path: "/servers/detail".to_owned(), status: 403, ..HttpFault::default() };
    fixture.control.http_fault(&refused).await.unwrap();
    let all = ask_all(&fixture, AGED).await;
    assert!(all.iter().all(|(_, verdict)| is_unclear(verdict)), "{all:?}");
    let before = fixture.server.requests();
    let all = ask_all(&fixture, AGED).await;
    assert!(all.iter().all(|(_, verdict)| is_unclear(verdict)), "{all:?}");
    assert_eq!((calls(&fixture), fixture.server.requests() - before), ((0, 0), 0));
    assert_eq!(ask(&fixture.driver, fixture.first(), Freshness::Now).await, ProbeVerdict::Up);
}

#[tokio::test]
async fn a_page_that_is_lost_once_is_asked_for_again() {
    let fixture = Fixture::start().await;
    let lost = HttpFault { path: "/servers/detail".to_owned(), status: 502, ..HttpFault::default() };
    fixture.control.http_fault(&lost).await.unwrap();
    assert_eq!(ask(&fixture.driver, fixture.first(), AGED).await, ProbeVerdict::Up);
    assert_eq!(calls(&fixture), (3, 0));
}

#[tokio::test]
async fn vms_of_a_silent_cell_are_inconclusive_without_a_call_and_the_others_are_up() {
    let fixture = Fixture::start().await;
    fixture.sim().cell_down(1).unwrap();
    let silent = fixture.sim().unanswered_vms();
    assert!(!silent.is_empty(), "the seed puts somebody there");
    for (vm, verdict) in ask_all(&fixture, AGED).await {
        assert_eq!(is_unclear(&verdict), silent.contains(&vm), "{vm}: {verdict:?}");
    }
    let pages = calls(&fixture).0;
    let stranger = VmId::new(uuid::Uuid::from_u128(1));
    assert!(is_unclear(&ask(&fixture.driver, stranger, AGED).await), "it may be in the silent cell");
    assert_eq!(calls(&fixture), (pages, 0));
}

async fn slow_page(fixture: &Fixture, by_ms: u64) {
    let kind = FaultKind::Slow(Span::from_millis(by_ms));
    let fault = OrderFault { call: CallKind::List, vm: None, skip: 0, kind };
    fixture.control.fault(&fault).await.expect("the cloud takes orders");
}

#[tokio::test]
async fn who_gives_up_takes_nothing_from_those_that_wait_with_it() {
    let fixture = Fixture::start().await;
    slow_page(&fixture, 500).await;
    let (vm, driver) = (fixture.first(), Arc::clone(&fixture.driver));
    let short = Duration::from_millis(50);
    let first = driver.probe(vm, None, ProbeKind::Cloud, AGED, short).await;
    assert!(is_unclear(&first), "{first:?}");
    let all = ask_all(&fixture, AGED).await;
    assert!(all.iter().all(|(_, verdict)| *verdict == ProbeVerdict::Up), "{all:?}");
    assert_eq!(calls(&fixture), (3, 0), "the listing went on");
}

#[tokio::test]
async fn a_listing_ends_with_its_driver() {
    let mut fixture = Fixture::start().await;
    slow_page(&fixture, 300).await;
    let short = Duration::from_millis(50);
    let given_up = fixture.driver.probe(fixture.first(), None, ProbeKind::Cloud, AGED, short).await;
    assert!(is_unclear(&given_up), "{given_up:?}");
    fixture.driver = driver(driver_config(&fixture.server));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(calls(&fixture).0 <= 1, "the pages after the one under way are not asked for");
}
