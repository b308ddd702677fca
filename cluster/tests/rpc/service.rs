//! A service that does as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reeve_cluster::rpc::MAX_FRAME_BYTES;
use reeve_ports::AdminService;
use reeve_protocol::Timestamp;
use reeve_protocol::admin::{ActorView, AdminReply, AdminRequest, EventView, Principal};
use tokio::sync::{Semaphore, watch};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Answers `DeadDrop(n)` as the number tells, and `ActorTree(None)` with its name and whoever asks.
pub(crate) struct Fake {
    name: &'static str,
    pub(crate) gate: Semaphore,
    pub(crate) most: AtomicUsize,
    pub(crate) asked: AtomicUsize,
    now: watch::Sender<usize>,
}

pub(crate) const NEVER: u64 = 1;
pub(crate) const GATED: u64 = 2;
pub(crate) const PANIC: u64 = 3;
pub(crate) const HUGE: u64 = 4;
/// More than is written with another reply.
pub(crate) const LONG: u64 = 5;

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Self::named("fake")
    }

    pub(crate) fn named(name: &'static str) -> Arc<Self> {
        let (most, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { name, gate: Semaphore::new(0), most, asked, now: watch::Sender::new(0) })
    }

    /// Waits until so many calls of the kinds `NEVER` and `GATED` are under way: not so long that a limit of the node
    /// could end them.
    pub(crate) async fn until(&self, now: usize) {
        let mut changes = self.now.subscribe();
        let reached = changes.wait_for(|under_way| *under_way == now);
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
        reached.expect("the number of calls under way was never reached").unwrap();
    }

    fn begin(&self) -> UnderWay<'_> {
        self.now.send_modify(|now| *now += 1);
        self.most.fetch_max(*self.now.borrow(), Ordering::SeqCst);
        UnderWay(&self.now)
    }
}

struct UnderWay<'a>(&'a watch::Sender<usize>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|now| *now -= 1);
    }
}

#[async_trait]
impl AdminService for Fake {
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (by, request) = match request {
            AdminRequest::Forwarded { by, request } => (by, *request),
            request => (by.clone(), request),
        };
        let what = match request {
            AdminRequest::DeadDrop(what) => what,
            AdminRequest::ActorTree(None) => {
                let (name, state) = (self.name.to_owned(), format!("{} {}", by.role, by.name));
                let since = Timestamp::EPOCH;
                let (restarts, mailbox, children) = (0, None, Vec::new());
                return AdminReply::Actors(Box::new(ActorView { name, state, restarts, since, mailbox, children }));
            }
            _ => return AdminReply::Vms(Vec::new()),
        };
        match what {
            NEVER => {
                let _under_way = self.begin();
                std::future::pending().await
            }
            PANIC => panic!("on purpose"),
            HUGE => AdminReply::Events(vec![EventView { position: 1, json: "x".repeat(MAX_FRAME_BYTES) }]),
            LONG => AdminReply::Events(vec![EventView { position: 1, json: "x".repeat(100_000) }]),
            GATED => {
                let _under_way = self.begin();
                self.gate.acquire().await.unwrap().forget();
                AdminReply::Done
            }
            _ => AdminReply::Done,
        }
    }
}

/// Who answered and whom, of an answer to `ActorTree(None)`.
pub(crate) fn who(reply: &AdminReply) -> (&str, &str) {
    let AdminReply::Actors(actor) = reply else { panic!("{reply:?}") };
    (&actor.name, &actor.state)
}
