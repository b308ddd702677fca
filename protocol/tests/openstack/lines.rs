//! What `reeve decode` reads and prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reeve_protocol::openstack::{describe, documents};
use serde_json::json;

use crate::sources::{self, bare, data, versioned};

#[test]
fn a_line_has_its_keys_in_order_and_null_for_what_is_not_said() {
    let sample = sources::one("versioned/instance-create-error.json");
    let line = serde_json::to_string(&describe("create.json", sample.document.as_bytes())).unwrap();
    let id = sample.message()["message_id"].clone();
    let expected = format!(
        concat!(
            r#"{{"file":"create.json","format":"versioned","event_type":"instance.create.error","message_id":{},"#,
            r#""vm":"178b0921-8f85-4257-88b6-2e743b5a975c","project":"6f70656e737461636b20342065766572","host":null,"#,
            r#""state":"building","about":"vm","phase":"error","change":"create","task_state":null,"#,
            r#""power_state":"pending","name":"some-server","user":"fake","said_at":"2026-11-21T22:52:15.874Z","#,
            r#""created_at":"2012-10-29T13:42:11.000Z","launched_at":null,"deleted_at":null,"#,
            r#""fault":{{"kind":"FlavorDiskTooSmall","message":"The created instance's disk would be too small."}},"#,
            r#""reason":null,"error":null}}"#,
        ),
        id
    );
    assert_eq!(line, expected);
}

#[test]
fn a_refused_document_says_why_and_is_about_nothing() {
    let line = describe("bad.json", b"{\"message_id\": 1}");
    assert!(line.refused());
    let line = serde_json::to_value(&line).unwrap();
    assert_eq!(line["error"], "message_id is a number, expected a string");
    assert_eq!((&line["about"], &line["format"], &line["vm"]), (&json!("other"), &json!(null), &json!(null)));
}

#[test]
fn a_body_is_the_same_bare_recorded_and_in_base64() {
    let body = bare("instance.lock", &versioned("P", "1.9", &data()));
    let text = body.to_string();
    let expected = describe("f", text.as_bytes());
    assert!(!expected.refused());
    let documents = [
        json!({"exchange": "nova", "routing_key": "versioned_notifications.info", "body": text}),
        json!({"exchange": "nova", "properties": {"headers": {}}, "raw_body": text}),
        json!({"body": body}),
        json!({"body_base64": STANDARD.encode(&text)}),
    ];
    for document in documents {
        assert_eq!(describe("f", document.to_string().as_bytes()), expected, "{document}");
    }
}

#[test]
fn a_compressed_record_needs_its_header_to_be_known() {
    let document = json!({"headers": {"compression": "application/x-bz2"}, "body": "x"}).to_string();
    assert!(describe("f", document.as_bytes()).error.unwrap().contains("application/x-bz2"));
    let nested = json!({"properties": {"application_headers": {"compression": "zstd"}}, "raw_body": "x"}).to_string();
    assert!(describe("f", nested.as_bytes()).error.unwrap().contains("zstd"));
    let document = json!({"body_base64": "%%%"}).to_string();
    assert!(describe("f", document.as_bytes()).error.unwrap().starts_with("body_base64 holds 3 characters"));
}

#[test]
fn an_input_is_one_document_or_lines_of_them() {
    assert_eq!(documents(b"{\n \"a\": 1\n}\n").len(), 1, "a printed document");
    assert_eq!(documents(b"{\"a\":1}\n\n{\"b\":2}\r\n").len(), 2, "lines");
    assert_eq!(documents(b"{\"a\":1}\n{\"b\":\n{\"c\":3}\n").len(), 3, "a broken line breaks no other");
    assert_eq!(documents(b"{\n \"a\": {}\n").len(), 1, "a printed document that is cut");
    assert_eq!(documents(b"").len(), 1);
    assert_eq!(documents(&[0x78, 0x9c, b'\n', b'\n']).len(), 1, "a compressed body");
    let captured = std::fs::read(sources::folder().join("captured/libvirt.jsonl")).unwrap();
    assert_eq!(documents(&captured).len(), 104);
}
