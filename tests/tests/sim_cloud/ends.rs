//! Failures of changing calls, through the driver and the performer to their end: what may have had its effect is looked
//! for and not done twice, what had none is done again or told.

use std::time::Duration;

use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::effect::Disk;
use reeve_lifecycle::{Effect, PendingEffect};
use reeve_tests::sim_cloud::HttpFault;

use crate::performing::{Desk, letter};

/// A changing call, and how it looks on the wire.
#[derive(Debug, Clone, Copy)]
struct Call {
    kind: CallKind,
    method: &'static str,
    path: &'static str,
}

const fn call(kind: CallKind, method: &'static str, path: &'static str) -> Call {
    Call { kind, method, path }
}

const SNAPSHOT: Call = call(CallKind::Snapshot, "POST", "/compute/v2.1/servers/");
const VOLUME_SNAPSHOT: Call = call(CallKind::Snapshot, "POST", "/volumes/");
const DELETE_SNAPSHOT: Call = call(CallKind::DeleteSnapshot, "DELETE", "/image/");
const STOP: Call = call(CallKind::Stop, "POST", "/action");
const START: Call = call(CallKind::Start, "POST", "/action");
const REBOOT: Call = call(CallKind::HardReboot, "POST", "/action");
const SUSPEND: Call = call(CallKind::Suspend, "POST", "/action");
const DELETE_SERVER: Call = call(CallKind::DeleteServer, "DELETE", "/compute/");
const DELETE_VOLUME: Call = call(CallKind::DeleteVolume, "DELETE", "/volume/");
const RELEASE: Call = call(CallKind::ReleaseAddress, "DELETE", "/network/");
const RESTORE: Call = call(CallKind::RestoreInPlace, "POST", "/compute/v2.1/servers/");
const LAUNCH: Call = call(CallKind::Launch, "POST", "/compute/v2.1/servers");

/// Nova's, Cinder's, Glance's and Neutron's.
const CALLS: [&Call; 12] = [
    &SNAPSHOT,
    &VOLUME_SNAPSHOT,
    &DELETE_SNAPSHOT,
    &STOP,
    &START,
    &REBOOT,
    &SUSPEND,
    &DELETE_SERVER,
    &DELETE_VOLUME,
    &RELEASE,
    &RESTORE,
    &LAUNCH,
];

/// A desk, and the effect that leads to this call.
async fn prepared(call: &Call) -> (Desk, PendingEffect) {
    let mut desk = Desk::new().await;
    let (vm, backup) = (desk.vm, desk.backup);
    let truth = desk.fixture.sim().ground_truth(vm).unwrap();
    let effect = match call.kind {
        CallKind::Snapshot if call.path == VOLUME_SNAPSHOT.path => {
            Effect::SnapshotDisk { backup, disk: Disk::Volume(truth.volumes[0].clone()) }
        }
        CallKind::Snapshot => Effect::SnapshotDisk { backup, disk: Disk::Root },
        CallKind::DeleteSnapshot => {
            let snapshot = desk.snapshot(Disk::Root).await;
            Effect::DropSnapshots { backup, snapshots: vec![snapshot] }
        }
        CallKind::Stop => Effect::Stop,
        CallKind::Start => {
            desk.beforehand(Effect::Stop).await;
            Effect::Start
        }
        CallKind::HardReboot => Effect::HardReboot,
        CallKind::Suspend => Effect::Suspend,
        CallKind::DeleteServer => Effect::DeleteServer,
        CallKind::DeleteVolume => {
            desk.beforehand(Effect::DeleteServer).await;
            Effect::DeleteVolume { volume: truth.volumes[0].clone() }
        }
        CallKind::ReleaseAddress => Effect::ReleaseAddress { address: truth.addresses[0].clone() },
        CallKind::RestoreInPlace => {
            desk.back_up().await;
            Effect::RestoreInPlace { backup }
        }
        CallKind::Launch => {
            desk.back_up().await;
            Effect::Launch { backup, name: "again".to_owned() }
        }
        other => panic!("{other:?} is not among them"),
    };
    let pending = desk.decide(effect);
    (desk, pending)
}

/// How often a kind of call has had an effect, whoever it was on: what is launched is another VM.
fn applied(desk: &Desk, call: &Call) -> usize {
    let audit = desk.fixture.sim().audit();
    audit.iter().filter(|entry| entry.call == call.kind && entry.applied).count()
}

fn fault(call: &Call, status: u16) -> HttpFault {
    HttpFault { method: call.method.to_owned(), path: call.path.to_owned(), status, ..HttpFault::default() }
}

/// Performed until done and then once more, as after a crash that lost the outcome: one call had an effect.
async fn done_once(desk: &Desk, pending: &PendingEffect, call: &Call, before: usize, told: &str) {
    let first = desk.until_done(pending).await;
    assert_eq!(desk.until_done(pending).await, first, "{call:?}, {told}: the same again is the same");
    assert_eq!(applied(desk, call) - before, 1, "{call:?}, {told}");
}

#[tokio::test]
async fn what_times_out_after_its_effect_is_found_and_not_done_twice() {
    for call in CALLS {
        // The connection is cut, or a proxy gives up, when all is done.
        for status in [0, 504] {
            let (desk, pending) = prepared(call).await;
            let before = applied(&desk, call);
            desk.order(HttpFault { after_effect: true, ..fault(call, status) }).await;
            let first = desk.attempt(&pending).await;
            assert_eq!(letter(&first), 'U', "{call:?}, {status}: {first:?}");
            assert_eq!(applied(&desk, call) - before, 1, "{call:?}, {status}: it had its effect");
            done_once(&desk, &pending, call, before, "lost after the effect").await;
        }
    }
}

#[tokio::test]
async fn what_fails_without_effect_is_done_once_after_all() {
    for call in CALLS {
        for status in [500, 503, 504] {
            let (desk, pending) = prepared(call).await;
            let before = applied(&desk, call);
            desk.order(fault(call, status)).await;
            let first = desk.attempt(&pending).await;
            assert_eq!(letter(&first), 'U', "{call:?}, {status}: {first:?}");
            assert_eq!(applied(&desk, call), before, "{call:?}, {status}");
            done_once(&desk, &pending, call, before, &status.to_string()).await;
        }
    }
}

/// (call, status, `Retry-After`, body, what comes of the attempt)
const REFUSALS: &[(&Call, u16, Option<u64>, &str, char)] = &[
    (&SNAPSHOT, 403, None, r#"{"forbidden": {"code": 403, "message": "Quota exceeded for images"}}"#, 'N'),
    (&SNAPSHOT, 409, None, r#"{"conflictingRequest": {"code": 409, "message": "Instance is locked"}}"#, 'N'),
    (&SNAPSHOT, 413, Some(1), r#"{"overLimit": {"code": 413, "message": "slow", "retryAfter": 1}}"#, 'R'),
    (&SNAPSHOT, 429, Some(1), r#"{"overLimit": {"code": 429, "message": "slow"}}"#, 'R'),
    (&SNAPSHOT, 503, Some(1), r#"{"serviceUnavailable": {"code": 503, "message": "back soon"}}"#, 'R'),
    (&VOLUME_SNAPSHOT, 413, Some(0), r#"{"overLimit": {"code": 413, "message": "SnapshotLimitExceeded"}}"#, 'N'),
    (&VOLUME_SNAPSHOT, 400, None, r#"{"badRequest": {"code": 400, "message": "Invalid volume: in-use"}}"#, 'N'),
    (&DELETE_SNAPSHOT, 403, None, r#"{"message": "protected", "code": "403 Forbidden"}"#, 'R'),
    (&DELETE_SNAPSHOT, 409, None, r#"{"message": "in use", "code": "409 Conflict"}"#, 'R'),
    (&STOP, 409, None, r#"{"conflictingRequest": {"code": 409, "message": "task_state powering-on"}}"#, 'N'),
    (&DELETE_SERVER, 409, None, r#"{"conflictingRequest": {"code": 409, "message": "Instance is locked"}}"#, 'N'),
    (&DELETE_VOLUME, 400, None, r#"{"badRequest": {"code": 400, "message": "Invalid volume: in-use"}}"#, 'N'),
    (&RELEASE, 409, None, r#"{"NeutronError": {"type": "InUse", "message": "in use", "detail": ""}}"#, 'N'),
    (&RELEASE, 412, None, r#"{"NeutronError": {"type": "RevisionNumberConstraintFailed", "message": "old"}}"#, 'N'),
    (&LAUNCH, 400, None, r#"{"badRequest": {"code": 400, "message": "Invalid imageRef"}}"#, 'N'),
    (&LAUNCH, 403, None, r#"{"forbidden": {"code": 403, "message": "Quota exceeded for instances"}}"#, 'N'),
    (&LAUNCH, 409, None, r#"{"conflictingRequest": {"code": 409, "message": "Port p is still in use."}}"#, 'N'),
];

#[tokio::test]
async fn what_is_refused_is_told_or_tried_again_and_has_no_effect() {
    for (call, status, retry_after, body, end) in REFUSALS {
        let (desk, pending) = prepared(call).await;
        let before = applied(&desk, call);
        let refused = HttpFault { retry_after: *retry_after, body: (*body).to_owned(), ..fault(call, *status) };
        desk.order(refused).await;
        let outcome = desk.attempt(&pending).await;
        assert_eq!(letter(&outcome), *end, "{call:?} {status}: {outcome:?}");
        assert_eq!(applied(&desk, call), before, "{call:?} {status}");
        desk.clock.pass(Duration::from_secs(2));
        done_once(&desk, &pending, call, before, &status.to_string()).await;
    }
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_anything_is_renewed_and_nothing_is_done_twice() {
    for call in CALLS {
        let (desk, pending) = prepared(call).await;
        let before = applied(&desk, call);
        desk.order(fault(call, 401)).await;
        let issued = desk.fixture.control.counts().await.unwrap().tokens_issued;
        let outcome = desk.attempt(&pending).await;
        assert_eq!(letter(&outcome), 'D', "{call:?}: {outcome:?}");
        let renewed = desk.fixture.control.counts().await.unwrap().tokens_issued - issued;
        // Time passes while a snapshot is awaited, and a token may end by itself meanwhile.
        assert!((1..=2).contains(&renewed), "{renewed} tokens: {call:?}");
        done_once(&desk, &pending, call, before, "401").await;
    }
}

/// Longer than a service that failed is left alone.
const PAST_EVERY_WAIT: Duration = Duration::from_secs(61);

#[tokio::test]
async fn a_storm_of_failures_ends_in_one_effect() {
    for (call, statuses) in [(&SNAPSHOT, [502, 503, 504, 500]), (&DELETE_SERVER, [502, 500, 503, 502])] {
        let (desk, pending) = prepared(call).await;
        let before = applied(&desk, call);
        for status in statuses.into_iter().cycle().take(20) {
            desk.order(HttpFault { path: "/compute/".to_owned(), status, ..HttpFault::default() }).await;
        }
        for _ in 0..60 {
            let outcome = desk.attempt(&pending).await;
            if letter(&outcome) == 'D' {
                break;
            }
            assert!(matches!(letter(&outcome), 'U' | 'R'), "{call:?}: {outcome:?}");
            desk.clock.pass(Duration::from_secs(1));
        }
        desk.fixture.control.clear_faults().await.unwrap();
        desk.clock.pass(PAST_EVERY_WAIT);
        done_once(&desk, &pending, call, before, "a storm").await;
    }
}
