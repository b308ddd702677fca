//! A run: faults and load for a while, then quiet, then judgement.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::attendance::Attendance;
use super::checker;
use super::driver::{self, Counter};
use super::faults::Lane;
use super::history::{self, What};
use super::options::Options;
use super::people::People;
use super::report::Report;
use super::settle;
use super::stage::{Keep, Stage};

/// Of so many VMs one has a lease that ends within the run.
const ENDING: usize = 12;
const KNOWN: Duration = Duration::from_secs(180);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// In words.
    pub words: String,
    /// As JSON.
    pub json: serde_json::Value,
    /// Whether nothing was broken.
    pub good: bool,
}

/// Breaks a cluster for a while, and judges.
///
/// # Errors
/// When a part does not come up, or cannot be healed.
pub async fn chaos(options: &Options) -> Result<Outcome> {
    let ending = options.fleet() / ENDING;
    let stage = Stage::start(options, options.fleet() - ending).await?;
    stage.all_known(KNOWN).await?;
    let people = People::gather(&stage, ending).await?;
    let attendance = Attendance::new(stage.doors(), stage.history.clone(), people.watched());
    let counter = Counter::default();
    let faults = async {
        let lane = |lane| driver::run(&stage, lane, options.mix(), &counter, options.lasts());
        tokio::try_join!(lane(Lane::Nodes), lane(Lane::World)).map(drop)
    };
    tokio::select! {
        ended = faults => ended?,
        () = people.command(&stage, options.rate()) => {}
        () = people.live(&stage) => {}
        () = people.lock(&stage) => {}
        () = attendance.run() => {}
    }
    let settling = async {
        hands_on(&stage).await?;
        // Whoever was killed last is still starting.
        for member in &stage.members {
            member.answers().await?;
        }
        settle::quiet(&stage).await
    };
    // While nobody asks, a VM looks as if nobody attended it: it is asked for at each of these steps.
    let settled = tokio::select! {
        settled = settling => settled,
        () = attendance.run() => Ok(()),
    };
    attendance.close();
    settled?;
    settle::write_down(&stage).await?;
    conclude(stage, options)
}

/// Nobody's VM stays locked.
async fn hands_on(stage: &Stage) -> Result<()> {
    for view in stage.cloud.control.living_vms().await? {
        if view.facts.locked == Some(true) {
            stage.history.write(What::HandsOn { vm: view.facts.vm });
            stage.cloud.control.deed(view.facts.vm, "unlock").await?;
        }
    }
    Ok(())
}

/// Judges a history that was kept.
///
/// # Errors
/// When it cannot be read.
pub fn judge(history: &Path) -> Result<Outcome> {
    let entries = history::read(history)?;
    let verdict = checker::check(&entries);
    let report = Report::new(&entries, &verdict);
    let (words, good) = (report.words(&verdict), verdict.broken.is_empty());
    Ok(Outcome { words, json: serde_json::to_value(&report)?, good })
}

/// Judges the history of a stage and ends it. The folder stays if a rule was broken.
///
/// # Errors
/// When the history cannot be read back.
pub fn conclude(stage: Stage, options: &Options) -> Result<Outcome> {
    let entries = stage.history.entries()?;
    let verdict = checker::check(&entries);
    let mut report = Report::new(&entries, &verdict);
    report.expect_attended(options.ttl());
    let good = verdict.broken.is_empty();
    let mut words = report.words(&verdict);
    if !good || options.keep {
        words.push_str(&format!("history: {}\n", stage.history.path().display()));
        stage.end(Keep::Yes);
    } else {
        stage.end(Keep::No);
    }
    Ok(Outcome { words, json: serde_json::to_value(&report)?, good })
}
