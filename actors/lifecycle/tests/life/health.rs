//! Health: what makes a VM suspect, down and up again, and when nobody judges.

use reeve_lifecycle::input::{Ignored, VmInput};
use reeve_lifecycle::policy::{HealthPolicy, ProbeKind, RepairPolicy};
use reeve_lifecycle::record::{Health, PauseReason};
use reeve_lifecycle::{Policy, ProbeVerdict, Verdict};
use reeve_protocol::command::{CommandKind, RefusalCode, Switch};
use reeve_protocol::event::Alert;
use reeve_protocol::observation::{Phase, PowerState, VmChange, VmFacts, VmState};

use crate::common::*;

/// Watched, and left alone when down.
fn watched() -> World {
    World::created(with_repair(RepairPolicy { enabled: false, ..RepairPolicy::default() }))
}

#[test]
fn down_needs_so_many_misses_in_a_row_as_the_policy_says() {
    let mut world = watched();
    world.probe(true);
    world.probe(false);
    assert_eq!(world.rec.health, Health::Suspect { misses: 1 });
    world.probe(false);
    world.probe(true);
    assert_eq!(world.rec.health, Health::Up);
    world.probe(false);
    world.probe(false);
    assert_eq!(world.count("health.down"), 0);
    world.probe(false);
    assert!(matches!(world.rec.health, Health::Down { .. }));
    assert_eq!(world.count("health.down"), 1);
    let mut strict = World::created(Policy {
        repair: world.rec.policy.terms.repair.clone(),
        ..with_health(HealthPolicy { failures: 1, ..HealthPolicy::default() })
    });
    strict.probe(false);
    assert!(matches!(strict.rec.health, Health::Down { .. }));
}

#[test]
fn up_again_needs_so_many_answers_in_a_row_as_the_policy_says() {
    let mut world = watched();
    for _ in 0..3 {
        world.probe(false);
    }
    for up in [true, false, true] {
        world.probe(up);
        assert!(matches!(world.rec.health, Health::Down { .. }));
    }
    world.probe(true);
    assert_eq!(world.rec.health, Health::Up);
    assert_eq!(world.count("health.recovered"), 1);
}

#[test]
fn a_prober_that_can_reach_nothing_judges_nothing() {
    let mut world = watched();
    world.probe(true);
    for _ in 0..10 {
        let verdict = ProbeVerdict::Inconclusive { why: "the prober's network".into() };
        world.input(VmInput::Probed { probe: ProbeKind::GuestAgent, verdict });
    }
    assert_eq!(world.rec.health, Health::Up);
}

#[test]
fn a_vm_that_its_owner_stopped_is_not_down() {
    let cases = [
        (VmState::Stopped, PauseReason::NotRunning),
        (VmState::Shelved, PauseReason::NotRunning),
        (VmState::ShelvedOffloaded, PauseReason::NotRunning),
        (VmState::Paused, PauseReason::NotRunning),
        (VmState::Suspended, PauseReason::NotRunning),
        (VmState::Rescued, PauseReason::Rescue),
        (VmState::SoftDeleted, PauseReason::Gone),
    ];
    for (state, reason) in cases {
        let mut world = watched();
        let paused = world.count("health.monitoring-paused");
        world.becomes(state);
        assert_eq!(world.rec.health, Health::Paused { reason });
        for _ in 0..5 {
            assert_eq!(world.probe(false), Verdict::Ignored(Ignored::Over));
        }
        assert_eq!((world.count("health.down"), world.count("health.monitoring-paused")), (0, paused + 1));
        world.becomes(VmState::Active);
        assert_eq!(world.rec.health, Health::Unknown { misses: 0 });
    }
}

#[test]
fn a_vm_paused_behind_the_clouds_back_is_not_down() {
    let mut world = watched();
    world.now = world.now + secs(1);
    world.notify(VmChange::Update, Phase::Whole, VmFacts { power: Some(PowerState::Paused), ..facts(VmState::Active) });
    assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::NotRunning });
}

#[test]
fn judgement_pauses_during_backup_cloud_tasks_actions_and_maintenance() {
    let mut world = watched();
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::Operation });
    world.finish();
    assert_eq!(world.rec.health, Health::Unknown { misses: 0 });
    for task in ["migrating", "resize_prep", "rebooting", "rebuilding", "image_snapshot"] {
        world.cloud_does(Some(task));
        assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::CloudTask }, "{task}");
        world.probe(false);
        world.cloud_does(None);
    }
    world.ask(operator(), CommandKind::VmMaintenance(Switch::On)).unwrap();
    assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::Maintenance });
    assert_eq!(world.count("health.down"), 0);
}

#[test]
fn an_unwatched_vm_is_never_judged() {
    let mut world = World::created(with_health(HealthPolicy { enabled: false, ..HealthPolicy::default() }));
    assert_eq!(world.probe(false), Verdict::Ignored(Ignored::Over));
    assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::Disabled });
}

#[test]
fn what_was_raised_for_a_vm_is_cleared_when_it_is_found_well_after_a_pause() {
    let mut world = watched();
    for _ in 0..3 {
        world.probe(false);
    }
    assert_eq!(world.raised(Alert::RepairHeld), 1);
    world.ask(operator(), CommandKind::VmReboot).unwrap();
    world.finish();
    world.probe(true);
    assert_eq!(world.rec.health, Health::Up);
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn a_report_of_down_is_believed_from_who_may_and_from_nobody_else() {
    let report = || CommandKind::HealthReport { healthy: false, cause: "x".repeat(999) };
    let mut world = watched();
    assert_eq!(world.ask(user("eve"), report()).unwrap_err().code, RefusalCode::Denied);
    world.ask(operator(), report()).unwrap();
    assert!(matches!(&world.rec.health, Health::Down { cause, .. } if cause.len() == 255));
}

#[test]
fn a_second_hang_is_reported_like_the_first() {
    let mut world = watched();
    for _ in 0..2 {
        for _ in 0..3 {
            world.probe(false);
        }
        world.probe(true);
        world.probe(true);
    }
    assert_eq!(
        (world.count("health.down"), world.count("health.recovered"), world.raised(Alert::RepairHeld)),
        (2, 2, 2)
    );
}
