//! Ownership of shards: the key `shards/<n>`, bound to this node's lease. Its create revision is the epoch.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use reeve_ports::coordination::CoordinationError;
use reeve_protocol::{Epoch, ShardId};

use super::error::EtcdError;
use super::shared::{PAUSE, Shared, created_at, found, put_leased};
use super::state::{Held, Session, State, epoch, revision};
use super::value::Holder;

/// How long a refused claim waits for the watch to show why, so that nobody claims in a circle.
const ECHO: Duration = Duration::from_secs(1);

/// A claim under way: its key is no stray.
struct Claiming<'a>(&'a Shared, ShardId);

impl<'a> Claiming<'a> {
    fn new(shared: &'a Shared, shard: ShardId) -> Self {
        shared.state.send_modify(|state| *state.claiming.entry(shard).or_insert(0) += 1);
        Self(shared, shard)
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| {
            if let Some(claims) = state.claiming.get_mut(&self.1) {
                *claims -= 1;
                if *claims == 0 {
                    state.claiming.remove(&self.1);
                }
            }
        });
    }
}

pub(crate) async fn claim(shared: &Shared, shard: ShardId) -> Result<Epoch, CoordinationError> {
    let Some(turn) = shared.turns.get(usize::from(shard.0)) else {
        return Err(CoordinationError::Refused(format!("there is no shard {shard}")));
    };
    let _turn = turn.lock().await;
    let lapsed = || CoordinationError::Unavailable("this node has no session".to_owned());
    let session = shared.session().filter(|_| shared.may_act()).ok_or_else(lapsed)?;
    if !shared.state.borrow().is_planned_here(shard) {
        return Err(CoordinationError::NotOwner(shard));
    }
    let _claiming = Claiming::new(shared, shard);
    let claimed = match create(shared, shard, session).await? {
        Ok(claimed) => claimed,
        // Our own: an answer was lost, or the caller wants a new epoch.
        Err(owner) if owner.lease == session.lease => {
            delete(shared, shard, owner.since).await?;
            let again = create(shared, shard, session).await?;
            again.map_err(|_| CoordinationError::NotOwner(shard))?
        }
        Err(owner) => {
            shared.until_or(|state| state.seen.shards_at >= owner.found_at, ECHO).await;
            return Err(CoordinationError::NotOwner(shard));
        }
    };
    let epoch = epoch(claimed);
    let kept = shared.state.send_if_modified(|state| {
        let same = state.session == Some(session);
        if same {
            state.held.insert(shard, Held { epoch, lease: session.lease });
        }
        same
    });
    if kept { Ok(epoch) } else { Err(lapsed()) }
}

pub(crate) async fn confirm(shared: &Shared, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
    let key = shared.keys.shard(shard);
    let lapsed = || CoordinationError::Unavailable("the right to act has lapsed".to_owned());
    if !shared.may_act() {
        return Err(lapsed());
    }
    // A transaction is linearizable as a read is, and needs no value back.
    let txn = Txn::new().when([created_at(key, revision(epoch))]);
    let response = shared.transact(&txn, shared.patience()).await?;
    if !response.succeeded() {
        return Err(CoordinationError::NotOwner(shard));
    }
    if shared.may_act() { Ok(()) } else { Err(lapsed()) }
}

/// Gives a shard up. Here it is given up at once, so that the next can go ([`State::is_told_to_go`]); on etcd when it
/// answers.
pub(crate) async fn release(shared: &Shared, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
    shared.state.send_modify(|state| {
        if state.held.get(&shard).is_some_and(|held| held.epoch == epoch) {
            state.held.remove(&shard);
        }
        let released = state.released.entry(shard).or_insert(epoch);
        *released = epoch.max(*released);
    });
    let Some(turn) = shared.turns.get(usize::from(shard.0)) else { return Ok(()) };
    let _turn = turn.lock().await;
    // Should it fail, the key is a stray from now on.
    delete(shared, shard, revision(epoch)).await?;
    Ok(())
}

/// Removes keys of this session that nobody here holds. Runs until it is dropped.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    loop {
        shared.until(|state: &State| !state.strays().is_empty()).await;
        let strays = shared.state.borrow().strays();
        for (shard, since) in strays {
            let Some(turn) = shared.turns.get(usize::from(shard.0)) else { continue };
            let _turn = turn.lock().await;
            if !shared.state.borrow().strays().contains(&(shard, since)) {
                continue;
            }
            match delete(&shared, shard, since).await {
                // The watch shows it soon; until then it still looks like a stray.
                Ok(at) => drop(shared.until_or(|state| state.seen.shards_at >= at, ECHO).await),
                Err(error) => {
                    tracing::debug!(%shard, %error, "a shard that nobody holds cannot be given up");
                    shared.clock.sleep(PAUSE).await;
                }
            }
        }
        shared.clock.sleep(PAUSE).await;
    }
}

/// Whose key is in the way.
struct Owner {
    lease: i64,
    since: i64,
    /// The revision at which it was found.
    found_at: i64,
}

/// Creates the key: its create revision, or whose key is there.
async fn create(shared: &Shared, shard: ShardId, session: Session) -> Result<Result<i64, Owner>, EtcdError> {
    let (key, node) = (shared.keys.shard(shard), shared.config.node.clone());
    let registered = created_at(shared.keys.node(&node), session.incarnation);
    let put = put_leased(key.clone(), &Holder { node }, session.lease)?;
    let txn =
        Txn::new().when([created_at(key.clone(), 0), registered]).and_then([put]).or_else([TxnOp::get(key, None)]);
    let created = shared
        .client
        .call(
            |etcd| {
                let txn = txn.clone();
                async move { etcd.kv().txn(txn).await }
            },
            shared.patience(),
        )
        .await;
    let response = match created {
        Ok(response) => response,
        Err(error) if error.is_lease_gone() => return Err(EtcdError::Unavailable("the session is over".to_owned())),
        Err(error) => return Err(error),
    };
    let at = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    if response.succeeded() {
        return Ok(Ok(at));
    }
    match found(&response).pop() {
        Some(kv) => Ok(Err(Owner { lease: kv.lease(), since: kv.create_revision(), found_at: kv.mod_revision() })),
        None => Err(EtcdError::Unavailable("the session is over".to_owned())),
    }
}

/// Deletes the key if it was created then. The revision after that.
async fn delete(shared: &Shared, shard: ShardId, since: i64) -> Result<i64, EtcdError> {
    let key = shared.keys.shard(shard);
    let txn = Txn::new().when([created_at(key.clone(), since)]).and_then([TxnOp::delete(key, None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    let at = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    // Refused, it changed nothing: there is no revision to wait for.
    Ok(if response.succeeded() { at } else { 0 })
}
