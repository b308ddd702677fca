//! Lists a cloud completely at an interval and tells the VMs of this node what the listing shows. Every notification may
//! get lost; what it would have said is found here, through the same inputs. In a cluster each node lists for its own.
//!
//! Beside it, and far more often, the cloud is asked for what changed ([`changes`]).
//!
//! A listing with an error, a missing page or a cell that is down proves nothing about what it lacks. After several of
//! them in a row the cloud counts as unreadable, and the ends of its VMs' leases wait until one succeeds.

mod changes;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{join, join_all};
use reeve_lifecycle::VmInput;
use reeve_lifecycle::record::Hold;
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::{CloudName, Timestamp, VmId};

use super::router::Sending;
use super::shard::Broadcast;
use crate::perform::wait::within;
use crate::shared::Shared;

/// The most pages of one listing: a cloud that never ends its listing is a cloud that cannot be read.
const MAX_PAGES: usize = 100_000;

/// What a listing showed.
struct Listing {
    asked_at: Timestamp,
    seen: BTreeSet<VmId>,
    /// Why it proves nothing about what it lacks, if so.
    gap: Option<String>,
}

/// Reconciles for ever.
pub(super) async fn run(shared: Arc<Shared>, cloud: CloudName) {
    let name = Arc::new(cloud);
    join(list_again_and_again(&shared, &name), changes::follow(&shared, &name)).await;
}

async fn list_again_and_again(shared: &Shared, name: &Arc<CloudName>) {
    let mut failures: u32 = 0;
    let mut round: u32 = 0;
    loop {
        let listing = list(shared, name).await;
        if let Some(why) = &listing.gap {
            failures = failures.saturating_add(1);
            tracing::warn!(cloud = %name, failures, %why, "a listing is not complete");
            if failures >= shared.config.runtime.unreadable_after {
                hold(shared, name, true);
            }
        } else {
            failures = 0;
            let Listing { asked_at, seen, .. } = listing;
            let absent = Broadcast::Listed { cloud: Arc::clone(name), asked_at, seen: Arc::new(seen) };
            shared.router.broadcast(&absent);
            // Said after every listing: a predecessor may have left the hold in the records, and a VM that was being
            // started again does not hear what is said once.
            hold(shared, name, false);
        }
        round = round.wrapping_add(1);
        let every = shared.config.runtime.reconcile_every.duration();
        shared.clock.sleep(every.mul_f64(jitter(name, round))).await;
    }
}

fn hold(shared: &Shared, cloud: &Arc<CloudName>, begins: bool) {
    let cloud = Some(Arc::clone(cloud));
    shared.router.broadcast(&Broadcast::Hold { cloud, hold: Hold::CloudUnreadable, begins });
}

/// 0.9 to 1.1, so that several clouds and nodes do not list in step; the same for the same name and round.
fn jitter(cloud: &CloudName, round: u32) -> f64 {
    let mixed = cloud
        .as_str()
        .bytes()
        .fold(round.wrapping_mul(0x9e37_79b9), |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0.9 + 0.2 * f64::from(mixed % 1000) / 1000.0
}

async fn list(shared: &Shared, name: &CloudName) -> Listing {
    let mut listing = Listing { asked_at: shared.clock.now(), seen: BTreeSet::new(), gap: None };
    let Some(cloud) = shared.ports.cloud.get(name) else {
        listing.gap = Some("the cloud is not configured".to_owned());
        return listing;
    };
    let mut from = None;
    for _ in 0..MAX_PAGES {
        let asking = cloud.list(from.take());
        let page = match within(shared.clock.as_ref(), shared.ports.timeouts.call, asking).await {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                listing.gap = Some(error.to_string());
                return listing;
            }
            None => {
                listing.gap = Some("no answer in time".to_owned());
                return listing;
            }
        };
        if !page.complete {
            listing.gap = Some("a part of the cloud did not answer".to_owned());
        }
        // Awaited page by page: the listing is no faster than the VMs take it in, which bounds what waits for them.
        listing.seen.extend(page.vms.iter().map(|facts| facts.vm));
        tell(shared, name, page.vms, page.said).await;
        from = page.next;
        if from.is_none() {
            return listing;
        }
    }
    listing.gap = Some(format!("more than {MAX_PAGES} pages"));
    listing
}

/// Tells the VMs of this node what a page shows. Whoever owns the others lists too.
async fn tell(shared: &Shared, name: &CloudName, vms: Vec<VmFacts>, said: Said) {
    let here = vms.into_iter().filter(|facts| shared.owns(shared.router.shard_of(facts.vm)));
    let told = here.map(|facts| {
        let input = VmInput::Listed { facts: facts.clone(), said };
        let posted = shared.router.post(Sending { vm: facts.vm, cloud: Some(name.clone()), input });
        shared.router.answer(posted)
    });
    let told: Vec<_> = told.collect();
    // A VM that cannot take it now hears it again at the next listing.
    let _ = within(shared.clock.as_ref(), shared.ports.timeouts.call, join_all(told)).await;
}
