//! Each file is read by what will read it, or by the nearest thing that is at hand.

use std::path::Path;
use std::process::Command;

use reeve_nodes::config;

use super::project;

#[test]
fn every_file_is_understood() {
    let mut seen = Vec::new();
    visit(&project("deploy"), &mut seen);
    assert!(seen.len() >= 10, "{seen:?}");
}

fn visit(folder: &Path, seen: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("deploy/ can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            visit(&path, seen);
            continue;
        }
        let name = path.strip_prefix(project("deploy")).expect("below deploy/").display().to_string();
        let text = std::fs::read_to_string(&path).expect("a text");
        check(&path, &name, &text);
        seen.push(name);
    }
}

fn check(path: &Path, name: &str, text: &str) {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => {
            config::parse(name, text, std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
        }
        Some("service") => {
            assert!(text.contains("\nType=notify\n") && text.contains("\n[Install]\n"), "{name}");
            let settings = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            for line in settings {
                assert!(line.starts_with('[') || line.contains('='), "{name}: {line}");
            }
        }
        Some("json") => {
            serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        Some("conf") => lines_of_fields(name, text),
        Some("sh") => {
            let checked = Command::new("/bin/sh").arg("-n").arg(path).output().expect("a shell");
            assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        }
        Some("md") => {}
        other => panic!("{name}: nothing checks a file of kind {other:?}"),
    }
}

/// sysusers.d(5) and tmpfiles.d(5): the type and at least a name in each line.
fn lines_of_fields(name: &str, text: &str) {
    let types = if name.starts_with("sysusers.d") { "ugmr" } else { "dDfFLzZ" };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert!(fields.len() >= 2 && fields[0].len() == 1 && types.contains(fields[0]), "{name}: {line}");
    }
}

/// The three nodes of the text are this example with two lines changed.
#[test]
fn the_example_of_a_cluster_has_the_lines_that_the_text_changes() {
    let text = super::read("deploy/examples/control.toml");
    for start in ["id = ", "advertise = "] {
        assert_eq!(text.lines().filter(|line| line.starts_with(start)).count(), 1, "{start}");
    }
}
