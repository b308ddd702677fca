//! Notifications: the decoder of the protocol reads every one, and noise follows from the seed.

use reeve_protocol::observation::{Phase, VmChange, VmNotification, VmState};
use reeve_protocol::openstack::{About, Notification, decode};

use super::*;

fn listen(fixture: &Fixture) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    fixture.cloud.notify(Arc::new(move |body| into.lock().unwrap().push(body)));
    heard
}

fn decoded(heard: &Mutex<Vec<Vec<u8>>>) -> Vec<Notification> {
    heard.lock().unwrap().iter().map(|body| decode(body).expect("the decoder reads it")).collect()
}

fn about_vm(notification: &Notification) -> &VmNotification {
    match &notification.about {
        About::Vm(about) => about,
        other => panic!("{} is about {other:?}", notification.event_type),
    }
}

/// A whole life, with everything that tells something.
fn live(fixture: &Fixture) -> VmId {
    let cloud = &fixture.cloud;
    let vm = fixture.boot_named("told");
    let and_wait = || {
        fixture.later();
        cloud.settle();
    };
    and_wait();
    block_on(cloud.stop(vm)).unwrap();
    and_wait();
    block_on(cloud.start(vm)).unwrap();
    and_wait();
    block_on(cloud.hard_reboot(vm)).unwrap();
    and_wait();
    block_on(cloud.suspend(vm)).unwrap();
    and_wait();
    block_on(cloud.resume(vm)).unwrap();
    and_wait();
    block_on(cloud.snapshot(vm, &reeve_lifecycle::effect::Disk::Root, "s")).unwrap();
    and_wait();
    block_on(cloud.restore_in_place(vm, "op", Vec::new())).unwrap();
    and_wait();
    cloud.lock_vm(vm).unwrap();
    cloud.unlock_vm(vm).unwrap();
    cloud.owner_soft_delete(vm).unwrap();
    and_wait();
    cloud.owner_restore(vm).unwrap();
    and_wait();
    block_on(cloud.delete_server(vm)).unwrap();
    and_wait();
    vm
}

#[test]
fn every_notification_of_a_whole_life_is_decoded() {
    let fixture = Fixture::new();
    let heard = listen(&fixture);
    let vm = live(&fixture);
    let all = decoded(&heard);
    let types: Vec<_> =
        all.iter().map(|one| one.event_type.as_str()).filter(|kind| *kind != "instance.update").collect();
    let phased = ["create", "power_off", "power_on", "reboot", "suspend", "resume", "snapshot", "rebuild"];
    let mut expected: Vec<_> =
        phased.iter().flat_map(|stem| [format!("instance.{stem}.start"), format!("instance.{stem}.end")]).collect();
    expected.extend(["instance.lock", "instance.unlock"].map(str::to_owned));
    for stem in ["soft_delete", "restore", "delete"] {
        expected.extend([format!("instance.{stem}.start"), format!("instance.{stem}.end")]);
    }
    assert_eq!(types, expected);
    assert!(all.iter().all(|one| about_vm(one).facts.vm == vm && about_vm(one).facts.user == UserId::new("u").ok()));
    assert!(all.windows(2).all(|pair| pair[0].said < pair[1].said), "what is told later was said later");
    let ids: std::collections::BTreeSet<_> = all.iter().map(|one| one.message_id.as_str()).collect();
    assert_eq!(ids.len(), all.len(), "every message has an id of its own");
}

#[test]
fn a_notification_says_what_is_so() {
    let fixture = Fixture::new();
    let heard = listen(&fixture);
    let vm = fixture.boot_named("told");
    fixture.later();
    fixture.cloud.settle();
    let all = decoded(&heard);
    let end = all.iter().find(|one| one.event_type == "instance.create.end").unwrap();
    let about = about_vm(end);
    assert_eq!((about.change, about.phase), (VmChange::Create, Phase::End));
    let truth = fixture.truth(vm).facts;
    assert_eq!((about.facts.state, about.facts.power), (VmState::Active, truth.power));
    assert_eq!(
        (&about.facts.name, &about.facts.host, &about.facts.project),
        (&truth.name, &truth.host, &truth.project)
    );
    let whole_second = |at: Option<Timestamp>| at.map(|at| at.as_millis() / 1_000);
    assert_eq!(whole_second(about.facts.launched_at), whole_second(truth.launched_at));
    assert_eq!(about.facts.locked, Some(false));
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    fixture.later();
    fixture.cloud.settle();
    let all = decoded(&heard);
    let end = all.iter().rfind(|one| one.event_type == "instance.delete.end").unwrap();
    assert_eq!((about_vm(end).change, about_vm(end).facts.state), (VmChange::Delete, VmState::Deleted));
    assert!(about_vm(end).facts.deleted_at.is_some());
    let (_, said) = block_on(fixture.cloud.show(fixture.first())).unwrap();
    assert!(said > end.said, "a look is later than what was told before it");
}

#[test]
fn noise_loses_doubles_and_delays_by_seed() {
    let told = |config: SimConfig| {
        let fixture = Fixture::with(config);
        let heard = listen(&fixture);
        live(&fixture);
        decoded(&heard).into_iter().map(|one| one.message_id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let plain = told(config());
    let lossy = SimConfig { lost_per_mille: 300, ..config() };
    assert!(told(lossy.clone()).len() < plain.len());
    assert_eq!(told(lossy.clone()), told(lossy));
    assert!(told(SimConfig { doubled_per_mille: 300, ..config() }).len() > plain.len());
    let late = told(SimConfig { late_per_mille: 300, ..config() });
    assert_ne!(late, plain);
    let mut sorted = (late, plain);
    sorted.0.sort();
    sorted.1.sort();
    // One may still be held back when the life ends.
    assert!(sorted.1.len() - sorted.0.len() <= 1);
}

#[test]
fn a_vanished_vm_is_told_by_nobody() {
    let fixture = Fixture::new();
    let heard = listen(&fixture);
    let vm = fixture.first();
    fixture.cloud.vanish(vm).unwrap();
    fixture.later();
    fixture.cloud.settle();
    assert!(heard.lock().unwrap().is_empty());
    assert!(!fixture.cloud.vm_ids().contains(&vm));
}
