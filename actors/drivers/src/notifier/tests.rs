//! Every notifier runs the suite; a fan-out repeats only what is lacking.

use std::sync::atomic::{AtomicUsize, Ordering};

use reeve_lifecycle::effect::Notice;
use reeve_ports::conformance::notifier::{letter, notices, run};
use reeve_protocol::VmId;
use reeve_protocol::event::Alert;
use uuid::Uuid;

use super::*;

fn vm() -> VmId {
    VmId::new(Uuid::from_u128(7))
}

/// Fails so many times, then delivers.
struct Flaky {
    failures: AtomicUsize,
    delivered: AtomicUsize,
    error: NotifierError,
}

impl Flaky {
    fn new(failures: usize, error: NotifierError) -> Arc<Self> {
        Arc::new(Self { failures: failures.into(), delivered: 0.into(), error })
    }
}

#[async_trait]
impl Notifier for Flaky {
    async fn deliver(&self, _: &Letter) -> Result<(), NotifierError> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(self.error.clone());
        }
        self.delivered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn every_notifier_takes_every_notice() {
    run(&LogNotifier).await;
    run(&MemoryNotifier::new(8)).await;
    run(&FanOut::new(vec![Arc::new(LogNotifier), Arc::new(MemoryNotifier::new(8))])).await;
}

#[tokio::test]
async fn letters_in_memory_are_bounded_and_not_doubled() {
    let notifier = MemoryNotifier::new(3);
    for (index, notice) in (0..).zip(notices()) {
        let letter = letter(vm(), index, notice);
        notifier.deliver(&letter).await.unwrap();
        notifier.deliver(&letter).await.unwrap();
    }
    let kept: Vec<_> = notifier.letters().iter().map(|letter| letter.key.index).collect();
    let last = u16::try_from(notices().len()).unwrap();
    assert_eq!(kept, [last - 3, last - 2, last - 1]);
}

#[tokio::test]
async fn a_fan_out_asks_again_only_the_channel_that_lacks_the_notice() {
    let steady = Flaky::new(0, NotifierError::Unavailable("never".into()));
    let flaky = Flaky::new(2, NotifierError::Unavailable("mail server away".into()));
    let fan_out = FanOut::new(vec![steady.clone(), flaky.clone()]);
    let letter = letter(vm(), 0, Notice::Ended);
    for _ in 0..2 {
        assert!(matches!(fan_out.deliver(&letter).await, Err(NotifierError::Unavailable(_))));
    }
    assert_eq!(fan_out.deliver(&letter).await, Ok(()));
    assert_eq!(steady.delivered.load(Ordering::SeqCst), 1);
    assert_eq!(flaky.delivered.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_channel_that_can_never_deliver_does_not_hold_up_the_others() {
    let refuses = Flaky::new(9, NotifierError::Undeliverable("no address".into()));
    let steady = Flaky::new(0, NotifierError::Unavailable("never".into()));
    let letter = letter(vm(), 0, Notice::Ended);
    assert_eq!(FanOut::new(vec![refuses.clone(), steady]).deliver(&letter).await, Ok(()));
    let alone = FanOut::new(vec![refuses]).deliver(&letter).await;
    assert_eq!(alone, Err(NotifierError::Undeliverable("no address".into())));
    assert!(FanOut::default().deliver(&letter).await.is_err());
}

/// Never answers.
struct Hanging;

#[async_trait]
impl Notifier for Hanging {
    async fn deliver(&self, _: &Letter) -> Result<(), NotifierError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_delivery_that_is_dropped_on_the_way_forgets_nobody_who_has_the_notice() {
    let steady = Flaky::new(0, NotifierError::Unavailable("never".into()));
    let fan_out = FanOut::new(vec![steady.clone(), Arc::new(Hanging)]);
    let letter = letter(vm(), 0, Notice::Ended);
    for _ in 0..2 {
        assert_eq!(futures::FutureExt::now_or_never(fan_out.deliver(&letter)), None);
    }
    assert_eq!(steady.delivered.load(Ordering::SeqCst), 1);
}

/// Refuses what is for owners and takes what is for operators.
#[derive(Default)]
struct NoOwners(Mutex<Vec<Letter>>);

#[async_trait]
impl Notifier for NoOwners {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        if letter.to != Audience::Operators {
            return Err(NotifierError::Undeliverable("user ann has no address".into()));
        }
        self.0.lock().unwrap().push(letter.clone());
        Ok(())
    }
}

fn reports(letters: &[Letter]) -> Vec<&Letter> {
    let is_report = |letter: &&Letter| matches!(letter.notice, Notice::Alert { alert: Alert::NoticeUndelivered, .. });
    letters.iter().filter(is_report).collect()
}

#[tokio::test]
async fn what_a_channel_can_never_deliver_is_reported_once_over_all() {
    let (refuses, keeps) = (Arc::new(NoOwners::default()), MemoryNotifier::new(8));
    let away = Flaky::new(2, NotifierError::Unavailable("away".into()));
    let fan_out = FanOut::new(vec![refuses.clone(), Arc::new(keeps.clone()), away]);
    let letter = letter(vm(), 3, Notice::Ended);
    // The report goes out at once, though the notice is tried again for the sake of another channel.
    assert!(fan_out.deliver(&letter).await.is_err());
    while fan_out.deliver(&letter).await.is_err() {}
    let kept = keeps.letters();
    assert_eq!(kept.iter().filter(|kept| **kept == letter).count(), 1);
    let [report] = reports(&kept)[..] else { panic!("{kept:?}") };
    assert_eq!((report.to.clone(), report.vm), (Audience::Operators, letter.vm));
    assert_ne!(report.key, letter.key, "a channel that drops the same key twice takes it");
    let Notice::Alert { message, .. } = &report.notice else { panic!("{report:?}") };
    assert!(message.contains("lease-ended") && message.contains("ann has no address"), "{message}");
    assert_eq!(reports(&refuses.0.lock().unwrap()).len(), 1, "its other recipients are told by the channel itself");
}

#[tokio::test]
async fn a_notice_counts_as_delivered_only_once_its_failure_is_told() {
    /// Takes notices, and reports the second time.
    #[derive(Default)]
    struct Slow(AtomicUsize);
    #[async_trait]
    impl Notifier for Slow {
        async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
            match letter.notice {
                Notice::Alert { .. } if self.0.fetch_add(1, Ordering::SeqCst) == 0 => {
                    Err(NotifierError::Unavailable("away".into()))
                }
                _ => Ok(()),
            }
        }
    }
    let refuses = Flaky::new(99, NotifierError::Undeliverable("no address".into()));
    let fan_out = FanOut::new(vec![refuses, Arc::new(Slow::default())]);
    let letter = letter(vm(), 3, Notice::Ended);
    assert!(matches!(fan_out.deliver(&letter).await, Err(NotifierError::Unavailable(_))));
    assert_eq!(fan_out.deliver(&letter).await, Ok(()));
}

#[tokio::test]
async fn a_report_that_is_refused_makes_no_other_report() {
    let refuses = Flaky::new(99, NotifierError::Undeliverable("no address".into()));
    let keeps = MemoryNotifier::new(8);
    let fan_out = FanOut::new(vec![refuses, Arc::new(keeps.clone())]);
    let alert = Notice::Alert { alert: Alert::NoticeUndelivered, message: "x".into() };
    let report = Letter { to: Audience::Operators, ..letter(vm(), 3, alert) };
    assert_eq!(fan_out.deliver(&report).await, Ok(()));
    assert_eq!(keeps.letters(), [report]);
}
