//! Chaos on a whole cluster: three nodes, three etcd members, three brokers, thousands of VMs, and no rule broken.
//!
//! The binary does it all; README.md tells of its longer runs.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One cluster at a time is as much as two cores carry.
static TURN: Mutex<()> = Mutex::new(());

/// Runs the binary and returns its report, the last line.
fn chaos(arguments: &[&str]) -> Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let command = Command::new(env!("CARGO_BIN_EXE_reeve-chaos")).args(arguments).arg("--json").output();
    let output = command.expect("the binary that cargo has just built runs");
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{log}", output.status);
    let last = out.lines().last().expect("a report");
    serde_json::from_str(last).expect("a report in JSON")
}

/// No rule is broken, no command is left without its answer, and there was something to survive.
fn survives(arguments: &[&str]) {
    let report = chaos(arguments);
    assert_eq!(report["rules_broken"], 0);
    assert_eq!(report["commands_sent"], report["commands_answered"]);
    assert_eq!((&report["double_actions"], &report["lost"]), (&Value::from(0), &Value::from(0)));
    // A run in which nothing happened proves nothing.
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    assert!(number("faults") >= 4 && number("handovers") > 0 && number("destroyed") > 0, "{report}");
    // Without the right to mount, the vault has no disk that could be full.
    let may_fail = report["faults_by_kind"]["vault_full"].as_u64().unwrap_or(0);
    assert!(number("faults_failed") <= may_fail, "{report}");
}

/// Whether the long runs are wanted; says so if not.
fn is_long() -> bool {
    let long = std::env::var_os("REEVE_LONG").is_some();
    if !long {
        #[expect(clippy::print_stderr, reason = "what was left out is said where the tests are run")]
        {
            eprintln!("left out: a build without fences is for REEVE_LONG=1");
        }
    }
    long
}

/// Two minutes of faults. Three brokers, three etcd members, three nodes and two thousand VMs are more than two cores carry
/// in a build without optimisation: a broker that restarts takes minutes then.
fn two_minutes(seed: &str) {
    let (vms, brokers) = if std::env::var_os("REEVE_LONG").is_some() { ("2000", "3") } else { ("1000", "1") };
    survives(&["--seed", seed, "--minutes", "2", "--vms", vms, "--brokers", brokers]);
}

#[test]
fn live_no_rule_is_broken_with_the_first_seed() {
    two_minutes("1");
}

#[test]
fn live_no_rule_is_broken_with_the_second_seed() {
    two_minutes("2");
}

#[test]
fn live_no_rule_is_broken_with_the_third_seed() {
    two_minutes("3");
}

#[test]
fn live_a_rolling_restart_under_load_loses_no_command() {
    let report = chaos(&["--rolling", "--rate", "200", "--vms", "500", "--brokers", "1"]);
    assert_eq!(report["commands_sent"], report["commands_answered"]);
    assert_eq!((&report["double_actions"], &report["lost"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(report["unconfirmed"], 0, "the broker took every command at its first sending: {report}");
    assert!(report["commands_accepted"].as_u64().is_some_and(|accepted| accepted > 0), "{report}");
}

/// The checker is worth something only if it finds what a missing fence does.
#[test]
fn live_a_build_without_fences_is_caught() {
    if !is_long() {
        return;
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/broken");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--locked", "-p", "reeve-tests", "--features", "broken-fencing"]);
    let built = build.args(["--bin", "reeve-chaos", "--target-dir", target]).current_dir(root).status();
    assert!(built.expect("cargo runs").success());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut run = Command::new(format!("{target}/release/reeve-chaos"));
    run.args(["--stale-owner", "--seed", "1", "--minutes", "1.5", "--vms", "600", "--brokers", "1", "--rate", "60"]);
    let output = run.arg("--json").output().expect("the binary that cargo has just built runs");
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{log}");
    let report: Value = serde_json::from_str(out.lines().last().expect("a report")).expect("a report in JSON");
    assert!(report["rules_broken"].as_u64().is_some_and(|broken| broken > 0), "{report}");
}
