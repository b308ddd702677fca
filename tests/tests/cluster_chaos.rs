//! Chaos on a whole cluster: three nodes, three etcd members, three brokers, thousands of VMs, and no rule broken.
//!
//! The binary does it all; the README of this folder tells of its longer runs.

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

/// Whether the runs of minutes are wanted; says so if not.
fn is_long() -> bool {
    let long = std::env::var_os("REEVE_LONG").is_some();
    if !long {
        #[expect(clippy::print_stderr, reason = "what was left out is said where the tests are run")]
        {
            eprintln!("left out: the runs of minutes are for REEVE_LONG=1");
        }
    }
    long
}

#[test]
fn live_no_rule_is_broken_in_half_a_minute() {
    survives(&["--seed", "1", "--minutes", "0.5", "--vms", "200", "--brokers", "1"]);
}

#[test]
fn live_no_rule_is_broken_with_three_seeds_of_two_minutes() {
    if is_long() {
        for seed in ["1", "2", "3"] {
            survives(&["--seed", seed, "--minutes", "2"]);
        }
    }
}

#[test]
fn live_a_rolling_restart_under_load_loses_no_command() {
    if is_long() {
        let report = chaos(&["--rolling", "--rate", "200", "--vms", "500", "--brokers", "1"]);
        assert_eq!(report["commands_sent"], report["commands_answered"]);
        assert_eq!((&report["double_actions"], &report["lost"]), (&Value::from(0), &Value::from(0)));
    }
}
