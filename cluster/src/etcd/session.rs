//! A node's membership: a lease, kept alive, and under it the key `nodes/<id>`.
//!
//! ```text
//!                       granted, key created                keep-alive refused, or the key gone
//! Outside ──► Waiting ─────────────────────► Member ──────────────────────────────────────────► Outside
//!               │ the key of another session is there       │ no answer: the right to act lapses,
//!               ├──► until its lease ends                   └──► Member still, until etcd says otherwise
//!               └ no answer: the same lease again
//! ```
//!
//! Every beat renews the lease and writes the key again with the wall clock; only both together extend the right to
//! act. Only etcd's word ends a session: after an outage that the lease outlived, the same epochs go on. How it begins:
//! [`super::registration`]; how others end it: [`super::reaping`].

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use reeve_protocol::admin::ADMIN_FORMAT;
use reeve_protocol::{Timestamp, codec};

use super::client::Connection;
use super::error::EtcdError;
use super::registration::register;
use super::shared::{PAUSE, Shared, created_at, found, put_leased, unencodable};
use super::state::Session;
use super::value::{self, Beat, FORMAT, Founding};
use crate::shard_map::Right;

/// A sign of life each quarter of the TTL: three may fail.
const BEATS_PER_TTL: u32 = 4;
/// How long the first registration waits for a session of the same id to end, in TTLs. A new leader of etcd extends all
/// leases once.
const PREDECESSOR_TTLS: u32 = 3;
/// How long the right to act stays away after a session ended. The right is the node's, not a claim's: whoever acts
/// for a claim that ended with the session has to hear of it before there is a right again.
const LOSS_SINKS_IN: Duration = Duration::from_millis(250);
/// The pause after a beat that was not answered. One that was refused gets the longer [`PAUSE`].
const RETRY: Duration = Duration::from_millis(50);

/// The revisions of the last two beats.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    last: i64,
    before: i64,
}

impl Written {
    fn confirmed(&mut self, revision: i64) {
        *self = Self { last: revision, before: self.last };
    }

    /// Whether a watch that has come this far is silently dead. The last beat proves nothing: when it took long, the
    /// next follows at once.
    fn is_missed_at(self, seen: i64) -> bool {
        seen < self.before
    }
}

/// How long a beat waits for its answers. An endpoint gets its share ([`super::client::EtcdClient::ask`]): of three a
/// sixth of the TTL, so that a slow etcd can confirm it, and a beat that is lost is sent again before this node counts as
/// deaf ([`crate::shard_map::silence`]). The right counts from the sending however late the answer comes.
fn beat_patience(ttl: Duration) -> Duration {
    ttl / 2
}

/// What a session needs to go on.
pub(crate) struct Granted {
    pub(crate) session: Session,
    /// When the last grant or renewal of the lease was sent.
    pub(crate) renewed_at: Duration,
}

/// Registers this node, and then keeps it registered until it is dropped. The sender tells how the first time went.
pub(crate) async fn keep(shared: Arc<Shared>, first: tokio::sync::oneshot::Sender<Result<(), EtcdError>>) {
    let since = shared.clock.now();
    let limit = shared.config.lease_ttl * PREDECESSOR_TTLS + Duration::from_secs(2);
    let mut granted = match register(&shared, since, Some(limit)).await {
        Ok(granted) => granted,
        // Nobody waits any more if it cannot be sent.
        Err(error) => return drop(first.send(Err(error))),
    };
    // As above.
    let _ = first.send(Ok(()));
    loop {
        let why = beat(&shared, since, &granted).await;
        tracing::warn!(node = %shared.config.node, why, "this node's session is over; it registers anew");
        end(&shared, granted.session).await;
        granted = loop {
            match register(&shared, since, None).await {
                Ok(granted) => break granted,
                Err(error) => tracing::warn!(%error, "this node cannot register"),
            }
            shared.clock.sleep(PAUSE).await;
        };
        tracing::info!(node = %shared.config.node, "this node is a member again");
    }
}

/// Makes `meta/format`, or finds that it fits.
pub(crate) async fn found_cluster(shared: &Shared) -> Result<(), EtcdError> {
    let config = &shared.config;
    let key = shared.keys.format();
    let founding = Founding { cluster: config.cluster.clone(), shards: config.shards, at: shared.clock.now() };
    let bytes = value::encode(&founding).map_err(|error| unencodable(&error))?;
    let txn = Txn::new()
        .when([created_at(key.clone(), 0)])
        .and_then([TxnOp::put(key.clone(), bytes, None)])
        .or_else([TxnOp::get(key, None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    let Some(kv) = found(&response).pop() else { return Ok(()) };
    let refuse = |why: String| Err(EtcdError::Config(format!("cluster {:?}: {why}", config.cluster)));
    match value::decode::<Founding>(kv.value()) {
        Ok(founding) if founding.shards != config.shards => refuse(format!(
            "[cluster] shards is {} (expected {}, fixed when the cluster was made)",
            config.shards, founding.shards
        )),
        Ok(_) => Ok(()),
        Err(codec::CodecError::Newer { found, supported }) => refuse(format!(
            "it has format {found}, and this version understands {supported}; a newer version of Reeve is needed"
        )),
        Err(error) => refuse(format!("its meta/format cannot be read: {error}")),
    }
}

/// Ends a lease and all that is bound to it. Done as well if it is over.
pub(crate) async fn revoke(shared: &Shared, lease: i64, patience: Duration) -> Result<(), EtcdError> {
    let revoked = shared.client.ask(|etcd| async move { etcd.lease().revoke(lease).await }, patience).await;
    match revoked {
        Ok(_) => Ok(()),
        Err(error) if error.is_lease_gone() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Renews a lease; tells when that was sent.
pub(crate) async fn keep_alive(shared: &Shared, lease: i64, patience: Duration) -> Result<Duration, EtcdError> {
    let keep_alive = |etcd: Connection| async move {
        let sent_at = shared.clock.elapsed();
        etcd.lease().keep_alive(lease).await?;
        Ok(sent_at)
    };
    shared.alive.ask(keep_alive, patience).await
}

/// Beats until the session is over; tells why.
async fn beat(shared: &Shared, since: Timestamp, granted: &Granted) -> &'static str {
    let Granted { session, mut renewed_at } = *granted;
    let (every, patience) = (session.ttl / BEATS_PER_TTL, beat_patience(session.ttl));
    let (mut written, mut lapsed) = (Written::default(), false);
    loop {
        // From sending to sending: a beat that took long takes nothing from the next.
        let pause = (renewed_at + every).saturating_sub(shared.clock.elapsed());
        // Whoever sees its own key gone asks at once what has become of the lease.
        shared.until_or(|state| state.is_unregistered(session), pause).await;
        if written.is_missed_at(shared.state.borrow().seen.members_at) {
            shared.rewatch.notify_one();
        }
        renewed_at = loop {
            let sent_at = shared.clock.elapsed();
            let kept = keep_alive(shared, session.lease, patience);
            let error = match tokio::join!(kept, write_sign_of_life(shared, since, session)) {
                (Err(error), _) | (_, Err(error)) if error.is_lease_gone() => return "its lease is over",
                (_, Ok(None)) => return "its key is gone",
                // Both, because the others take a node for dead by its signs of life (see `shard_map::silence`).
                (Ok(_), Ok(Some(revision))) => {
                    written.confirmed(revision);
                    shared.extend_right(Right::new(sent_at, session.ttl).acts_until());
                    if lapsed && shared.may_act() {
                        tracing::info!(node = %shared.config.node, "this node may act again");
                        lapsed = false;
                    }
                    break sent_at;
                }
                (Err(error), _) | (_, Err(error)) => error,
            };
            if lapsed || shared.may_act() {
                tracing::debug!(%error, "a beat was not confirmed");
            } else {
                tracing::warn!(%error, "no beat is confirmed; until one is, this node may not act");
                lapsed = true;
            }
            shared.clock.sleep(if error.is_of_connection() { RETRY } else { PAUSE }).await;
        };
    }
}

/// The revision at which it was written; `None` when the key is not this session's any more.
pub(crate) async fn write_sign_of_life(
    shared: &Shared,
    since: Timestamp,
    session: Session,
) -> Result<Option<i64>, EtcdError> {
    let write = |etcd: Connection| async move {
        let key = shared.keys.node(&shared.config.node);
        // Made for each attempt, because it tells the time of its sending.
        let Ok(put) = put_leased(key.clone(), &signs_of_life(shared, since), session.lease) else { return Ok(None) };
        let txn = Txn::new().when([created_at(key, session.incarnation)]).and_then([put]);
        etcd.kv().txn(txn).await.map(Some)
    };
    let patience = beat_patience(session.ttl);
    let Some(response) = shared.alive.ask(write, patience).await? else {
        return Err(EtcdError::Refused("a sign of life cannot be written".to_owned()));
    };
    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok(response.succeeded().then_some(revision))
}

/// The session is over: nothing is owned under it any more.
async fn end(shared: &Shared, session: Session) {
    shared.end_right();
    shared.state.send_modify(|state| state.session = None);
    // If only the key is gone, the lease holds shards that nobody tends.
    if let Err(error) = revoke(shared, session.lease, shared.patience()).await {
        tracing::debug!(%error, "the lease of a session that is over ends by itself");
    }
    shared.clock.sleep(LOSS_SINKS_IN).await;
}

pub(crate) fn signs_of_life(shared: &Shared, since: Timestamp) -> Beat {
    let load = *shared.load.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let config = &shared.config;
    Beat {
        version: config.version.clone(),
        admin_format: ADMIN_FORMAT,
        value_format: FORMAT,
        since,
        clock: shared.clock.now(),
        address: config.address.clone(),
        weight: config.weight,
        vms: load.vms,
        outbox: load.outbox,
        leaving: shared.state.borrow().retiring,
    }
}

#[cfg(test)]
mod tests {
    use reeve_ports::SystemClock;
    use reeve_protocol::NodeId;
    use tokio::net::TcpListener;

    use super::super::config::EtcdConfig;
    use super::*;
    use crate::shard_map::silence::deaf_after;

    #[test]
    fn a_slow_etcd_of_three_members_can_confirm_a_beat_and_a_dead_connection_costs_no_right() {
        let ttl = Duration::from_secs(4);
        let share = |endpoints: u32| beat_patience(ttl) / endpoints;
        assert_eq!(share(3), ttl / 6);
        for endpoints in 1..=3 {
            // Sent a beat after the last one that was confirmed, and again when it was not answered.
            let repeated = ttl / BEATS_PER_TTL + share(endpoints) + PAUSE;
            assert!(Right::new(Duration::ZERO, ttl).allows(repeated), "{endpoints}");
            // Where there is no other endpoint, an answer that is lost is an outage.
            assert!(endpoints == 1 || repeated < deaf_after(ttl), "{endpoints}");
        }
    }

    #[test]
    fn a_watch_is_dead_only_when_it_has_not_brought_the_beat_before_the_last() {
        let mut written = Written::default();
        written.confirmed(20);
        assert!(!written.is_missed_at(10), "it may be on its way");
        written.confirmed(30);
        assert!(written.is_missed_at(19) && !written.is_missed_at(20));
    }

    #[tokio::test]
    async fn a_keep_alive_waits_for_nobody_elses_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let config = EtcdConfig::new(vec![endpoint], "test", NodeId::new("a").unwrap());
        let shared = Shared::new(config, Arc::new(SystemClock)).unwrap();
        // As while a read of the store waits for its connect.
        let _connecting = shared.client.occupy().await;
        tokio::select! {
            accepted = listener.accept() => assert!(accepted.is_ok()),
            _ = keep_alive(&shared, 1, Duration::from_secs(10)) => panic!("it was never sent"),
        }
    }
}
