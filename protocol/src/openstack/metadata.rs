//! Metadata of a VM: an object, or with older Novas a list of `{"key", "value"}`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use crate::observation::MAX_METADATA;

/// Entries that Reeve itself reads; they are kept before all others.
const OWN_PREFIX: &str = "reeve_";

/// At most [`MAX_METADATA`] entries; what is no text is kept as it is written, what is nested is left out.
pub(super) fn read(field: Field<'_>) -> Result<BTreeMap<String, String>, DecodeError> {
    let Some(raw) = field else { return Ok(BTreeMap::new()) };
    let found = field::kind(raw);
    match found {
        Kind::Null => Ok(BTreeMap::new()),
        Kind::Object | Kind::List => serde_json::from_str::<Entries>(raw.get())
            .map(|entries| entries.0)
            .map_err(|error| field::json_error(Part::Nested, &error)),
        // the emptiness of legacy payloads
        Kind::Text if field::string(raw).is_empty() => Ok(BTreeMap::new()),
        Kind::Bool | Kind::Number | Kind::Text => {
            Err(DecodeError::WrongType { key: "metadata", found, expected: "an object" })
        }
    }
}

#[derive(Default)]
struct Entries(BTreeMap<String, String>);

impl Entries {
    fn keep(&mut self, key: &str, value: &RawValue) {
        let value = match field::kind(value) {
            Kind::Text => field::string(value),
            Kind::Null => String::new(),
            Kind::Bool | Kind::Number => value.get().to_owned(),
            Kind::List | Kind::Object => return,
        };
        let key = field::kept(key);
        if self.0.len() >= MAX_METADATA && !self.0.contains_key(&key) {
            if !key.starts_with(OWN_PREFIX) {
                return;
            }
            let Some(foreign) = self.0.keys().find(|key| !key.starts_with(OWN_PREFIX)).cloned() else { return };
            self.0.remove(&foreign);
        }
        self.0.insert(key, field::kept(&value));
    }
}

/// One entry of the list form.
#[derive(serde::Deserialize)]
struct Pair<'a> {
    #[serde(borrow)]
    key: Field<'a>,
    #[serde(borrow)]
    value: Field<'a>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    entries.keep(&key, value);
                }
                Ok(entries)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(item) = list.next_element::<&RawValue>()? {
                    // An item of another form is no entry, and no reason to lose the others.
                    if let Ok(Pair { key: Some(key), value: Some(value) }) =
                        field::object(Part::Nested, "metadata", item.get())
                        && field::kind(key) == Kind::Text
                    {
                        entries.keep(&field::string(key), value);
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_any(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: &str) -> BTreeMap<String, String> {
        read(Some(&RawValue::from_string(json.to_owned()).unwrap())).unwrap()
    }

    #[test]
    fn an_object_and_a_list_of_pairs_are_the_same() {
        let object = entries(r#"{"a":"1","b":2}"#);
        assert_eq!(object, entries(r#"[{"key":"a","value":"1","id":7},{"value":2,"key":"b"},3,{"key":"c"}]"#));
        assert_eq!(object["b"], "2");
    }

    #[test]
    fn our_own_entries_survive_the_bound() {
        let mut json: Vec<String> = (0..1000).map(|n| format!(r#""k{n}":"v""#)).collect();
        json.push(r#""reeve_policy":"gold""#.to_owned());
        let kept = entries(&format!("{{{}}}", json.join(",")));
        assert_eq!(kept.len(), MAX_METADATA);
        assert_eq!(kept["reeve_policy"], "gold");
    }
}
