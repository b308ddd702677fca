//! The arbiter threads of a node. A thread that died is replaced when it is next asked for.

use std::sync::{Mutex, PoisonError};

use actix_rt::{Arbiter, ArbiterHandle, System};
use tokio::sync::oneshot;

/// There is no actix system, or it has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no actix system is running (start the node inside run_system)")]
pub(crate) struct NoSystem;

/// An arbiter thread.
pub(crate) struct ArbiterRef(ArbiterHandle);

impl ArbiterRef {
    pub(super) fn handle(&self) -> &ArbiterHandle {
        &self.0
    }
}

/// The arbiter threads of a node.
pub(crate) struct ArbiterPool {
    /// Arbiters can be made only on a thread of the system.
    system: ArbiterHandle,
    arbiters: Vec<Mutex<Option<ArbiterHandle>>>,
}

impl ArbiterPool {
    /// A pool of `size` threads, which are started when they are asked for.
    pub(crate) fn new(size: usize) -> Result<Self, NoSystem> {
        let system = System::try_current().ok_or(NoSystem)?.arbiter().clone();
        Ok(Self { system, arbiters: (0..size.max(1)).map(|_| Mutex::new(None)).collect() })
    }

    pub(crate) fn size(&self) -> usize {
        self.arbiters.len()
    }

    /// The thread of this index, a new one if it died.
    pub(crate) async fn get(&self, index: usize) -> Result<ArbiterRef, NoSystem> {
        let slot = &self.arbiters[index % self.arbiters.len()];
        if let Some(alive) = Self::alive(slot) {
            return Ok(ArbiterRef(alive));
        }
        let (sender, receiver) = oneshot::channel();
        let asked = self.system.spawn_fn(move || {
            let made = Arbiter::new().handle();
            if let Err(unwanted) = sender.send(made) {
                unwanted.stop();
            }
        });
        if !asked {
            return Err(NoSystem);
        }
        let made = receiver.await.map_err(|_| NoSystem)?;
        // Two may have asked at once: one thread is enough.
        if let Some(alive) = Self::alive(slot) {
            made.stop();
            return Ok(ArbiterRef(alive));
        }
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        Ok(ArbiterRef(made))
    }

    fn alive(slot: &Mutex<Option<ArbiterHandle>>) -> Option<ArbiterHandle> {
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(ArbiterHandle::alive)
    }

    /// Waits until every thread has answered.
    pub(crate) async fn answer(&self) -> Result<(), NoSystem> {
        for index in 0..self.arbiters.len() {
            let arbiter = self.get(index).await?;
            let (sender, receiver) = oneshot::channel();
            arbiter.0.spawn_fn(move || {
                // Whoever asked may have gone.
                let _ = sender.send(());
            });
            // One that died meanwhile is replaced when it is next asked for.
            let _ = receiver.await;
        }
        Ok(())
    }

    /// Stops a thread with everything on it; true if it ran.
    pub(crate) fn kill(&self, index: usize) -> bool {
        Self::alive(&self.arbiters[index % self.arbiters.len()]).is_some_and(|arbiter| arbiter.stop())
    }

    /// Stops every thread.
    pub(crate) fn stop(&self) {
        for index in 0..self.arbiters.len() {
            self.kill(index);
        }
    }
}
