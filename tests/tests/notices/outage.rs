//! A mail server that is away for hours: the notice waits, somebody is told over another channel, and it comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use reeve_drivers::{EmailNotifier, FanOut, MemoryNotifier, SmtpTls};
use reeve_lifecycle::effect::{Audience, Notice};
use reeve_lifecycle::policy::{LeasePolicy, Policy};
use reeve_lifecycle::{
    Done, Effect, NamedPolicy, Outcome, PendingEffect, VmInput, VmRecord, next_deadline, offered, step,
};
use reeve_ports::notifier::Letter;
use reeve_ports::{Clock, Notifier};
use reeve_protocol::event::Alert;
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::{CloudName, Span, Timestamp, UserId};
use reeve_tests::harness::SmtpSink;

use crate::fixture::{Ahead, clock, vm, wording};

/// A record and the channels through which its notices go, by the clock that is set forward.
struct Desk {
    record: VmRecord,
    now: Timestamp,
    clock: Arc<Ahead>,
    channels: FanOut,
}

impl Desk {
    /// Decides, and delivers whatever is to be told.
    async fn input(&mut self, input: VmInput) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let decision = step(&self.record, input, self.now);
            self.record = decision.record;
            for pending in decision.effects {
                let outcome = self.perform(&pending).await;
                inputs.push(VmInput::EffectDone { key: pending.key, outcome });
            }
            self.record.outbox.clear();
        }
    }

    async fn perform(&self, pending: &PendingEffect) -> Outcome {
        let Effect::Notify { to, notice } = &pending.effect else { return Outcome::Done(Done::Plain) };
        let letter = Letter {
            vm: self.record.vm,
            vm_name: self.record.facts.name.clone(),
            key: pending.key,
            to: to.clone(),
            notice: notice.clone(),
            at: pending.decided_at,
            extendable: offered(&self.record, notice),
        };
        match self.channels.deliver(&letter).await {
            Ok(()) => Outcome::Done(Done::Plain),
            Err(error) => Outcome::Retryable { reason: error.to_string() },
        }
    }

    /// Sleeps until the record wants to be woken, at most until then; false once that is reached.
    async fn wake(&mut self, until: Timestamp) -> bool {
        let at = next_deadline(&self.record).map_or(until, |(at, _)| at.min(until));
        self.clock.by(at.since(self.now));
        self.now = at;
        self.input(VmInput::Tick).await;
        at < until
    }
}

fn facts(now: Timestamp) -> VmFacts {
    VmFacts {
        vm: vm(),
        name: "web-1".to_owned(),
        project: None,
        user: Some(UserId::new("ann").unwrap()),
        host: None,
        state: VmState::Active,
        task: None,
        power: None,
        locked: Some(false),
        created_at: Some(now),
        launched_at: Some(now),
        deleted_at: None,
        metadata: BTreeMap::new(),
    }
}

#[tokio::test]
async fn live_a_mail_server_that_is_away_for_hours_is_reported_over_another_channel_and_the_notice_comes() {
    let mut sink = SmtpSink::start(SmtpTls::Starttls).await.unwrap();
    let (clock, kept) = (clock(), MemoryNotifier::new(100));
    let email = EmailNotifier::new(sink.config(), wording(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let channels = FanOut::new(vec![Arc::new(kept.clone()), Arc::new(email)]);
    let now = clock.now();
    let lease =
        LeasePolicy { duration: Span::from_days(30), warn_before: vec![Span::from_days(1)], ..LeasePolicy::default() };
    let mut policy = Policy { lease, ..Policy::default() };
    policy.backup.every = Span::ZERO;
    policy.health.enabled = false;
    let policy = NamedPolicy { name: "default".to_owned(), terms: policy };
    let record = VmRecord::unseen(vm(), CloudName::new("sim").unwrap(), policy);
    let mut desk = Desk { record, now, clock, channels };
    let said = Said { at_us: now.as_millis() * 1000, tie: 0 };
    desk.input(VmInput::Listed { facts: facts(now), said }).await;
    assert_eq!(sink.mails().unwrap().len(), 1, "the lease began");

    sink.go_away();
    let warned = now + Span::from_days(29);
    while desk.wake(warned + Span::from_hours(6)).await {}
    let alerts = |letters: &[Letter]| {
        let is_report =
            |letter: &&Letter| matches!(letter.notice, Notice::Alert { alert: Alert::NoticeUndelivered, .. });
        letters.iter().filter(is_report).count()
    };
    assert_eq!(alerts(&kept.letters()), 1, "the other channel says so, once");
    assert!(desk.record.alerts.contains(&Alert::NoticeUndelivered));
    let before = sink.mails().unwrap().len();

    sink.come_back().await.unwrap();
    while desk.wake(warned + Span::from_hours(8)).await {}
    let mails = sink.mails().unwrap();
    let came: Vec<&str> = mails[before..].iter().map(|mail| mail.to[0].as_str()).collect();
    assert_eq!(came.iter().filter(|to| **to == "ann@example.org").count(), 1, "{came:?}");
    assert_eq!(came.iter().filter(|to| **to == "ops@example.org").count(), 1, "the operators have the report too");
    assert!(!desk.record.alerts.contains(&Alert::NoticeUndelivered), "it is over");
    let expiring = kept.letters().into_iter().filter(|letter| matches!(letter.notice, Notice::Expiring { .. }));
    assert_eq!(expiring.filter(|letter| letter.to != Audience::Operators).count(), 1, "who has it is not told again");
}
