//! The binary under test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The path of the binary `reeve`, built by cargo in the profile of this test if it is not up to date.
///
/// # Errors
/// When cargo cannot be run or the build fails.
pub fn reeve_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    let test = std::env::current_exe().context("the path of this test")?;
    // <target>/<profile>/deps/<test>
    let profile = test.parent().and_then(|deps| deps.parent()).context("the target folder of this test")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(["build", "--quiet", "--package", "reeve-nodes", "--bin", "reeve"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cargo build --bin reeve")?;
    ensure!(status.success(), "cargo build --bin reeve: {status}");
    let binary = profile.join("reeve");
    ensure!(binary.is_file(), "cargo built no {}", binary.display());
    Ok(binary)
}
