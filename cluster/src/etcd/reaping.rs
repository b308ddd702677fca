//! Ends the sessions of nodes that are silent. Every node does this, so that a leader that died is found as well.
//!
//! ```text
//! heard ──silent for the TTL of its lease──► its key deleted, if it still is as it was heard ──► its lease revoked
//!   ▲                                          │ it has written since
//!   └──────────────────────────────────────────┘
//! ```
//!
//! Mostly etcd is about as fast. But a lease that etcd has extended, because another of its members leads now, outlives
//! its node by up to a TTL. Without its key, a node that lives after all cannot extend its right to act
//! ([`super::session`]), and the right that it had has ended by then ([`crate::shard_map::silence`]): only after that
//! its shards become free.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use reeve_protocol::NodeId;

use super::error::EtcdError;
use super::session::revoke;
use super::shared::{PAUSE, Shared, created_at};
use super::state::Session;
use crate::shard_map::Silence;

/// How often silence is looked at, in parts of the TTL.
const LOOKS_PER_TTL: u32 = 50;
/// The least time between two looks.
const MIN_LOOK: Duration = Duration::from_millis(20);

/// A node that was not heard of for as long as this node's leases last.
struct Silent {
    node: NodeId,
    lease: i64,
    /// The revision of its last sign of life.
    revision: i64,
    lasted: Duration,
}

/// Runs until it is dropped.
pub(crate) async fn reap(shared: Arc<Shared>) {
    let mut silence = Silence::default();
    let every = (shared.config.lease_ttl / LOOKS_PER_TTL).max(MIN_LOOK);
    loop {
        shared.clock.sleep(every).await;
        let session = look(&shared, &mut silence);
        let Some(session) = session.filter(|_| shared.may_act()) else { continue };
        for silent in silent(&shared, &silence) {
            if let Err(error) = end(&shared, session, &silent).await {
                tracing::debug!(node = %silent.node, %error, "the session of a silent node could not be ended");
                shared.clock.sleep(PAUSE).await;
            }
        }
    }
}

/// Takes note of what was heard of this node itself.
fn look(shared: &Shared, silence: &mut Silence) -> Option<Session> {
    let state = shared.state.borrow();
    let own = state.seen.nodes.get(&state.me);
    let own = own.filter(|own| state.session.is_some_and(|session| session.incarnation == own.incarnation));
    silence.heard_own(own.map(|own| own.heard.at), shared.clock.elapsed(), shared.config.lease_ttl);
    state.session
}

fn silent(shared: &Shared, silence: &Silence) -> Vec<Silent> {
    let (state, now) = (shared.state.borrow(), shared.clock.elapsed());
    let others = state.seen.nodes.iter().filter(|(id, _)| **id != state.me);
    let silent = others.filter_map(|(id, member)| {
        let lasted = silence.of(member.heard.at, now).filter(|lasted| *lasted >= shared.config.lease_ttl)?;
        Some(Silent { node: id.clone(), lease: member.lease, revision: member.heard.revision, lasted })
    });
    silent.collect()
}

async fn end(shared: &Shared, session: Session, silent: &Silent) -> Result<(), EtcdError> {
    let lease = silent.lease;
    let ask = |etcd: super::client::Connection| async move { etcd.lease().time_to_live(lease, None).await };
    // Its node may be told of longer leases than this one.
    let granted = shared.client.ask(ask, shared.patience()).await?.granted_ttl();
    let Ok(granted) = u64::try_from(granted) else { return Ok(()) };
    if silent.lasted < Duration::from_secs(granted) {
        return Ok(());
    }
    let key = shared.keys.node(&silent.node);
    let unheard = Compare::mod_revision(key.clone(), CompareOp::Equal, silent.revision);
    let registered = created_at(shared.keys.node(&shared.config.node), session.incarnation);
    let txn = Txn::new().when([unheard, registered]).and_then([TxnOp::delete(key, None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    if !response.succeeded() {
        return Ok(());
    }
    tracing::warn!(node = %silent.node, silent_ms = silent.lasted.as_millis(), "a node is silent; its session is ended");
    revoke(shared, lease, shared.patience()).await
}
