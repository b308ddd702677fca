//! Commands as the bus carries them: `type` names the command, `message_id` is the key, the body is JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    BackupFirst, Command, CommandKind, MAX_NOTICE, NoticeTo, Refusal, RefusalCode, Requester, Switch, provision,
};
use crate::bounds::check_bounds;
use crate::{BackupId, MessageId, ProjectId, Span, Timestamp, UserId, VmId};

/// The most bytes that the body of a command may have.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// The command that names no VM, because there is none yet.
const PROVISION: &str = "vm.provision";
/// The most delegates that a command may name.
const MAX_DELEGATES: usize = 16;

/// Why a message is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The message has no `message_id`, or an unusable one.
    #[error("property message_id: {0}")]
    MessageId(String),
    /// The message has no `type`, or one that is no command.
    #[error("property type {found:?} is no command (expected for example lease.extend)")]
    Type {
        /// What was found, at most 64 characters.
        found: String,
    },
    /// The command is part of the interface, but not of this version.
    #[error("command {0} is not supported by this version")]
    Unsupported(String),
    /// The body is too large, too deep, or no JSON object.
    #[error("body: {0}")]
    Body(String),
    /// A key is missing, wrong or unknown.
    #[error("key {key:?}: {why}")]
    Key {
        /// Which key.
        key: String,
        /// What was expected.
        why: String,
    },
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::new(RefusalCode::Invalid, error.to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserBody {
    user: String,
    #[serde(default)]
    project: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
}

struct Body(BTreeMap<String, Value>);

fn wrong(key: &str, why: impl Into<String>) -> CommandError {
    CommandError::Key { key: key.chars().take(64).collect(), why: why.into() }
}

impl Body {
    fn text(&mut self, key: &str) -> Result<Option<String>, CommandError> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "expected a string")),
        }
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Result<Option<T>, CommandError> {
        self.text(key)?.map(|text| text.parse().map_err(|error: T::Err| wrong(key, error.to_string()))).transpose()
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool, CommandError> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(wrong(key, "expected true or false")),
        }
    }

    fn switch(&mut self, key: &str) -> Result<Switch, CommandError> {
        Ok(if self.flag(key, true)? { Switch::On } else { Switch::Off })
    }

    fn bounded(&mut self, key: &str, most: usize) -> Result<Option<String>, CommandError> {
        let text = self.text(key)?;
        match &text {
            Some(text) if text.len() > most => Err(wrong(key, format!("{} bytes, at most {most}", text.len()))),
            Some(_) | None => Ok(text),
        }
    }

    fn requester(&mut self) -> Result<Requester, CommandError> {
        let user = |id: &str| UserId::new(id).map_err(|error| wrong("by", error.to_string()));
        match self.0.remove("by") {
            Some(Value::String(text)) => match text.strip_prefix("operator:") {
                Some(name) => Ok(Requester::Operator(user(name)?.as_str().to_owned())),
                None => Ok(Requester::User { id: user(&text)?, project: None, roles: Vec::new() }),
            },
            Some(object @ Value::Object(_)) => {
                let body: UserBody = serde_json::from_value(object).map_err(|error| wrong("by", error.to_string()))?;
                let project = body.project.map(ProjectId::new).transpose();
                let project = project.map_err(|error| wrong("by.project", error.to_string()))?;
                if body.roles.len() > 64 || body.roles.iter().any(|role| role.len() > 255) {
                    return Err(wrong("by.roles", "at most 64 roles of at most 255 bytes"));
                }
                Ok(Requester::User { id: user(&body.user)?, project, roles: body.roles })
            }
            Some(_) => Err(wrong("by", "expected a user id, operator:NAME, or {user, project, roles}")),
            None => Err(wrong("by", "is missing: who asks?")),
        }
    }

    fn notice_to(&mut self) -> Result<NoticeTo, CommandError> {
        match self.text("to")?.as_deref() {
            Some("owner") => Ok(NoticeTo::Owner),
            Some("operators") => Ok(NoticeTo::Operators),
            Some(_) | None => Err(wrong("to", "expected owner or operators")),
        }
    }

    fn notice(&mut self) -> Result<String, CommandError> {
        match self.text("text")? {
            Some(text) if !text.is_empty() && text.chars().count() <= MAX_NOTICE => Ok(text),
            Some(_) | None => Err(wrong("text", format!("expected 1 to {MAX_NOTICE} characters"))),
        }
    }

    fn delegates(&mut self) -> Result<Vec<UserId>, CommandError> {
        let key = "delegates";
        let Some(Value::Array(list)) = self.0.remove(key) else {
            return Err(wrong(key, "expected a list of user ids"));
        };
        if list.len() > MAX_DELEGATES {
            return Err(wrong(key, format!("{} delegates, at most {MAX_DELEGATES}", list.len())));
        }
        list.iter()
            .map(|item| {
                let text = item.as_str().ok_or_else(|| wrong(key, "expected a list of user ids"))?;
                UserId::new(text).map_err(|error| wrong(key, error.to_string()))
            })
            .collect()
    }
}

/// Reads a command. `kind` is the AMQP property `type`, `message_id` the property of that name.
///
/// # Errors
/// [`CommandError`] names the property or key and what was expected.
pub fn parse(kind: Option<&str>, message_id: Option<&str>, body: &[u8]) -> Result<Command, CommandError> {
    let id = message_id.ok_or_else(|| CommandError::MessageId("is missing (it is the idempotency key)".into()))?;
    let id = MessageId::new(id).map_err(|error| CommandError::MessageId(error.to_string()))?;
    let name = kind.unwrap_or_default();
    check_bounds(body, MAX_COMMAND_BYTES).map_err(|error| CommandError::Body(error.to_string()))?;
    let fields = serde_json::from_slice(body).map_err(|error| CommandError::Body(error.to_string()))?;
    let mut body = Body(fields);
    if name == PROVISION {
        let by = body.requester()?;
        let kind = CommandKind::VmProvision(Box::new(provision::request(body.0)?));
        return Ok(Command { vm: VmId::of_request(&id), id, by, kind });
    }
    let vm: VmId = body.parsed("vm")?.ok_or_else(|| wrong("vm", "is missing: which VM?"))?;
    let by = body.requester()?;
    let kind = command_kind(name, &mut body)?;
    if let Some(key) = body.0.keys().next() {
        return Err(wrong(key, format!("is not known to {name}")));
    }
    Ok(Command { id, vm, by, kind })
}

fn command_kind(name: &str, body: &mut Body) -> Result<CommandKind, CommandError> {
    Ok(match name {
        "vm.adopt" => CommandKind::VmAdopt,
        "vm.start" => CommandKind::VmStart,
        "vm.stop" => CommandKind::VmStop,
        "vm.reboot" => CommandKind::VmReboot,
        "vm.suspend" => CommandKind::VmSuspend,
        "vm.resume" => CommandKind::VmResume,
        "vm.delete" => CommandKind::VmDelete {
            backup: if body.flag("backup", true)? { BackupFirst::AsPolicy } else { BackupFirst::No },
        },
        "vm.revive" => {
            CommandKind::VmRevive { backup: body.parsed::<BackupId>("backup")?, name: body.bounded("name", 255)? }
        }
        "vm.maintenance" => CommandKind::VmMaintenance(body.switch("on")?),
        "lease.extend" => {
            let by = body.parsed::<Span>("for")?;
            match body.parsed::<Timestamp>("if_ends_at")? {
                Some(ends_at) => CommandKind::LeaseExtendIf { by, ends_at },
                None => CommandKind::LeaseExtend { by },
            }
        }
        "lease.end" => CommandKind::LeaseEnd,
        "lease.cancel-end" => CommandKind::LeaseCancelEnd,
        "lease.set-policy" => CommandKind::LeaseSetPolicy {
            policy: body.bounded("policy", 255)?.ok_or_else(|| wrong("policy", "is missing: which policy?"))?,
        },
        "lease.set-delegates" => CommandKind::LeaseSetDelegates { delegates: body.delegates()? },
        "lease.exempt" => CommandKind::LeaseExempt(body.switch("on")?),
        "backup.run" => CommandKind::BackupRun,
        "backup.verify" => CommandKind::BackupVerify { backup: body.parsed("backup")? },
        "backup.restore" => CommandKind::BackupRestore { backup: body.parsed("backup")? },
        "backup.delete" => CommandKind::BackupDelete {
            backup: body.parsed("backup")?.ok_or_else(|| wrong("backup", "is missing: which backup?"))?,
        },
        "health.report" => CommandKind::HealthReport {
            healthy: body.flag("healthy", false)?,
            cause: body.bounded("cause", 255)?.unwrap_or_default(),
        },
        "repair.run" => CommandKind::RepairRun,
        "notice.send" => CommandKind::NoticeSend { to: body.notice_to()?, text: body.notice()? },
        "repair.suspend" => CommandKind::RepairSuspend(Switch::On),
        "repair.resume" => CommandKind::RepairSuspend(Switch::Off),
        "repair.approve" => return Err(CommandError::Unsupported(name.to_owned())),
        _ if name.starts_with("account.") || name.starts_with("service.") => {
            return Err(CommandError::Unsupported(name.chars().take(64).collect()));
        }
        _ => return Err(CommandError::Type { found: name.chars().take(64).collect() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "178b0921-8f85-4257-88b6-2e743b5a975c";

    fn body(rest: &str) -> String {
        format!(r#"{{"vm":"{VM}","by":"alice"{rest}}}"#)
    }

    #[test]
    fn a_command_is_read() {
        let command = parse(Some("lease.extend"), Some("m1"), body(r#","for":"7d""#).as_bytes()).unwrap();
        assert_eq!(command.kind, CommandKind::LeaseExtend { by: Some(Span::from_days(7)) });
        assert_eq!(command.by.to_string(), "alice");
        let fenced = body(r#","if_ends_at":"2026-01-31T00:00:00.000Z""#);
        let command = parse(Some("lease.extend"), Some("m1"), fenced.as_bytes()).unwrap();
        let ends_at = "2026-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(command.kind, CommandKind::LeaseExtendIf { by: None, ends_at });
        let by = format!(r#"{{"vm":"{VM}","by":{{"user":"bob","project":"p","roles":["member"]}}}}"#);
        assert!(matches!(parse(Some("lease.end"), Some("m"), by.as_bytes()).unwrap().by, Requester::User { .. }));
        let by = format!(r#"{{"vm":"{VM}","by":"operator:eve"}}"#);
        assert_eq!(parse(Some("lease.end"), Some("m"), by.as_bytes()).unwrap().by, Requester::Operator("eve".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let say = |kind, id, body: &str| parse(kind, id, body.as_bytes()).unwrap_err().to_string();
        assert!(say(Some("lease.extend"), None, &body("")).contains("message_id"));
        assert!(say(Some("lease.grow"), Some("m"), &body("")).contains("lease.grow"));
        assert!(say(Some("repair.approve"), Some("m"), &body("")).contains("not supported"));
        assert!(say(Some("lease.extend"), Some("m"), &body(r#","until":"7d""#)).contains("until"));
        assert!(say(Some("lease.extend"), Some("m"), &body(r#","for":"soon""#)).contains("soon"));
        assert!(say(Some("lease.extend"), Some("m"), &body(r#","if_ends_at":"soon""#)).contains("if_ends_at"));
        assert!(say(Some("lease.end"), Some("m"), r#"{"vm":"x","by":"a"}"#).contains("UUID"));
        assert!(say(Some("lease.end"), Some("m"), &format!(r#"{{"vm":"{VM}"}}"#)).contains("by"));
        assert!(say(Some("lease.end"), Some("m"), "[]").contains("body"));
    }
}
