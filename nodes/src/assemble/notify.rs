//! The channels by which people are told.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use reeve_drivers::{EmailNotifier, FanOut, Links, LogNotifier, TemplateError, Templates, WebhookNotifier, Wording};
use reeve_ports::{Clock, Notifier};

use super::parts::user_agent;
use crate::config::{Config, LinkSection, NotifySection};

/// The log, and every channel that is configured.
pub(super) fn notifier(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Notifier>> {
    let Some(section) = &config.notify else { return Ok(Arc::new(LogNotifier)) };
    let mut channels: Vec<Arc<dyn Notifier>> = vec![Arc::new(LogNotifier)];
    let wording = Arc::new(wording(section)?);
    if let Some(email) = &section.email {
        let password = email.password.as_ref().map(|password| password.secret().reveal()).transpose();
        let password = password.context("notify.email.password")?;
        let config = email.to_config(password.as_ref());
        let channel = EmailNotifier::new(config, Arc::clone(&wording), Arc::clone(clock)).context("notify.email")?;
        channels.push(Arc::new(channel));
    }
    if let Some(webhook) = &section.webhook {
        let url = webhook.url.secret().reveal().context("notify.webhook.url")?;
        let secret = webhook.secret.secret().reveal().context("notify.webhook.secret")?;
        let webhook = webhook.to_config(&url, &secret).context("notify.webhook")?;
        let channel = WebhookNotifier::new(webhook, wording, Arc::clone(clock), &user_agent(&config.node.id));
        channels.push(Arc::new(channel.context("notify.webhook")?));
    }
    Ok(Arc::new(FanOut::new(channels)))
}

fn wording(section: &NotifySection) -> anyhow::Result<Wording> {
    let templates = match &section.templates {
        None => Templates::built_in(),
        Some(folder) => Templates::read(folder).map_err(|wrong| {
            anyhow!("notify.templates: {}", wrong.iter().map(TemplateError::to_string).collect::<Vec<_>>().join("; "))
        })?,
    };
    let links = match &section.link {
        None => None,
        Some(link) => {
            let secret = link.secret.secret().reveal().context("notify.link.secret")?;
            let key = LinkSection::key(&secret).context("notify.link")?;
            Some(Links { url: link.url.clone(), key })
        }
    };
    Ok(Wording::new(templates, links))
}
