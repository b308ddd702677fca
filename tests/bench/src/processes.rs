//! The processor time of this process and of all that it has started, by the names of their programs: who does how much
//! of the work of a machine that all of them share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts a process's time in hundredths of a second, whatever the kernel's own clock does.
const MS_PER_TICK: u64 = 10;

/// A process, as `/proc` tells of it.
struct Seen {
    id: u32,
    parent: u32,
    program: String,
    spent: Duration,
}

/// What this process and those that it has started have had so far, by program. What a node runs as is this program too,
/// so it is told apart as `node`.
pub(crate) fn processor_times() -> Result<BTreeMap<String, Duration>> {
    let all: Vec<Seen> = std::fs::read_dir("/proc")
        .context("the processes")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(seen)
        .collect();
    let me = std::process::id();
    let mut mine = BTreeSet::from([me]);
    // A process may be listed before its parent.
    while let Some(child) = all.iter().find(|seen| mine.contains(&seen.parent) && !mine.contains(&seen.id)) {
        mine.insert(child.id);
    }
    let own = all.iter().find(|seen| seen.id == me).map(|seen| seen.program.clone()).context("this process")?;
    let mut times = BTreeMap::new();
    for seen in all.into_iter().filter(|seen| mine.contains(&seen.id)) {
        let program = match (seen.id == me, seen.program == own) {
            (true, _) => "bench".to_owned(),
            (false, true) => of_child(seen.id),
            (false, false) => seen.program,
        };
        *times.entry(program).or_default() += seen.spent;
    }
    Ok(times)
}

/// What each program has had since.
pub(crate) fn spent_since(before: &BTreeMap<String, Duration>) -> Result<BTreeMap<String, Duration>> {
    let spent = processor_times()?.into_iter().map(|(program, now)| {
        let had = before.get(&program).copied().unwrap_or_default();
        (program, now.saturating_sub(had))
    });
    Ok(spent.collect())
}

/// Microseconds of each program since, by so many messages; programs that did next to nothing are left out.
pub(crate) fn us_per_message(before: &BTreeMap<String, Duration>, messages: usize) -> Result<BTreeMap<String, f64>> {
    let of_each = |spent: Duration| spent.as_secs_f64() * 1e6 / messages.max(1) as f64;
    let spent = spent_since(before)?.into_iter().map(|(program, spent)| (program, of_each(spent)));
    Ok(spent.filter(|(_, us)| *us >= 1.0).collect())
}

fn seen(id: u32) -> Option<Seen> {
    // It may have ended meanwhile.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    parse(id, &stat)
}

/// A line of proc(5)'s `stat`: the name is in brackets, the parent is field 4, utime and stime are fields 14 and 15.
fn parse(id: u32, stat: &str) -> Option<Seen> {
    let (name, rest) = stat.rsplit_once(')')?;
    let (_, program) = name.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let spent = Duration::from_millis((number(11)? + number(12)?) * MS_PER_TICK);
    Some(Seen { id, parent: u32::try_from(number(1)?).ok()?, program: program.to_owned(), spent })
}

/// What a child that runs this very program is at: its first argument.
fn of_child(id: u32) -> String {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        let stat = "7 (a (b) c) S 3 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 100 200 300";
        let seen = parse(7, stat).unwrap();
        assert_eq!((seen.parent, seen.program.as_str()), (3, "a (b) c"));
        assert_eq!(seen.spent, Duration::from_secs(3));
    }

    #[test]
    fn this_process_is_among_them() {
        assert!(processor_times().unwrap().contains_key("bench"));
    }
}
