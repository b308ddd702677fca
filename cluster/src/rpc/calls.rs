//! The calls under way of one connection.
//!
//! ```text
//! begun ─► running ─┬─ answered · panicked · out of time ─► a reply
//!                   └─ cancelled ─► nothing
//! ```
//!
//! All run in the connection's own task: what takes long is done by the actors that the service asks, and a task, a timer
//! and a channel for every call cost more than most calls do. One alarm stands for all deadlines; it rings at the
//! earliest one, or for nothing when that call has ended before.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal, permit};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::time::{Instant, Sleep};

use super::frame::{Envelope, Reply};

/// The calls under way of one connection. Dropped, it abandons them.
pub(super) struct Calls {
    service: Arc<dyn AdminService>,
    by: Arc<Principal>,
    longest: Duration,
    running: FuturesUnordered<Running>,
    /// When somebody looks for calls that are out of time.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Calls {
    /// Calls of somebody, none of which is worked on for longer than `longest`.
    pub(super) fn new(service: Arc<dyn AdminService>, by: Principal, longest: Duration) -> Self {
        Self { service, by: Arc::new(by), longest, running: FuturesUnordered::new(), alarm: None }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins a call, or refuses it.
    pub(super) fn begin(&mut self, call: Envelope) -> Result<(), Reply> {
        let Envelope { id, deadline_ms, request } = call;
        if let Err(refusal) = check(&self.by, &request) {
            return Err(Reply { id, reply: AdminReply::Refused(refusal) });
        }
        let wait = Duration::from_millis(deadline_ms).min(self.longest);
        let until = Instant::now() + wait;
        let (service, by) = (Arc::clone(&self.service), Arc::clone(&self.by));
        let work: BoxFuture<'static, AdminReply> = Box::pin(async move { service.ask(&by, request).await });
        self.running.push(Running { id, until, wait, stage: Stage::Asked(work), waker: None });
        self.ring_at(until);
        Ok(())
    }

    /// Ends a call whose caller has given up. One that is answered already, or never was, is nothing to end.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(call) = self.running.iter_mut().find(|call| call.id == id) {
            call.end(Stage::Cancelled);
        }
    }

    /// Waits until calls have ended, and adds the replies of those that have one. Cancel safe. There must be some.
    pub(super) async fn ended(&mut self, replies: &mut Vec<Reply>) {
        std::future::poll_fn(|cx| self.poll_ended(cx, replies)).await;
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>, replies: &mut Vec<Reply>) -> Poll<()> {
        while let Some(alarm) = &mut self.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            self.alarm = None;
            self.ring();
        }
        let mut ended = false;
        while let Poll::Ready(Some(reply)) = self.running.poll_next_unpin(cx) {
            ended = true;
            replies.extend(reply);
        }
        if ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ends what is out of time, and sets the alarm for the others.
    fn ring(&mut self) {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for call in self.running.iter_mut() {
            if call.until <= now {
                call.end(Stage::OutOfTime);
            } else {
                next = Some(next.map_or(call.until, |next| next.min(call.until)));
            }
        }
        if let Some(next) = next {
            self.ring_at(next);
        }
    }

    fn ring_at(&mut self, at: Instant) {
        match &mut self.alarm {
            Some(alarm) if alarm.deadline() <= at => {}
            Some(alarm) => alarm.as_mut().reset(at),
            None => self.alarm = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }
}

/// A call under way.
struct Running {
    id: u64,
    until: Instant,
    wait: Duration,
    stage: Stage,
    /// Of the task that polled it last.
    waker: Option<Waker>,
}

enum Stage {
    /// The service was asked.
    Asked(BoxFuture<'static, AdminReply>),
    OutOfTime,
    Cancelled,
}

impl Running {
    /// Ends the work, unless that is done already.
    fn end(&mut self, so: Stage) {
        if matches!(self.stage, Stage::Asked(_)) {
            let work = std::mem::replace(&mut self.stage, so);
            // What panics when it is dropped harms no other call; the panic hook has logged it.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Future for Running {
    /// The reply, if anybody waits for it.
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let reply = match &mut self.stage {
            Stage::Asked(work) => match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
                Ok(Poll::Ready(reply)) => reply,
                Ok(Poll::Pending) => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                // The panic hook has logged it; the caller shall not wait for nothing.
                Err(_) => unavailable("the node failed at this request; its log says how".into()),
            },
            Stage::OutOfTime => unavailable(format!("not answered within {} ms", self.wait.as_millis())),
            Stage::Cancelled => return Poll::Ready(None),
        };
        Poll::Ready(Some(Reply { id: self.id, reply }))
    }
}

fn unavailable(message: String) -> AdminReply {
    AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, message))
}

/// Whether somebody may ask this. What a node asks for somebody else is held to what they may, and goes no further:
/// requests that nodes pass on and on would never end.
fn check(by: &Principal, request: &AdminRequest) -> Result<(), Refusal> {
    permit(by, request)?;
    let AdminRequest::Forwarded { by, request } = request else { return Ok(()) };
    if matches!(**request, AdminRequest::Forwarded { .. } | AdminRequest::Cancel(_)) {
        return Err(Refusal::new(RefusalCode::Invalid, "only what people ask is forwarded, and only once"));
    }
    permit(by, request)
}
