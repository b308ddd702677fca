//! What `[notify]` needs, and the templates that it names.

use std::path::Path;

use reeve_drivers::notifier::webhook::check_url;
use reeve_drivers::{SettingError, TemplateError, Templates};

use crate::config::notify::{EmailSection, LinkSection, NotifySection, WebhookSection};
use crate::config::problem::Problem;
use crate::config::secret::{Password, Revealed, Secret};

/// A secret that stands in the configuration itself: the others are looked into when files are.
fn inline(password: &Password) -> Option<&Revealed> {
    match password.secret() {
        Secret::Inline(secret) => Some(secret),
        Secret::File(_) | Secret::Credential(_) => None,
    }
}

/// Checks the section by itself.
pub(super) fn check(section: &NotifySection, complain: &mut impl FnMut(&str, String)) {
    if let Some(link) = &section.link {
        check_link(link, complain);
    }
    if let Some(email) = &section.email {
        check_email(email, complain);
    }
    if let Some(webhook) = &section.webhook {
        let (url, secret) = (inline(&webhook.url), inline(&webhook.secret));
        if let Err(SettingError { key, why }) = wrong_webhook(webhook, url, secret) {
            complain(&format!("notify.webhook.{key}"), why);
        }
    }
}

fn check_link(link: &LinkSection, complain: &mut impl FnMut(&str, String)) {
    if let Err(why) = check_url(&link.url) {
        complain("notify.link.url", why);
    } else if link.url.contains(['?', '#']) {
        complain("notify.link.url", "has a ? or #, expected https://HOST/PATH: ?token=… is added to it".into());
    }
    if let Some(secret) = inline(&link.secret)
        && let Err(SettingError { why, .. }) = LinkSection::key(secret)
    {
        complain("notify.link.secret", why);
    }
}

fn check_email(email: &EmailSection, complain: &mut impl FnMut(&str, String)) {
    if let Err(SettingError { key, why }) = email.to_config(None).validate() {
        complain(&format!("notify.email.{key}"), why);
    }
    for (here, has, other, has_other) in [
        ("user", email.user.is_some(), "password", email.password.is_some()),
        ("password", email.password.is_some(), "user", email.user.is_some()),
    ] {
        if has && !has_other {
            complain(
                &format!("notify.email.{here}"),
                format!("is set, but notify.email.{other} is not: expected both or neither"),
            );
        }
    }
}

/// What is wrong with a webhook, as far as its secrets are known.
pub(super) fn wrong_webhook(
    section: &WebhookSection,
    url: Option<&Revealed>,
    secret: Option<&Revealed>,
) -> Result<(), SettingError> {
    // Stands for what is not known, and is right.
    let (any_url, any_secret) = (Revealed::new("https://localhost/"), Revealed::new("x".repeat(32)));
    section.to_config(url.unwrap_or(&any_url), secret.unwrap_or(&any_secret))?.validate()
}

/// Everything that is wrong with the templates of a folder, each at its own file and line.
pub(in crate::config) fn templates(folder: &Path) -> Vec<Problem> {
    let wrong = Templates::read(folder).err().unwrap_or_default();
    wrong.into_iter().map(problem).collect()
}

fn problem(error: TemplateError) -> Problem {
    let file = error.file.display();
    let place = error.line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
    Problem { place, key: "notify.templates".to_owned(), message: error.why }
}
