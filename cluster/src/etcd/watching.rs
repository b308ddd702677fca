//! Keeps [`Seen`](super::seen::Seen) up to date.
//!
//! ```text
//!           ┌────────────── broken, compacted, connection given up ──────────────┐
//!           ▼                                                                    │
//! list at revision R ──► watch from R + 1 ──► changes, applied as they come ─────┤
//!                              ▲                     │ every 30 s                │
//!                              └── list, taken over ─┘                           │
//!                                                    └── own sign of life not seen
//! ```
//!
//! Watches lose events (etcd issues 15247 and others), so lists repeat. A stream that is silently dead is found by this
//! node's own signs of life, which it would have brought ([`super::session`]).

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::FutureExt;
use tokio::time::timeout;

use super::error::EtcdError;
use super::seen::Range;
use super::shared::{PAUSE, Shared};

/// How often all is listed though the watch works.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// The numbers of the two watches of one stream.
const MEMBERS: i64 = 1;
const SHARDS: i64 = 2;

/// Runs until it is dropped.
pub(crate) async fn watch(shared: Arc<Shared>) {
    loop {
        if let Err(error) = watch_once(&shared).await {
            tracing::debug!(%error, "the watch of the cluster begins anew");
            shared.clock.sleep(PAUSE).await;
        }
    }
}

/// Lists once and takes it over.
pub(crate) async fn refresh(shared: &Shared) -> Result<i64, EtcdError> {
    let (revision, changes) = shared.list().await?;
    let received = shared.received();
    shared.state.send_modify(|state| state.seen.list(revision, changes, received));
    Ok(revision)
}

/// Watches until the stream ends.
async fn watch_once(shared: &Shared) -> Result<(), EtcdError> {
    let revision = refresh(shared).await?;
    // What was missed before is in the list.
    let _ = shared.rewatch.notified().now_or_never();
    let (connection, generation) = shared.client.open().await?;
    let opening = async {
        let options = |range: (String, String), id| {
            let from = WatchOptions::new().with_start_revision(revision + 1).with_watch_id(id);
            (range.0, Some(from.with_range(range.1)))
        };
        let (key, members) = options(shared.keys.members_range(), MEMBERS);
        let mut stream = connection.watch().watch(key, members).await?;
        let (key, shards) = options(shared.keys.shards_range(), SHARDS);
        stream.watch(key, shards).await?;
        Ok(stream)
    };
    let opened = timeout(shared.patience(), opening).await;
    let opened = opened.unwrap_or_else(|_| Err(etcd_client::Error::WatchError("no answer in time".to_owned())));
    let ended = match opened {
        Ok(stream) => follow(shared, stream, generation).await,
        Err(error) => Err(EtcdError::from(error)),
    };
    if ended.as_ref().is_err_and(EtcdError::is_of_connection) {
        shared.client.give_up(generation);
    }
    ended
}

async fn follow(shared: &Shared, mut stream: WatchStream, generation: u64) -> Result<(), EtcdError> {
    let mut list_at = shared.clock.elapsed() + LIST_EVERY;
    loop {
        let until_list = list_at.saturating_sub(shared.clock.elapsed());
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(response)) => take(shared, &response)?,
                Ok(None) => return Err(EtcdError::Unknown("the watch ended".to_owned())),
                Err(error) => return Err(error.into()),
            },
            () = shared.client.until_given_up(generation) => return Ok(()),
            () = shared.rewatch.notified() => {
                return Err(EtcdError::Unknown("the watch does not bring what happened".to_owned()));
            }
            () = shared.clock.sleep(until_list) => {
                refresh(shared).await?;
                list_at = shared.clock.elapsed() + LIST_EVERY;
            }
        }
    }
}

fn take(shared: &Shared, response: &WatchResponse) -> Result<(), EtcdError> {
    if response.compact_revision() != 0 {
        return Err(EtcdError::Refused(format!("the watch is behind revision {}", response.compact_revision())));
    }
    if response.canceled() {
        return Err(EtcdError::Refused(format!("the watch was ended: {}", response.cancel_reason())));
    }
    let range = if response.watch_id() == SHARDS { Range::Shards } else { Range::Members };
    let changes = response.events().iter().filter_map(|event| {
        let deleted = match event.event_type() {
            EventType::Put => false,
            EventType::Delete => true,
        };
        event.kv().map(|kv| shared.change(kv, deleted))
    });
    let (changes, received) = (changes.collect::<Vec<_>>(), shared.received());
    if !changes.is_empty() {
        shared.state.send_if_modified(|state| state.seen.advance(range, changes, received));
    }
    Ok(())
}
