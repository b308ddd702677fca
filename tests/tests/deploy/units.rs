//! The units, as systemd itself sees them.

use std::path::Path;
use std::process::{Command, Output};

use super::{has, read};

const UNITS: [&str; 2] = ["reeve-control.service", "reeve-host.service"];
/// The most exposure that `systemd-analyze security` may find.
const MOST_EXPOSURE: f64 = 2.0;

/// `None`, with a word about it, where systemd's tools are not installed.
#[expect(clippy::print_stderr, reason = "a test that was left out says so")]
fn analyze(folder: &Path, arguments: &[&str]) -> Option<Output> {
    if !has("systemd-analyze") {
        eprintln!("left out: systemd-analyze is not installed");
        return None;
    }
    let mut command = Command::new("systemd-analyze");
    Some(command.args(arguments).current_dir(folder).env("SYSTEMD_COLORS", "0").output().expect("systemd-analyze runs"))
}

/// The unit in a folder of its own, with a program that is there in the place of one that may not be installed.
fn unit(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let program = std::env::current_exe().expect("this program");
    let text = read(&format!("deploy/systemd/{name}")).replace("/usr/bin/reeve", &program.display().to_string());
    std::fs::write(folder.path().join(name), text).expect("written");
    folder
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    for name in UNITS {
        let folder = unit(name);
        let Some(output) = analyze(folder.path(), &["verify", &format!("./{name}")]) else { return };
        // Unknown settings and values are only printed, with status 0.
        let said = [output.stdout, output.stderr].concat();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&said).as_ref()), (Some(0), ""), "{name}");
    }
}

#[test]
fn the_units_are_hardly_exposed() {
    for name in UNITS {
        let folder = unit(name);
        let Some(output) = analyze(folder.path(), &["security", "--offline=true", "--no-pager", &format!("./{name}")])
        else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let overall = text.lines().rev().find_map(|line| line.split_once("exposure level for "));
        let (_, rest) = overall.unwrap_or_else(|| panic!("{name}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let exposure: f64 = rest.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        assert!(exposure <= MOST_EXPOSURE, "{name}: {exposure}");
    }
}
