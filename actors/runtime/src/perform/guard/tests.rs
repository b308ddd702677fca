//! Calls whose right ends while they are under way, request by request.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use futures::FutureExt;
use reeve_lifecycle::VmInput;
use reeve_lifecycle::operation::ReplyTo;
use reeve_ports::coordination::CoordinationError;
use reeve_ports::{Coordination, Sleep};
use reeve_protocol::{Epoch, ShardId};
use tokio::sync::oneshot;

use super::*;
use crate::perform::Introducer;

/// A right that ends when told, and a clock that goes as told and whose sleeps end when it has.
#[derive(Default)]
struct Told {
    is_over: AtomicBool,
    elapsed_ms: Arc<AtomicU64>,
}

#[async_trait]
impl Coordination for Told {
    async fn claim(&self, _: ShardId) -> Result<Epoch, CoordinationError> {
        Ok(Epoch(1))
    }

    async fn confirm(&self, _: ShardId, _: Epoch) -> Result<(), CoordinationError> {
        Ok(())
    }

    fn may_act(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }
}

impl Clock for Told {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let (until, elapsed_ms) = (self.elapsed() + duration, Arc::clone(&self.elapsed_ms));
        let elapsed = move || Duration::from_millis(elapsed_ms.load(Ordering::SeqCst));
        Box::pin(poll_fn(move |_| if elapsed() < until { Poll::Pending } else { Poll::Ready(()) }))
    }
}

#[async_trait]
impl Introducer for Told {
    async fn introduce(&self, _: VmId, _: &CloudName, _: VmInput) -> Result<(), String> {
        Ok(())
    }

    async fn report(&self, _: &ReplyTo, _: &str, _: Vec<u8>) -> Result<(), String> {
        Ok(())
    }
}

fn guard(told: &Arc<Told>, lands_within: Duration) -> Guard {
    let ownership = Ownership {
        shard: ShardId(0),
        epoch: Epoch(1),
        coordination: Arc::clone(told) as Arc<dyn Coordination>,
        introducer: Arc::clone(told) as Arc<dyn Introducer>,
        acts: Acts::default(),
    };
    Guard::new(&Arc::new(ownership), &(Arc::clone(told) as Arc<dyn Clock>), lands_within)
}

#[test]
fn the_next_request_of_a_call_is_not_sent_once_the_right_to_act_has_ended() {
    let told = Arc::new(Told::default());
    let guard = guard(&told, Duration::ZERO);
    let (answer, answered) = oneshot::channel();
    let sent = Cell::new(1);
    let mut call = Box::pin(guard.act(async {
        answered.await.unwrap();
        sent.set(2);
    }));
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    told.is_over.store(true, Ordering::SeqCst);
    answer.send(()).unwrap();
    assert!(matches!(poll(), Poll::Ready(Err(Barred::During))));
    assert_eq!(sent.get(), 1);
}

#[test]
fn a_call_that_is_dropped_is_no_longer_on_its_way() {
    let told = Arc::new(Told::default());
    let guard = guard(&told, Duration::ZERO);
    {
        let call = guard.act(std::future::pending::<()>());
        let mut call = Box::pin(call);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(guard.ownership.acts.over().now_or_never(), None);
        told.is_over.store(true, Ordering::SeqCst);
        assert!(matches!(call.as_mut().now_or_never(), Some(Err(Barred::During))));
    }
    assert_eq!(guard.ownership.acts.over().now_or_never(), Some(()));
}

#[test]
fn nothing_is_told_of_a_dropped_call_while_it_may_still_be_carried_out() {
    let told = Arc::new(Told::default());
    let guard = guard(&told, Duration::from_secs(1));
    let mut call = Box::pin(guard.act(std::future::pending::<()>()));
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    told.is_over.store(true, Ordering::SeqCst);
    assert!(poll().is_pending());
    assert_eq!(guard.ownership.acts.over().now_or_never(), Some(()), "a hand-over does not wait for it");
    told.elapsed_ms.store(999, Ordering::SeqCst);
    assert!(poll().is_pending());
    told.elapsed_ms.store(1_000, Ordering::SeqCst);
    assert!(matches!(poll(), Poll::Ready(Err(Barred::During))));
}
