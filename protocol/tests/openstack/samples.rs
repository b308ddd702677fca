//! Every sample, compared with a plain reading of its JSON that shares no code with the decoder.

use reeve_protocol::observation::{VmNotification, VmState};
use reeve_protocol::openstack::{About, Family, decode, describe};
use serde_json::Value;

use crate::sources::{self, TOKEN};

/// What a payload says of a VM, with the words of the payload.
#[derive(Debug, PartialEq)]
struct Plain {
    vm: String,
    name: String,
    project: Option<String>,
    user: Option<String>,
    host: Option<String>,
    state: Option<String>,
    task: Option<String>,
    power: Option<String>,
    locked: Option<bool>,
    times_ms: [Option<i64>; 3],
    fault: Option<(String, String)>,
    metadata: Vec<(String, String)>,
}

/// `null`, `""` and an absent key are nothing.
fn text(object: &Value, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// By counting days, from the digits of the text; all samples are UTC.
fn time(object: &Value, key: &str) -> Option<i64> {
    let text = text(object, key)?;
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().expect("digits");
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (year, month) = (number(0, 4), number(5, 7));
    let months = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: i64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let index = usize::try_from(month - 1).expect("a month");
    let days = years + months[..index].iter().sum::<i64>() + number(8, 10) - 1;
    let seconds = ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19);
    let millis = if text.as_bytes().get(19) == Some(&b'.') { number(20, 23) } else { 0 };
    Some(seconds * 1000 + millis)
}

fn plain(event_type: &str, payload: &Value) -> Plain {
    let versioned = payload.get("nova_object.data");
    let data = versioned.unwrap_or(payload);
    let key = |new: &'static str, old: &'static str| if versioned.is_some() { new } else { old };
    let fault = match versioned {
        Some(data) => data.get("fault").and_then(|fault| fault.get("nova_object.data")).map(|fault| {
            (text(fault, "exception").expect("a class"), text(fault, "exception_message").unwrap_or_default())
        }),
        None if event_type.ends_with(".error") => {
            let class = text(data, "exception").expect("an exception");
            let class = class.rsplit("'class': '").next().and_then(|rest| rest.split('\'').next());
            Some((class.expect("a class").to_owned(), text(data, "message").expect("a message")))
        }
        None => None,
    };
    Plain {
        vm: text(data, key("uuid", "instance_id")).expect("a VM"),
        name: text(data, "display_name").unwrap_or_default(),
        project: text(data, "tenant_id"),
        user: text(data, "user_id"),
        host: text(data, "host"),
        state: text(data, "state"),
        task: text(data, key("task_state", "state_description")),
        power: text(data, "power_state"),
        locked: data.get("locked").and_then(Value::as_bool),
        times_ms: [
            time(data, "created_at"),
            time(data, "launched_at"),
            time(data, "deleted_at").or_else(|| time(data, "terminated_at")),
        ],
        fault,
        metadata: data["metadata"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().expect("a text").to_owned()))
            .collect(),
    }
}

fn decoded(said: &VmNotification, state_word: Option<&str>) -> Plain {
    let facts = &said.facts;
    let millis = |time: Option<reeve_protocol::Timestamp>| time.map(reeve_protocol::Timestamp::as_millis);
    assert_eq!(facts.state, VmState::from_nova(state_word.unwrap_or("unknown")));
    Plain {
        vm: facts.vm.to_string(),
        name: facts.name.clone(),
        project: facts.project.as_ref().map(ToString::to_string),
        user: facts.user.as_ref().map(ToString::to_string),
        host: facts.host.as_ref().map(ToString::to_string),
        state: state_word.map(str::to_owned),
        task: facts.task.clone(),
        power: facts.power.map(|power| format!("{power:?}").to_lowercase()),
        locked: facts.locked,
        times_ms: [millis(facts.created_at), millis(facts.launched_at), millis(facts.deleted_at)],
        fault: said.fault.as_ref().map(|fault| (fault.kind.clone(), fault.message.clone())),
        metadata: facts.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

#[test]
fn every_sample_says_what_its_payload_says() {
    let (mut vms, mut tasks, mut services, mut others) = (0, 0, 0, 0);
    for sample in sources::all() {
        let name = &sample.name;
        let message = sample.message();
        let notification = decode(sample.body.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let event_type = message["event_type"].as_str().unwrap();
        let payload = &message["payload"];
        assert_eq!(notification.event_type, event_type, "{name}");
        assert_eq!(notification.message_id.as_str(), message["message_id"].as_str().unwrap(), "{name}");
        assert_eq!(notification.publisher, message["publisher_id"].as_str().unwrap(), "{name}");
        assert_eq!(Some(notification.said.at().as_millis()), time(&message, "timestamp"), "{name}");
        let family = if payload.get("nova_object.data").is_some() { Family::Versioned } else { Family::Legacy };
        assert_eq!(notification.family(), family, "{name}");
        let data = payload.get("nova_object.data").unwrap_or(payload);
        let first = event_type.split('.').next().unwrap();
        match &notification.about {
            About::Vm(said) if first == "compute_task" => {
                tasks += 1;
                let vm = text(data, "instance_uuid").or_else(|| text(data, "instance_id"));
                assert_eq!(Some(said.facts.vm.to_string()), vm, "{name}");
                assert_eq!(notification.state_word, text(data, "state"), "{name}");
                assert!(said.facts.project.is_some(), "{name}");
                assert!(said.fault.as_ref().unwrap().kind.starts_with("NoValidHost"), "{name}");
            }
            About::Vm(said) => {
                vms += 1;
                assert!(first == "instance" || event_type.starts_with("compute.instance."), "{name}");
                assert_eq!(decoded(said, notification.state_word.as_deref()), plain(event_type, payload), "{name}");
            }
            About::Service(service) => {
                services += 1;
                assert_eq!(first, "service", "{name}");
                assert_eq!(Some(service.host.to_string()), text(data, "host"), "{name}");
                assert_eq!(Some(service.disabled), data["disabled"].as_bool(), "{name}");
                let seen = service.last_seen_up.map(reeve_protocol::Timestamp::as_millis);
                assert_eq!(seen, time(data, "last_seen_up"), "{name}");
            }
            About::Other { vm, .. } => {
                others += 1;
                let first_is_other = !["instance", "compute_task", "service"].contains(&first);
                assert!(first_is_other && !event_type.starts_with("compute.instance."), "{name}");
                assert_eq!(vm.map(|vm| vm.to_string()), text(data, "instance_uuid"), "{name}");
            }
        }
    }
    assert_eq!((vms, tasks, services, others), (642, 4, 5, 98));
}

#[test]
fn every_sample_gives_a_line_with_the_words_of_its_payload() {
    for sample in sources::all() {
        let message = sample.message();
        let event_type = message["event_type"].as_str().unwrap();
        let line = describe("some.json", sample.document.as_bytes());
        assert!(!line.refused(), "{}: {:?}", sample.name, line.error);
        let line = serde_json::to_value(&line).unwrap();
        assert_eq!(line["event_type"], event_type, "{}", sample.name);
        assert_eq!(line["about"] == "other", line["reason"].is_string(), "{}", sample.name);
        if line["about"] == "vm" && !event_type.starts_with("compute_task") {
            let plain = plain(event_type, &message["payload"]);
            let words = [("vm", Some(plain.vm)), ("project", plain.project), ("host", plain.host)];
            for (key, word) in words.into_iter().chain([("state", plain.state), ("task_state", plain.task)]) {
                assert_eq!(line[key].as_str(), word.as_deref(), "{}: {key}", sample.name);
            }
        }
    }
}

#[test]
fn nothing_of_a_live_token_is_kept() {
    let mut seen = 0;
    for sample in sources::all() {
        seen += usize::from(sample.body.contains(TOKEN));
        let notification = format!("{:?}", decode(sample.body.as_bytes()));
        let line = serde_json::to_string(&describe("a", sample.document.as_bytes())).unwrap();
        for text in [&notification, &line] {
            for secret in ["gAAAAA", "live-token", "auth_token", "publicURL", "service_catalog"] {
                assert!(!text.contains(secret), "{} keeps {secret}", sample.name);
            }
        }
    }
    assert!(seen > 20, "the samples hold tokens to be lost: {seen}");
}

#[test]
fn no_error_repeats_a_token_or_any_other_value() {
    for sample in sources::all().iter().filter(|sample| sample.body.contains(TOKEN)) {
        let message = sample.message().to_string();
        for cut in (0..message.len()).step_by(message.len() / 97 + 1) {
            let Some(head) = message.get(..cut) else { continue };
            let text = format!("{:?} {0:?}", decode(head.as_bytes()));
            assert!(!text.contains("gAAAAA"), "{}", sample.name);
        }
        let spoilt = message.replace(TOKEN, &format!("{TOKEN}\" x"));
        let error = decode(spoilt.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("live-token"), "{error}");
        let everywhere = message.replace("\"timestamp\": \"", &format!("\"timestamp\": \"{TOKEN}"));
        let everywhere = everywhere.replace("\"timestamp\":\"", &format!("\"timestamp\":\"{TOKEN}"));
        let error = decode(everywhere.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("live-token"), "{error}");
    }
}
