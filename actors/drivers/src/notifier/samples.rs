//! What each notice may say, for trying templates: every template is rendered with each of these before it is used.

use serde_json::{Value, json};

/// Everything that a notice of this name may say.
pub(super) fn samples(name: &str) -> Vec<Value> {
    let at = "2026-01-31 12:00 UTC";
    let more: Vec<Value> = match name {
        "lease-created" | "lease-extended" => vec![json!({ "ends_at": at })],
        "lease-expiring" => offers().into_iter().map(|offer| with(&offer, json!({ "ends_at": at }))).collect(),
        "lease-expired" => {
            let until =
                |grace: Value| offers().into_iter().map(move |offer| with(&offer, json!({ "grace_until": grace })));
            until(json!(at)).chain(until(Value::Null)).collect()
        }
        "revived" => vec![json!({ "new_vm": "0d6f5a1e-7d0a-4c54-9a63-0a8f2b3c4d5e" })],
        "alert" => vec![json!({ "alert": "repair_exhausted", "message": "every repair was tried" })],
        "delivered" => {
            let new_vm = "0d6f5a1e-7d0a-4c54-9a63-0a8f2b3c4d5e";
            vec![
                json!({ "new_vm": new_vm, "addresses": ["203.0.113.7", "10.0.0.5"], "key": "ann" }),
                json!({ "new_vm": new_vm, "addresses": [], "key": null }),
            ]
        }
        "provision-failed" => vec![json!({ "reason": "403 quota exceeded" })],
        _ => vec![json!({})],
    };
    let vm = json!({ "id": "178b0921-8f85-4257-88b6-2e743b5a975c", "name": "web-1" });
    let to = |to: &str| json!({ "vm": vm, "to": to });
    more.iter().flat_map(|more| [with(more, to("owner")), with(more, to("operators"))]).collect()
}

fn offers() -> Vec<Value> {
    let offer = |left: u32, link: Value| json!({ "offer": { "by": "30d", "left": left }, "why": null, "link": link });
    vec![
        offer(1, json!("https://reeve.example/extend?token=x")),
        offer(2, Value::Null),
        json!({ "offer": null, "why": "all 3 extensions are used", "link": null }),
    ]
}

fn with(one: &Value, mut other: Value) -> Value {
    let (Value::Object(from), Value::Object(into)) = (one, &mut other) else { return other };
    into.extend(from.clone());
    other
}
