//! Every notifier runs the suite; a fan-out repeats only what is lacking.

use std::sync::atomic::{AtomicUsize, Ordering};

use reeve_ports::conformance::notifier::{letter, notices, run};
use reeve_protocol::VmId;
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
    assert_eq!(kept, [4, 5, 6]);
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
