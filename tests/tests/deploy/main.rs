//! What `deploy/` promises: its files are understood by those who read them, and its text works when it is followed.

mod broker;
mod files;
mod runbook;
mod units;

use std::path::{Path, PathBuf};

/// A file of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is a folder of the project").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether a program of the machine is there.
fn has(program: &str) -> bool {
    let found = |folder: &str| Path::new(folder).join(program).is_file();
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].into_iter().any(found)
}
