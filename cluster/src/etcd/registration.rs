//! How a session begins: a lease, and under it the node's key.
//!
//! ```text
//!              lease granted      key created
//! (new lease) ──────────────► … ─────────────► registered
//!   ▲  ▲          │                │   │
//!   │  │          └─ no answer ────┘   │ another session has the id: the lease is given back
//!   │  └ lease over  └► the same lease │ the lease is in use for a TTL: it is given back
//!   └──────────────────────────────────┘
//! ```
//!
//! The node chooses the lease's id. So what was carried out without an answer is found by the next attempt, and is no
//! stranger whose end it has to wait for. But only for a TTL after the first request: from then on others may have
//! deleted the key that an attempt had made, and may be about to end its lease ([`super::reaping`]).

use std::time::Duration;

use etcd_client::{LeaseGrantOptions, Txn, TxnOp};
use reeve_protocol::Timestamp;

use super::client::Connection;
use super::error::EtcdError;
use super::session::{Granted, keep_alive, revoke, signs_of_life};
use super::shared::{PAUSE, Shared, created_at, found, put_leased};
use super::state::{Session, State};
use crate::shard_map::Right;

/// A lease that this node wants.
#[derive(Debug, Clone, Copy)]
struct Draft {
    lease: i64,
    /// From before the first request that names it.
    named_at: Option<Duration>,
}

impl Draft {
    /// With an id as etcd's own: positive, and drawn from so many that two never meet.
    fn new() -> Self {
        let lease = i64::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 1).expect("63 bits fit");
        Self { lease, named_at: None }
    }

    /// It is about to be sent.
    fn name(&mut self, now: Duration) {
        self.named_at.get_or_insert(now);
    }

    /// Whether others may be about to end it: a key that an attempt has made may have been silent for a TTL.
    fn is_spent(self, now: Duration, ttl: Duration) -> bool {
        self.named_at.is_some_and(|named_at| now >= named_at + ttl)
    }
}

/// How long a registration has waited.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Duration,
    /// Since when etcd has answered, as far as is known.
    answered_since: Duration,
    limit: Option<Duration>,
}

impl Waiting {
    fn new(now: Duration, limit: Option<Duration>) -> Self {
        Self { since: now, answered_since: now, limit }
    }

    fn unanswered(&mut self, now: Duration) {
        self.answered_since = now;
    }

    fn may_wait_for_etcd(&self, now: Duration) -> bool {
        self.may_wait(self.since, now)
    }

    /// An earlier session's lease does not end while etcd is away.
    fn may_wait_for_predecessor(&self, now: Duration) -> bool {
        self.may_wait(self.answered_since, now)
    }

    fn may_wait(&self, since: Duration, now: Duration) -> bool {
        self.limit.is_none_or(|limit| now.saturating_sub(since) <= limit)
    }
}

/// What became of an attempt.
enum Tried {
    Registered(Granted),
    /// Another session has the id.
    Taken,
    /// It came too late for its lease.
    Spent,
}

/// Registers under a new lease, when the id is free. `limit`: how long to wait for that, and for etcd.
pub(crate) async fn register(shared: &Shared, since: Timestamp, limit: Option<Duration>) -> Result<Granted, EtcdError> {
    let (node, ttl) = (&shared.config.node, shared.config.lease_ttl);
    let mut waiting = Waiting::new(shared.clock.elapsed(), limit);
    let mut draft = Draft::new();
    loop {
        let free = |state: &State| state.seen.nodes.get(node).is_none_or(|known| known.lease == draft.lease);
        // A watch that lags is no reason to wait for ever: the transaction below knows better.
        shared.until_or(free, ttl / 2).await;
        if draft.is_spent(shared.clock.elapsed(), ttl) {
            give_back(shared, draft.lease).await;
            draft = Draft::new();
        }
        draft.name(shared.clock.elapsed());
        let tried = try_register(shared, since, draft).await;
        let now = shared.clock.elapsed();
        match tried {
            Ok(Tried::Registered(granted)) => return Ok(granted),
            Ok(Tried::Taken) => {
                give_back(shared, draft.lease).await;
                if !waiting.may_wait_for_predecessor(now) {
                    return Err(in_use(shared));
                }
                draft = Draft::new();
                tracing::info!(%node, "waiting for an earlier session of this id to end");
            }
            Ok(Tried::Spent) if waiting.may_wait_for_etcd(now) => {
                give_back(shared, draft.lease).await;
                draft = Draft::new();
                tracing::warn!(%node, "etcd is too slow for this node's registration; it is sent again");
            }
            Ok(Tried::Spent) => {
                give_back(shared, draft.lease).await;
                return Err(EtcdError::Unavailable("its answers come later than a lease lasts".to_owned()));
            }
            // It may have been carried out: then the same lease finds its own key, and another would wait for its end.
            Err(error) if error.is_of_connection() && waiting.may_wait_for_etcd(now) => {
                waiting.unanswered(now);
                tracing::warn!(%error, "etcd did not answer this node's registration; it is sent again");
            }
            // Nobody renews it while this node waits for etcd.
            Err(error) if error.is_lease_gone() && waiting.may_wait_for_etcd(now) => {
                draft = Draft::new();
            }
            Err(error) => {
                give_back(shared, draft.lease).await;
                return Err(error);
            }
        }
        shared.clock.sleep(PAUSE).await;
    }
}

async fn try_register(shared: &Shared, since: Timestamp, draft: Draft) -> Result<Tried, EtcdError> {
    let lease = draft.lease;
    let (renewed_at, ttl) = hold_lease(shared, lease).await?;
    let key = shared.keys.node(&shared.config.node);
    let txn = &Txn::new()
        .when([created_at(key.clone(), 0)])
        .and_then([put_leased(key.clone(), &signs_of_life(shared, since), lease)?])
        .or_else([TxnOp::get(key, None)]);
    let response = shared.alive.ask(|etcd| async move { etcd.kv().txn(txn.clone()).await }, shared.patience()).await?;
    let spent = draft.is_spent(shared.clock.elapsed(), shared.config.lease_ttl);
    let created = response.succeeded();
    let incarnation = if created {
        response.header().map_or(0, etcd_client::ResponseHeader::revision)
    } else {
        match found(&response).pop() {
            // The answer to an earlier attempt was lost.
            Some(kv) if kv.lease() == lease => kv.create_revision(),
            Some(_) | None => return Ok(Tried::Taken),
        }
    };
    if spent {
        return Ok(Tried::Spent);
    }
    // A key that was written after the lease was renewed is one that nobody has heard of before. Of an earlier attempt's
    // they have, so the right waits for the first beat.
    let renewed_at = if created { renewed_at } else { Duration::ZERO };
    if created {
        shared.extend_right(Right::new(renewed_at, ttl).acts_until());
    }
    let session = Session { lease, incarnation, ttl };
    shared.state.send_modify(|state| state.session = Some(session));
    Ok(Tried::Registered(Granted { session, renewed_at }))
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
    EtcdError::Config(format!("[node] id \"{node}\" is in use by another process at {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_spent_a_ttl_after_it_was_first_named() {
        let mut draft = Draft::new();
        assert!(draft.lease > 0 && !draft.is_spent(1_000 * SECOND, 5 * SECOND));
        draft.name(100 * SECOND);
        draft.name(104 * SECOND);
        assert!(!draft.is_spent(Duration::from_millis(104_999), 5 * SECOND));
        assert!(draft.is_spent(105 * SECOND, 5 * SECOND));
    }

    #[test]
    fn time_without_etcd_does_not_count_against_a_predecessor() {
        let mut waiting = Waiting::new(10 * SECOND, Some(17 * SECOND));
        assert!(waiting.may_wait_for_predecessor(27 * SECOND) && !waiting.may_wait_for_predecessor(28 * SECOND));
        waiting.unanswered(25 * SECOND);
        assert!(waiting.may_wait_for_predecessor(42 * SECOND) && !waiting.may_wait_for_predecessor(43 * SECOND));
        assert!(waiting.may_wait_for_etcd(27 * SECOND) && !waiting.may_wait_for_etcd(28 * SECOND));
        assert!(Waiting::new(SECOND, None).may_wait_for_etcd(1_000 * SECOND), "it is a member already");
    }
}
