//! What the tests of the binary share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary with these arguments, without anything of the environment that could change what it does.
pub(crate) fn reeve(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("REEVE") || name == "NO_COLOR" || name.starts_with("XDG_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    reeve(arguments).output().unwrap()
}

/// Its exit status.
pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// What it said to people.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it printed.
pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A file of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}
