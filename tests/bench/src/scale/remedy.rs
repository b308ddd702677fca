//! What to do when something breaks, with what it brings by the same model.

use reeve_lifecycle::policy::ProbeKind;

use super::demand::{Demand, demands, first_to_break};
use super::model::Model;

/// What a remedy takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Configuration, today.
    Configuration,
    /// Code that is to be written.
    Work,
}

/// Something that can be done.
#[derive(Debug, Clone)]
pub(super) struct Remedy {
    pub(super) what: String,
    pub(super) means: Means,
    /// The demand that it is about, before and after.
    pub(super) before: Demand,
    pub(super) after: Demand,
    /// What breaks first then.
    pub(super) next: Demand,
}

const DATABASE: &str = "etcd: size of the database";
const WRITES: &str = "etcd: record writes";
const TAKEOVER: &str = "a node dies: its shards are loaded";
/// A retention of five minutes compacts every five minutes.
const SHORT_HISTORY_HOURS: f64 = 10.0 / 60.0;
const CALLS: &str = "calls of the clouds' API";

/// The fewest clusters of etcd with which everything of etcd's has room, each for a range of shards; and what decides it.
pub(super) fn etcds(model: &Model) -> (f64, &'static str) {
    // What each of them has to bear is in proportion to their number.
    let one = model.with(|given| given.etcds = 1.0);
    let needed =
        [DATABASE, WRITES].map(|what| ((find(&one, what).used() / model.given.headroom).ceil().max(1.0), what));
    needed.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).unwrap_or((1.0, DATABASE))
}

/// Everything that helps, each by itself and then together.
pub(super) fn remedies(model: &Model) -> Vec<Remedy> {
    let (clusters, _) = etcds(model);
    let mut all = vec![
        remedy(
            model,
            DATABASE,
            "the quota of etcd doubled, past what its documentation suggests".into(),
            Means::Configuration,
            |model| model.with(|given| given.quota *= 2.0),
        ),
        remedy(
            model,
            DATABASE,
            "history kept for 10 minutes instead of hours (`--auto-compaction-retention=5m`)".into(),
            Means::Configuration,
            |model| model.with(|given| given.history_hours = SHORT_HISTORY_HOURS),
        ),
        remedy(model, DATABASE, "records at half their bytes".into(), Means::Work, |model| {
            model.with(|given| given.record_factor = 0.5)
        }),
        remedy(
            model,
            DATABASE,
            format!("{clusters} clusters of etcd, each for a range of shards"),
            Means::Work,
            |model| model.with(|given| given.etcds = clusters),
        ),
        remedy(
            model,
            TAKEOVER,
            format!("{clusters} clusters of etcd, each for a range of shards"),
            Means::Work,
            |model| model.with(|given| given.etcds = clusters),
        ),
        remedy(
            model,
            CALLS,
            "probes by the cloud's listing (`probe = \"cloud\"`)".into(),
            Means::Configuration,
            |model| model.with(|given| given.probe = ProbeKind::Cloud),
        ),
        remedy(model, CALLS, "the same, every 5 minutes".into(), Means::Configuration, slow_probes),
        remedy(model, CALLS, "the same, and one listing for all nodes".into(), Means::Work, |model| {
            slow_probes(model).with(|given| given.listers = 1.0)
        }),
    ];
    all.extend(together(model));
    all
}

/// Several of them at once, with as many clusters of etcd as are needed then.
fn together(model: &Model) -> [Remedy; 2] {
    let about = first_to_break(model).what;
    let shorter = model.with(|given| given.history_hours = SHORT_HISTORY_HOURS);
    let lighter = slow_probes(&shorter).with(|given| given.record_factor = 0.5);
    let (few, fewest) = (etcds(&shorter).0, etcds(&lighter).0);
    [
        remedy(model, about, format!("history for 10 minutes, and {few} clusters of etcd"), Means::Work, |_| {
            shorter.with(|given| given.etcds = few)
        }),
        remedy(
            model,
            about,
            format!("history for 10 minutes, half the bytes, {fewest} clusters of etcd, slow probes by listings"),
            Means::Work,
            |_| lighter.with(|given| given.etcds = fewest),
        ),
    ]
}

fn slow_probes(model: &Model) -> Model {
    model.with(|given| {
        given.probe = ProbeKind::Cloud;
        given.probe_secs = 300.0;
    })
}

fn remedy(model: &Model, about: &str, what: String, means: Means, change: impl FnOnce(&Model) -> Model) -> Remedy {
    let with = change(model);
    let (before, after) = (find(model, about), find(&with, about));
    Remedy { what, means, before, after, next: first_to_break(&with) }
}

fn find(model: &Model, what: &str) -> Demand {
    demands(model).into_iter().find(|demand| demand.what == what).expect("every model has the same demands")
}

#[cfg(test)]
mod tests {
    use super::super::tests::invented;
    use super::*;

    #[test]
    fn every_remedy_lessens_what_it_is_about() {
        for remedy in remedies(&invented(1024)) {
            assert!(remedy.after.used() < remedy.before.used(), "{}", remedy.what);
        }
    }

    #[test]
    fn as_many_etcds_as_are_needed_and_no_more() {
        let model = invented(1024);
        let (clusters, what) = etcds(&model);
        let used = |etcds: f64| find(&model.with(|given| given.etcds = etcds), what).used();
        assert!(
            clusters > 1.0 && used(clusters) <= model.given.headroom && used(clusters - 1.0) > model.given.headroom
        );
    }
}
