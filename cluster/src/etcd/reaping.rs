//! Ends the sessions of nodes that are silent. Every node does this, so that a leader that died is found as well.
//!
//! ```text
//! heard ──silent for the TTL of its lease──► its key deleted, if it still is as it was heard ──► its lease revoked
//!   ▲                                          │ it has written since                            │      ▲
//!   └──────────────────────────────────────────┘                                                 └──────┘ no answer
//! ```
//!
//! The TTL is the one that etcd granted the silent node, and no less than this node's own.
//!
//! Mostly etcd is about as fast. But a lease that etcd has extended, because another of its members leads now, outlives
//! its node by up to a TTL. Without its key, a node that lives after all cannot extend its right to act
//! ([`super::session`]), and the right that it had has ended by then ([`crate::shard_map::silence`]): only after that
//! its shards become free.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use reeve_protocol::NodeId;

use super::error::EtcdError;
use super::session::revoke;
use super::shared::{PAUSE, Shared, created_at, found};
use super::state::Session;
use crate::shard_map::Silence;

/// How often silence is looked at, in parts of the TTL.
const LOOKS_PER_TTL: u32 = 50;
/// The least time between two looks.
const MIN_LOOK: Duration = Duration::from_millis(20);
/// More leases than wait to be ended at a time; one that finds no room ends by itself.
const MAX_ENDING: usize = 1_024;

/// A node that was not heard of for as long as this node's leases last. Whether its own last longer is etcd's to say.
struct Silent {
    node: NodeId,
    lease: i64,
    /// The revision of its last sign of life.
    revision: i64,
    lasted: Duration,
}

/// What is known of the leases of others. Nothing is lost with it but time.
#[derive(Debug, Default)]
struct Leases {
    /// What etcd granted, of those that were asked for.
    granted: BTreeMap<i64, Duration>,
    /// Those whose key is deleted, and those of them whose end failed before.
    ending: BTreeMap<i64, Ending>,
}

/// Whether people know that a lease could not be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Untold,
    Told,
}

impl Leases {
    fn forget_unseen(&mut self, seen: &BTreeSet<i64>) {
        self.granted.retain(|lease, _| seen.contains(lease));
    }

    fn key_is_deleted(&mut self, lease: i64) {
        if self.ending.len() < MAX_ENDING {
            self.ending.entry(lease).or_insert(Ending::Untold);
        }
    }

    /// Whether that is news.
    fn failed(&mut self, lease: i64) -> bool {
        self.ending.insert(lease, Ending::Told) != Some(Ending::Told)
    }
}

/// Runs until it is dropped.
pub(crate) async fn reap(shared: Arc<Shared>) {
    let (mut silence, mut leases) = (Silence::default(), Leases::default());
    loop {
        shared.clock.sleep((ttl(&shared, shared.session()) / LOOKS_PER_TTL).max(MIN_LOOK)).await;
        let session = look(&shared, &mut silence);
        let Some(session) = session.filter(|_| shared.may_act()) else { continue };
        leases.forget_unseen(&shared.state.borrow().seen.nodes.values().map(|member| member.lease).collect());
        for silent in silent(&shared, session, &silence) {
            if let Err(error) = end(&shared, session, &silent, &mut leases).await {
                tracing::debug!(node = %silent.node, %error, "the session of a silent node could not be ended");
                shared.clock.sleep(PAUSE).await;
            }
        }
        end_leases(&shared, &mut leases).await;
    }
}

/// Takes note of what was heard of this node itself.
fn look(shared: &Shared, silence: &mut Silence) -> Option<Session> {
    let state = shared.state.borrow();
    let own = state.seen.nodes.get(&state.me);
    let own = own.filter(|own| state.session.is_some_and(|session| session.incarnation == own.incarnation));
    silence.heard_own(own.map(|own| own.heard.at), shared.clock.elapsed(), ttl(shared, state.session));
    state.session
}

/// What a session was granted, or is to ask for.
fn ttl(shared: &Shared, session: Option<Session>) -> Duration {
    session.map_or(shared.config.lease_ttl, |session| session.ttl)
}

fn silent(shared: &Shared, session: Session, silence: &Silence) -> Vec<Silent> {
    let (state, now) = (shared.state.borrow(), shared.clock.elapsed());
    let others = state.seen.nodes.iter().filter(|(id, _)| **id != state.me);
    let silent = others.filter_map(|(id, member)| {
        let lasted = silence.of(member.heard.at, now).filter(|lasted| *lasted >= session.ttl)?;
        Some(Silent { node: id.clone(), lease: member.lease, revision: member.heard.revision, lasted })
    });
    silent.collect()
}

/// Deletes the key of a silent node, unless its leases last longer.
async fn end(shared: &Shared, session: Session, silent: &Silent, leases: &mut Leases) -> Result<(), EtcdError> {
    let Some(granted) = granted(shared, silent.lease, leases).await? else { return Ok(()) };
    if silent.lasted < granted {
        return Ok(());
    }
    let key = shared.keys.node(&silent.node);
    let unheard = Compare::mod_revision(key.clone(), CompareOp::Equal, silent.revision);
    let registered = created_at(shared.keys.node(&shared.config.node), session.incarnation);
    let delete = TxnOp::delete(key.clone(), None);
    let txn = Txn::new().when([unheard, registered]).and_then([delete]).or_else([TxnOp::get(key, None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    if response.succeeded() {
        let silent_ms = silent.lasted.as_millis();
        tracing::warn!(node = %silent.node, silent_ms, "a node is silent; its session is ended");
    } else if !found(&response).is_empty() {
        return Ok(());
    }
    // Without its key, a session is over: if it was deleted by an attempt that was not answered, too.
    leases.key_is_deleted(silent.lease);
    Ok(())
}

/// What etcd granted to this lease; `None` when it is over.
async fn granted(shared: &Shared, lease: i64, leases: &mut Leases) -> Result<Option<Duration>, EtcdError> {
    if let Some(granted) = leases.granted.get(&lease) {
        return Ok(Some(*granted));
    }
    let ask = |etcd: super::client::Connection| async move { etcd.lease().time_to_live(lease, None).await };
    let granted = shared.client.ask(ask, shared.patience()).await?.granted_ttl();
    let granted = u64::try_from(granted).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    leases.granted.extend(granted.map(|granted| (lease, granted)));
    Ok(granted)
}

/// Each until it is over: its node's shards become free with it. A lease is named again only within a TTL of its first
/// request ([`super::registration`]), so this ends no other session, however late it is.
async fn end_leases(shared: &Shared, leases: &mut Leases) {
    let mut unended = false;
    for lease in leases.ending.keys().copied().collect::<Vec<_>>() {
        match revoke(shared, lease, shared.patience()).await {
            Ok(()) => drop(leases.ending.remove(&lease)),
            Err(error) => {
                if leases.failed(lease) {
                    tracing::warn!(%error, "the lease of a silent node could not be ended; it is tried again");
                }
                unended = true;
                if error.is_of_connection() {
                    break;
                }
            }
        }
    }
    if unended {
        shared.clock.sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use reeve_ports::SystemClock;

    use super::super::config::EtcdConfig;
    use super::*;

    #[tokio::test]
    async fn a_lease_whose_end_failed_is_tried_again() {
        let endpoint = "http://127.0.0.1:1".to_owned();
        let mut config = EtcdConfig::new(vec![endpoint], "test", NodeId::new("a").unwrap());
        config.lease_ttl = Duration::from_secs(2);
        let (shared, mut leases) = (Shared::new(config, Arc::new(SystemClock)).unwrap(), Leases::default());
        leases.key_is_deleted(7);
        end_leases(&shared, &mut leases).await;
        assert_eq!(leases.ending, BTreeMap::from([(7, Ending::Told)]));
    }

    #[test]
    fn a_lease_is_to_end_until_it_is_over_and_its_failure_is_told_once() {
        let mut leases = Leases::default();
        leases.key_is_deleted(7);
        assert!(leases.failed(7));
        leases.key_is_deleted(7);
        assert!(!leases.failed(7));
        (8..5_000).for_each(|lease| leases.key_is_deleted(lease));
        assert_eq!(leases.ending.len(), MAX_ENDING);
    }

    #[test]
    fn what_was_granted_is_known_as_long_as_the_lease_is_seen() {
        let mut leases = Leases::default();
        leases.granted.extend([(7, Duration::from_secs(5)), (8, Duration::from_secs(9))]);
        leases.key_is_deleted(7);
        leases.forget_unseen(&BTreeSet::from([8]));
        assert_eq!(leases.granted.keys().copied().collect::<Vec<_>>(), [8]);
        assert_eq!(leases.ending.len(), 1, "its key is gone, its lease is not");
    }
}
