//! The text of `deploy/README.md`: its marked blocks are what the scripts in `tests/systemd/` carry out.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reeve_tests::harness::reeve::reeve_binary;

use super::{has, project, read};

/// The marked blocks by name.
fn steps() -> BTreeMap<String, String> {
    let text = read("deploy/README.md");
    let mut steps = BTreeMap::new();
    for part in text.split("<!-- step: ").skip(1) {
        let (mark, rest) = part.split_once(" -->\n```sh\n").expect("a block follows the mark");
        let (name, _place) = mark.split_once(" @").expect("NAME @PLACE");
        let (block, _) = rest.split_once("\n```\n").expect("the block ends");
        assert_eq!(steps.insert(name.to_owned(), block.to_owned()), None, "two steps are called {name}");
    }
    steps
}

#[test]
fn every_step_is_shell_and_is_carried_out() {
    let scripts = read("tests/systemd/run") + &read("tests/systemd/cluster") + &read("tests/systemd/steps.sh");
    let steps = steps();
    assert!(steps.len() >= 15, "{:?}", steps.keys());
    for (name, block) in steps {
        let checked = Command::new("/bin/sh").args(["-n", "-c", &block]).output().expect("a shell");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        let called = scripts.lines().any(|line| line.trim() == format!("step {name}"));
        assert!(called || name == "packages", "no script carries out {name}");
    }
    assert!(scripts.contains("/steps/packages"), "the packages are installed by their own block");
}

#[test]
fn the_scripts_are_shell() {
    for name in ["run", "cluster", "lib.sh", "steps.sh"] {
        let checked = Command::new("bash").arg("-n").arg(project("tests/systemd").join(name)).output().expect("bash");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Starts, hangs and stops a node under a real systemd. Where the machines' file system is not there yet it is made in a
/// long run only, because it comes from the network.
#[test]
fn live_systemd_starts_watches_and_restarts_a_node() -> Result<()> {
    let made =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project("target"), Into::into).join("systemd/rootfs");
    if left_out(!made.is_dir(), "the machines' file system is not there: REEVE_LONG=1 makes it") {
        return Ok(());
    }
    carry_out("tests/systemd/run")
}

#[test]
fn live_three_nodes_by_the_text() -> Result<()> {
    if left_out(true, "three machines are set up with REEVE_LONG=1 only") {
        return Ok(());
    }
    carry_out("tests/systemd/cluster")
}

/// Whether the machine cannot do it or, without `REEVE_LONG`, need not; says why.
#[expect(clippy::print_stderr, reason = "a test that was left out says so")]
fn left_out(unless_long: bool, why: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "machines can be started by root alone"
    } else if !(has("systemd-nspawn") || has("apt-get")) {
        "systemd-nspawn is not installed"
    } else if !Path::new("/sys/fs/cgroup").is_dir() {
        "there are no cgroups"
    } else if unless_long && std::env::var_os("REEVE_LONG").is_none() {
        why
    } else {
        return false;
    };
    eprintln!("left out: {reason}");
    true
}

fn carry_out(script: &str) -> Result<()> {
    let output = Command::new(project(script)).arg(reeve_binary()?).output().context("the script")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{script}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("== all shown"), "{script} ended early:\n{text}");
    Ok(())
}
