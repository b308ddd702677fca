//! What every benchmark shares: figures and their goals, contestants that take turns, and how it all is shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};

/// How to measure.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Small sizes and few rounds.
    pub(crate) quick: bool,
}

impl Options {
    /// One of the two, as the options say.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// The value is at most this.
    AtMost(f64),
    /// The value is at least this.
    AtLeast(f64),
    /// The value is at least so many times its baseline.
    RatioAtLeast(f64),
    /// The value is at most so many times its baseline.
    RatioAtMost(f64),
    /// There is none: the value is written down.
    Recorded,
}

impl Goal {
    /// Whether it is reached; nothing where there is no goal, or no ratio that could be compared.
    fn met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::RatioAtLeast(least) => ratio.map(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio.map(|ratio| ratio <= most),
            Self::Recorded => None,
        }
    }

    fn told(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", short(most)),
            Self::AtLeast(least) => format!(">= {}", short(least)),
            Self::RatioAtLeast(least) => format!("ratio >= {}", short(least)),
            Self::RatioAtMost(most) => format!("ratio <= {}", short(most)),
            Self::Recorded => "recorded".to_owned(),
        }
    }
}

/// A measured figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// What it is: the benchmark, and which of its figures.
    pub(crate) name: String,
    /// The median.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// What it is to reach.
    pub(crate) goal: Goal,
    /// The same measured of others, in the same unit.
    pub(crate) baselines: BTreeMap<String, f64>,
    /// The value by the baseline that the goal means.
    pub(crate) ratio: Option<f64>,
    /// Of how many things (VMs, messages, calls) one round is made.
    pub(crate) n: u64,
    /// How far the rounds lie apart: (largest - smallest) / median. 0 for one round.
    pub(crate) spread: f64,
    /// Whatever else was seen.
    pub(crate) notes: BTreeMap<String, Value>,
}

impl Figure {
    /// A figure of what was measured.
    pub(crate) fn new(name: impl Into<String>, measured: &Measured, unit: &'static str, goal: Goal) -> Self {
        Self {
            name: name.into(),
            value: measured.median,
            unit,
            goal,
            baselines: BTreeMap::new(),
            ratio: None,
            n: 0,
            spread: measured.spread,
            notes: BTreeMap::new(),
        }
    }

    /// A figure of one value.
    pub(crate) fn single(name: impl Into<String>, value: f64, unit: &'static str, goal: Goal) -> Self {
        Self::new(name, &Measured { median: value, spread: 0.0, rounds: vec![value] }, unit, goal)
    }

    /// Of how many things a round is made.
    pub(crate) fn of(mut self, n: u64) -> Self {
        self.n = n;
        self
    }

    /// The same of another.
    pub(crate) fn beside(mut self, name: &str, value: f64) -> Self {
        self.baselines.insert(name.to_owned(), value);
        self
    }

    /// The same of the one that the goal means.
    pub(crate) fn against(mut self, name: &str, value: f64) -> Self {
        self.ratio = (value != 0.0).then(|| self.value / value);
        self.beside(name, value)
    }

    /// Something else that was seen.
    pub(crate) fn note(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.notes.insert(name.to_owned(), value.into());
        self
    }

    /// Whether the goal is reached.
    pub(crate) fn met(&self) -> Option<bool> {
        self.goal.met(self.value, self.ratio)
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "unit": self.unit, "goal": self.goal.told(), "met": self.met(),
            "baselines": self.baselines, "ratio": self.ratio, "n": self.n, "spread": self.spread, "notes": self.notes,
        })
    }
}

/// The rounds of one contestant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// The median of the rounds.
    pub(crate) median: f64,
    /// (largest - smallest) / median.
    pub(crate) spread: f64,
    /// Every round, in order.
    pub(crate) rounds: Vec<f64>,
}

impl Measured {
    /// Of these rounds, at least one.
    pub(crate) fn of(rounds: Vec<f64>) -> Result<Self> {
        ensure!(rounds.iter().all(|value| value.is_finite()), "a round has no finite value: {rounds:?}");
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first().context("no round was measured")?, sorted.last().context("no round")?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        let spread = if median == 0.0 { 0.0 } else { (last - first) / median };
        Ok(Self { median, spread, rounds })
    }
}

/// One of those who take turns.
pub(crate) struct Contestant<'a> {
    name: &'a str,
    round: Box<dyn FnMut() -> LocalBoxFuture<'a, Result<f64>> + 'a>,
}

impl<'a> Contestant<'a> {
    /// A contestant; `round` measures one round and returns its value.
    pub(crate) fn new<F>(name: &'a str, mut round: impl FnMut() -> F + 'a) -> Self
    where
        F: Future<Output = Result<f64>> + 'a,
    {
        Self { name, round: Box::new(move || Box::pin(round())) }
    }
}

/// Runs the contestants in turn, A B A B, so that whatever else the machine does hits all of them; the first rounds of
/// each do not count. Returns what was measured in the order of the contestants.
pub(crate) async fn alternate(
    rounds: usize,
    warm_ups: usize,
    mut contestants: Vec<Contestant<'_>>,
) -> Result<Vec<Measured>> {
    let mut measured = vec![Vec::new(); contestants.len()];
    for round in 0..warm_ups + rounds {
        for (contestant, values) in contestants.iter_mut().zip(&mut measured) {
            let value = (contestant.round)().await.with_context(|| format!("{}, round {round}", contestant.name))?;
            tracing::info!(contestant = contestant.name, round, value, "measured");
            if round >= warm_ups {
                values.push(value);
            }
        }
    }
    measured.into_iter().map(Measured::of).collect()
}

/// The value below which this share of the sorted values lies; 0 of none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = (last as f64 * share).round() as usize;
    sorted[at.min(last)]
}

/// A number as people read it: four digits that matter.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        1000.0.. => 0,
        100.0.. => 1,
        1.0.. => 2,
        _ => 4,
    };
    let told = format!("{value:.digits$}");
    if told.contains('.') { told.trim_end_matches('0').trim_end_matches('.').to_owned() } else { told }
}

/// The figures in columns.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut rows = vec![["name", "value", "unit", "goal", "met", "ratio", "n", "spread", "beside"].map(str::to_owned)];
    for figure in figures {
        let met = figure.met().map_or("", |met| if met { "yes" } else { "NO" });
        let beside = figure.baselines.iter().map(|(name, value)| format!("{name} {}", short(*value)));
        rows.push([
            figure.name.clone(),
            short(figure.value),
            figure.unit.to_owned(),
            figure.goal.told(),
            met.to_owned(),
            figure.ratio.map(short).unwrap_or_default(),
            figure.n.to_string(),
            format!("{:.0} %", figure.spread * 100.0),
            beside.collect::<Vec<_>>().join(", "),
        ]);
    }
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_by_ratio_without_a_baseline_is_neither_met_nor_missed() {
        let figure = Figure::single("a", 4.0, "/s", Goal::RatioAtLeast(0.5));
        assert_eq!(figure.met(), None);
        assert_eq!(figure.clone().against("raw", 8.0).met(), Some(true));
        assert_eq!(figure.against("raw", 9.0).met(), Some(false));
    }

    #[test]
    fn the_median_and_the_spread_of_an_even_number_of_rounds() {
        let measured = Measured::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((measured.median, measured.spread), (2.5, 1.2));
        assert!(Measured::of(Vec::new()).is_err());
    }
}
