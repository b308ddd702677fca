//! Each demand beside its capacity, by use: what breaks first is computed, not said.

use super::assumptions::PLAN_EVENTS;
use super::model::Model;

/// How a capacity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Measured in the run.
    Measured,
    /// Written in the documentation or in the code of what limits it.
    Stated,
    /// A goal of Reeve's own.
    Goal,
    /// Assumed: it is not Reeve's, or a matter of what is bought.
    Assumed,
}

impl Basis {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Stated => "stated",
            Self::Goal => "goal",
            Self::Assumed => "assumed",
        }
    }
}

/// Something that is needed, and how much of it there is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Demand {
    pub(super) what: &'static str,
    pub(super) needs: f64,
    pub(super) has: f64,
    pub(super) unit: &'static str,
    pub(super) basis: Basis,
    /// What the capacity is.
    pub(super) capacity: &'static str,
    /// What happens beyond it.
    pub(super) beyond: &'static str,
}

impl Demand {
    /// Whether something stops working beyond it: a goal that is missed makes things slower, and what is assumed may be
    /// otherwise.
    pub(super) fn breaks(&self) -> bool {
        match self.basis {
            Basis::Measured | Basis::Stated => true,
            Basis::Goal | Basis::Assumed => false,
        }
    }

    /// The share of the capacity that is needed.
    pub(super) fn used(&self) -> f64 {
        self.needs / self.has
    }
}

/// Every demand, the one that uses most of its capacity first.
pub(super) fn demands(model: &Model) -> Vec<Demand> {
    let mut all = of_etcd(model);
    all.extend(of_the_broker(model));
    all.extend(of_time(model));
    all.extend(of_nodes_and_clouds(model));
    all.sort_by(|one, other| other.used().total_cmp(&one.used()));
    all
}

/// The demand that breaks first.
pub(super) fn first_to_break(model: &Model) -> Demand {
    let mut breaking = demands(model).into_iter().filter(Demand::breaks);
    breaking.next().expect("there are demands whose capacity is known")
}

/// The number of VMs at which a demand is as large as its capacity, all else equal; nothing if no number of VMs is.
pub(super) fn breaks_at(model: &Model, what: &str) -> Option<f64> {
    const MOST: f64 = 1e12;
    let used = |vms: f64| {
        let at = model.with(|given| given.vms = vms);
        demands(&at).into_iter().find(|demand| demand.what == what).map_or(0.0, |demand| demand.used())
    };
    if used(MOST) < 1.0 {
        return None;
    }
    let (mut holds, mut breaks) = (0.0, MOST);
    while breaks - holds > 1.0 {
        let middle = f64::midpoint(holds, breaks);
        if used(middle) < 1.0 { holds = middle } else { breaks = middle }
    }
    Some(holds)
}

fn of_etcd(model: &Model) -> Vec<Demand> {
    let (given, rates) = (&model.given, model.rates());
    vec![
        Demand {
            what: "etcd: size of the database",
            needs: (model.database() + model.history()) / given.etcds,
            has: given.quota,
            unit: "B",
            basis: Basis::Stated,
            capacity: "the quota",
            beyond: "etcd raises the alarm NOSPACE and takes no write at all until it is smaller",
        },
        Demand {
            what: "etcd: record writes",
            needs: (rates.commits + rates.beats) / given.etcds,
            has: model.readings.commits_per_second,
            unit: "/s",
            basis: Basis::Measured,
            capacity: "`commit`",
            beyond: "messages wait in their queues, and decisions are late",
        },
    ]
}

fn of_the_broker(model: &Model) -> Vec<Demand> {
    let (given, rates) = (&model.given, model.rates());
    let worst = model.moves.cold.moved.max(model.moves.patient.at_once) as f64 + given.nodes();
    vec![
        Demand {
            what: "RabbitMQ: notifications through one cloud's queue",
            needs: rates.notifications,
            has: model.readings.bare_per_second,
            unit: "/s",
            basis: Basis::Measured,
            capacity: "the bare consumer of `intake`",
            beyond: "the queue of the cloud grows; what is late is found by the listings",
        },
        Demand {
            what: "RabbitMQ: events through one stream",
            needs: rates.events,
            has: model.readings.intake_per_second,
            unit: "/s",
            basis: Basis::Measured,
            capacity: "`intake`, at least: an event a message",
            beyond: "outboxes fill, and a record with a full one takes nothing in",
        },
        Demand {
            what: "intake of one node",
            needs: rates.notifications / (given.nodes() - 1.0).max(1.0),
            has: model.readings.intake_per_second,
            unit: "/s",
            basis: Basis::Measured,
            capacity: "`intake`, with one node away",
            beyond: "the node's prefetch is always full, and its queues grow",
        },
        Demand {
            what: "events of one plan",
            needs: worst,
            has: PLAN_EVENTS,
            unit: "",
            basis: Basis::Stated,
            capacity: "room in the plan",
            beyond: "some shards' moves are logged and have no event",
        },
    ]
}

fn of_time(model: &Model) -> Vec<Demand> {
    let given = &model.given;
    let goal = |what, needs, beyond| Demand {
        what,
        needs,
        has: given.unattended_secs,
        unit: "s",
        basis: Basis::Goal,
        capacity: "beyond the TTL",
        beyond,
    };
    let death = model.moves.death;
    vec![
        goal(
            "a node dies: its shards are loaded",
            model.load_secs(death.moved, death.gained).1,
            "its VMs are without a supervisor for longer; nothing is lost",
        ),
        goal(
            "a shard is handed over",
            model.hand_over_secs(),
            "its VMs are without a supervisor for longer; nothing is lost",
        ),
        Demand {
            what: "RPC: calls that a node answers",
            needs: model.rates().rpc,
            has: model.readings.rpc_per_second,
            unit: "/s",
            basis: Basis::Measured,
            capacity: "`rpc`",
            beyond: "answers are late",
        },
    ]
}

fn of_nodes_and_clouds(model: &Model) -> Vec<Demand> {
    let (given, rates) = (&model.given, model.rates());
    let cores = model.cores_of_node().iter().map(|(_, cores)| cores).sum();
    let assumed = |what, needs, has, unit, capacity, beyond| Demand {
        what,
        needs,
        has,
        unit,
        basis: Basis::Assumed,
        capacity,
        beyond,
    };
    vec![
        assumed(
            "processor of the largest node",
            cores,
            given.cores,
            "cores",
            "cores of a node",
            "probes and messages are late",
        ),
        assumed(
            "memory of the largest node",
            model.memory_of_node(),
            given.memory,
            "B",
            "memory of a node",
            "the node is killed, and its shards go to nodes that have no room either",
        ),
        assumed(
            "a complete listing",
            given.vms / given.page * given.page_secs,
            given.listing_secs,
            "s",
            "between two listings, of one cloud",
            "a round takes longer than it should, and what a lost notification said is found later",
        ),
        assumed(
            "calls of the clouds' API",
            rates.pages + rates.probe_calls,
            given.cloud_calls,
            "/s",
            "what the clouds bear",
            "probes are inconclusive, and listings fail: lease ends wait",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::invented;
    use super::*;

    fn needs(model: &Model, what: &str) -> f64 {
        demands(model).into_iter().find(|demand| demand.what == what).unwrap().needs
    }

    #[test]
    fn demands_come_by_their_use() {
        let all = demands(&invented(64));
        assert!(all.is_sorted_by(|one, other| one.used() >= other.used()));
        assert!(all.iter().all(|demand| demand.needs.is_finite() && demand.has > 0.0));
    }

    #[test]
    fn no_demand_falls_when_there_are_more_vms_or_more_notifications() {
        let model = invented(256);
        let vms = [1e5, 1e6, 1e7, 1e8].map(|vms| model.with(|given| given.vms = vms));
        let told = [1.0, 10.0, 100.0].map(|told| model.with(|given| given.notifications = told));
        for models in [&vms[..], &told[..]] {
            for pair in models.windows(2) {
                for demand in demands(&pair[0]) {
                    assert!(needs(&pair[1], demand.what) >= demand.needs, "{}", demand.what);
                }
            }
        }
    }

    #[test]
    fn at_the_number_where_it_breaks_a_demand_is_its_capacity() {
        let model = invented(1024);
        for demand in demands(&model) {
            let Some(vms) = breaks_at(&model, demand.what).filter(|vms| *vms > 1.0) else { continue };
            let there = model.with(|given| given.vms = vms);
            let used = needs(&there, demand.what) / demand.has;
            assert!((used - 1.0).abs() < 1e-3, "{} at {vms}: {used}", demand.what);
        }
    }

    #[test]
    fn twice_the_etcds_have_half_the_demand_each() {
        let one = invented(64);
        let two = one.with(|given| given.etcds = 2.0);
        for what in ["etcd: size of the database", "etcd: record writes"] {
            assert_eq!(needs(&two, what) * 2.0, needs(&one, what));
        }
    }
}
