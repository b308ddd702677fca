//! What a rule says of an event: a text with `{words}` that stand for what the event says.

use serde_json::Value;

use super::type_of;
use crate::command::MAX_NOTICE;
use crate::event::CloudEvent;

/// What is said where the rule says nothing.
pub(super) const DEFAULT: &str = "{type} of {subject}: {data}";

/// The words that any event has.
const WORDS: [&str; 9] = ["type", "category", "subject", "id", "time", "cloud", "project", "policy", "data"];

/// A part of a text.
enum Part<'a> {
    Plain(&'a str),
    Word(&'a str),
}

/// The parts of a text; an unclosed brace is plain.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('{')
            && let Some((word, after)) = inner.split_once('}')
        {
            rest = after;
            return Some(Part::Word(word));
        }
        // A brace that closes nothing is plain, and is passed over.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest[first..].find('{').map_or(rest.len(), |at| at + first);
        let (plain, after) = rest.split_at(end);
        rest = after;
        Some(Part::Plain(plain))
    })
}

/// The first word of a text that no event has.
pub(super) fn unknown_word(text: &str) -> Option<String> {
    let is_known = |word: &str| WORDS.contains(&word) || word.strip_prefix("data.").is_some_and(|key| !key.is_empty());
    parts(text).find_map(|part| match part {
        Part::Word(word) if !is_known(word) => {
            Some(format!("there is no {{{word}}}, expected one of {{{}}} or {{data.KEY}}", WORDS.join("}, {")))
        }
        Part::Word(_) | Part::Plain(_) => None,
    })
}

/// The text with the event's words in it, cut to what a notice may hold. What an event does not say is left out.
pub(super) fn fill(text: &str, event: &CloudEvent) -> String {
    let said: String = parts(text)
        .map(|part| match part {
            Part::Plain(plain) => plain.to_owned(),
            Part::Word(word) => value(word, event),
        })
        .collect();
    let said: String = said.chars().take(MAX_NOTICE).collect();
    // A notice must say something.
    if said.trim().is_empty() { type_of(event).to_owned() } else { said }
}

fn value(word: &str, event: &CloudEvent) -> String {
    match word {
        "type" => type_of(event).to_owned(),
        "category" => event.category.as_str().to_owned(),
        "subject" => event.subject.clone(),
        "id" => event.id.0.clone(),
        "time" => event.time.to_string(),
        "cloud" => event.about.cloud.as_ref().map(ToString::to_string).unwrap_or_default(),
        "project" => event.about.project.as_ref().map(ToString::to_string).unwrap_or_default(),
        "policy" => event.about.policy.clone().unwrap_or_default(),
        "data" => fields(&event.data),
        _ => word.strip_prefix("data.").and_then(|key| event.data.get(key)).map(plain).unwrap_or_default(),
    }
}

fn fields(data: &Value) -> String {
    let Some(fields) = data.as_object() else { return plain(data) };
    fields.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}
