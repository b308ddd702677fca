//! From a letter to words: what a template is told, and the link that a notice carries.

use reeve_lifecycle::effect::{Audience, Notice};
use reeve_ports::notifier::Letter;
use reeve_protocol::Timestamp;
use reeve_protocol::event::Offer;
use reeve_protocol::link::{ExtendLink, LinkKey};
use serde_json::{Value, json};

use super::templates::{Rendered, Templates};

/// The most characters of a foreign text that get into a notice.
const MAX_TEXT: usize = 1000;

/// Where links lead, and what signs them.
pub struct Links {
    /// The page that takes them, without `?token=…`.
    pub url: String,
    /// The key.
    pub key: LinkKey,
}

/// Writes notices.
pub struct Wording {
    templates: Templates,
    links: Option<Links>,
}

/// A notice in words. Its link lets whoever reads it extend: it is for those whom it is sent to.
pub struct Written {
    /// One line.
    pub subject: String,
    /// The text, with the link where the template puts it.
    pub text: String,
    /// The link, if the notice offers an extension.
    pub link: Option<String>,
}

impl Wording {
    /// By these templates; without `links` notices carry none.
    #[must_use]
    pub const fn new(templates: Templates, links: Option<Links>) -> Self {
        Self { templates, links }
    }

    /// Writes a notice. The same letter always gives the same words.
    #[must_use]
    pub fn write(&self, letter: &Letter) -> Written {
        let link = self.link(letter);
        let Rendered { subject, text } = self.templates.render(letter.notice.name(), &says(letter, link.as_deref()));
        Written { subject, text, link }
    }

    /// An offer is made to the owner: operators have their own ways.
    fn link(&self, letter: &Letter) -> Option<String> {
        let (Some(links), Some(offer), Audience::Owner { .. }) = (&self.links, &letter.extendable, &letter.to) else {
            return None;
        };
        let link =
            ExtendLink { vm: letter.vm, ends_at: offer.ends_at, owner: offer.owner.clone(), expires_at: offer.until };
        // Every character of a token stands for itself in a URL.
        Some(format!("{}?token={}", links.url, links.key.token(&link)))
    }
}

/// What a template is told.
fn says(letter: &Letter, link: Option<&str>) -> Value {
    let to = match letter.to {
        Audience::Owner { .. } => "owner",
        Audience::Operators => "operators",
    };
    let mut says = match &letter.notice {
        Notice::LeaseCreated { ends_at } | Notice::Extended { ends_at } => json!({ "ends_at": minute(*ends_at) }),
        Notice::Expiring { ends_at, offer } => {
            let (offer, why) = offer_of(offer);
            json!({ "ends_at": minute(*ends_at), "offer": offer, "why": why, "link": link })
        }
        Notice::Expired { grace_until, offer } => {
            let (offer, why) = offer_of(offer);
            json!({ "grace_until": grace_until.map(minute), "offer": offer, "why": why, "link": link })
        }
        Notice::Ended => json!({}),
        Notice::Revived { new_vm } => json!({ "new_vm": new_vm.to_string() }),
        Notice::Alert { alert, message } => json!({ "alert": alert, "message": plain(message) }),
        Notice::Delivered(delivery) => json!({
            "new_vm": delivery.vm.to_string(),
            "addresses": delivery.addresses.iter().map(|address| plain(address)).collect::<Vec<_>>(),
            "key": delivery.key.as_deref().map(plain),
        }),
        Notice::ProvisionFailed { reason } => json!({ "reason": plain(reason) }),
    };
    says["vm"] = json!({ "id": letter.vm.to_string(), "name": plain(&letter.vm_name) });
    says["to"] = to.into();
    says
}

fn offer_of(offer: &Offer) -> (Value, Value) {
    match offer {
        Offer::Extend { by, left } => (json!({ "by": by.to_string(), "left": left }), Value::Null),
        Offer::No { why } => (Value::Null, plain(why).into()),
    }
}

/// For people: `2026-01-31 12:00 UTC`.
fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    let (day, time) = text.split_once('T').unwrap_or((&text, "00:00"));
    format!("{day} {} UTC", time.get(..5).unwrap_or(time))
}

/// A foreign text cannot begin a new line, and so no new header.
fn plain(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use reeve_ports::conformance::notifier::{letter, notices};
    use reeve_protocol::VmId;
    use uuid::Uuid;

    use super::super::samples::samples;
    use super::*;

    fn key() -> LinkKey {
        LinkKey::new(&[5; 32]).unwrap()
    }

    fn wording() -> Wording {
        let links = Links { url: "https://reeve.example/extend".into(), key: key() };
        Wording::new(Templates::built_in(), Some(links))
    }

    fn vm() -> VmId {
        VmId::new(Uuid::from_u128(7))
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn what_templates_are_tried_with_is_what_notices_say() {
        for (index, notice) in (0..).zip(notices()) {
            let name = notice.name();
            let letter = letter(vm(), index, notice);
            for sample in samples(name) {
                assert_eq!(keys(&sample), keys(&says(&letter, None)), "{name}");
            }
        }
    }

    #[test]
    fn a_name_with_line_breaks_makes_no_second_header() {
        let mut letter = letter(vm(), 0, Notice::Ended);
        letter.vm_name = "web\r\nBcc: eve@example.org\r\n\r\nhello".into();
        let written = wording().write(&letter);
        assert!(written.subject.contains("Bcc:") && !written.subject.contains(['\r', '\n']), "{}", written.subject);
    }

    #[test]
    fn an_offer_carries_a_link_that_gives_the_owners_command() {
        for (index, notice) in (0..).zip(notices()) {
            let letter = letter(vm(), index, notice);
            let written = wording().write(&letter);
            assert_eq!(written.link.is_some(), letter.extendable.is_some(), "{:?}", letter.notice);
            let Some(offer) = &letter.extendable else { continue };
            let link = written.link.unwrap();
            assert!(written.text.contains(&link), "{}", written.text);
            let token = link.strip_prefix("https://reeve.example/extend?token=").unwrap();
            let command = key().command(token, offer.ends_at).unwrap();
            assert_eq!((command.vm, command.by.to_string().as_str()), (vm(), offer.owner.as_str()));
            assert!(key().open(token, offer.until).is_err(), "it ends with the grace");
        }
    }

    #[test]
    fn operators_get_no_link_and_nobody_gets_one_without_a_key() {
        let expiring = notices().into_iter().nth(1).unwrap();
        let to_owner = letter(vm(), 1, expiring);
        let to_operators = Letter { to: Audience::Operators, ..to_owner.clone() };
        assert!(wording().write(&to_operators).link.is_none());
        let without = Wording::new(Templates::built_in(), None).write(&to_owner);
        assert!(without.link.is_none() && !without.text.contains("token"), "{}", without.text);
    }

    #[test]
    fn a_time_is_written_for_people() {
        assert_eq!(minute(Timestamp::from_millis(1_700_000_000_000)), "2023-11-14 22:13 UTC");
    }
}
