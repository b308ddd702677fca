//! What the tasks of one node share, and the calls of etcd that more than one of them makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use reeve_ports::Clock;
use reeve_ports::coordination::Load;
use reeve_protocol::codec::CodecError;
use serde::Serialize;
use tokio::sync::{Mutex, Notify, watch};

use super::client::EtcdClient;
use super::config::EtcdConfig;
use super::error::EtcdError;
use super::keys::Keys;
use super::seen::{Change, Put, Received};
use super::state::{Session, State};
use super::value;

/// The pause before something is tried again that failed for another reason than time.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// What the tasks of one node share.
pub(crate) struct Shared {
    pub(crate) config: EtcdConfig,
    pub(crate) client: EtcdClient,
    /// The session's own: a connect or a call of others never stands before a sign of life.
    pub(crate) alive: EtcdClient,
    pub(crate) keys: Keys,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: watch::Sender<State>,
    /// Until when this node may act, in nanoseconds of the boot-time clock.
    acts_until: AtomicU64,
    /// No right any more, whatever a beat that is still on its way brings.
    left: AtomicBool,
    pub(crate) load: std::sync::Mutex<Load>,
    /// The watch is to begin anew.
    pub(crate) rewatch: Notify,
    /// One release, claim or stray at a time would be too slow; but a shard's own calls take turns.
    pub(crate) turns: Vec<Mutex<()>>,
}

impl Shared {
    pub(crate) fn new(config: EtcdConfig, clock: Arc<dyn Clock>) -> Result<Self, EtcdError> {
        Ok(Self {
            client: EtcdClient::new(&config)?,
            alive: EtcdClient::new(&config)?,
            keys: Keys::new(&config.cluster),
            state: watch::Sender::new(State::new(config.node.clone())),
            acts_until: AtomicU64::new(0),
            left: AtomicBool::new(false),
            load: std::sync::Mutex::default(),
            rewatch: Notify::new(),
            turns: (0..config.shards).map(|_| Mutex::new(())).collect(),
            config,
            clock,
        })
    }

    /// How long a call may take: less than the right to act lasts, so that its answer can still matter.
    pub(crate) fn patience(&self) -> Duration {
        (self.config.lease_ttl / 2).min(Duration::from_secs(3))
    }

    pub(crate) fn received(&self) -> Received {
        Received { now: self.clock.now(), elapsed: self.clock.elapsed() }
    }

    pub(crate) fn may_act(&self) -> bool {
        !self.left.load(Ordering::Acquire) && nanos(self.clock.elapsed()) < self.acts_until.load(Ordering::Acquire)
    }

    /// A beat was confirmed: its keep-alive and its sign of life. The right counts from before both were sent. A late
    /// answer to an early one takes nothing away.
    pub(crate) fn extend_right(&self, until: Duration) {
        self.acts_until.fetch_max(nanos(until), Ordering::AcqRel);
    }

    pub(crate) fn end_right(&self) {
        self.acts_until.store(0, Ordering::Release);
    }

    /// Ends the right for good.
    pub(crate) fn end_right_for_good(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(crate) fn session(&self) -> Option<Session> {
        self.state.borrow().session
    }

    /// Waits until the state is so.
    pub(crate) async fn until(&self, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        // The sender is `self`.
        let _ = state.wait_for(condition).await;
    }

    /// As [`Shared::until`], but no longer than this. Whether it came to be.
    pub(crate) async fn until_or(&self, condition: impl FnMut(&State) -> bool, limit: Duration) -> bool {
        tokio::select! {
            () = self.until(condition) => true,
            () = self.clock.sleep(limit) => false,
        }
    }

    /// A transaction that may be carried out twice without harm.
    pub(crate) async fn transact(&self, txn: &Txn, patience: Duration) -> Result<TxnResponse, EtcdError> {
        self.client.ask(|etcd| async move { etcd.kv().txn(txn.clone()).await }, patience).await
    }

    /// Lists all that is watched, at one revision.
    pub(crate) async fn list(&self) -> Result<(i64, Vec<Change>), EtcdError> {
        let ranges = [self.keys.members_range(), self.keys.shards_range()];
        let gets: Vec<TxnOp> = ranges.map(|(from, to)| TxnOp::get(from, Some(GetOptions::new().with_range(to)))).into();
        let response = self.transact(&Txn::new().and_then(gets), self.patience()).await?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut changes = Vec::new();
        for kv in found(&response) {
            changes.push(self.change(&kv, false));
        }
        Ok((revision, changes))
    }

    pub(crate) fn change(&self, kv: &KeyValue, deleted: bool) -> Change {
        let put = || Put { value: kv.value().to_vec(), created: kv.create_revision(), lease: kv.lease() };
        Change { subject: self.keys.subject(kv.key()), revision: kv.mod_revision(), put: (!deleted).then(put) }
    }
}

/// The keys that the reads of a transaction found.
pub(crate) fn found(response: &TxnResponse) -> Vec<KeyValue> {
    let mut all = Vec::new();
    for answer in response.op_responses() {
        if let TxnOpResponse::Get(mut get) = answer {
            all.append(&mut get.take_kvs());
        }
    }
    all
}

/// "The key was created at this revision"; 0: "there is no such key".
pub(crate) fn created_at(key: String, revision: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, revision)
}

/// Puts a value under a lease.
pub(crate) fn put_leased<T: Serialize>(key: String, value: &T, lease: i64) -> Result<TxnOp, EtcdError> {
    let bytes = value::encode(value).map_err(|error| unencodable(&error))?;
    Ok(TxnOp::put(key, bytes, Some(PutOptions::new().with_lease(lease))))
}

pub(crate) fn unencodable(error: &CodecError) -> EtcdError {
    EtcdError::Refused(format!("a value cannot be written: {error}"))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use reeve_ports::SystemClock;
    use reeve_protocol::NodeId;

    use super::*;

    #[tokio::test]
    async fn who_has_left_gets_no_right_from_a_beat_that_was_on_its_way() {
        let config = EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()], "test", NodeId::new("a").unwrap());
        let shared = Shared::new(config, Arc::new(SystemClock)).unwrap();
        let far = shared.clock.elapsed() + Duration::from_secs(3_600);
        shared.extend_right(far);
        assert!(shared.may_act());
        shared.end_right();
        assert!(!shared.may_act());
        shared.extend_right(far);
        assert!(shared.may_act(), "a session that ended is followed by another");
        shared.end_right_for_good();
        shared.extend_right(far);
        assert!(!shared.may_act());
    }
}
