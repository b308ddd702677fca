//! Overrides from the environment: `REEVE__BUS__PREFETCH=16` is `[bus] prefetch = 16`.
//!
//! Names are lower-cased; a number selects an entry of a list (`REEVE__CLOUD__0__NAME`). A value is TOML if it can be
//! read as such, else a string.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::problem::Problem;

/// What every override begins with.
const PREFIX: &str = "REEVE__";

/// The variables that were laid over the file, by key path.
#[derive(Debug, Default)]
pub(super) struct Overrides(BTreeMap<String, String>);

impl Overrides {
    /// The variable that said this key or something above it.
    pub(super) fn variable(&self, key: &str) -> Option<&str> {
        let mut key = key;
        loop {
            if let Some(name) = self.0.get(key) {
                return Some(name);
            }
            key = key.rfind(['.', '[']).map(|end| &key[..end])?;
        }
    }
}

/// Lays the variables over the table.
pub(super) fn apply(
    root: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Overrides, Vec<Problem>> {
    let mut overrides = Overrides::default();
    let mut problems = Vec::new();
    // In the order of their names, so that the outcome does not depend on the environment's.
    for (name, text) in variables.filter(|(name, _)| name.starts_with(PREFIX)).collect::<BTreeMap<_, _>>() {
        let segments: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        match set(root, &segments, value(&text)) {
            Ok(key) => {
                overrides.0.insert(key, name);
            }
            Err(message) => {
                let place = format!("environment variable {name}");
                problems.push(Problem { place, key: String::new(), message });
            }
        }
    }
    if problems.is_empty() { Ok(overrides) } else { Err(problems) }
}

fn value(text: &str) -> Value {
    let table = toml::from_str::<Table>(&format!("v = {text}")).ok().filter(|table| table.len() == 1);
    table.and_then(|mut table| table.remove("v")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn set(root: &mut Table, segments: &[String], value: Value) -> Result<String, String> {
    let Some((last, above)) = segments.split_last() else { return Err("names no key".into()) };
    if segments.len() < 2 || segments.iter().any(String::is_empty) {
        return Err("expected REEVE__SECTION__KEY".into());
    }
    let (mut table, mut path) = (root, String::new());
    let mut above = above.iter().peekable();
    while let Some(segment) = above.next() {
        path = if path.is_empty() { segment.clone() } else { format!("{path}.{segment}") };
        let inner = table.entry(segment.as_str()).or_insert_with(|| Value::Table(Table::new()));
        table = match inner {
            Value::Table(inner) => inner,
            Value::Array(list) => {
                let length = list.len();
                let index = above.next().and_then(|text| text.parse::<usize>().ok());
                let index = index.ok_or_else(|| format!("{path} is a list: expected REEVE__…__NUMBER__KEY"))?;
                path = format!("{path}[{index}]");
                match list.get_mut(index) {
                    Some(Value::Table(inner)) => inner,
                    Some(_) => return Err(format!("{path} is no section")),
                    None => return Err(format!("{path} is not there: the list has {length} entries")),
                }
            }
            Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
                return Err(format!("{path} is no section"));
            }
        };
    }
    table.insert(last.clone(), value);
    Ok(format!("{path}.{last}"))
}
