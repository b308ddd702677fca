//! Where the samples are and how a test makes a message of its own.

use std::path::PathBuf;

use serde_json::{Value, json};

/// What stands in the captured runs wherever a live token was.
pub(crate) const TOKEN: &str = "gAAAAAB-this-was-a-live-token-in-the-payload";

/// One message as it was on the wire.
pub(crate) struct Sample {
    /// File and line.
    pub(crate) name: String,
    /// The record that holds it.
    pub(crate) document: String,
    /// The AMQP body.
    pub(crate) body: String,
}

impl Sample {
    /// The message within the envelope.
    pub(crate) fn message(&self) -> Value {
        let envelope: Value = serde_json::from_str(&self.body).expect("a sample is JSON");
        serde_json::from_str(envelope["oslo.message"].as_str().expect("a sample has an envelope"))
            .expect("a message is JSON")
    }
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/nova")
}

/// Every sample of every folder, in a fixed order.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    for kind in ["versioned", "legacy", "captured"] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join(kind))
            .expect("the folder of samples is in the repository")
            .map(|entry| entry.expect("an entry can be read").path())
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a sample is text");
            let lines: Vec<&str> = if kind == "captured" { text.lines().collect() } else { vec![&text] };
            for (number, line) in lines.into_iter().enumerate() {
                let record: Value = serde_json::from_str(line).expect("a record is JSON");
                let body = record.get("body").or(record.get("raw_body")).and_then(Value::as_str);
                samples.push(Sample {
                    name: format!("{}:{}", file.display(), number + 1),
                    document: line.to_owned(),
                    body: body.expect("a record has a body").to_owned(),
                });
            }
        }
    }
    samples
}

/// The one sample of this file.
pub(crate) fn one(file: &str) -> Sample {
    let end = format!("{file}:1");
    all().into_iter().find(|sample| sample.name.ends_with(&end)).expect("the sample is in the repository")
}

/// A body without envelope.
pub(crate) fn bare(event_type: &str, payload: &Value) -> Value {
    json!({
        "message_id": "8a019f9b-6c79-40dc-a3e8-ff7060547448",
        "publisher_id": "nova-compute:host1",
        "event_type": event_type,
        "priority": "INFO",
        "timestamp": "2026-11-21 22:48:09.344651",
        "payload": payload,
    })
}

/// A body in an envelope.
pub(crate) fn enveloped(message: &Value) -> Value {
    json!({"oslo.version": "2.0", "oslo.message": message.to_string()})
}

/// A versioned payload.
pub(crate) fn versioned(object: &str, version: &str, data: &Value) -> Value {
    json!({
        "nova_object.name": object,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": data,
    })
}

/// The least that a versioned payload says of a VM.
pub(crate) fn data() -> Value {
    json!({"uuid": "178b0921-8f85-4257-88b6-2e743b5a975c", "state": "active"})
}

/// The least that a legacy payload says of a VM.
pub(crate) fn legacy_data() -> Value {
    json!({"instance_id": "178b0921-8f85-4257-88b6-2e743b5a975c", "state": "active"})
}
