//! Single messages whose meaning was written down by hand.

use reeve_protocol::observation::{Phase, PowerState, VmChange, VmNotification, VmState};
use reeve_protocol::openstack::{About, DecodeError, Format, Notification, decode};
use serde_json::{Value, json};

use crate::sources::{self, bare, data, enveloped, legacy_data, versioned};

fn read(value: &Value) -> Notification {
    decode(value.to_string().as_bytes()).expect("a notification")
}

fn refused(value: &Value) -> DecodeError {
    decode(value.to_string().as_bytes()).expect_err("no notification")
}

fn vm(notification: Notification) -> VmNotification {
    match notification.about {
        About::Vm(said) => *said,
        About::Service(_) | About::Other { .. } => panic!("not about a VM: {notification:?}"),
    }
}

fn with(mut data: Value, key: &str, value: Value) -> Value {
    data[key] = value;
    data
}

#[test]
fn a_finished_creation_is_read_whole() {
    let notification = decode(sources::one("versioned/instance-create-end.json").body.as_bytes()).unwrap();
    let object = "InstanceCreatePayload".to_owned();
    assert_eq!(notification.format, Format::Versioned { major: 1, minor: 13, object });
    let said = vm(notification);
    assert_eq!((said.change, said.phase), (VmChange::Create, Phase::End));
    assert_eq!(said.facts.vm.to_string(), "178b0921-8f85-4257-88b6-2e743b5a975c");
    assert_eq!(said.facts.name, "some-server");
    assert_eq!(said.facts.host.unwrap().as_str(), "compute");
    assert_eq!(said.facts.power, Some(PowerState::Running));
    assert_eq!(said.facts.locked, Some(false));
    assert_eq!(said.facts.launched_at.unwrap().to_string(), "2012-10-29T13:42:11.000Z");
    assert_eq!(said.fault, None);
}

#[test]
fn a_boot_that_finds_no_host_is_a_failed_creation_in_both_families() {
    let versioned = decode(sources::one("versioned/compute_task-build_instances-error.json").body.as_bytes()).unwrap();
    let said = vm(versioned);
    assert_eq!((said.change, said.phase, said.facts.state), (VmChange::Create, Phase::Error, VmState::Error));
    assert_eq!(said.fault.unwrap().message, "No valid host was found. There are not enough hosts available.");
    assert_eq!(said.facts.project.unwrap().as_str(), "6f70656e737461636b20342065766572");

    let reason =
        "{'kwargs': {'reason': '', 'code': 500}, 'message': 'No valid host was found. ', 'class': 'NoValidHost'}";
    let payload = json!({"instance_id": "0ad2505e-e99d-46e4-a9bb-b5f66cf6fbb1", "state": "error", "reason": reason,
        "request_spec": {}, "instance_properties": {"project_id": "p", "user_id": "u"}});
    let said = vm(read(&bare("compute_task.build_instances", &payload)));
    assert_eq!((said.change, said.phase, said.facts.state), (VmChange::Create, Phase::Error, VmState::Error));
    assert_eq!(said.fault.unwrap().kind, "NoValidHost");
    assert_eq!((said.facts.project.unwrap().as_str(), said.facts.user.unwrap().as_str()), ("p", "u"));
}

#[test]
fn a_vm_that_never_had_a_host_is_deleted_without_one() {
    let said = vm(decode(sources::one("versioned/instance-delete-end_not_scheduled.json").body.as_bytes()).unwrap());
    assert_eq!((said.change, said.phase, said.facts.host), (VmChange::Delete, Phase::End, None));
    assert_eq!(said.facts.state, VmState::Deleted);
    assert!(said.facts.deleted_at.is_some());
}

#[test]
fn one_legacy_payload_writes_time_in_two_ways() {
    let said = vm(decode(sources::one("legacy/compute.instance.create.end.json").body.as_bytes()).unwrap());
    assert_eq!(said.facts.created_at, said.facts.launched_at);
    assert_eq!(said.facts.created_at.unwrap().to_string(), "2012-10-29T13:42:11.000Z");
    assert_eq!((said.facts.deleted_at, said.facts.task, said.facts.power), (None, None, None));
    assert_eq!(said.fault, None, "a message that says Success is no fault");
}

#[test]
fn a_state_that_is_not_known_keeps_its_word() {
    let notification = read(&bare("instance.update", &versioned("X", "2.7", &with(data(), "state", json!("melting")))));
    assert_eq!(notification.state_word.as_deref(), Some("melting"));
    assert_eq!(vm(notification).facts.state, VmState::Unknown);
}

#[test]
fn a_minor_version_is_never_refused_and_a_major_is() {
    for version in ["1.0", "1.9", "1.4000"] {
        read(&bare("instance.reboot.end", &versioned("InstanceActionPayload", version, &data())));
    }
    for event_type in ["instance.update", "instance.exists"] {
        read(&bare(event_type, &versioned("AnyName", "2.0", &data())));
        read(&bare(event_type, &versioned("AnyName", "1.3", &data())));
    }
    let object = "InstanceActionPayload".to_owned();
    assert_eq!(
        refused(&bare("instance.reboot.end", &versioned(&object, "2.0", &data()))),
        DecodeError::UnknownMajor { object, found: 2, supported: "1" }
    );
    let update = refused(&bare("instance.update", &versioned("InstanceUpdatePayload", "3.0", &data())));
    assert_eq!(update.to_string(), "InstanceUpdatePayload has major version 3, expected 1 or 2");
    let ignored = read(&bare("aggregate.create.end", &versioned("AggregatePayload", "9.0", &json!({}))));
    assert!(matches!(ignored.about, About::Other { .. }), "what is not used cannot be misread");
}

#[test]
fn the_event_type_decides_and_not_the_name_of_the_object() {
    let payload = versioned("ServiceStatusPayload", "1.1", &data());
    assert_eq!(vm(read(&bare("instance.pause.start", &payload))).change, VmChange::Operation);
    let service = versioned("InstanceActionPayload", "1.1", &json!({"host": "h", "binary": "nova-compute"}));
    let About::Service(facts) = read(&bare("service.update", &service)).about else { panic!("about a service") };
    assert!(!facts.disabled && !facts.forced_down && facts.last_seen_up.is_none());
}

#[test]
fn a_function_that_failed_may_have_any_name_and_any_payload() {
    let payloads =
        [json!({"exception": "ValueError()", "args": {"context": null}}), json!(null), json!([1]), json!("")];
    for event_type in ["attach_volume", "service.x", "aggregate", "compute_task.x", "x"] {
        for payload in &payloads {
            let notification = read(&bare(event_type, payload));
            assert!(matches!(notification.about, About::Other { vm: None, .. }), "{event_type} {payload}");
        }
    }
}

#[test]
fn what_names_a_vm_without_telling_of_its_life_says_which() {
    let uuid = "178b0921-8f85-4257-88b6-2e743b5a975c";
    let usage = versioned("VolumeUsagePayload", "1.0", &json!({"instance_uuid": uuid, "reads": 1}));
    for message in [bare("volume.usage", &usage), bare("volume.usage", &json!({"instance_id": uuid}))] {
        let About::Other { reason, vm } = read(&message).about else { panic!("not about a VM's life") };
        assert_eq!(vm.unwrap().to_string(), uuid);
        assert_eq!(reason, "volume.usage does not tell of a VM's life");
    }
}

#[test]
fn emptiness_is_null_or_an_empty_text_or_no_key() {
    for empty in [json!(null), json!("")] {
        let mut payload = legacy_data();
        for key in ["host", "tenant_id", "user_id", "launched_at", "deleted_at", "state_description", "display_name"] {
            payload[key] = empty.clone();
        }
        payload["metadata"] = empty.clone();
        let nothing = vm(read(&bare("compute.instance.update", &payload)));
        assert_eq!(nothing, vm(read(&bare("compute.instance.update", &legacy_data()))));
    }
}

#[test]
fn a_termination_counts_as_a_deletion() {
    let payload = with(legacy_data(), "terminated_at", json!("2026-11-21T22:52:19.573708"));
    let said = vm(read(&bare("compute.instance.delete.end", &payload)));
    assert_eq!(said.facts.deleted_at.unwrap().to_string(), "2026-11-21T22:52:19.573Z");
}

#[test]
fn metadata_of_older_novas_is_a_list() {
    let payload = with(legacy_data(), "metadata", json!([{"key": "reeve_policy", "value": "gold", "id": 1}]));
    assert_eq!(vm(read(&bare("compute.instance.exists", &payload))).facts.metadata["reeve_policy"], "gold");
}

#[test]
fn a_fault_of_a_legacy_error_has_a_class_wherever_it_stands() {
    let exception = json!({"kwargs": {"code": 500}, "class": "NovaException", "message": "no"});
    for exception in [exception, json!("{'kwargs': {}, 'message': 'no', 'class': 'NovaException'}")] {
        let payload = with(legacy_data(), "exception", exception);
        let fault = vm(read(&bare("compute.instance.create.error", &payload))).fault.unwrap();
        assert_eq!((fault.kind.as_str(), fault.message.as_str()), ("NovaException", "no"));
    }
    let payload = with(with(legacy_data(), "message", json!("it broke")), "code", json!(500));
    let fault = vm(read(&bare("compute.instance.resize.error", &payload))).fault.unwrap();
    assert_eq!((fault.kind.as_str(), fault.message.as_str()), ("code 500", "it broke"));
}

#[test]
fn the_order_of_messages_is_that_of_their_times_to_the_microsecond() {
    let at = |time: &str| read(&with(bare("x", &json!({})), "timestamp", json!(time))).said;
    assert!(at("2026-11-21 22:48:09") < at("2026-11-21 22:48:09.000001"));
    assert_eq!(at("2026-11-21 22:48:09.344651"), at("2026-11-21T22:48:09.344651Z"));
    assert_eq!(at("2026-11-21 22:48:09.344651").at_us, 1_795_301_289_344_651);
}

#[test]
fn envelope_and_bare_message_are_the_same() {
    let message = bare("instance.resume.end", &versioned("P", "1.9", &data()));
    assert_eq!(read(&message), read(&enveloped(&message)));
}
