//! What a run is to be, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::faults::{Faults, Port};
use super::world::World;

/// How much of a failed run's log is shown, in lines.
const TAIL: usize = 60;

/// When the node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crashes {
    /// Never.
    None,
    /// Right after this commit of the run, counted from 1.
    AfterCommit(u64),
    /// After so many of 1,000 commits, and at so many of 1,000 moments in the midst of effects.
    Random {
        /// After a commit.
        commit: u64,
        /// In the midst.
        midst: u64,
    },
}

/// What a run is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Everything else follows from it.
    pub seed: u64,
    /// VMs that exist before the node looks.
    pub found: u32,
    /// VMs that are made while it looks.
    pub made: u32,
    /// VMs that it is asked for.
    pub asked: u32,
    /// The most errands about one VM.
    pub errands: u64,
    /// Which calls fail.
    pub faults: Faults,
    /// When the node dies.
    pub crashes: Crashes,
    /// How many of 1,000 notifications are lost, and how many are doubled, and how many come late.
    pub noise: u16,
}

impl Scenario {
    /// Nothing goes wrong, and nobody asks for anything.
    #[must_use]
    pub const fn quiet(seed: u64) -> Self {
        Self { seed, found: 1, made: 1, asked: 1, errands: 0, faults: Faults::None, crashes: Crashes::None, noise: 0 }
    }

    /// Everything at once.
    #[must_use]
    pub const fn wild(seed: u64) -> Self {
        Self {
            seed,
            found: 6,
            made: 8,
            asked: 3,
            errands: 6,
            faults: Faults::Random(12),
            crashes: Crashes::Random { commit: 8, midst: 2 },
            noise: 60,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Failure`] with the first rule that was broken and the end of the log. A panic of the core is a failure too.
    pub fn run(&self) -> Result<Report, Box<Failure>> {
        let log = Log::default();
        let result = catch_unwind(AssertUnwindSafe(|| World::new(self, log.clone()).run()));
        let text = std::mem::take(&mut *log.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        match result {
            Ok(Ok(mut report)) => {
                report.log = text;
                Ok(report)
            }
            Ok(Err(why)) => Err(self.failure(why, &text)),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(self.failure(format!("panic: {}", why.unwrap_or_default()), &text))
            }
        }
    }

    fn failure(&self, why: String, log: &str) -> Box<Failure> {
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        Box::new(Failure { scenario: self.clone(), why, tail, log: log.to_owned() })
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything that happened, line by line.
    pub log: String,
    /// How many records were written.
    pub commits: u64,
    /// Every call that was made of a port, in order.
    pub calls: Vec<Port>,
    /// How often the node died.
    pub crashes: u64,
    /// How many VMs lived.
    pub vms: u64,
    /// How many decisions to reboot rebooted a VM more than once.
    pub repeated_reboots: u64,
    /// How many events there were of each type.
    pub events: BTreeMap<&'static str, u64>,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In which run.
    pub scenario: Scenario,
    /// Which, and how.
    pub why: String,
    /// The end of the log.
    pub tail: String,
    /// All of it.
    pub log: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nseed {} failed: {}\n{:?}", self.tail, self.scenario.seed, self.why, self.scenario)
    }
}

impl std::error::Error for Failure {}

/// The log of a run. Clones write to the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(super) fn line(&self, line: fmt::Arguments<'_>) {
        use fmt::Write as _;
        let mut log = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(log, "{line}").expect("writing to a String never fails");
    }
}
