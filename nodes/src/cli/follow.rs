//! Waiting for what a command set going: follows the VM's events until one says how it went.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{BackupId, Span, Timestamp, VmId};

use super::fail::{Code, Failure};
use super::output::{Output, Talk};
use super::session::{Session, unexpected};
use super::table::clean;

/// How often the node is asked for news.
const POLL: Duration = Duration::from_millis(500);
/// Events asked for at once; an event is at most a few KiB.
const BATCH: u32 = 200;

/// Whether, and for how long, a command waits for the end of what it began.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Wait {
    /// Wait until it is done or has failed
    #[arg(long)]
    pub(super) wait: bool,
    /// Wait at most this long, then exit with status 7 [default: for ever]
    #[arg(long, value_name = "DURATION", requires = "wait")]
    pub(super) wait_for: Option<Span>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// This backup, or whichever is made next, is verified.
    Verified(Option<BackupId>),
    /// The VM is put back to a backup.
    Restored,
    /// The backup is deleted.
    Deleted(BackupId),
    /// The VM lives again.
    Revived,
    /// The action of this name is done.
    Action(&'static str),
    /// The VM is destroyed.
    Terminated,
    /// The VM that was asked for is there, or will not be.
    Delivered,
}

/// How it went, for people.
type Outcome = Result<String, String>;

impl Until {
    /// What an event says about it.
    fn judge(self, event: &CloudEvent) -> Option<Outcome> {
        let text = |key: &str| event.data.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let about = |backup: Option<BackupId>| backup.is_none_or(|id| text("backup") == id.to_string());
        let alert = |names: &[&str]| {
            (event.kind == "reeve.alert.raised" && names.contains(&text("alert")))
                .then(|| Err(text("message").to_owned()))
        };
        let kind = event.kind.strip_prefix("reeve.").unwrap_or_default();
        match self {
            Self::Verified(backup) => match kind {
                "backup.verified" if about(backup) => Some(Ok(format!("backup {} is verified", text("backup")))),
                "backup.failed" if about(backup) => Some(Err(text("reason").to_owned())),
                "backup.verify-failed" if about(backup) => Some(Err(text("reason").to_owned())),
                _ => alert(&["backup_damaged"]),
            },
            Self::Restored if kind == "backup.restored" => Some(Ok(format!("restored from backup {}", text("backup")))),
            Self::Restored if kind == "action.failed" && text("action") == "restore" => {
                Some(Err(text("reason").to_owned()))
            }
            Self::Restored => alert(&["action_stuck", "backup_damaged"]),
            Self::Deleted(backup) if kind == "backup.deleted" && about(Some(backup)) => Some(Ok("deleted".into())),
            Self::Deleted(_) => None,
            Self::Revived if kind == "vm.revived" => Some(Ok(format!("lives again as VM {}", text("new_vm")))),
            Self::Revived if kind == "vm.revive-failed" => Some(Err(text("reason").to_owned())),
            Self::Revived => alert(&["revive_stuck", "backup_damaged"]),
            Self::Action(action) if kind == "action.done" && text("action") == action => {
                Some(Ok(format!("{action} done")))
            }
            Self::Action(action) if kind == "action.failed" && text("action") == action => {
                Some(Err(text("reason").to_owned()))
            }
            Self::Action(_) => alert(&["action_stuck"]),
            Self::Terminated if kind == "vm.terminated" => Some(Ok("destroyed, and seen to be gone".into())),
            Self::Terminated => alert(&["ending_stuck"]),
            Self::Delivered => match kind {
                "vm.delivered" => Some(Ok(delivered(&event.data))),
                "vm.provision-failed" | "vm.provision-denied" => Some(Err(text("reason").to_owned())),
                _ => None,
            },
        }
    }
}

fn delivered(data: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let addresses: Vec<String> = data["addresses"].as_array().into_iter().flatten().map(text).collect();
    let at = if addresses.is_empty() { String::new() } else { format!(" at {}", addresses.join(", ")) };
    format!("VM {} is there{at}", text(&data["new_vm"]))
}

/// The past events after a position.
pub(super) async fn events(
    session: &Session,
    since: Timestamp,
    after: Option<u64>,
    subject: Option<String>,
    limit: u32,
) -> Result<Vec<(u64, CloudEvent)>, Failure> {
    let views = match session.ask(AdminRequest::Events { since, after, subject, limit }).await? {
        AdminReply::Events(views) => views,
        other => return Err(unexpected(&other)),
    };
    let read = |text: &str| {
        serde_json::from_str(text).map_err(|error| Failure::new(Code::Failed, "unreadable event").because(error))
    };
    views.iter().map(|view| Ok((view.position, read(&view.json)?))).collect()
}

/// Follows the VM's events from `since` on until one ends the wait.
///
/// The position is what counts and not the time: `since` only bounds the first look.
pub(super) async fn wait(
    session: &Session,
    output: Output,
    vm: VmId,
    since: Timestamp,
    until: Until,
    longest: Option<Span>,
) -> Result<String, Failure> {
    let bar = spinner(output);
    let started = SystemClock.elapsed();
    let mut after = None;
    loop {
        for (position, event) in events(session, since, after, Some(format!("vm/{vm}")), BATCH).await? {
            after = Some(position);
            bar.set_message(clean(event.kind.strip_prefix("reeve.").unwrap_or(&event.kind)));
            if let Some(outcome) = until.judge(&event) {
                bar.finish_and_clear();
                return outcome.map_err(|why| Failure::new(Code::Failed, format!("VM {vm}")).because(why));
            }
        }
        if longest.is_some_and(|longest| SystemClock.elapsed().saturating_sub(started) >= longest.duration()) {
            bar.finish_and_clear();
            let what = format!("VM {vm}: not done within {}", longest.unwrap_or_default());
            return Err(Failure::new(Code::TimedOut, what).because("it goes on; follow it by `reeve event tail`"));
        }
        SystemClock.sleep(POLL).await;
    }
}

/// A spinner on standard error, where a person sees it.
fn spinner(output: Output) -> ProgressBar {
    if output.talk == Talk::Quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}").expect("the template is a constant");
    let bar = ProgressBar::new_spinner().with_style(style).with_message("waiting");
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use reeve_protocol::EventId;
    use reeve_protocol::event::{About, Category};
    use serde_json::json;

    use super::*;

    fn event(kind: &str, data: serde_json::Value) -> CloudEvent {
        CloudEvent {
            specversion: "1.0".into(),
            id: EventId("x".into()),
            source: "/reeve/a/b".into(),
            kind: format!("reeve.{kind}"),
            subject: "vm/x".into(),
            time: Timestamp::EPOCH,
            sequence: 1,
            datacontenttype: "application/json".into(),
            category: Category::default(),
            about: About::default(),
            data,
        }
    }

    #[test]
    fn a_wait_ends_by_its_own_backup_only() {
        let ours: BackupId = "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap();
        let until = Until::Verified(Some(ours));
        assert_eq!(until.judge(&event("backup.verified", json!({"backup": "other"}))), None);
        assert!(until.judge(&event("backup.verified", json!({"backup": ours}))).unwrap().is_ok());
        let failed = until.judge(&event("backup.failed", json!({"backup": ours, "reason": "disk full"})));
        assert_eq!(failed, Some(Err("disk full".into())));
        let alert = event("alert.raised", json!({"alert": "ending_stuck", "message": "m"}));
        assert_eq!(until.judge(&alert), None);
        assert_eq!(Until::Terminated.judge(&alert), Some(Err("m".into())));
    }
}
