//! The part of the page about shards: how many, and what moves when.

use super::super::Study;
use super::super::assumptions::{HAND_OVER_SECS, PLAN_EVENTS, SHARDS};
use super::super::text::{number, table};

/// Seconds until a restarted node is a member again.
const START_SECS: f64 = 10.0;

pub(super) fn shards(study: &Study) -> String {
    let shares: Vec<Vec<String>> = study
        .models
        .iter()
        .map(|model| {
            let moves = &model.moves;
            vec![
                moves.shards.to_string(),
                number(model.vms_per_shard()),
                format!("{} to {}", moves.smallest, moves.largest),
                format!("{} to {}", number(model.vms_of(moves.smallest)), number(model.vms_of(moves.largest))),
                number(model.vms_of(moves.most())),
                format!("{} s", number(model.hand_over_secs())),
            ]
        })
        .collect();
    let waves: Vec<Vec<String>> = study
        .models
        .iter()
        .map(|model| {
            let (moves, death) = (&model.moves, model.moves.death);
            let (best, worst) = model.load_secs(death.moved, death.gained);
            vec![
                moves.shards.to_string(),
                format!("{} ({} VMs), {} to one node", death.moved, number(model.vms_of(death.moved)), death.gained),
                format!("{} to {} s", number(best), number(worst)),
                format!(
                    "{} claims/s, {} reads/s",
                    number(death.moved as f64 / worst),
                    number(model.reads_of(death.moved) / worst)
                ),
                moves.back.moved.to_string(),
                moves.drain.moved.to_string(),
                number(moves.cold.moved as f64 + model.given.nodes()),
            ]
        })
        .collect();
    let rolling: Vec<Vec<String>> = study
        .models
        .iter()
        .map(|model| {
            let (patient, hasty) = (model.moves.patient, model.moves.hasty);
            vec![
                model.moves.shards.to_string(),
                format!("{} in {} plans", patient.moved, patient.plans),
                number(model.vms_of(patient.moved)),
                format!("{} min", number(model.rolling_secs(START_SECS) / 60.0)),
                number(model.vms_of(patient.largest)),
                number(model.vms_of(hasty.largest)),
            ]
        })
        .collect();
    let readings = &study.chosen().readings;
    format!(
        "## Shards\n\nThe number is fixed when a cluster is made; the default is {} and the most is {}. Rendezvous hashing \
         chooses who gets what, and shares are even to one shard. Here **{}** are computed with: the fewest with which a \
         shard is handed over within {} s and no node has a tenth more than its share.\n\n{}\n\
         A hand-over is {HAND_OVER_SECS} s until the shard is claimed, and then its records are loaded: {} VMs/s were measured.\n\n\
         ### When a node dies, comes back, drains\n\n{}\n\
         The worst of all nodes. At best every survivor loads as fast as the one that was measured; at worst one etcd gives \
         all of them together no more than it gave to that one. That is beyond the TTL: `takeover` measured {} s for {} VMs, \
         with a TTL of {} s. A node that comes back waits two TTLs for its share. The last column are the events of a cold \
         start, of which {PLAN_EVENTS} have room in the plan at a time.\n\n\
         ### A rolling restart of all nodes\n\n{}\n\
         Each drains, restarts within {START_SECS} s, waits two TTLs and takes its share back before the next one drains. In haste, \
         with the next one drained before the one before has its share again, VMs pile up on those that are left: so many if all were restarted within two TTLs.\n",
        SHARDS[0],
        number(f64::from(SHARDS[SHARDS.len() - 1])),
        study.chosen().given.shards,
        number(study.chosen().given.unattended_secs),
        table(
            &[
                "shards",
                "VMs of a shard",
                "shards of a node",
                "VMs of a node",
                "most VMs of a node, one away",
                "hand-over of a shard"
            ],
            &shares
        ),
        number(readings.loads_per_second),
        table(
            &[
                "shards",
                "a node dies: moved",
                "loaded in",
                "that is",
                "it comes back: moved",
                "it drains: moved",
                "cold start: events"
            ],
            &waves
        ),
        number(readings.takeover.0 / 1e3),
        number(readings.takeover.2 as f64),
        number(readings.takeover.1 / 1e3),
        table(
            &["shards", "moved", "VMs loaded", "takes", "most VMs of a node", "most VMs of a node, in haste"],
            &rolling
        ),
    )
}
