//! The seeded simulation: `REEVE_LONG=1` runs twenty times as many seeds, `REEVE_SEED=N` one wild seed with its log.

use reeve_tests::simulation::{Crashes, Failure, Faults, Report, Scenario};

/// Seeds of wild runs that failed once; they run first. What failed was: an end that a restored lease had been given
/// anew was brought back to where it first was (11, 35, 175); a VM that its owner had stopped could not be suspended, so its
/// lease never ended (25, 31, 34); the model took a launch whose time is rounded for no other (138).
const REGRESSIONS: [u64; 9] = [11, 25, 31, 34, 35, 138, 175, 300, 491];

fn times() -> u64 {
    if std::env::var_os("REEVE_LONG").is_some() { 20 } else { 1 }
}

/// Runs all of them; shows the first that fails, and how many others did.
fn run_all(scenarios: impl IntoIterator<Item = Scenario>) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut failures: Vec<Box<Failure>> = Vec::new();
    for scenario in scenarios {
        match scenario.run() {
            Ok(report) => reports.push(report),
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(first) = failures.first() {
        let each = failures.iter().map(|failure| {
            let why: String = failure.why.chars().take(600).collect();
            let Scenario { seed, faults, crashes, .. } = &failure.scenario;
            format!("seed {seed} {faults:?} {crashes:?}: {why}\n")
        });
        let each: String = each.collect();
        panic!("{each}{} of {} runs failed\n{first}", failures.len(), failures.len() + reports.len());
    }
    reports
}

fn sum(reports: &[Report], event: &str) -> u64 {
    reports.iter().filter_map(|report| report.events.get(event)).sum()
}

#[test]
fn a_quiet_life_comes_to_its_end() {
    let reports = run_all((1..=10).map(Scenario::quiet));
    assert!(sum(&reports, "lease.created") >= 20, "{reports:?}");
}

#[test]
fn the_same_seed_twice_logs_the_same_bytes() {
    for seed in 1..=2 {
        let once = Scenario::wild(seed).run().unwrap_or_else(|failure| panic!("{failure}"));
        let again = Scenario::wild(seed).run().unwrap_or_else(|failure| panic!("{failure}"));
        assert!(once.log == again.log, "seed {seed} took two courses");
        assert_eq!(once, again);
    }
}

#[test]
fn a_crash_after_every_commit_loses_nothing() {
    for seed in 1..=times() {
        let base = Scenario { errands: 2, ..Scenario::quiet(seed) };
        let commits = run_all([base.clone()])[0].commits;
        assert!(commits > 50, "{commits} commits");
        run_all((1..=commits).map(|commit| Scenario { crashes: Crashes::AfterCommit(commit), ..base.clone() }));
    }
}

#[test]
fn a_fault_at_every_call_of_every_port_loses_nothing() {
    for seed in 1..=times() {
        let base = Scenario { made: 0, ..Scenario::quiet(seed) };
        let calls = run_all([base.clone()]).remove(0).calls;
        assert!(calls.len() > 50, "{} calls", calls.len());
        let all =
            (1..).zip(&calls).flat_map(|(call, port)| port.troubles().iter().map(move |one| Faults::At(call, *one)));
        run_all(all.map(|faults| Scenario { faults, ..base.clone() }));
    }
}

#[test]
fn thousands_of_wild_lives_keep_every_rule() {
    let seeds = REGRESSIONS.into_iter().chain(100..100 + 60 * times());
    let reports = run_all(seeds.map(Scenario::wild));
    let vms: u64 = reports.iter().map(|report| report.vms).sum();
    let crashes: u64 = reports.iter().map(|report| report.crashes).sum();
    let commits: u64 = reports.iter().map(|report| report.commits).sum();
    let reboots: u64 = reports.iter().map(|report| report.repeated_reboots).sum();
    println!("{vms} VMs, {crashes} crashes, {commits} commits, {reboots} reboots repeated");
    // A simulation in which nothing happens proves nothing.
    assert!(vms > 900 && crashes > 300, "{vms} VMs, {crashes} crashes");
    for event in [
        "lease.extended",
        "lease.extension-denied",
        "lease.end-cancelled",
        "lease.held",
        "lease.exempted",
        "vm.terminated",
        "vm.vanished",
        "vm.revived",
        "repair.succeeded",
        "repair.exhausted",
        "backup.verified",
        "backup.failed",
        "backup.restored",
        "alert.raised",
        "alert.cleared",
    ] {
        assert!(sum(&reports, event) > 0, "no {event} in {vms} lives");
    }
}

#[test]
#[ignore = "for people: REEVE_SEED=N shows the log of one wild run"]
fn show_one_seed() {
    let seed = std::env::var("REEVE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match Scenario::wild(seed).run() {
        Ok(report) => println!("{}\n{:?}", report.log, report.events),
        Err(failure) => println!("{}\n{}", failure.log, failure.why),
    }
}
