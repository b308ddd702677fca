//! How many instructions a decision takes, for the ten commonest inputs.
//!
//! Counted by callgrind, so that the same code gives the same count on every machine: two runs of a child with a
//! different number of steps, and their difference by the number of steps between. Each step is what a supervisor does:
//! a copy of the input, and [`reeve_lifecycle::step`].
//!
//! `recorded/step.txt` holds the counts of the last change that was meant, with optimisation and without. More than a
//! tenth above is a regression: `reeve-bench step --strict` fails by it, and CI runs it on the build that it has, which
//! is the one without. Counts of another compiler are other counts: they are shown, and judge nothing.

mod inputs;

use std::hint::black_box;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use reeve_lifecycle::step;
use serde_json::{Value, json};

use self::inputs::Case;
use crate::child::argument;
use crate::runner::{Figure, Goal, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "step";
const RECORDED: &str = include_str!("../../recorded/step.txt");
/// By how much a count may grow unnoticed.
const TOLERANCE: f64 = 1.1;
/// Steps of the two runs. The first has filled every cache of the allocator.
const STEPS: [u64; 2] = [50, 250];

/// Measures.
pub(crate) fn run(_: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure())
}

async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for case in inputs::all()? {
        let name = case.name;
        let counted = tokio::task::spawn_blocking(move || {
            Ok::<_, anyhow::Error>([count(name, STEPS[0])?, count(name, STEPS[1])?])
        });
        let [few, many] = counted.await??;
        let instructions = many.saturating_sub(few) as f64 / (STEPS[1] - STEPS[0]) as f64;
        let recorded = recorded(name);
        let goal = if recorded.is_some() { Goal::RatioAtMost(TOLERANCE) } else { Goal::Recorded };
        let mut figure =
            Figure::single(format!("step/{name}"), instructions.round(), "instructions", goal).of(STEPS[1]);
        if let Some(recorded) = recorded {
            figure = figure.against("recorded", recorded);
        }
        figures.push(figure.note("changes_the_record", case.changes()));
    }
    Ok(figures)
}

/// The count that was recorded of an input, by this compiler and for a build like this one.
fn recorded(name: &str) -> Option<f64> {
    look_up(RECORDED, env!("REEVE_BENCH_RUSTC"), name, cfg!(debug_assertions))
}

/// Out of lines of `name optimised not-optimised`, below one that names the compiler.
fn look_up(recorded: &str, compiler: &str, name: &str, debug: bool) -> Option<f64> {
    recorded.lines().find(|line| line.strip_prefix("# compiler: ") == Some(compiler))?;
    let mut line = recorded.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.split_whitespace();
    if debug { line.nth(1) } else { line.next() }?.parse().ok()
}

/// All instructions of a child that makes so many steps.
fn count(name: &str, steps: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    command.args(["child", CHILD, name, &steps.to_string()]).stdin(Stdio::null());
    let said = command.output().context("valgrind is needed to count instructions")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "valgrind: {}: {text}", said.status);
    let line = text.lines().find_map(|line| line.split_once("Collected :")).context("valgrind tells no count")?;
    line.1.trim().parse().context("the count of valgrind")
}

/// Makes so many steps of one input.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let name: String = argument(arguments, 0)?;
    let steps: u64 = argument(arguments, 1)?;
    let case: Case = inputs::all()?.into_iter().find(|case| case.name == name).context("there is no such input")?;
    for _ in 0..steps {
        drop(black_box(step(black_box(&case.record), case.input.clone(), case.now)));
    }
    Ok(json!({ "steps": steps }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_that_of_the_compiler_and_of_the_build() {
        let recorded = "# compiler: rustc 1\na-b 30 40\na 10 20\n";
        assert_eq!(look_up(recorded, "rustc 1", "a", false), Some(10.0));
        assert_eq!(look_up(recorded, "rustc 1", "a", true), Some(20.0));
        assert_eq!(look_up(recorded, "rustc 2", "a", true), None);
        assert_eq!(look_up(recorded, "rustc 1", "b", true), None);
    }

    #[test]
    fn every_input_has_a_count() {
        for case in inputs::all().unwrap() {
            for debug in [true, false] {
                let compiler = RECORDED.lines().find_map(|line| line.strip_prefix("# compiler: ")).unwrap();
                assert!(look_up(RECORDED, compiler, case.name, debug).is_some(), "{}", case.name);
            }
        }
    }
}
