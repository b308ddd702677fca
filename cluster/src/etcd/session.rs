//! A node's membership: a lease, kept alive, and under it the key `nodes/<id>`.
//!
//! ```text
//!                       granted, key created                keep-alive refused, or the key gone
//! Outside ──► Waiting ─────────────────────► Member ──────────────────────────────────────────► Outside
//!               │ the key of another session is there       │ no answer: the right to act lapses,
//!               └──► until its lease ends                   └──► Member still, until etcd says otherwise
//! ```
//!
//! Every beat renews the lease and writes the key again with the wall clock. Only etcd's word ends a session: after an
//! outage that the lease outlived, the same epochs go on.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{LeaseGrantOptions, Txn, TxnOp};
use reeve_protocol::admin::ADMIN_FORMAT;
use reeve_protocol::{Timestamp, codec};

use super::error::EtcdError;
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
/// The pause after a beat that failed.
const RETRY: Duration = Duration::from_millis(50);

/// What a session needs to go on.
struct Granted {
    session: Session,
    ttl: Duration,
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

/// Registers under a new lease, when the id is free. `limit`: how long to wait for that.
async fn register(shared: &Shared, since: Timestamp, limit: Option<Duration>) -> Result<Granted, EtcdError> {
    let (node, started) = (&shared.config.node, shared.clock.elapsed());
    loop {
        let free = |state: &super::state::State| !state.seen.nodes.contains_key(node);
        // A watch that lags is no reason to wait for ever: the transaction below knows better.
        shared.until_or(free, shared.config.lease_ttl / 2).await;
        if let Some(granted) = try_register(shared, since).await? {
            return Ok(granted);
        }
        let waited = shared.clock.elapsed().saturating_sub(started);
        if limit.is_some_and(|limit| waited > limit) {
            let address = shared.state.borrow().seen.nodes.get(node).and_then(|known| known.beat.clone()?.address);
            let address = address.unwrap_or_else(|| "an unknown address".to_owned());
            return Err(EtcdError::Config(format!("[node] id {node:?} is in use by another process at {address}")));
        }
        tracing::info!(%node, "waiting for an earlier session of this id to end");
        shared.clock.sleep(PAUSE).await;
    }
}

/// `None`: another session has the id.
async fn try_register(shared: &Shared, since: Timestamp) -> Result<Option<Granted>, EtcdError> {
    let seconds = i64::try_from(shared.config.lease_ttl.as_secs()).unwrap_or(i64::MAX);
    let grant = |etcd: super::client::Connection| async move {
        let sent_at = shared.clock.elapsed();
        let granted = etcd.lease().grant(seconds, Some(LeaseGrantOptions::new())).await?;
        Ok((sent_at, granted.id(), granted.ttl()))
    };
    // A grant whose answer is lost leaves a lease that nobody renews.
    let (sent_at, lease, ttl) = shared.client.ask(grant, shared.patience()).await?;
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let key = shared.keys.node(&shared.config.node);
    let txn = Txn::new()
        .when([created_at(key.clone(), 0)])
        .and_then([put_leased(key.clone(), &signs_of_life(shared, since), lease)?])
        .or_else([TxnOp::get(key, None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    let incarnation = if response.succeeded() {
        response.header().map_or(0, etcd_client::ResponseHeader::revision)
    } else {
        match found(&response).pop() {
            // The answer to an earlier attempt was lost.
            Some(kv) if kv.lease() == lease => kv.create_revision(),
            Some(_) | None => {
                // It would end by itself.
                let _ = revoke(shared, lease, shared.patience()).await;
                return Ok(None);
            }
        }
    };
    let session = Session { lease, incarnation };
    shared.extend_right(Right::new(sent_at, ttl).acts_until());
    shared.state.send_modify(|state| state.session = Some(session));
    Ok(Some(Granted { session, ttl }))
}

/// Beats until the session is over; tells why.
async fn beat(shared: &Shared, since: Timestamp, granted: &Granted) -> &'static str {
    let Granted { session, ttl } = *granted;
    let mut written_at = 0;
    loop {
        // Whoever sees its own key gone asks at once what has become of the lease.
        shared.until_or(|state| state.is_unregistered(session), ttl / BEATS_PER_TTL).await;
        if shared.state.borrow().seen.members_at < written_at {
            shared.rewatch.notify_one();
        }
        loop {
            let keep_alive = |etcd: super::client::Connection| async move {
                let sent_at = shared.clock.elapsed();
                etcd.lease().keep_alive(session.lease).await?;
                Ok(sent_at)
            };
            match shared.client.ask(keep_alive, ttl / BEATS_PER_TTL).await {
                Ok(sent_at) => break shared.extend_right(Right::new(sent_at, ttl).acts_until()),
                Err(error) if error.is_lease_gone() => return "its lease is over",
                Err(error) => tracing::debug!(%error, "a keep-alive was not confirmed"),
            }
            shared.clock.sleep(RETRY).await;
        }
        match write_sign_of_life(shared, since, session).await {
            Ok(Some(revision)) => written_at = revision,
            Ok(None) => return "its key is gone",
            Err(error) if error.is_lease_gone() => return "its lease is over",
            Err(error) => tracing::debug!(%error, "a sign of life was not written"),
        }
    }
}

/// The revision at which it was written; `None` when the key is not this session's any more.
pub(crate) async fn write_sign_of_life(
    shared: &Shared,
    since: Timestamp,
    session: Session,
) -> Result<Option<i64>, EtcdError> {
    let write = |etcd: super::client::Connection| async move {
        let key = shared.keys.node(&shared.config.node);
        // Made for each attempt, because it tells the time of its sending.
        let Ok(put) = put_leased(key.clone(), &signs_of_life(shared, since), session.lease) else { return Ok(None) };
        let txn = Txn::new().when([created_at(key, session.incarnation)]).and_then([put]);
        etcd.kv().txn(txn).await.map(Some)
    };
    let Some(response) = shared.client.ask(write, shared.patience()).await? else {
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

fn signs_of_life(shared: &Shared, since: Timestamp) -> Beat {
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
