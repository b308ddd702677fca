//! Does what the rules of the configuration say of events.
//!
//! ```text
//! event ─► rules that match and may ─► each action, in order ─┬─ taken ──────────────────────► acknowledged
//!                                          ▲                  ├─ bus or channel away ─► waits ─┐
//!                                          └──────────────────┼────────────────────────────────┘
//!                                                             └─ can never be, or not for minutes ─► dead letter
//! ```
//!
//! Nothing is kept here. What concerns a VM becomes a command about it, under a key of the rule and the event: its record
//! takes the same key once, however often the event comes, and sees to the rest. An alert is an event with such a key. Only
//! what people are told of something that is no VM has no record to wait in: it is tried for some minutes, and then is a
//! dead letter, whose replay acts again.
//!
//! Killed before the acknowledgement, the event comes again, here or at another node, and gives the same keys.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reeve_lifecycle::effect::{Audience, EffectKey, Notice};
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::{Address, BusError, Delivery, Message, Settlement};
use reeve_protocol::command::NoticeTo;
use reeve_protocol::event::{Alert, CloudEvent, RuleAlert};
use reeve_protocol::observation::Said;
use reeve_protocol::rule::{Action, Allowed, Rate, Rule, type_of};
use reeve_protocol::{Generation, VmId};
use serde_json::{Value, json};

use super::settle;
use crate::perform::wait::within;
use crate::shared::Shared;

/// The wait after the first failure; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// How many times a channel to people is tried: about six minutes.
const MAX_TRIES: u32 = 12;
/// Keeps the keys of notices about what is no VM away from those of records.
const OF_RULES: u64 = 1 << 63;
/// Stands for the VM in a notice about something else.
const NO_VM: &str = "00000000-0000-0000-0000-000000000000";

/// What acting on events needs.
pub(super) struct Runner {
    shared: Arc<Shared>,
    rate: Mutex<Rate>,
}

/// Why an action is not taken.
enum Failed {
    /// It may be later.
    Passing(String),
    /// It never will be.
    Never(String),
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, rate: Mutex::default() }
    }

    /// Whether a rule may act now.
    fn may(&self, rule: &Rule, event: &CloudEvent) -> bool {
        let now = self.shared.clock.now();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        match rate.take(rule, event, now) {
            Allowed::Yes => true,
            Allowed::No => {
                let (times, per) = (rule.at_most.times, rule.at_most.per);
                tracing::warn!(
                    rule = %rule.name, subject = %event.subject, event = %event.id.0, times, %per,
                    "a rule has acted as often as it may"
                );
                false
            }
        }
    }

    async fn act(&self, event: &CloudEvent) -> Result<(), String> {
        let mut wrong = Vec::new();
        for rule in self.shared.config.runtime.rules.iter().filter(|rule| rule.matches(event)) {
            if !self.may(rule, event) {
                continue;
            }
            for (index, action) in rule.then.iter().enumerate() {
                match self.take(rule, index, action, event).await {
                    Ok(()) => tracing::info!(rule = %rule.name, action = index, event = %event.id.0, "a rule acts"),
                    // The other actions do not depend on it.
                    Err(why) => wrong.push(format!("rule {}, then[{index}]: {why}", rule.name)),
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Tries an action until it is taken or never will be.
    async fn take(&self, rule: &Rule, index: usize, action: &Action, event: &CloudEvent) -> Result<(), String> {
        let mut wait = FIRST_WAIT;
        let mut tries = 0;
        loop {
            let taken = match (action, vm_of(event)) {
                (Action::Command { name, with }, Some(vm)) => {
                    let mut body = json!(with);
                    body["vm"] = json!(vm);
                    self.command(rule, index, name, body, event).await
                }
                (Action::Notify { to, .. }, Some(vm)) => {
                    let body = json!({ "vm": vm, "to": to, "text": action.says(event) });
                    self.command(rule, index, "notice.send", body, event).await
                }
                (Action::Notify { to: NoticeTo::Operators, .. }, None) => {
                    tries += 1;
                    self.tell(rule, index, action, event, tries).await
                }
                // There is no VM, and so no owner.
                (Action::Command { .. } | Action::Notify { to: NoticeTo::Owner, .. }, None) => Ok(()),
                (Action::Alert { .. }, _) => self.alert(rule, index, action, event).await,
            };
            match taken {
                Ok(()) => return Ok(()),
                Err(Failed::Never(why)) => return Err(why),
                Err(Failed::Passing(why)) => {
                    tracing::warn!(rule = %rule.name, action = index, %why, "a rule cannot act yet; it is tried again");
                }
            }
            self.shared.clock.sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn command(
        &self,
        rule: &Rule,
        index: usize,
        name: &str,
        mut body: Value,
        event: &CloudEvent,
    ) -> Result<(), Failed> {
        body["by"] = format!("operator:rule:{}", rule.name).into();
        let message = Message {
            body: Bytes::from(body.to_string()),
            content_type: Some("application/json".to_owned()),
            kind: Some(name.to_owned()),
            message_id: Some(rule.key(index, event)),
            ..Message::default()
        };
        self.publish(&Address::Requests, message).await
    }

    async fn alert(&self, rule: &Rule, index: usize, action: &Action, event: &CloudEvent) -> Result<(), Failed> {
        let alert = RuleAlert { rule: &rule.name, action: index, message: action.says(event), event };
        let alert = alert.to_cloud_event(&self.shared.source);
        let message = Message {
            body: Bytes::from(serde_json::to_vec(&alert).expect("an event is plain data with text keys")),
            content_type: Some("application/cloudevents+json".to_owned()),
            kind: Some(alert.kind),
            message_id: Some(alert.id.0),
            ..Message::default()
        };
        self.publish(&Address::Events(RuleAlert::ROUTING_KEY.to_owned()), message).await
    }

    async fn publish(&self, to: &Address, message: Message) -> Result<(), Failed> {
        let publishing = self.shared.bus.publish(to, message);
        match within(self.shared.clock.as_ref(), self.shared.ports.timeouts.call, publishing).await {
            Some(Ok(())) => Ok(()),
            Some(Err(BusError::Unavailable(why))) => Err(Failed::Passing(why)),
            Some(Err(BusError::Refused(why))) => Err(Failed::Never(why)),
            None => Err(Failed::Passing("the bus does not confirm".to_owned())),
        }
    }

    /// Tells the operators of something that is no VM.
    async fn tell(
        &self,
        rule: &Rule,
        index: usize,
        action: &Action,
        event: &CloudEvent,
        tries: u32,
    ) -> Result<(), Failed> {
        let generation = Generation(Said::new(0, &rule.key(index, event)).tie | OF_RULES);
        let letter = Letter {
            vm: NO_VM.parse().expect("a constant that is a UUID"),
            vm_name: event.subject.clone(),
            key: EffectKey { generation, index: 0 },
            to: Audience::Operators,
            notice: Notice::Alert { alert: Alert::Rule, message: action.says(event) },
            at: event.time,
            extendable: None,
        };
        let telling = self.shared.ports.notifier.deliver(&letter);
        let told = within(self.shared.clock.as_ref(), self.shared.ports.timeouts.call, telling).await;
        let error = match told {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error,
            None => NotifierError::Unknown("not in time".to_owned()),
        };
        match error {
            NotifierError::Undeliverable(why) => Err(Failed::Never(why)),
            NotifierError::Unavailable(why) | NotifierError::Unknown(why) if tries >= MAX_TRIES => {
                Err(Failed::Never(format!("tried {tries} times: {why}")))
            }
            NotifierError::Unavailable(why) | NotifierError::Unknown(why) => Err(Failed::Passing(why)),
        }
    }
}

/// The VM that an event is about.
fn vm_of(event: &CloudEvent) -> Option<VmId> {
    event.subject.strip_prefix("vm/")?.parse().ok()
}

/// Acts on a delivery and settles it.
pub(super) async fn take(runner: Arc<Runner>, delivery: Delivery) {
    let settlement = match serde_json::from_slice::<CloudEvent>(&delivery.message.body) {
        Err(error) => Settlement::Dead(format!("no CloudEvent: {error}")),
        Ok(event) => match runner.act(&event).await {
            Ok(()) => Settlement::Ack,
            Err(why) => Settlement::Dead(format!("{} {}: {why}", type_of(&event), event.id.0)),
        },
    };
    settle(delivery, settlement).await;
}
