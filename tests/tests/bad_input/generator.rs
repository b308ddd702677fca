//! Bad messages by seed: real samples and sound commands, damaged in one of many ways.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reeve_tests::harness::amqp::Parcel;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const DEEP: usize = 100_000;
/// Inflates to more than is ever looked at.
const BOMB: usize = 64 * MIB;
const KINDS: [&str; 21] = [
    "vm.adopt",
    "vm.start",
    "vm.stop",
    "vm.reboot",
    "vm.suspend",
    "vm.resume",
    "vm.delete",
    "vm.revive",
    "vm.maintenance",
    "lease.extend",
    "lease.end",
    "lease.cancel-end",
    "lease.set-policy",
    "lease.set-delegates",
    "lease.exempt",
    "backup.run",
    "backup.verify",
    "backup.restore",
    "backup.delete",
    "health.report",
    "repair.run",
];
/// What is no command, or none of this version.
const NO_KINDS: [&str; 8] =
    ["", "lease", "LEASE.EXTEND", "lease.extend ", "vm.provision", "account.open", "notification", "\u{1f4a3}"];

/// Makes them.
pub(crate) struct Generator {
    rng: ChaCha8Rng,
    samples: Vec<(String, String)>,
    bomb: Bytes,
    /// VMs that the node knows.
    pub(crate) known: Vec<String>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Result<Self> {
        Ok(Self { rng: ChaCha8Rng::seed_from_u64(seed), samples: samples()?, bomb: bomb()?, known: Vec::new() })
    }

    /// A notification, number `n`, that was damaged; a few are sound all the same.
    pub(crate) fn notification(&mut self, n: usize) -> Parcel {
        let (key, sample) = self.samples.choose(&mut self.rng).cloned().expect("there are samples");
        let mut headers = FieldTable::default();
        let body = match n {
            n if n % 500 == 7 => padded(&sample, 5 * MIB),
            n if n % 1_700 == 11 => padded(&sample, 17 * MIB),
            n if n % 250 == 13 => self.bomb.to_vec(),
            _ => self.damaged(sample.as_bytes()),
        };
        if n % 250 == 13 || self.rng.random_ratio(1, 20) {
            let name = ["application/x-gzip", "application/x-bz2", ""].choose(&mut self.rng).expect("three");
            headers.insert("compression".into(), AMQPValue::LongString((*name).into()));
        }
        let properties = BasicProperties::default().with_message_id(format!("n-{n}").into()).with_headers(headers);
        Parcel { exchange: "nova".to_owned(), key, properties, body: body.into() }
    }

    /// A command, number `n`, that was damaged; a few are sound all the same.
    pub(crate) fn command(&mut self, n: usize) -> Parcel {
        let kind = *KINDS.choose(&mut self.rng).expect("there are kinds");
        let body = self.sound_command(kind);
        let mut properties = BasicProperties::default().with_content_type("application/json".into());
        let id = match self.rng.random_range(0..24) {
            0 => None,
            1 => Some(String::new()),
            2 => Some(format!("c-{n}-{}", "x".repeat(240))),
            3 => Some(format!("c-{n}-\u{7}\n")),
            _ => Some(format!("c-{n}")),
        };
        if let Some(id) = id {
            properties = properties.with_message_id(id.into());
        }
        let kind = match self.rng.random_range(0..16) {
            0 => None,
            1 => Some("x".repeat(255)),
            2 => Some((*NO_KINDS.choose(&mut self.rng).expect("some")).to_owned()),
            _ => Some(kind.to_owned()),
        };
        if let Some(kind) = kind {
            properties = properties.with_type(kind.into());
        }
        let body = match n {
            n if n % 500 == 7 => padded(&body.to_string(), 5 * MIB),
            n if n % 1_700 == 11 => padded(&body.to_string(), 17 * MIB),
            n if n % 250 == 13 => self.bomb.to_vec(),
            n if n % 8 == 3 => body.to_string().into_bytes(),
            _ => self.damaged(body.to_string().as_bytes()),
        };
        Parcel { exchange: "reeve.requests".to_owned(), key: "any.key".to_owned(), properties, body: body.into() }
    }

    fn sound_command(&mut self, kind: &str) -> Value {
        let unknown = uuid(&mut self.rng);
        let vm = if self.rng.random_ratio(1, 3) {
            unknown
        } else {
            self.known.choose(&mut self.rng).cloned().expect("known")
        };
        let mut body = json!({ "vm": vm, "by": "operator:fuzz" });
        let more = match kind {
            "lease.extend" => json!({ "for": "1d" }),
            "lease.set-policy" => json!({ "policy": *["default", "none"].choose(&mut self.rng).expect("two") }),
            "lease.set-delegates" => json!({ "delegates": ["alice", "bob"] }),
            "backup.delete" | "backup.verify" => json!({ "backup": uuid(&mut self.rng) }),
            "health.report" => json!({ "healthy": false, "cause": "fuzz" }),
            _ => json!({}),
        };
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        match self.rng.random_range(0..10) {
            0 => body["nonsense"] = json!({ "deep": [1, 2, 3] }),
            1 => body["by"] = json!({ "user": "u".repeat(300), "roles": 7 }),
            2 => body["vm"] = json!("not-a-uuid"),
            _ => {}
        }
        body
    }

    fn damaged(&mut self, sample: &[u8]) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut bytes = sample.to_vec();
        match rng.random_range(0..100) {
            0..25 => {
                for _ in 0..rng.random_range(1..=8) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
            }
            25..45 => bytes.truncate(rng.random_range(0..bytes.len())),
            45..60 => {
                let at = rng.random_range(0..=bytes.len());
                let noise: Vec<u8> = (0..rng.random_range(1..64)).map(|_| rng.random()).collect();
                bytes.splice(at..at, noise);
            }
            60..70 => bytes = twice(&bytes, rng),
            70..72 => bytes = nested(&bytes, rng),
            72..84 => bytes = retyped(&bytes, rng),
            84..90 => {
                let at = rng.random_range(0..bytes.len());
                let wrong: &[u8] = [b"\xff\xfe".as_slice(), b"\xc3", b"\xed\xa0\x80", b"\0"].choose(rng).expect("four");
                bytes.splice(at..=at, wrong.iter().copied());
            }
            90..92 => bytes.clear(),
            92..95 => bytes = (0..rng.random_range(1..512)).map(|_| rng.random()).collect(),
            95..97 => {
                bytes = deflated(&bytes);
                let at = rng.random_range(2..bytes.len());
                bytes[at] ^= 0x55;
            }
            97..99 => bytes = deflated(&bytes),
            _ => {}
        }
        bytes
    }
}

/// Bodies of real notifications with their routing keys.
fn samples() -> Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/nova");
    let mut samples = Vec::new();
    for folder in ["versioned", "legacy", "captured"] {
        let mut files: Vec<_> = std::fs::read_dir(root.join(folder))?.collect::<Result<_, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files {
            let text = std::fs::read_to_string(file.path())?;
            let records: Vec<&str> = if folder == "captured" { text.lines().step_by(3).collect() } else { vec![&text] };
            for record in records {
                let record: Value = serde_json::from_str(record)?;
                let body = record["raw_body"].as_str().or(record["body"].as_str()).context("a sample has a body")?;
                let key = record["routing_key"].as_str().context("a sample has a routing key")?;
                samples.push((key.to_owned(), body.to_owned()));
            }
        }
    }
    Ok(samples)
}

fn bomb() -> Result<Bytes> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..BOMB / MIB {
        encoder.write_all(&[b' '; MIB])?;
    }
    Ok(encoder.finish()?.into())
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory never fails")
}

/// Sound JSON of a size.
fn padded(json: &str, size: usize) -> Vec<u8> {
    let mut bytes = json.as_bytes().to_vec();
    bytes.pop();
    bytes.extend_from_slice(br#","padding":""#);
    bytes.resize(size.max(bytes.len()), b'x');
    bytes.extend_from_slice(br#""}"#);
    bytes
}

/// The first key of the outer or of the inner object, once more with another value.
fn twice(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let inner = r#"\"event_type\": "#;
    if rng.random() && text.contains(inner) {
        return text.replacen(inner, r#"\"event_type\": \"instance.delete.end\", \"event_type\": "#, 1).into_bytes();
    }
    let key = text.split('"').nth(1).unwrap_or("vm").to_owned();
    text.replacen('{', &format!(r#"{{"{key}": "0", "#), 1).into_bytes()
}

fn nested(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (open, close) = *[("[", "]"), (r#"{"a":"#, "}")].choose(rng).expect("two");
    let deep = format!("{}1{}", open.repeat(DEEP), close.repeat(DEEP));
    match rng.random_range(0..3) {
        0 => deep.into_bytes(),
        1 => open.repeat(DEEP).into_bytes(),
        _ => {
            let mut bytes = bytes.to_vec();
            bytes.pop();
            bytes.extend_from_slice(format!(r#","deep":{deep}}}"#).as_bytes());
            bytes
        }
    }
}

/// One value somewhere, in the message within its envelope too, becomes one of another type.
fn retyped(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return bytes.to_vec() };
    let inner = value["oslo.message"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    match inner {
        Some(mut inner) if rng.random_ratio(9, 10) => {
            retype(&mut inner, rng);
            value["oslo.message"] = inner.to_string().into();
        }
        Some(_) | None => retype(&mut value, rng),
    }
    value.to_string().into_bytes()
}

fn retype(value: &mut Value, rng: &mut ChaCha8Rng) {
    let deeper = rng.random_ratio(3, 4);
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = rng.random_range(0..map.len());
            retype(map.values_mut().nth(at).expect("within the length"), rng);
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = rng.random_range(0..list.len());
            retype(&mut list[at], rng);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            let long = "\u{202e}".repeat(2_000);
            let others = [
                json!(null),
                json!(-1),
                json!(1e308),
                json!(""),
                json!(long),
                json!([[]]),
                json!({"x": {}}),
                json!(true),
            ];
            *value = others.choose(rng).expect("eight").clone();
        }
    }
}

fn uuid(rng: &mut ChaCha8Rng) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
