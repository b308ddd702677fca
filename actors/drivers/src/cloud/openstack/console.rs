//! What a server writes to its console.

use reeve_ports::CloudError;
use reeve_protocol::VmId;
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Ask};
use super::session::Service;

/// How many lines are asked for.
const MAX_LINES: u32 = 5_000;
/// The most bytes that are given on: the last ones. libvirt keeps 100 KiB.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    output: Option<String>,
}

impl Api {
    pub(super) async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        let body = json!({ "os-getConsoleOutput": { "length": MAX_LINES } });
        let ask = Ask::look(Service::Compute, format!("/servers/{vm}/action"), body);
        let told = self.ask(ask).await.map_err(|error| match error {
            // It is on no host yet.
            CloudError::Refused(why) if why.starts_with("409") => CloudError::Unavailable(why),
            other => other,
        })?;
        Ok(last(told.json::<Output>()?.output.unwrap_or_default(), MAX_BYTES))
    }
}

/// The end of a text, of at most so many bytes.
fn last(text: String, most: usize) -> String {
    let from = (text.len().saturating_sub(most)..=text.len()).find(|at| text.is_char_boundary(*at));
    match from {
        Some(0) | None => text,
        Some(from) => text[from..].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_is_kept_whole_characters() {
        assert_eq!(last("abc".to_owned(), 3), "abc");
        assert_eq!(last("abcd".to_owned(), 3), "bcd");
        assert_eq!(last("aäb".to_owned(), 2), "b");
        assert_eq!(last(String::new(), 2), "");
    }
}
