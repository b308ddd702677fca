//! Tells the coordination once a second how busy this node is; the others see it in their member list.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use reeve_ports::coordination::Load;

use crate::shared::Shared;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);

/// Reports for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let gauge = |gauge: &AtomicI64| u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0);
    loop {
        let load = Load { vms: gauge(&shared.counters.vms), outbox: gauge(&shared.counters.outbox) };
        shared.coordination.report(load);
        shared.clock.sleep(EVERY).await;
    }
}
