//! The retest of a probe.

use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::{Done, Outcome, ProbeVerdict};
use reeve_ports::Freshness;
use reeve_protocol::Span;

use super::Attempt;

/// Asks the probe again: what was seen before the repair says nothing.
pub(super) async fn retest(attempt: Attempt<'_>, kind: ProbeKind, timeout: Span) -> Outcome {
    let vm = attempt.vm;
    let verdict = match attempt.ports.probe.get(&vm.cloud) {
        Some(probe) => probe.probe(vm.vm, vm.host.as_ref(), kind, Freshness::Now, timeout.duration()).await,
        None => ProbeVerdict::Inconclusive { why: format!("cloud {} has no probe on this node", vm.cloud) },
    };
    Outcome::Done(Done::Probed(verdict))
}
