//! Bodies that are too large, too deep, compressed, or no notification at all.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use reeve_protocol::openstack::{
    About, DecodeError, MAX_BODY_BYTES, MAX_FAULT_BYTES, MAX_INFLATED_BYTES, Part, decode, decode_with,
};
use serde_json::{Value, json};

use crate::sources::{self, bare, data, enveloped, legacy_data, versioned};

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn refused(body: impl AsRef<[u8]>) -> DecodeError {
    decode(body.as_ref()).expect_err("no notification")
}

fn about_vm(value: &Value) -> reeve_protocol::observation::VmNotification {
    match decode(value.to_string().as_bytes()).expect("a notification").about {
        About::Vm(said) => *said,
        About::Service(_) | About::Other { .. } => panic!("not about a VM"),
    }
}

#[test]
fn a_compressed_body_is_read_with_and_without_the_header() {
    let body = sources::one("versioned/instance-create-end.json").body;
    let compressed = zlib(body.as_bytes());
    let plain = decode(body.as_bytes()).unwrap();
    assert_eq!(decode(&compressed).unwrap(), plain);
    assert_eq!(decode_with(&compressed, Some("application/x-gzip")).unwrap(), plain);
    assert_eq!(decode_with(body.as_bytes(), Some("")).unwrap(), plain);
    let error = decode_with(&compressed, Some("application/x-bz2")).unwrap_err();
    assert_eq!(error, DecodeError::UnknownCompression { found: "application/x-bz2".to_owned() });
    assert!(matches!(decode_with(body.as_bytes(), Some("zlib")), Err(DecodeError::NotZlib { .. })));
}

#[test]
fn a_compressed_body_that_is_cut_or_bent_is_refused() {
    let compressed = zlib(sources::one("versioned/instance-create-end.json").body.as_bytes());
    for cut in [2, 3, compressed.len() / 2, compressed.len() - 1] {
        assert_eq!(refused(&compressed[..cut]), DecodeError::NotZlib { found: cut });
    }
    let mut bent = compressed;
    let middle = bent.len() / 2;
    bent[middle] ^= 0xff;
    decode(&bent).unwrap_err();
}

#[test]
fn a_bomb_is_refused_and_what_just_fits_is_not() {
    assert_eq!(refused(zlib(&vec![b' '; MAX_INFLATED_BYTES + 1])), DecodeError::InflatesTooLarge);
    let mut body = bare("x", &json!(null)).to_string().into_bytes();
    body.resize(MAX_INFLATED_BYTES, b' ');
    decode(&zlib(&body)).unwrap();
}

#[test]
fn a_body_over_the_limit_is_not_looked_at() {
    let found = MAX_BODY_BYTES + 1;
    assert_eq!(refused(vec![b' '; found]), DecodeError::TooLarge { found, limit: MAX_BODY_BYTES });
    assert_eq!(refused(b""), DecodeError::Empty);
}

#[test]
fn deep_nesting_is_refused_in_the_body_and_in_the_message() {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(matches!(refused(&deep), DecodeError::TooDeep { part: Part::Body, at: 68 }));
    let hidden = json!({"oslo.version": "2.0", "oslo.message": deep});
    assert!(matches!(refused(hidden.to_string()), DecodeError::TooDeep { part: Part::Message, at: 68 }));
}

#[test]
fn every_cut_of_a_body_is_refused() {
    let body = bare("instance.lock", &versioned("P", "1.9", &data())).to_string();
    for cut in 0..body.len() {
        decode(&body.as_bytes()[..cut]).unwrap_err();
    }
    decode(body.as_bytes()).unwrap();
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    assert_eq!(refused(b"{\"a\": \"\xff\"}"), DecodeError::NotUtf8 { at: 7 });
    assert_eq!(refused(zlib(b"\xff")), DecodeError::NotUtf8 { at: 0 });
}

#[test]
fn a_key_that_is_read_stands_there_once() {
    let twice = r#"{"message_id":"a","message_id":"b","event_type":"x","payload":{}}"#;
    assert_eq!(refused(twice).to_string(), "message has a key twice: message_id");
    let data = r#"{"nova_object.version":"1.0","nova_object.data":{"uuid":"a","uuid":"b"}}"#;
    let body = format!(r#"{{"message_id":"a","event_type":"instance.lock","payload":{data}}}"#);
    assert_eq!(refused(body), DecodeError::Duplicate { part: Part::Payload, key: "uuid".to_owned() });
    decode(r#"{"message_id":"a","event_type":"x","payload":{},"other":1,"other":2}"#.as_bytes()).unwrap();
}

#[test]
fn errors_say_what_was_found_and_what_was_expected() {
    let without = |key: &str| {
        let mut message = bare("instance.lock", &versioned("P", "1.9", &data()));
        message.as_object_mut().expect("an object").remove(key);
        message
    };
    let of = |value: Value| bare("instance.lock", &versioned("P", "1.9", &value));
    let table = [
        (without("message_id"), "message has no message_id"),
        (without("event_type"), "message has no event_type"),
        (without("payload"), "message has no payload"),
        (json!([]), "body is a list, expected an object"),
        (json!("text"), "body is a string, expected an object"),
        (json!({"oslo.version": "3.0", "oslo.message": "{}"}), "envelope version \"3.0\" is not known, expected 2.x"),
        (json!({"oslo.message": "{}"}), "body has no oslo.version"),
        (json!({"oslo.version": "2.0"}), "body has no oslo.message"),
        (json!({"oslo.version": "2.0", "oslo.message": {}}), "oslo.message is an object, expected a string"),
        (enveloped(&enveloped(&json!({}))), "message has no message_id"),
        (bare("instance.lock", &json!(null)), "payload is null, expected an object"),
        (bare("compute.instance.update", &json!([])), "payload is a list, expected an object"),
        (bare("compute.instance.update", &json!({})), "payload has no instance_id"),
        (
            bare("instance.lock", &versioned("P", "one", &data())),
            "nova_object.version holds 3 characters that are not a version such as 1.9",
        ),
        (bare("instance.lock", &json!({"nova_object.version": "1.0"})), "payload has no nova_object.data"),
        (of(json!(null)), "payload has no nova_object.data"),
        (of(json!([])), "nova_object.data is a list, expected an object"),
        (of(json!({})), "payload has no uuid"),
        (of(json!({"uuid": 7})), "uuid is a number, expected a string"),
        (of(json!({"uuid": "secret"})), "uuid holds 6 characters that are not a UUID"),
    ];
    for (value, text) in table {
        assert_eq!(refused(value.to_string()).to_string(), text, "{value}");
    }
    let mut message = bare("x", &json!({}));
    message["timestamp"] = json!("soon");
    assert!(refused(message.to_string()).to_string().starts_with("timestamp holds 4 characters that are not a time"));
}

#[test]
fn numbers_of_any_size_do_no_harm_where_nothing_reads_them() {
    let body = bare("compute.instance.update", &legacy_data()).to_string();
    for number in ["1e999999", "-1e-999999", "123456789012345678901234567890123456789012345678901234567890"] {
        let body = body.replace("\"state\"", &format!("\"memory_mb\":{number},\"code\":{number},\"state\""));
        decode(body.as_bytes()).unwrap();
    }
}

#[test]
fn every_text_that_is_kept_is_short() {
    let long = "ä".repeat(100_000);
    let fault = versioned("ExceptionPayload", "1.1", &json!({"exception": long, "exception_message": long}));
    let mut data = data();
    for key in ["display_name", "state", "task_state", "power_state"] {
        data[key] = json!(long);
    }
    data["fault"] = fault;
    data["metadata"] = json!({&long: long});
    let said = about_vm(&bare("instance.create.error", &versioned(&long, "1.0", &data)));
    let fault = said.fault.unwrap();
    assert!(fault.kind.len() <= 255 && fault.message.len() <= MAX_FAULT_BYTES);
    assert_eq!(said.facts.name.chars().count(), 255);
    assert_eq!(said.facts.task.unwrap().chars().count(), 255);
    let (key, value) = said.facts.metadata.first_key_value().unwrap();
    assert_eq!((key.chars().count(), value.chars().count()), (255, 255));
    for key in ["uuid", "tenant_id", "user_id", "host"] {
        let mut data = sources::data();
        data[key] = json!(long);
        let body = bare("instance.lock", &versioned("P", "1.0", &data)).to_string();
        assert!(refused(body).to_string().starts_with(&format!("{key} holds 100000 characters")), "{key}");
    }
    let long_type = bare(&"e".repeat(256), &json!({})).to_string();
    assert!(refused(long_type).to_string().starts_with("event_type holds 256 characters"));
}

#[test]
fn bytes_that_python_could_not_decode_do_not_lose_the_message() {
    let body = bare("instance.lock", &versioned("P", "1.0", &data())).to_string();
    let body = body.replace("\"state\"", r#""display_name":"a\udcffb","state""#);
    let About::Vm(said) = decode(body.as_bytes()).unwrap().about else { panic!("about a VM") };
    assert!(said.facts.name.starts_with('a') && said.facts.name.ends_with('b') && said.facts.name.contains('\u{fffd}'));
}

#[test]
fn a_flood_of_tokens_is_blotted_out_in_one_pass() {
    let mut data = data();
    data["display_name"] = json!("gAAAAA ".repeat(400_000));
    let said = about_vm(&bare("instance.lock", &versioned("P", "1.0", &data)));
    assert!(said.facts.name.starts_with("[token] [token]") && said.facts.name.chars().count() == 255);
}
