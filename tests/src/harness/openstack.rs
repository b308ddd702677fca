//! A real OpenStack of Debian's packages, in a state of its own: `tests/openstack/up` and `down`. One at a time in a
//! test process, for its memory. Nothing is installed: `tests/openstack/install` does that.
//!
//! ```text
//! start ──► ready ── dropped, or the test process is gone ──► down, the state removed
//!             └──pipe──► watcher: reads until the pipe closes, then calls `down`
//! ```
//!
//! Its services are no children of the test: `up` ends when they are ready, and they lead sessions of their own. So it
//! is the watcher that ends them, whatever ends the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;

/// In seconds. Emulated guests and a build beside it take long.
const START_DEADLINE: u32 = 300;
/// In seconds. Python needs some to begin.
const CALL: u32 = 180;
/// Train's, as the least that the driver takes; by itself the client speaks a version that knows neither `--nic none` nor
/// what goes with a server.
const COMPUTE_VERSION: &str = "2.79";
/// Calls `down` when its standard input closes. `$1` is the program.
const WATCHER: &str = r#"read -r _; exec "$1""#;

static TURN: Mutex<()> = Mutex::const_new(());

/// A running OpenStack; dropping it stops all of it and removes its state.
#[derive(Debug)]
pub struct OpenStack {
    watcher: Child,
    settings: BTreeMap<String, String>,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl OpenStack {
    /// Starts one with these settings of `tests/openstack/README.md`, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within five minutes; what `up` said is in the message.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let turn = TURN.lock().await;
        let folder = tempfile::Builder::new().prefix("reeve-openstack-").tempdir().context("cannot make a folder")?;
        let state = folder.path().join("state");
        let watcher = watch(&state)?;
        let mut starting = Self { watcher, settings: BTreeMap::new(), folder, _turn: turn };
        let mut up = within(START_DEADLINE, &program("up"));
        up.env("STATE", &state).env("SKIP_INSTALL", "1").envs(settings.iter().copied());
        let output = run(up).await.context("cannot run tests/openstack/up")?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "tests/openstack/up: {}\n{}", said(&output.stdout), said(&output.stderr));
        let text = std::fs::read_to_string(state.join("env")).context("what up has written")?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        starting.settings = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Ok(starting)
    }

    /// What `up` has written of it.
    ///
    /// # Errors
    /// When it has written nothing of that name.
    pub fn setting(&self, name: &str) -> Result<&str> {
        self.settings.get(name).map(String::as_str).with_context(|| format!("tests/openstack/up wrote no {name}"))
    }

    /// Asks the plain client `openstack` as the administrator, and returns what it answers.
    ///
    /// # Errors
    /// When it refuses, or takes more than three minutes.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.client(&[arguments, &["-f", "json"]].concat()).await?;
        serde_json::from_slice(&answer).with_context(|| format!("openstack {arguments:?} answers no JSON"))
    }

    /// Has the plain client do what it answers nothing to.
    ///
    /// # Errors
    /// As [`OpenStack::ask`].
    pub async fn tell(&self, arguments: &[&str]) -> Result<()> {
        self.client(arguments).await.map(drop)
    }

    async fn client(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = within(CALL, Path::new("/usr/bin/openstack"));
        command.args(arguments).env("OS_CLOUD", "reeve-test").env_remove("PYTHONPATH");
        command.env("OS_COMPUTE_API_VERSION", COMPUTE_VERSION);
        command.env("OS_CLIENT_CONFIG_FILE", self.setting("OS_CLIENT_CONFIG_FILE")?);
        command.current_dir(self.folder.path());
        let output = run(command).await.context("cannot run the client openstack")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openstack {arguments:?}: {said}");
        Ok(output.stdout)
    }
}

impl Drop for OpenStack {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        // It says itself what it could not stop.
        let _ = self.watcher.wait();
    }
}

/// A program that is ended, as by Ctrl-C, when it takes longer; it fails with status 124 then.
fn within(seconds: u32, program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["--kill-after=60", &seconds.to_string()]).arg(program).stdin(Stdio::null());
    command
}

async fn run(mut command: Command) -> Result<Output> {
    Ok(spawn_blocking(move || command.output()).await??)
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("openstack").join(name)
}

fn watch(state: &Path) -> Result<Child> {
    use std::os::unix::process::CommandExt;

    Command::new("/bin/sh")
        .args(["-c", WATCHER, "watcher"])
        .arg(program("down"))
        .env("STATE", state)
        .env("WIPE", "1")
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start the watcher of an OpenStack")
}
