//! `docs/benchmarks.md`: the figures of a run against their goals, met or not.

use super::figures::{Line, Machine, Run};
use super::text::{number, share, table, wrap};

/// Instructions a step: many figures of one kind, in a table of their own.
const STEP: &str = "step";

/// The page.
pub(super) fn write(run: &Run, plots: &[String]) -> String {
    let (steps, others): (Vec<&Line>, Vec<&Line>) = run.lines.iter().partition(|line| line.benchmark() == STEP);
    let mut page = format!("{HEAD}\n{}\n{}\n", machine(&run.machine), verdict(run));
    page.push_str("\n## Figures\n\n");
    page.push_str(&table(
        &["figure", "value", "unit", "goal", "met", "beside", "ratio", "of", "spread"],
        &rows(&others),
    ));
    page.push_str(BELOW);
    for plot in plots {
        page.push_str(&format!("\n![{plot}](plots/{plot})\n"));
    }
    if !steps.is_empty() {
        page.push_str(STEPS);
        let rows: Vec<Vec<String>> = steps.iter().map(|line| step(line)).collect();
        page.push_str(&table(&["input", "instructions", "recorded", "ratio", "within the limit"], &rows));
    }
    page.push_str(TAIL);
    wrap(&page)
}

const HEAD: &str = "\
# Benchmarks

Written by `reeve-bench scale` out of one run of `reeve-bench all --json`; nothing on this page is typed by hand. Every
figure stands beside its limit or a peer, measured on the same work in the same run and in turn with it: machines differ
and are noisy, so a ratio is what counts. A round is warmed up, the value is the median of the rounds, and the spread is
(largest - smallest) / median. No benchmark leaves out what a node does: the same record, the same store, etcd with fsync,
publisher confirms, acknowledgement after the commit.
";

const BELOW: &str = "
The column *of* is how many VMs, messages, calls or bytes a round is made of. What each benchmark does and what stands
beside it is told at the head of its file in `tests/bench/src`. [scale.md](scale.md) computes from these figures what a
large cluster needs.
";

const STEPS: &str = "
## Instructions of a decision

What `step()` takes for the ten commonest inputs of a VM in the middle of an ordinary life, counted by callgrind so that
it repeats nearly to the instruction. `reeve-bench step --strict` fails when one grows by more than a tenth over what is
recorded.

";

const TAIL: &str = "
## Again

```sh
cargo run --release -p reeve-bench -- all --json > figures.jsonl
cargo run --release -p reeve-bench -- scale --figures figures.jsonl --docs docs
```
";

fn machine(machine: &Machine) -> String {
    format!(
        "Measured on {} cores ({}), {} MiB of memory, Linux {}; {}; {}; {}; {}. Nodes, etcd, brokers and clients shared these \
         cores.\n",
        machine.cores,
        machine.cpu,
        number(machine.memory_mib as f64),
        machine.kernel,
        machine.rustc,
        machine.etcd,
        machine.rabbitmq,
        machine.erlang
    )
}

/// How many goals are met, and which are not.
fn verdict(run: &Run) -> String {
    let judged = || run.lines.iter().filter_map(|line| Some((line, line.met?)));
    let missed: Vec<String> = judged().filter(|(_, met)| !met).map(|(line, _)| format!("`{}`", line.name)).collect();
    let met = judged().count() - missed.len();
    if missed.is_empty() {
        format!("All {met} goals are met.")
    } else {
        format!("{met} of {} goals are met. Missed: {}.", judged().count(), missed.join(", "))
    }
}

fn rows(lines: &[&Line]) -> Vec<Vec<String>> {
    lines.iter().map(|line| row(line)).collect()
}

fn row(line: &Line) -> Vec<String> {
    let beside: Vec<String> = line.baselines.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    vec![
        format!("`{}`", line.name),
        number(line.value),
        line.unit.clone(),
        line.goal.clone(),
        met(line).to_owned(),
        beside.join("; "),
        line.ratio.map(number).unwrap_or_default(),
        number(line.n as f64),
        if line.spread == 0.0 { String::new() } else { share(line.spread) },
    ]
}

fn step(line: &Line) -> Vec<String> {
    let name = line.name.split_once('/').map_or(line.name.as_str(), |(_, input)| input);
    let recorded = line.baselines.values().next();
    vec![
        name.to_owned(),
        number(line.value),
        recorded.copied().map(number).unwrap_or_default(),
        line.ratio.map(number).unwrap_or_default(),
        met(line).to_owned(),
    ]
}

fn met(line: &Line) -> &'static str {
    match line.met {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::INVENTED;
    use super::*;

    #[test]
    fn what_is_missed_is_said_first() {
        let run = Run::parse(INVENTED).unwrap();
        let page = write(&run, &["footprint.svg".to_owned()]);
        assert!(page.contains("Missed: `intake`."), "{page}");
        assert!(
            page.contains("| `intake` | 2,000 | messages/s | ratio >= 0.5 | **no** | bare consumer 5,000 | 0.4 |"),
            "{page}"
        );
        assert!(page.contains("(plots/footprint.svg)") && page.contains("| probed-up | 4,000 |"), "{page}");
    }
}
