//! What the log says of inputs, effects and verdicts.

use reeve_lifecycle::{Verdict, VmInput};

/// The beginning of what it is, for the log.
pub(super) fn brief(what: &impl std::fmt::Debug) -> String {
    struct Short(String);
    impl std::fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.push_str(text);
            if self.0.len() > 100 { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut short = Short(String::new());
    // An error here is no more than the end of the room.
    let _ = std::fmt::Write::write_fmt(&mut short, format_args!("{what:?}"));
    short.0
}

pub(super) fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted(_) => "accepted",
        Verdict::Ignored(_) => "ignored",
        Verdict::Denied(_) => "denied",
        Verdict::Busy => "busy",
    }
}

pub(super) fn name(input: &VmInput) -> String {
    match input {
        VmInput::Notified(said) => format!("{} ({})", said.event_type, said.facts.state.as_nova()),
        VmInput::Listed { facts, .. } => format!("listed ({})", facts.state.as_nova()),
        VmInput::Missing { .. } => "missing".into(),
        VmInput::Probed { verdict, .. } => format!("probed {verdict:?}"),
        VmInput::Commanded { command, .. } => format!("{} {:?}", command.id, command.kind),
        VmInput::EffectDone { key, outcome } => format!("{key} {}", brief(outcome)),
        VmInput::Published { through } => format!("published {through}"),
        VmInput::PolicyAssigned { policy, .. } => format!("policy {}", policy.name),
        VmInput::HoldRaised(hold) => format!("held: {}", hold.name()),
        VmInput::HoldLifted(hold) => format!("no longer held: {}", hold.name()),
        VmInput::ChildExhausted(child) => format!("{child:?} exhausted"),
        VmInput::ChildRecovered(child) => format!("{child:?} recovered"),
        VmInput::Introduced { revived_from: Some(from), .. } => format!("introduced as the successor of {from}"),
        VmInput::Introduced { revived_from: None, .. } => "introduced".into(),
        VmInput::Asked { command, .. } => format!("{} asks for a VM", command.id),
        VmInput::Tick => "tick".into(),
    }
}
