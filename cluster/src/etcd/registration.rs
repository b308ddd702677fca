//! How a session begins: a lease, and under it the node's key.
//!
//! ```text
//!              lease granted      key created
//! (new lease) ──────────────► … ─────────────► registered
//!   ▲  ▲          │                │   │
//!   │  │          └─ no answer ────┘   │ another session has the id: the lease is given back
//!   │  └ lease over  └► the same lease │
//!   └──────────────────────────────────┘
//! ```
//!
//! The node chooses the lease's id. So what was carried out without an answer is found by the next attempt, and is no
//! stranger whose end it has to wait for.

use std::time::Duration;

use etcd_client::{LeaseGrantOptions, Txn, TxnOp};
use reeve_protocol::Timestamp;

use super::client::Connection;
use super::error::EtcdError;
use super::session::{Granted, keep_alive, revoke, signs_of_life};
use super::shared::{PAUSE, Shared, created_at, found, put_leased};
use super::state::{Session, State};
use crate::shard_map::Right;

/// Registers under a new lease, when the id is free. `limit`: how long to wait for that, and for etcd.
pub(crate) async fn register(shared: &Shared, since: Timestamp, limit: Option<Duration>) -> Result<Granted, EtcdError> {
    let (node, started) = (&shared.config.node, shared.clock.elapsed());
    let mut lease = new_lease();
    loop {
        let free = |state: &State| state.seen.nodes.get(node).is_none_or(|known| known.lease == lease);
        // A watch that lags is no reason to wait for ever: the transaction below knows better.
        shared.until_or(free, shared.config.lease_ttl / 2).await;
        let tried = try_register(shared, since, lease).await;
        let waited = shared.clock.elapsed().saturating_sub(started);
        let in_time = limit.is_none_or(|limit| waited <= limit);
        match tried {
            Ok(Some(granted)) => return Ok(granted),
            Ok(None) => {
                give_back(shared, lease).await;
                if !in_time {
                    return Err(in_use(shared));
                }
                lease = new_lease();
                tracing::info!(%node, "waiting for an earlier session of this id to end");
            }
            // It may have been carried out: then the same lease finds its own key, and another would wait for its end.
            Err(error) if error.is_of_connection() && in_time => {
                tracing::warn!(%error, "etcd did not answer this node's registration; it is sent again");
            }
            // Nobody renews it while this node waits for etcd.
            Err(error) if error.is_lease_gone() && in_time => lease = new_lease(),
            Err(error) => {
                give_back(shared, lease).await;
                return Err(error);
            }
        }
        shared.clock.sleep(PAUSE).await;
    }
}

/// `None`: another session has the id.
async fn try_register(shared: &Shared, since: Timestamp, lease: i64) -> Result<Option<Granted>, EtcdError> {
    let (renewed_at, ttl) = hold_lease(shared, lease).await?;
    let key = shared.keys.node(&shared.config.node);
    let txn = &Txn::new()
        .when([created_at(key.clone(), 0)])
        .and_then([put_leased(key.clone(), &signs_of_life(shared, since), lease)?])
        .or_else([TxnOp::get(key, None)]);
    let response = shared.alive.ask(|etcd| async move { etcd.kv().txn(txn.clone()).await }, shared.patience()).await?;
    let (incarnation, renewed_at) = if response.succeeded() {
        // The key was written after the lease was renewed, so nobody has heard of it before.
        shared.extend_right(Right::new(renewed_at, ttl).acts_until());
        (response.header().map_or(0, etcd_client::ResponseHeader::revision), renewed_at)
    } else {
        match found(&response).pop() {
            // The answer to an earlier attempt was lost. It was heard of then, so the right waits for the first beat.
            Some(kv) if kv.lease() == lease => (kv.create_revision(), Duration::ZERO),
            Some(_) | None => return Ok(None),
        }
    };
    let session = Session { lease, incarnation };
    shared.state.send_modify(|state| state.session = Some(session));
    Ok(Some(Granted { session, ttl, renewed_at }))
}

/// Has the lease granted, or renews it if an attempt without an answer had. When that was sent, and the TTL.
async fn hold_lease(shared: &Shared, lease: i64) -> Result<(Duration, Duration), EtcdError> {
    let seconds = i64::try_from(shared.config.lease_ttl.as_secs()).unwrap_or(i64::MAX);
    let grant = |etcd: Connection| async move {
        let sent_at = shared.clock.elapsed();
        let granted = etcd.lease().grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await?;
        Ok((sent_at, granted.ttl()))
    };
    match shared.alive.ask(grant, shared.patience()).await {
        Ok((sent_at, ttl)) => Ok((sent_at, Duration::from_secs(u64::try_from(ttl).unwrap_or(0)))),
        // etcd grants no shorter one than it was asked for.
        Err(error) if error.is_lease_there() => {
            Ok((keep_alive(shared, lease, shared.patience()).await?, shared.config.lease_ttl))
        }
        Err(error) => Err(error),
    }
}

/// An id for a lease, as etcd's own: positive, and drawn from so many that two never meet.
fn new_lease() -> i64 {
    i64::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 1).expect("63 bits fit")
}

/// Ends a lease that nobody will renew, and the key that it may hold. It would end by itself, after a TTL.
async fn give_back(shared: &Shared, lease: i64) {
    if let Err(error) = revoke(shared, lease, shared.patience()).await {
        tracing::debug!(%error, "the lease of a registration that was given up ends by itself");
    }
}

fn in_use(shared: &Shared) -> EtcdError {
    let node = &shared.config.node;
    let address = shared.state.borrow().seen.nodes.get(node).and_then(|known| known.beat.clone()?.address);
    let address = address.unwrap_or_else(|| "an unknown address".to_owned());
    EtcdError::Config(format!("[node] id {node:?} is in use by another process at {address}"))
}
