//! Listings to their ends.
//!
//! A service may cut any listing into pages, whatever was asked for: that there is more is told by a link `next` (in
//! `servers_links`, `ports_links` …, or by itself in Glance). The link is not followed: behind a proxy it often leads
//! nowhere. The next page begins after the last of this one, as all four services have it.

use reeve_ports::CloudError;
use serde::de::{DeserializeOwned, Error};
use serde_json::{Map, Value};

use super::api::{Api, Ask};

/// The most pages of a listing: one without an end is no listing.
const MAX_PAGES: usize = 1_000;

/// What is listed.
pub(super) trait Item: DeserializeOwned + Send {
    /// The key of the list in its page.
    const LIST: &'static str;

    /// What the next page begins after.
    fn marker(&self) -> String;
}

impl Api {
    /// All that a listing shows.
    pub(super) async fn every<T: Item>(&self, listing: Ask) -> Result<Vec<T>, CloudError> {
        let mut found = Vec::new();
        self.each_page(listing, |items| found.extend(items)).await?;
        Ok(found)
    }

    /// Takes the pages of a listing one by one.
    pub(super) async fn each_page<T: Item>(
        &self,
        listing: Ask,
        mut take: impl FnMut(Vec<T>) + Send,
    ) -> Result<(), CloudError> {
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(listing.clone(), after.clone());
            let body: Map<String, Value> = self.ask(page).await?.json()?;
            let (items, next) = read(body).map_err(unreadable)?;
            take(items);
            if next.is_none() {
                return Ok(());
            }
            if next == after {
                return Err(CloudError::Unavailable(format!("the listing of {} does not go on", T::LIST)));
            }
            after = next;
        }
        Err(CloudError::Unavailable(format!("more than {MAX_PAGES} pages of {}", T::LIST)))
    }
}

fn unreadable(error: serde_json::Error) -> CloudError {
    CloudError::Unavailable(format!("the answer cannot be read: {error}"))
}

/// The items of a page, and what the next one begins after.
fn read<T: Item>(mut page: Map<String, Value>) -> Result<(Vec<T>, Option<String>), serde_json::Error> {
    let list = page.remove(T::LIST).ok_or_else(|| serde_json::Error::missing_field(T::LIST))?;
    let items: Vec<T> = serde_json::from_value(list)?;
    let links = page.get(&format!("{}_links", T::LIST)).and_then(Value::as_array);
    let is_linked = links.is_some_and(|links| links.iter().any(|link| link["rel"] == "next"));
    let is_more = is_linked || page.get("next").is_some_and(Value::is_string);
    let next = items.last().filter(|_| is_more).map(Item::marker);
    Ok((items, next))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Port {
        id: String,
    }

    impl Item for Port {
        const LIST: &'static str = "ports";

        fn marker(&self) -> String {
            self.id.clone()
        }
    }

    fn next(page: &Value) -> Option<String> {
        read::<Port>(page.as_object().unwrap().clone()).unwrap().1
    }

    #[test]
    fn the_next_page_begins_after_the_last_of_this_one() {
        let ports = json!([{ "id": "a" }, { "id": "b" }]);
        let b = Some("b".to_owned());
        assert_eq!(next(&json!({ "ports": ports })), None);
        assert_eq!(next(&json!({ "ports": ports, "ports_links": [{ "rel": "next", "href": "x" }] })), b);
        assert_eq!(next(&json!({ "ports": ports, "ports_links": [{ "rel": "previous", "href": "x" }] })), None);
        assert_eq!(next(&json!({ "ports": ports, "next": "/v2/images?marker=b" })), b);
        assert_eq!(next(&json!({ "ports": ports, "next": null })), None);
        assert_eq!(next(&json!({ "ports": [], "next": "/v2/images" })), None, "an empty page is the last");
        assert!(read::<Port>(Map::new()).is_err());
    }
}
