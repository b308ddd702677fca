//! Servers from plans over HTTP: answers that are lost, crashes between two requests, things that others use.

use std::collections::BTreeMap;

use futures::StreamExt;
use reeve_drivers::cloud::openstack::operation_tag;
use reeve_drivers::cloud::sim::{CallKind, FaultKind, MadeKind, catalog};
use reeve_lifecycle::effect::Disk;
use reeve_ports::cloud::{Blueprint, DiskSource, LaunchSpec, OPERATION_KEY, PartState, REVIVED_FROM_KEY};
use reeve_ports::conformance::cloud::CloudFixture;
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::VmId;
use reeve_protocol::provision::Part;
use reeve_tests::sim_cloud::{HttpFault, OrderFault};

use crate::fixture::{Fixture, driver, driver_config};

fn blueprint(fixture: &Fixture, operation: &str) -> Blueprint {
    let metadata = BTreeMap::from([(OPERATION_KEY.to_owned(), operation.to_owned())]);
    Blueprint { operation: operation.to_owned(), plan: fixture.plan(), metadata, user_data: "#!/bin/sh\n".to_owned() }
}

async fn ready(fixture: &Fixture, blueprint: &Blueprint, part: Part) -> String {
    for _ in 0..500 {
        match fixture.driver.find_part(blueprint, part).await {
            Ok(PartState::Ready { id, .. }) => return id,
            // A volume too many is removed once it is made.
            Ok(PartState::Pending) | Err(CloudError::Unavailable(_)) => fixture.wait().await,
            other => panic!("{part:?} is {other:?}"),
        }
    }
    panic!("{part:?} never became ready")
}

async fn make_all(fixture: &Fixture, blueprint: &Blueprint) -> VmId {
    let mut last = String::new();
    for part in blueprint.plan.parts() {
        fixture.driver.make_part(blueprint, part).await.expect("a part is made");
        last = ready(fixture, blueprint, part).await;
    }
    last.parse().expect("the id of the last part, the server")
}

async fn take_back(fixture: &Fixture, operation: &str) {
    for _ in 0..500 {
        if fixture.driver.remove_parts(operation).await.expect("parts are removed") {
            return assert_eq!(fixture.sim().made_by(operation), []);
        }
        fixture.wait().await;
    }
    panic!("{:?} are left", fixture.sim().made())
}

fn count(fixture: &Fixture, operation: &str, kind: MadeKind) -> usize {
    fixture.sim().made_by(operation).iter().filter(|made| made.kind == kind).count()
}

fn lost(path: &str) -> HttpFault {
    let method = "POST".to_owned();
    HttpFault { method, path: path.to_owned(), after_effect: true, ..HttpFault::default() }
}

async fn until_gone(fixture: &Fixture, vm: VmId) {
    while fixture.driver.show(vm).await.is_ok() {
        fixture.wait().await;
    }
}

#[tokio::test]
async fn a_part_whose_answer_is_lost_is_found_and_not_made_again() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    for part in blueprint.plan.parts() {
        let path = match part {
            Part::Firewall => "/security-groups",
            Part::Port => "/ports",
            Part::Address => "/floatingips",
            Part::Volume(_) => "/volumes",
            Part::Server => "/servers",
        };
        fixture.control.http_fault(&lost(path)).await.unwrap();
        let answer = fixture.driver.make_part(&blueprint, part).await;
        assert!(matches!(answer, Err(CloudError::Unknown(_))), "{part:?}: {answer:?}");
        fixture.driver.make_part(&blueprint, part).await.unwrap();
        ready(&fixture, &blueprint, part).await;
    }
    assert_eq!(fixture.sim().made_by("op").len(), 4 + blueprint.plan.volumes.len(), "one of each");
    take_back(&fixture, "op").await;
}

#[tokio::test]
async fn a_group_that_lacks_rules_is_completed() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    let fails = HttpFault { path: "/security-group-rules".to_owned(), status: 503, ..HttpFault::default() };
    fixture.control.http_fault(&fails).await.unwrap();
    fixture.driver.make_part(&blueprint, Part::Firewall).await.unwrap_err();
    assert_eq!(count(&fixture, "op", MadeKind::Firewall), 1);
    assert_eq!(fixture.driver.find_part(&blueprint, Part::Firewall).await, Ok(PartState::Absent));
    fixture.control.http_fault(&lost("/security-group-rules")).await.unwrap();
    fixture.driver.make_part(&blueprint, Part::Firewall).await.unwrap_err();
    fixture.driver.make_part(&blueprint, Part::Firewall).await.unwrap();
    ready(&fixture, &blueprint, Part::Firewall).await;
    let group = fixture.sim().group_views().pop().unwrap();
    assert_eq!(group.rules.len(), 4, "TCP from anywhere is a rule of each family: {group:?}");
}

#[tokio::test]
async fn one_too_many_is_removed_and_the_oldest_stays() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    let tag = operation_tag("op");
    for part in blueprint.plan.parts() {
        fixture.driver.make_part(&blueprint, part).await.unwrap();
        let first = ready(&fixture, &blueprint, part).await;
        fixture.wait().await;
        // What a request makes that is carried out after its caller has given up on it.
        let sim = fixture.sim();
        match part {
            Part::Firewall => drop(sim.create_group(tag.clone(), String::new()).await.unwrap()),
            Part::Port => drop(sim.create_port(tag.clone(), None).await.unwrap()),
            Part::Volume(0) => drop(sim.create_volume(format!("{tag}-0"), 1).await.unwrap()),
            Part::Address | Part::Volume(_) | Part::Server => continue,
        }
        assert_eq!(ready(&fixture, &blueprint, part).await, first, "{part:?}");
    }
    assert_eq!(fixture.sim().made_by("op").len(), 4 + blueprint.plan.volumes.len(), "one of each");
}

#[tokio::test]
async fn a_quota_is_refused_in_the_words_of_each_service() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    for part in blueprint.plan.parts() {
        let status = match part {
            Part::Firewall | Part::Port | Part::Address => "409",
            Part::Volume(_) => "413",
            Part::Server => "403",
        };
        let fault = OrderFault { call: CallKind::MakePart, vm: None, skip: 0, kind: FaultKind::Quota };
        fixture.control.fault(&fault).await.unwrap();
        let answer = fixture.driver.make_part(&blueprint, part).await;
        assert!(matches!(&answer, Err(CloudError::Refused(why)) if why.starts_with(status)), "{part:?}: {answer:?}");
        fixture.driver.make_part(&blueprint, part).await.unwrap();
        ready(&fixture, &blueprint, part).await;
    }
}

#[tokio::test]
async fn what_fails_in_the_making_is_told_and_removed() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    for part in [Part::Firewall, Part::Port] {
        fixture.driver.make_part(&blueprint, part).await.unwrap();
    }
    let fails = OrderFault { call: CallKind::MakePart, vm: None, skip: 0, kind: FaultKind::FailedPart };
    fixture.control.fault(&fails).await.unwrap();
    fixture.driver.make_part(&blueprint, Part::Volume(0)).await.unwrap();
    let found = fixture.driver.find_part(&blueprint, Part::Volume(0)).await.unwrap();
    assert!(matches!(found, PartState::Failed(_)), "{found:?}");
    take_back(&fixture, "op").await;
}

#[tokio::test]
async fn a_server_is_not_deleted_before_its_port_is_noted() {
    let fixture = Fixture::start().await;
    let blueprint = blueprint(&fixture, "op");
    let vm = make_all(&fixture, &blueprint).await;
    let down = HttpFault { method: "PUT".to_owned(), path: "/ports/".to_owned(), status: 500, ..HttpFault::default() };
    fixture.control.http_fault(&down).await.unwrap();
    let answer = fixture.driver.delete_server(vm).await;
    assert!(matches!(answer, Err(CloudError::Unavailable(_))), "{answer:?}");
    assert_eq!(fixture.sim().times_applied(CallKind::DeleteServer, vm), 0);
    assert_eq!(fixture.driver.remove_remains(vm).await, Ok(false), "what a living server has are no remains");
    assert_eq!(count(&fixture, "op", MadeKind::Port), 1);
    fixture.driver.delete_server(vm).await.unwrap();
    until_gone(&fixture, vm).await;
    assert_eq!(fixture.driver.remove_remains(vm).await, Ok(true));
    assert_eq!((count(&fixture, "op", MadeKind::Port), count(&fixture, "op", MadeKind::Firewall)), (0, 0));
}

#[tokio::test]
async fn what_a_server_leaves_that_its_owner_deleted_is_removed_too() {
    let fixture = Fixture::start().await;
    let vm = make_all(&fixture, &blueprint(&fixture, "op")).await;
    fixture.sim().owner_delete(vm).unwrap();
    until_gone(&fixture, vm).await;
    assert_eq!(fixture.driver.remove_remains(vm).await, Ok(true));
    assert_eq!((count(&fixture, "op", MadeKind::Port), count(&fixture, "op", MadeKind::Firewall)), (0, 0));
}

#[tokio::test]
async fn nobody_takes_anothers_port_away_by_metadata() {
    let fixture = Fixture::start().await;
    let forger = fixture.first();
    let vm = make_all(&fixture, &blueprint(&fixture, "op")).await;
    fixture.sim().set_metadata(forger, OPERATION_KEY, "op").unwrap();
    fixture.driver.delete_server(forger).await.unwrap();
    until_gone(&fixture, forger).await;
    assert_eq!(fixture.driver.remove_remains(forger).await, Ok(true));
    let port = fixture.sim().port_views().pop().unwrap();
    assert_eq!((port.server, port.note.as_str()), (Some(vm), ""));
    assert_eq!(count(&fixture, "op", MadeKind::Firewall), 1);
}

#[tokio::test]
async fn images_of_a_launch_that_was_given_up_are_removed() {
    let fixture = Fixture::start().await;
    let like = fixture.first();
    let keys = [(OPERATION_KEY, "op".to_owned()), (REVIVED_FROM_KEY, like.to_string())];
    let content = futures::stream::iter([Ok(bytes::Bytes::from_static(b"root"))]).boxed();
    let spec = LaunchSpec {
        name: "new".to_owned(),
        metadata: keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        like,
        addresses: 1,
        disks: vec![DiskSource { disk: Disk::Root, bytes: 4, content }],
    };
    let refused =
        HttpFault { method: "POST".to_owned(), path: "/servers".to_owned(), status: 403, ..HttpFault::default() };
    fixture.control.http_fault(&refused).await.unwrap();
    fixture.driver.launch(spec).await.unwrap_err();
    let name = format!("{}-root", operation_tag("op"));
    assert_eq!(fixture.driver.find_snapshots(like, &name).await.unwrap().len(), 1, "the image is there");
    assert_eq!((count(&fixture, "op", MadeKind::Port), count(&fixture, "op", MadeKind::Address)), (1, 1));
    take_back(&fixture, "op").await;
    assert_eq!(fixture.driver.find_snapshots(like, &name).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_refusal_of_a_plan_says_what_is_possible() {
    let fixture = Fixture::start().await;
    let cloud = driver(driver_config(&fixture.server));
    let refusal = async |plan| match cloud.check_plan(&plan).await {
        Err(CloudError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut plan = fixture.plan();
    plan.flavor = "m1.large".to_owned();
    assert_eq!(refusal(plan).await, r#"there is no flavor "m1.large"; there are: sim.small"#);
    let mut plan = fixture.plan();
    plan.public_network = Some(catalog::INSIDE.1.to_owned());
    assert!(refusal(plan).await.contains("not external"));
    let mut plan = fixture.plan();
    plan.volumes[1].gib = 0;
    assert_eq!(refusal(plan).await, "volume 1 has 0 GiB, 1 is the least");
    let mut plan = fixture.plan();
    plan.image = catalog::IMAGE.0.to_owned();
    assert_eq!(cloud.check_plan(&plan).await, Ok(()), "an id does as well");
}
