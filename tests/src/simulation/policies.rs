//! The policies of a run, by seed: every way to end, with and without grace, caps that are reached soon.

use std::collections::BTreeMap;

use reeve_lifecycle::policy::{
    Adopt, BackupPolicy, HealthPolicy, LeasePolicy, OnEnd, Policies, Policy, RepairPolicy, RepairStep,
};
use reeve_protocol::Span;

use super::chance::Chance;

/// The policies that a VM may name.
pub(super) const NAMES: [&str; 6] = ["default", "grace", "delete", "stop", "suspend", "notify"];
/// The role whose bearers may extend.
pub(super) const EXTEND_ROLE: &str = "lease-admin";

pub(super) fn policies(seed: u64) -> Policies {
    let mut chance = Chance::new(seed, "policies");
    let named: BTreeMap<String, Policy> =
        NAMES.iter().map(|name| ((*name).to_owned(), policy(name, &mut chance))).collect();
    Policies::new(named).expect("the policies of a simulation make sense")
}

fn policy(name: &str, chance: &mut Chance) -> Policy {
    let duration = chance.seconds(2 * 3_600..=10 * 3_600);
    let ladders: [&[RepairStep]; 4] = [
        &[RepairStep::HardReboot],
        &[RepairStep::HardReboot, RepairStep::Relaunch],
        &[RepairStep::HardReboot, RepairStep::HardReboot],
        &[],
    ];
    Policy {
        lease: LeasePolicy {
            duration,
            warn_before: vec![Span::from_secs(3_600), Span::from_secs(600)],
            grace: if name == "grace" { chance.seconds(1_200..=7_200) } else { Span::ZERO },
            extension: chance.seconds(3_600..=4 * 3_600),
            max_extensions: u32::try_from(chance.within(0..=3)).expect("a small number"),
            max_total: duration + chance.seconds(0..=8 * 3_600),
            on_end: match name {
                "delete" => OnEnd::Delete,
                "stop" => OnEnd::Stop,
                "suspend" => OnEnd::Suspend,
                "notify" => OnEnd::Notify,
                _ => OnEnd::BackupAndDelete,
            },
            adopt: *chance.pick(&[Adopt::Discovery, Adopt::Launch]),
            min_notice: chance.seconds(1_800..=3_600),
            extend_roles: vec![EXTEND_ROLE.to_owned()],
        },
        exempt: false,
        health: HealthPolicy {
            interval: chance.seconds(240..=600),
            failures: u32::try_from(chance.within(1..=3)).expect("a small number"),
            successes: u32::try_from(chance.within(1..=2)).expect("a small number"),
            ..HealthPolicy::default()
        },
        repair: RepairPolicy { ladder: chance.pick(&ladders).to_vec(), ..RepairPolicy::default() },
        backup: BackupPolicy {
            every: *chance.pick(&[Span::ZERO, Span::from_hours(3), Span::from_hours(6)]),
            window: Span::from_hours(1),
            keep_last: u32::try_from(chance.within(1..=3)).expect("a small number"),
            daily: 1,
            weekly: 0,
            keep_final: Span::from_hours(12),
            ..BackupPolicy::default()
        },
        projects: Vec::new(),
    }
}
