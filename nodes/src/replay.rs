//! Recorded notifications, as `reeve dev --replay` feeds them to the ordinary intake.
//!
//! One JSON document a line: the body as it was on the wire, or a record of it, an object with `raw_body` or `body` (a
//! text or the message itself) or `body_base64`, and perhaps `headers`. A body that makes no sense is fed all the same:
//! what becomes of it is what is to be seen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reeve_ports::Message;
use reeve_protocol::openstack::documents;
use serde_json::Value;

/// The messages of a recording, in order.
#[must_use]
pub fn messages(recording: &[u8]) -> Vec<Message> {
    documents(recording).into_iter().filter(|document| !document.trim_ascii().is_empty()).map(message).collect()
}

fn message(document: &[u8]) -> Message {
    let plain = |body: Vec<u8>| Message {
        body: Bytes::from(body),
        content_type: Some("application/json".into()),
        ..Message::default()
    };
    let Ok(Value::Object(mut record)) = serde_json::from_slice::<Value>(document) else {
        return plain(document.to_vec());
    };
    let encoded = record.get("body_base64").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let body = match (encoded, record.remove("raw_body").or_else(|| record.remove("body"))) {
        (Some(bytes), _) => bytes,
        (None, Some(Value::String(text))) => text.into_bytes(),
        (None, Some(value @ (Value::Object(_) | Value::Array(_)))) => value.to_string().into_bytes(),
        (None, Some(Value::Null | Value::Bool(_) | Value::Number(_)) | None) => return plain(document.to_vec()),
    };
    let mut message = plain(body);
    if let Some(Value::Object(headers)) = record.remove("headers") {
        let text = |(key, value): (String, Value)| Some((key, value.as_str()?.to_owned()));
        message.headers = headers.into_iter().filter_map(text).collect();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_and_recorded_bodies_are_fed_as_they_were() {
        let recording = concat!(
            r#"{"event_type":"a","payload":{}}"#,
            "\n\n",
            r#"{"exchange":"nova","routing_key":"x","raw_body":"{\"event_type\":\"b\"}"}"#,
            "\n",
            r#"{"exchange":"nova","body":{"event_type":"c"},"headers":{"compression":"gzip","n":1}}"#,
            "\n",
            r#"{"body_base64":"AAEC"}"#,
            "\n{not json}\n",
        );
        let bodies: Vec<Message> = messages(recording.as_bytes());
        let text: Vec<&[u8]> = bodies.iter().map(|message| &message.body[..]).collect();
        let expected: [&[u8]; 5] = [
            br#"{"event_type":"a","payload":{}}"#,
            br#"{"event_type":"b"}"#,
            br#"{"event_type":"c"}"#,
            &[0, 1, 2],
            b"{not json}",
        ];
        assert_eq!(text, expected);
        assert_eq!(bodies[2].headers.iter().collect::<Vec<_>>(), [(&"compression".to_owned(), &"gzip".to_owned())]);
    }
}
