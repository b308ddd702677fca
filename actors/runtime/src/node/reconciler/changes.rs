//! Asks a cloud for what changed since it was last asked: at the start, when notifications come again after they did not,
//! when shards have come to this node, and at an interval that is far shorter than that of the listings. A VM that went is
//! told at once then, which listings prove only by lacking it twice.
//!
//! ```text
//! start ─► since: a while ago ─► ask ─┬─ all pages ─► since: when it was asked, less an overlap ─► wait ─► ask …
//!                                     └─ an error ──► since stays ──────────────────────────────► wait ─► ask …
//! wait ends with: the interval │ the intake joined the cloud's exchange again
//! ```
//!
//! After an outage of hours `since` is still where it was, so nothing of it is left out. The listing stays the truth about
//! what is gone: this never says that a VM is missing, and a cloud may forget what went before anybody asks.
//!
//! Times are the cloud's. Its own services may differ by some seconds and write a change down after it, hence the overlap;
//! what is told twice is recognised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use reeve_protocol::observation::{VmFacts, VmState};
use reeve_protocol::{CloudName, ShardId, Timestamp};

use super::{jitter, tell};
use crate::perform::wait::within;
use crate::shared::Shared;

/// How far back is asked at first. What went before that is found missing by the listings.
const LOOK_BACK: Duration = Duration::from_secs(3_600);
/// What changed so long before the last time is asked for again.
const OVERLAP: Duration = Duration::from_secs(120);
/// After a failure it is asked again so soon, or after the interval if that is less.
const AGAIN: Duration = Duration::from_secs(5);
/// The most pages. A cloud in which more changed is listed instead.
const MAX_PAGES: usize = 1_000;

/// Since when is to be asked.
#[derive(Debug, Default)]
struct Cursor {
    since: Option<Timestamp>,
    /// The shards whose VMs were told.
    told: BTreeSet<ShardId>,
}

impl Cursor {
    /// Since when is to be asked for these shards. One that has just come was told by another node, or by nobody.
    fn since(&self, owned: &BTreeSet<ShardId>, now: Timestamp) -> Timestamp {
        let first = now.saturating_sub(LOOK_BACK);
        match self.since {
            Some(since) if owned.is_subset(&self.told) => since,
            Some(since) => since.min(first),
            None => first,
        }
    }

    /// All that changed until then was told to these shards.
    fn told(&mut self, asked: Timestamp, owned: BTreeSet<ShardId>) {
        let until = asked.saturating_sub(OVERLAP);
        self.since = Some(self.since.map_or(until, |since| since.max(until)));
        self.told = owned;
    }
}

/// What came of asking.
enum Told {
    /// Everything, by the cloud's time of the first page.
    All(Timestamp),
    /// The cloud does not tell what changed.
    Never,
    /// Why not.
    Failed(String),
}

/// Asks for ever.
pub(super) async fn follow(shared: &Shared, cloud: &Arc<CloudName>) {
    let every = shared.config.runtime.changes_every.duration();
    let mut cursor = Cursor::default();
    let mut joined: u64 = 0;
    let mut round: u32 = 0;
    loop {
        let owned = owned(shared);
        let since = cursor.since(&owned, shared.clock.now());
        let wait = match ask(shared, cloud, since).await {
            Told::All(asked) => {
                cursor.told(asked, owned);
                every
            }
            Told::Never => return std::future::pending().await,
            Told::Failed(why) => {
                tracing::debug!(%cloud, %why, "what changed cannot be asked for; it is asked for again");
                every.min(AGAIN)
            }
        };
        round = round.wrapping_add(1);
        let waited = shared.clock.sleep(wait.mul_f64(jitter(cloud, round)));
        joined = match select(waited, shared.bus.intake_joined(cloud, joined)).await {
            futures::future::Either::Left(_) => joined,
            futures::future::Either::Right((joined, _)) => joined,
        };
    }
}

fn owned(shared: &Shared) -> BTreeSet<ShardId> {
    (0..shared.config.runtime.shards).map(ShardId).filter(|shard| shared.owns(*shard)).collect()
}

async fn ask(shared: &Shared, name: &CloudName, since: Timestamp) -> Told {
    let Some(cloud) = shared.ports.cloud.get(name) else { return Told::Never };
    let mut first = None;
    let mut from = None;
    for _ in 0..MAX_PAGES {
        let asking = cloud.changed(since, from.take());
        let page = match within(shared.clock.as_ref(), shared.ports.timeouts.call, asking).await {
            Some(Ok(Some(page))) => page,
            Some(Ok(None)) => return Told::Never,
            Some(Err(error)) => return Told::Failed(error.to_string()),
            None => return Told::Failed("no answer in time".to_owned()),
        };
        let asked = *first.get_or_insert(page.said.at());
        let news = page.vms.into_iter().filter(|facts| is_news(shared, facts)).collect();
        // Awaited page by page, as listings are.
        tell(shared, name, news, page.said).await;
        from = page.next;
        if from.is_none() {
            return Told::All(asked);
        }
    }
    Told::Failed(format!("more than {MAX_PAGES} pages"))
}

/// Nobody is told of a VM that came and went without being heard of.
fn is_news(shared: &Shared, facts: &VmFacts) -> bool {
    facts.state != VmState::Deleted || shared.router.live(facts.vm).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn shards(numbers: &[u16]) -> BTreeSet<ShardId> {
        numbers.iter().copied().map(ShardId).collect()
    }

    #[test]
    fn at_first_and_for_shards_that_come_a_while_is_looked_back() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.since(&shards(&[1]), at(10_000)), at(6_400));
        cursor.told(at(10_000), shards(&[1]));
        assert_eq!(cursor.since(&shards(&[1]), at(10_030)), at(9_880));
        assert_eq!(cursor.since(&shards(&[1, 2]), at(10_030)), at(6_430), "shard 2 was told by nobody here");
        assert_eq!(cursor.since(&shards(&[]), at(10_030)), at(9_880), "one that goes changes nothing");
    }

    #[test]
    fn an_outage_of_hours_leaves_nothing_out() {
        let mut cursor = Cursor::default();
        cursor.told(at(10_000), shards(&[1]));
        assert_eq!(cursor.since(&shards(&[1]), at(90_000)), at(9_880), "nothing was told since");
        assert_eq!(cursor.since(&shards(&[1, 2]), at(90_000)), at(9_880));
        cursor.told(at(9_000), shards(&[1]));
        assert_eq!(cursor.since(&shards(&[1]), at(90_000)), at(9_880), "a cloud's clock that goes back does not");
    }
}
