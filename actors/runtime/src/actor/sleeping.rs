//! How the actors of a VM stay and sleep without an allocation of their own for it.
//!
//! An actix actor lives while somebody has a strong address of it or a future of its own is pending. A strong address
//! takes 80 bytes and a pending future a box, for each of a million trees. So nobody keeps strong addresses here: each
//! actor has one pending future that takes no room, by [`sleeping`] or [`staying`], and ends when it is told to.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use actix::fut::wrap_future;
use actix::{Actor, ActorContext, ActorFuture, ActorState, AsyncContext, Context};
use reeve_ports::Sleep;

/// Keeps an actor alive until it is stopped.
pub(super) fn staying<A: Actor<Context = Context<A>>>(ctx: &mut Context<A>) {
    ctx.spawn(wrap_future(std::future::pending()));
}

/// An actor that awaits one thing at a time: a sleep, or something that sleeps at times.
///
/// What it awaits is set before [`Sleeping`] is polled and nowhere else, or nobody would poll it: in [`Sleeper::begin`],
/// while a message is handled, or in [`Sleeper::woken`].
pub(super) trait Sleeper: Actor<Context = Context<Self>> {
    /// Sets what it awaits first.
    fn begin(&mut self);

    /// What it awaits. Replaced or taken, that is over.
    fn awaited(&mut self) -> &mut Option<Sleep>;

    /// What it awaited has come.
    fn woken(&mut self);
}

/// Begins, as [`Actor::started`] of a sleeper, and keeps it alive until it is stopped.
pub(super) fn sleeping<A: Sleeper>(actor: &mut A, ctx: &mut Context<A>) {
    // One that was never polled is started while it is dropped with its arbiter, outside of any runtime, where no sleep
    // can be made.
    if ctx.state() == ActorState::Running {
        actor.begin();
        ctx.spawn(Sleeping);
    }
}

/// Polls what its actor awaits. It never ends, and so keeps the actor alive until that is stopped.
struct Sleeping;

impl<A: Sleeper> ActorFuture<A> for Sleeping {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, _: &mut Context<A>, task: &mut Task<'_>) -> Poll<()> {
        while let Some(awaited) = actor.awaited() {
            ready!(awaited.as_mut().poll(task));
            *actor.awaited() = None;
            actor.woken();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reeve_ports::{Clock, SystemClock};
    use tokio::sync::oneshot;

    use super::*;

    struct Counting {
        left: u32,
        sleep: Option<Sleep>,
        told: Option<oneshot::Sender<()>>,
    }

    impl Actor for Counting {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            sleeping(self, ctx);
        }
    }

    impl Sleeper for Counting {
        fn begin(&mut self) {
            self.woken();
        }

        fn awaited(&mut self) -> &mut Option<Sleep> {
            &mut self.sleep
        }

        fn woken(&mut self) {
            self.left -= 1;
            if self.left > 0 {
                self.sleep = Some(SystemClock.sleep(Duration::from_millis(1)));
            } else if let Some(told) = self.told.take() {
                let _ = told.send(());
            }
        }
    }

    #[test]
    fn an_actor_that_nobody_has_an_address_of_sleeps_again_and_again() {
        actix_rt::System::new().block_on(async {
            let (told, done) = oneshot::channel();
            let _ = Counting { left: 4, sleep: None, told: Some(told) }.start();
            assert_eq!(done.await, Ok(()));
        });
    }

    #[test]
    fn an_actor_that_goes_down_with_its_arbiter_before_it_was_polled_makes_no_sleep() {
        // There is no runtime here, as there is none for what a dead arbiter leaves.
        drop(Context::new().into_future(Counting { left: 4, sleep: None, told: None }));
    }

    #[test]
    fn what_keeps_an_actor_takes_no_room() {
        assert_eq!(size_of::<Sleeping>(), 0);
        assert_eq!(size_of_val(&wrap_future::<_, Counting>(std::future::pending::<()>())), 0);
    }
}
