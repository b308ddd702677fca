//! `reeve-bench scale`: what a cluster of 10 million VMs on 20 nodes needs, from the figures of a run.
//!
//! ```text
//! figures of `all --json` ──────────────┐
//! the product's planner, played ────────┼─► model ─► demands by use ─► what to do ─► docs/scale.md
//! a month of a VM, through the core ────┘                                          docs/benchmarks.md, plots
//! ```
//!
//! Every number of the pages comes from the figures, from the two simulations or from [`assumptions`]; nothing is
//! measured here, and the same figures make the same pages.

mod assumptions;
mod benchmarks_page;
mod demand;
mod figures;
mod life;
mod model;
mod moves;
mod plots;
mod remedy;
mod scale_page;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use self::assumptions::{Assumptions, SHARDS};
use self::figures::{Line, Readings, Run};
use self::life::Life;
use self::model::Model;
use self::moves::Moves;

/// What to compute from, and where the pages go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScaleOptions {
    /// The output of `reeve-bench all --json`.
    #[arg(long, value_name = "FILE")]
    figures: PathBuf,
    /// Gets `scale.md`, `benchmarks.md` and the folder `plots`.
    #[arg(long, value_name = "FOLDER", default_value = "docs")]
    docs: PathBuf,
}

/// Writes the pages.
pub(crate) fn write(options: &ScaleOptions) -> Result<ExitCode> {
    let run = Run::read(&options.figures)?;
    let study = Study::new(Assumptions::ten_million()?, Readings::of(&run)?)?;
    let plots = options.docs.join("plots");
    let files = plots::by_size(&plots, &run.lines)?;
    plots::uses(&plots.join(scale_page::PLOT), &demand::demands(study.chosen()))?;
    let mut out = std::io::stdout();
    for (name, text) in
        [("benchmarks.md", benchmarks_page::write(&run, &files)), ("scale.md", scale_page::write(&run, &study)?)]
    {
        let path = options.docs.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the figures that were measured at several sizes, as the pages have them.
pub(crate) fn draw(folder: &Path, figures: impl Iterator<Item = Value>) -> Result<()> {
    let lines = figures.map(serde_json::from_value).collect::<Result<Vec<Line>, _>>();
    plots::by_size(folder, &lines.context("a figure in its own words")?)?;
    Ok(())
}

/// The model for each choice of shards.
#[derive(Debug, Clone)]
struct Study {
    /// By the number of shards.
    models: Vec<Model>,
    chosen: usize,
}

impl Study {
    fn new(given: Assumptions, readings: Readings) -> Result<Self> {
        let life = Life::play(given.changes)?;
        let models: Vec<Model> = SHARDS.into_iter().map(|shards| of_shards(&given, &readings, life, shards)).collect();
        let chosen = models.iter().position(is_fine_enough).unwrap_or(models.len() - 1);
        Ok(Self { models, chosen })
    }

    /// The one that is recommended, and computed with.
    fn chosen(&self) -> &Model {
        &self.models[self.chosen]
    }
}

fn of_shards(given: &Assumptions, readings: &Readings, life: Life, shards: u16) -> Model {
    let moves = Moves::simulate(shards, given.nodes, given.ttl);
    Model { given: Assumptions { shards, ..given.clone() }, readings: readings.clone(), moves, life }
}

/// Whether a shard is small enough to be handed over within the goal, and shares are even within a tenth.
fn is_fine_enough(model: &Model) -> bool {
    let fair = f64::from(model.moves.shards) / model.given.nodes();
    model.hand_over_secs() <= model.given.unattended_secs && model.moves.largest as f64 <= fair * 1.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of invented figures.
    pub(super) fn invented(shards: u16) -> Model {
        let readings = Readings::of(&Run::parse(figures::tests::INVENTED).unwrap()).unwrap();
        let life = Life {
            commits: 20.0,
            events: 6.0,
            event_bytes: 500.0,
            written_bytes: 1500.0,
            resting_bytes: 1000.0,
            backups: 5,
        };
        of_shards(&Assumptions::ten_million().unwrap(), &readings, life, shards)
    }

    #[test]
    fn rates_of_a_cluster_that_is_small_enough_to_compute_by_hand() {
        let model = invented(64).with(|given| {
            (given.vms, given.nodes, given.listers, given.peak) = (86_400.0, 2, 2.0, 1.0);
            (given.notifications, given.calls, given.page) = (10.0, 1.0, 100.0);
        });
        let rates = model.rates();
        assert_eq!((rates.notifications, rates.passed_on, rates.events), (10.0, 5.0, 6.0));
        assert_eq!((rates.messages, rates.commits, rates.written), (21.0, 20.0, 30_000.0));
        assert_eq!((rates.beats, rates.watched), (1.6, 3.2));
        assert_eq!((rates.probes, rates.probe_calls), (2_880.0, 2_880.0));
        // 864 pages by each of two nodes in 300 s.
        assert_eq!((rates.pages, rates.listed, rates.rpc), (5.76, 144.0, 0.75));
        assert_eq!(model.vms_per_shard(), 1_350.0);
        // 27 ms of loading, 50 ms of handing over.
        assert!((model.hand_over_secs() - 0.077).abs() < 1e-9);
        assert_eq!(model.reads_of(2), 6.0);
        assert_eq!(model.database(), 86_400.0 * (1000.0 + 65.0 + 71.0));
    }

    #[test]
    fn a_dead_nodes_shards_load_at_best_side_by_side_and_at_worst_one_after_the_other() {
        let model = invented(64).with(|given| given.vms = 6_400_000.0);
        assert_eq!(model.load_secs(4, 1), (2.0, 8.0));
        assert_eq!(model.with(|given| given.etcds = 8.0).load_secs(4, 1), (2.0, 2.0));
    }

    #[test]
    fn what_etcd_was_measured_to_take_for_a_record_counts_where_it_was_measured() {
        let mut model = invented(64);
        let plain = model.in_etcd(1000.0);
        model.readings.database_bytes = Some(plain * 1.5);
        assert_eq!(model.in_etcd(1000.0), plain * 1.5);
    }

    #[test]
    fn the_pages_are_made_of_the_figures() {
        let run = Run::parse(figures::tests::INVENTED).unwrap();
        let study = Study::new(Assumptions::ten_million().unwrap(), Readings::of(&run).unwrap()).unwrap();
        let page = scale_page::write(&run, &study).unwrap();
        let first = demand::first_to_break(study.chosen());
        assert!(page.contains(&format!("**{}**", first.what)), "{page}");
        assert!(first.breaks());
        assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
        let folder = tempfile::tempdir().unwrap();
        let options = ScaleOptions { figures: folder.path().join("f.jsonl"), docs: folder.path().to_owned() };
        std::fs::write(&options.figures, figures::tests::INVENTED).unwrap();
        write(&options).unwrap();
        for name in ["scale.md", "benchmarks.md", "plots/footprint.svg", "plots/scale.svg"] {
            assert!(folder.path().join(name).metadata().unwrap().len() > 500, "{name}");
        }
    }
}
