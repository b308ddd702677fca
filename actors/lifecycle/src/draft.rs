//! A decision in the making: the record as it will be, and what the decision asks for.

use reeve_protocol::event::{Alert, Event, EventKind};
use reeve_protocol::{Span, Timestamp};

use crate::effect::{Audience, Effect, EffectKey, Notice, PendingEffect};
use crate::input::{Step, Verdict};
use crate::record::{HistoryEntry, MAX_EFFECTS, MAX_HISTORY, VmRecord};

/// The first pause after a failure.
const BACKOFF_FIRST: Span = Span::from_secs(1);
/// The longest pause between two tries.
const BACKOFF_MOST: Span = Span::from_secs(900);

/// The pause after the `failures`th failure in a row: doubling, bounded, and shifted by up to a quarter by `spread`, so
/// that a fleet that failed together does not try again together.
pub(crate) fn backoff(failures: u32, spread: u64) -> Span {
    let doubled = BACKOFF_FIRST.times(1 << failures.saturating_sub(1).min(10));
    let base = doubled.min(BACKOFF_MOST).as_millis();
    Span::from_millis(base + spread % (base / 4 + 1))
}

pub(crate) struct Draft {
    pub(crate) rec: VmRecord,
    pub(crate) now: Timestamp,
    pub(crate) purge: bool,
    issued: Vec<PendingEffect>,
    events: Vec<Event>,
    next_index: u16,
    /// It is written even if it is as before.
    restated: bool,
}

impl Draft {
    pub(crate) fn new(record: &VmRecord, now: Timestamp) -> Self {
        let (issued, events) = (Vec::new(), Vec::new());
        Self { rec: record.clone(), now, purge: false, issued, events, next_index: 0, restated: false }
    }

    /// Asks for an effect; it stays in the record until it is done.
    pub(crate) fn issue(&mut self, effect: Effect) -> EffectKey {
        let key = EffectKey { generation: self.rec.generation.next(), index: self.next_index };
        self.next_index += 1;
        let pending = PendingEffect { key, effect, decided_at: self.now, failures: 0, retry_at: None };
        self.issued.push(pending.clone());
        self.rec.effects.push(pending);
        key
    }

    /// Publishes an event; it stays in the record until the bus has confirmed it.
    pub(crate) fn emit(&mut self, kind: EventKind) {
        self.rec.sequence += 1;
        let event = Event { sequence: self.rec.sequence, at: self.now, vm: self.rec.vm, kind };
        self.rec.history.push(HistoryEntry { at: self.now, what: event.kind.type_name().to_owned() });
        if self.rec.history.len() > MAX_HISTORY {
            self.rec.history.remove(0);
        }
        self.rec.outbox.push(event.clone());
        self.events.push(event);
    }

    fn notify(&mut self, to: Audience, notice: Notice) {
        // Whoever cannot be told for so long still finds the event.
        if self.rec.effects.len() < MAX_EFFECTS {
            self.issue(Effect::Notify { to, notice });
        }
    }

    /// Tells the owner and the delegates; the operators when nobody owns the VM.
    pub(crate) fn tell_owner(&mut self, notice: Notice) {
        let users: Vec<_> = self.rec.facts.user.iter().chain(&self.rec.delegates).cloned().collect();
        let to = if users.is_empty() { Audience::Operators } else { Audience::Owner { users } };
        self.notify(to, notice);
    }

    /// Tells the operators.
    pub(crate) fn tell_operators(&mut self, notice: Notice) {
        self.notify(Audience::Operators, notice);
    }

    /// Raises an alert, once until it is cleared.
    pub(crate) fn alert(&mut self, alert: Alert, message: impl Into<String>) {
        if self.rec.alerts.contains(&alert) {
            return;
        }
        let message = message.into();
        self.rec.alerts.push(alert);
        self.rec.alerts.sort_unstable();
        self.emit(EventKind::AlertRaised { alert, message: message.clone() });
        self.notify(Audience::Operators, Notice::Alert { alert, message });
    }

    /// Clears an alert if it is raised.
    pub(crate) fn clear(&mut self, alert: Alert) {
        if let Some(at) = self.rec.alerts.iter().position(|open| *open == alert) {
            self.rec.alerts.remove(at);
            self.emit(EventKind::AlertCleared { alert });
        }
    }

    /// The pending effect of this key.
    pub(crate) fn pending(&self, key: EffectKey) -> Option<&PendingEffect> {
        self.rec.effects.iter().find(|pending| pending.key == key)
    }

    /// Takes an effect off the record, because it is done or no longer wanted.
    pub(crate) fn forget(&mut self, key: EffectKey) {
        self.rec.effects.retain(|pending| pending.key != key);
        self.issued.retain(|pending| pending.key != key);
    }

    /// Puts an effect off after a failure; returns how many failures it has had.
    pub(crate) fn put_off(&mut self, key: EffectKey) -> u32 {
        let spread = spread_of(&self.rec, key);
        let now = self.now;
        let Some(pending) = self.rec.effects.iter_mut().find(|pending| pending.key == key) else { return 0 };
        pending.failures = pending.failures.saturating_add(1);
        pending.retry_at = Some(now + backoff(pending.failures, spread));
        pending.failures
    }

    /// Puts an effect off after a failure, and has it tried once more at this time at the latest.
    pub(crate) fn put_off_until(&mut self, key: EffectKey, latest: Timestamp) {
        self.put_off(key);
        if let Some(pending) = self.rec.effects.iter_mut().find(|pending| pending.key == key) {
            pending.retry_at = pending.retry_at.map(|at| at.min(latest));
        }
    }

    /// Issues again what was put off and is due. What destroys or replaces waits while the VM is held.
    pub(crate) fn reissue_due(&mut self) {
        let held = !self.rec.holds.is_empty();
        for pending in &mut self.rec.effects {
            let due = pending.retry_at.is_some_and(|at| at <= self.now);
            if due && !(held && pending.effect.is_destructive()) {
                pending.retry_at = None;
                self.issued.push(pending.clone());
            }
        }
    }

    /// Has the record written, whatever it is like.
    pub(crate) const fn restate(&mut self) {
        self.restated = true;
    }

    /// The decision, compared with the record before it.
    pub(crate) fn finish(mut self, before: &VmRecord, verdict: Verdict) -> Step {
        let changed = self.restated || self.rec != *before;
        if changed {
            self.rec.generation = before.generation.next();
        }
        Step { record: self.rec, changed, purge: self.purge, effects: self.issued, events: self.events, verdict }
    }
}

/// A fixed number for a VM's effect, to spread retries by.
fn spread_of(record: &VmRecord, key: EffectKey) -> u64 {
    let (high, low) = record.vm.uuid().as_u64_pair();
    (high ^ low.rotate_left(17) ^ key.generation.0.rotate_left(41) ^ u64::from(key.index))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_and_is_bounded() {
        assert_eq!(backoff(1, 0), Span::from_secs(1));
        assert_eq!(backoff(4, 0), Span::from_secs(8));
        assert_eq!(backoff(40, 0), BACKOFF_MOST);
        assert!(backoff(40, u64::MAX) <= Span::from_secs(1125));
    }
}
