//! What every [`Cloud`] must do that makes servers from plans: part by part, each once, and taken back at any point.
//!
//! [`Cloud`]: crate::cloud::Cloud

use std::collections::BTreeMap;

use reeve_protocol::observation::VmState;
use reeve_protocol::provision::Part;
use reeve_protocol::{Timestamp, VmId};
use uuid::Uuid;

use super::cloud::{CloudFixture, MAX_LOOKS, inventory, until_gone, until_settled};
use crate::cloud::{Blueprint, CloudError, OPERATION_KEY, OWNER_KEY, PartState};

/// Runs this part of the suite alone.
///
/// # Panics
/// When the cloud breaks a rule; the message says which.
pub async fn run(fixture: &dyn CloudFixture) {
    a_plan_is_checked_before_anything_is_made(fixture).await;
    a_plan_is_made_part_by_part(fixture).await;
    what_was_made_is_taken_back_at_any_point(fixture).await;
    what_a_server_leaves_is_removed(fixture).await;
}

fn blueprint(fixture: &dyn CloudFixture) -> Blueprint {
    let operation = format!("provision/{}", Uuid::new_v4());
    let mut plan = fixture.plan();
    plan.metadata.insert(OPERATION_KEY.to_owned(), "forged".to_owned());
    plan.metadata.insert("purpose".to_owned(), "test".to_owned());
    let metadata = [(OPERATION_KEY, operation.as_str()), (OWNER_KEY, "somebody")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata = BTreeMap::from(metadata);
    Blueprint { operation, plan, metadata, user_data: "#cloud-config\nhostname: ü\n".to_owned() }
}

async fn find(fixture: &dyn CloudFixture, blueprint: &Blueprint, part: Part) -> PartState {
    let found = fixture.cloud().find_part(blueprint, part).await;
    found.unwrap_or_else(|why| panic!("{part:?} is looked for: {why}"))
}

async fn make(fixture: &dyn CloudFixture, blueprint: &Blueprint, part: Part) {
    let made = fixture.cloud().make_part(blueprint, part).await;
    made.unwrap_or_else(|why| panic!("{part:?} is made: {why}"));
}

/// The id and the addresses of a part, once it is ready.
async fn ready(fixture: &dyn CloudFixture, blueprint: &Blueprint, part: Part) -> (String, Vec<String>) {
    for _ in 0..MAX_LOOKS {
        match find(fixture, blueprint, part).await {
            PartState::Ready { id, addresses } => return (id, addresses),
            PartState::Absent => panic!("{part:?} was made and is not there"),
            PartState::Failed(why) => panic!("{part:?} failed: {why}"),
            PartState::Pending => fixture.wait().await,
        }
    }
    panic!("{part:?} never became ready")
}

async fn make_all(fixture: &dyn CloudFixture, blueprint: &Blueprint) -> VmId {
    let mut last = String::new();
    for part in blueprint.plan.parts() {
        make(fixture, blueprint, part).await;
        last = ready(fixture, blueprint, part).await.0;
    }
    last.parse().expect("the id of the last part, the server")
}

async fn take_back(fixture: &dyn CloudFixture, blueprint: &Blueprint) {
    let cloud = fixture.cloud();
    let mut looks = 0;
    while !cloud.remove_parts(&blueprint.operation).await.expect("parts are removed") {
        looks += 1;
        assert!(looks < MAX_LOOKS, "parts were removed and are still there");
        fixture.wait().await;
    }
    for part in blueprint.plan.parts() {
        let found = find(fixture, blueprint, part).await;
        let is_gone = match found {
            PartState::Absent => true,
            // What was made once is not made again.
            PartState::Failed(_) => part == Part::Server,
            PartState::Pending | PartState::Ready { .. } => false,
        };
        assert!(is_gone, "{part:?} was removed and is {found:?}");
    }
    assert_eq!(cloud.remove_parts(&blueprint.operation).await, Ok(true), "removing nothing");
}

async fn a_plan_is_checked_before_anything_is_made(fixture: &dyn CloudFixture) {
    let cloud = fixture.cloud();
    let plan = fixture.plan();
    assert_eq!(cloud.check_plan(&plan).await, Ok(()), "a plan of what is there");
    let nothing = "no-such-thing".to_owned();
    let mut wrong = Vec::new();
    let mut with = |change: &dyn Fn(&mut reeve_protocol::provision::ServerPlan)| {
        let mut plan = fixture.plan();
        change(&mut plan);
        wrong.push(plan);
    };
    with(&|plan| plan.image.clone_from(&nothing));
    with(&|plan| plan.flavor.clone_from(&nothing));
    with(&|plan| plan.network.clone_from(&nothing));
    with(&|plan| plan.key = Some(nothing.clone()));
    with(&|plan| plan.zone = Some(nothing.clone()));
    with(&|plan| plan.public_network = Some(nothing.clone()));
    with(&|plan| plan.volumes[0].kind = Some(nothing.clone()));
    for plan in wrong {
        match cloud.check_plan(&plan).await {
            Err(CloudError::Refused(why)) => {
                assert!(why.contains(&nothing), "a refusal says what was asked for: {why}");
            }
            other => panic!("a plan that names what is not there: {other:?} to {plan:?}"),
        }
    }
}

async fn a_plan_is_made_part_by_part(fixture: &dyn CloudFixture) {
    let cloud = fixture.cloud();
    let (blueprint, other) = (blueprint(fixture), blueprint(fixture));
    let mut public = Vec::new();
    for part in blueprint.plan.parts() {
        assert_eq!(find(fixture, &blueprint, part).await, PartState::Absent, "{part:?} before it is made");
        make(fixture, &blueprint, part).await;
        make(fixture, &blueprint, part).await;
        let first = ready(fixture, &blueprint, part).await;
        make(fixture, &blueprint, part).await;
        assert_eq!(ready(fixture, &blueprint, part).await, first, "{part:?} made again is the same");
        assert_eq!(find(fixture, &other, part).await, PartState::Absent, "{part:?} of another operation");
        match part {
            Part::Port => assert!(!first.1.is_empty(), "a port has addresses"),
            Part::Address => {
                assert_eq!(first.1, std::slice::from_ref(&first.0), "an address is an address");
                public = first.1;
            }
            Part::Firewall | Part::Volume(_) | Part::Server => assert_eq!(first.1, Vec::<String>::new(), "{part:?}"),
        }
    }
    let found = cloud.find_launched(&blueprint.operation, Timestamp::EPOCH).await.expect("servers are looked for");
    assert_eq!(found.len(), 1, "one server is made: {found:?}");
    let vm = found[0].vm;
    let facts = until_settled(fixture, vm, VmState::Active).await;
    assert_eq!(facts.name, blueprint.plan.name);
    assert_eq!(facts.metadata.get("purpose").map(String::as_str), Some("test"), "the plan's metadata");
    for (key, value) in &blueprint.metadata {
        assert_eq!(facts.metadata.get(key), Some(value), "the blueprint's metadata win");
    }
    let inventory = inventory(fixture, vm).await;
    assert_eq!(inventory.addresses, public, "the address is the server's");
    assert_eq!(inventory.volumes.len(), blueprint.plan.volumes.len(), "the volumes are the server's");
    assert!(inventory.volumes.iter().all(|volume| volume.own), "and its own: {inventory:?}");
    assert_ne!(cloud.console(vm).await.expect("a running server has a console"), "");
    let nobody = cloud.console(VmId::new(Uuid::new_v4())).await;
    assert!(matches!(nobody, Err(CloudError::NotFound(_))), "the console of no server: {nobody:?}");
    take_back(fixture, &blueprint).await;
    for volume in inventory.volumes {
        assert_eq!(cloud.volume_exists(&volume.id).await, Ok(false), "a volume that was removed");
    }
    for address in public {
        assert_eq!(cloud.address_held(&address).await, Ok(false), "an address that was removed");
    }
}

async fn what_was_made_is_taken_back_at_any_point(fixture: &dyn CloudFixture) {
    let count = fixture.plan().parts().count();
    for made in 0..=count {
        let blueprint = blueprint(fixture);
        for (index, part) in blueprint.plan.parts().take(made).enumerate() {
            make(fixture, &blueprint, part).await;
            // The last one may still be being made.
            if index + 1 < made {
                ready(fixture, &blueprint, part).await;
            }
        }
        take_back(fixture, &blueprint).await;
    }
}

async fn what_a_server_leaves_is_removed(fixture: &dyn CloudFixture) {
    let cloud = fixture.cloud();
    let (gone, stays) = (blueprint(fixture), blueprint(fixture));
    let (vm, other) = (make_all(fixture, &gone).await, make_all(fixture, &stays).await);
    until_settled(fixture, vm, VmState::Active).await;
    cloud.delete_server(vm).await.expect("a server is deleted");
    until_gone(fixture, vm).await;
    let mut looks = 0;
    while !cloud.remove_remains(vm).await.expect("remains are removed") {
        looks += 1;
        assert!(looks < MAX_LOOKS, "remains were removed and are still there");
        fixture.wait().await;
    }
    for part in [Part::Firewall, Part::Port] {
        assert_eq!(find(fixture, &gone, part).await, PartState::Absent, "{part:?} of a server that is gone");
        assert!(matches!(find(fixture, &stays, part).await, PartState::Ready { .. }), "{part:?} of another server");
    }
    assert_eq!(cloud.remove_remains(vm).await, Ok(true), "removing nothing");
    until_settled(fixture, other, VmState::Active).await;
    take_back(fixture, &gone).await;
    take_back(fixture, &stays).await;
}
