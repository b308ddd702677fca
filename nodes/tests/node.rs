//! Nodes as processes: `reeve dev` and `reeve control` from their start to their end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{printed, project, reeve, run, said, status};

/// A running node; killed when the test is over.
struct Node {
    child: Child,
    endpoint: String,
    greeting: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts `reeve dev` and waits until it greets.
    fn dev(data: &Path, arguments: &[&str]) -> Self {
        let folder = data.to_str().unwrap();
        let mut command = reeve(&[&["dev", "--data", folder][..], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        assert!(!greeting.is_empty(), "the node greets when it runs");
        Self { child, endpoint: format!("unix:{folder}/reeve.sock"), greeting }
    }

    fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        let output = run(&[arguments, &["-o", "json", "--endpoint", &self.endpoint]].concat());
        let value = serde_json::from_str(&printed(&output)).unwrap_or(Value::Null);
        (status(&output), value, said(&output))
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        let (status, value, said) = self.run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {said}");
        value
    }

    fn vms(&self) -> Vec<Value> {
        self.ok(&["vm", "list"]).as_array().unwrap().clone()
    }

    /// Asks again until it is so, for at most a minute.
    fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        for _ in 0..600 {
            if let Some(found) = look(self) {
                return found;
            }
            let (_keep, nap) = std::sync::mpsc::channel::<()>();
            let _ = nap.recv_timeout(Duration::from_millis(100));
        }
        panic!("not within a minute: {what}");
    }

    fn signal(&self, signal: &str) {
        let done = std::process::Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    fn exit(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_dev_node_lives_is_alone_survives_its_death_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut node = Node::dev(&data, &["--vms", "5"]);
    assert!(node.greeting.contains(data.to_str().unwrap()));
    let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("reeve.sock"), mode("reeve.redb")), (0o700, 0o600, 0o600));

    let vms = node.until("five leases", |node| Some(node.vms()).filter(|vms| vms.len() == 5));
    let vm = vms[0]["id"].as_str().unwrap();
    let extended = node.ok(&["lease", "extend", vm, "--by", "7d", "--idempotency-key", "k"]);
    assert_eq!(node.ok(&["lease", "extend", vm, "--by", "7d", "--idempotency-key", "k"]), extended, "the same answer");
    let (code, _, why) = node.run(&["backup", "run", vm, "--wait", "--wait-for", "1m"]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(node.ok(&["backup", "list", vm])[0]["state"], "verified");

    let again = run(&["dev", "--data", data.to_str().unwrap()]);
    assert_eq!(status(&again), 1);
    assert!(said(&again).starts_with("error: already running: another process serves "), "{}", said(&again));

    node.signal("-KILL");
    node.exit();
    let mut node = Node::dev(&data, &["--vms", "5"]);
    let vms = node.until("all five again", |node| Some(node.vms()).filter(|vms| vms.len() == 5));
    let same = vms.iter().find(|found| found["id"] == vm).unwrap();
    assert_eq!(same["lease"]["ends_at"], extended["ends_at"]);
    assert_eq!(same["lease"]["extensions"], 1);

    node.signal("-TERM");
    assert_eq!(node.exit(), Some(0));
    assert!(!data.join("reeve.sock").exists());
}

#[test]
fn recorded_notifications_go_through_the_ordinary_intake() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("recording.jsonl");
    let sample = std::fs::read_to_string(project("tests/data/nova/captured/libvirt.jsonl")).unwrap();
    std::fs::write(&recording, format!("{sample}\n{{\"no\":\"notification\"}}\n")).unwrap();
    let mut node = Node::dev(&folder.path().join("data"), &["--vms", "0", "--replay", recording.to_str().unwrap()]);
    let letters = node.until("the last line in the dead letters", |node| {
        Some(node.ok(&["dead", "list"])).filter(|letters| !letters.as_array().unwrap().is_empty())
    });
    assert_eq!(letters.as_array().unwrap().len(), 1, "all the others are understood: {letters}");
    assert_eq!(letters[0]["source"], "reeve.intake.sim");
    assert!(!node.vms().is_empty(), "the recording tells of VMs");
    node.signal("-INT");
    assert_eq!(node.exit(), Some(0));
}

#[test]
fn a_control_node_tells_systemd_that_it_runs_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("reeve.toml");
    let text = format!(
        "[node]\nid = \"n1\"\ndata_dir = {:?}\n[log]\nformat = \"json\"\n[[cloud]]\nname = \"lab\"\ndriver = \"sim\"\nvms = 2\n",
        folder.path().join("data")
    );
    std::fs::write(&config, text).unwrap();
    let notify = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = reeve(&["control", "--config", config.to_str().unwrap()]);
    let child = command.env("NOTIFY_SOCKET", &notify).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let endpoint = format!("unix:{}", folder.path().join("data/reeve.sock").display());
    let mut node = Node { child, endpoint, greeting: String::new() };
    let told = || {
        let mut bytes = [0; 256];
        let length = systemd.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    assert_eq!(node.ok(&["node", "show"])["id"], "n1");
    node.signal("-HUP");
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told(), "READY=1");
    node.signal("-TERM");
    assert_eq!(told(), "STOPPING=1");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut node.child.stderr.take().unwrap(), &mut log).unwrap();
    assert_eq!(node.exit(), Some(0));
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
    assert!(log.contains("\"stopped\""));
}

/// The authority of cluster `standalone` in a folder, with a node's, a viewer's and an admin's certificate.
fn certify(folder: &Path) {
    let folder = folder.to_str().unwrap();
    let cert = |arguments: &[&str]| {
        let output = run(&[&["cert"][..], arguments, &["--dir", folder]].concat());
        assert_eq!(status(&output), 0, "{}", said(&output));
    };
    cert(&["init", "--cluster", "standalone"]);
    for (role, name) in [("node", "n1"), ("viewer", "vic"), ("admin", "ann")] {
        cert(&["issue", "--role", role, "--name", name]);
    }
}

#[test]
fn a_node_answers_everybody_with_a_certificate_as_its_role_allows() {
    let folder = tempfile::tempdir().unwrap();
    let (pki, other) = (folder.path().join("pki"), folder.path().join("other"));
    certify(&pki);
    certify(&other);
    // A port that is free now; whoever takes it meanwhile lets the test fail, not pass.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = folder.path().join("reeve.toml");
    let file = |name: &str| pki.join(name);
    let text = format!(
        "[node]\nid = \"n1\"\ndata_dir = {:?}\n[rpc]\nlisten = \"{address}\"\ncert = {:?}\nkey = {:?}\nca = {:?}\n\
         [[cloud]]\nname = \"lab\"\ndriver = \"sim\"\nvms = 1\n",
        folder.path().join("data"),
        file("n1.pem"),
        file("n1.key"),
        file("ca.pem"),
    );
    std::fs::write(&config, &text).unwrap();
    let mut command = reeve(&["control", "--config", config.to_str().unwrap()]);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let endpoint = format!("unix:{}", folder.path().join("data/reeve.sock").display());
    let mut node = Node { child, endpoint, greeting: String::new() };
    let vms = node.until("its VM", |node| Some(node.run(&["vm", "list"]).1).filter(|vms| vms[0]["id"].is_string()));
    let vm = vms[0]["id"].as_str().unwrap();

    let ask = |pki: &Path, who: &str, arguments: &[&str]| {
        let endpoint = format!("tls://{address}");
        let path = |name: String| pki.join(name).to_str().unwrap().to_owned();
        let (cert, key, ca) = (path(format!("{who}.pem")), path(format!("{who}.key")), path("ca.pem".into()));
        let identity = ["--endpoint", &endpoint, "--cert", &cert, "--key", &key, "--ca", &ca];
        let output = run(&[arguments, &identity].concat());
        (status(&output), printed(&output), said(&output))
    };
    let (code, out, why) = ask(&pki, "vic", &["node", "show", "-o", "json"]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["id"], "n1");
    let (code, _, why) = ask(&pki, "vic", &["lease", "extend", vm, "--by", "1d"]);
    assert_eq!((code, why.contains("vic is viewer, and this needs operator")), (4, true), "{why}");
    let (code, _, why) = ask(&pki, "ann", &["lease", "extend", vm, "--by", "1d"]);
    assert_eq!(code, 0, "{why}");
    let (code, _, why) = ask(&other, "ann", &["node", "show"]);
    assert_eq!(code, 6, "of another authority: {why}");

    // The authority is replaced; whoever was certified by the new one is known after a reload.
    for name in ["ca.pem", "n1.pem", "n1.key"] {
        std::fs::copy(other.join(name), pki.join(name)).unwrap();
    }
    node.signal("-HUP");
    let (code, _, why) = node.until("an answer by the new certificates", |_| {
        Some(ask(&other, "ann", &["node", "show"])).filter(|(code, ..)| *code == 0)
    });
    assert_eq!(code, 0, "{why}");
    node.signal("-TERM");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut node.child.stderr.take().unwrap(), &mut log).unwrap();
    assert_eq!(node.exit(), Some(0), "{log}");
    assert!(log.contains("the certificates are read again"), "{log}");

    std::fs::write(&config, text.replace("n1.pem", "vic.pem").replace("n1.key", "vic.key")).unwrap();
    let refused = run(&["control", "--config", config.to_str().unwrap()]);
    assert!(status(&refused) == 1 && said(&refused).contains("rpc.listen"), "{}", said(&refused));
}

#[test]
fn what_keeps_a_node_from_running_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("reeve.toml");
    let control = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let output = run(&["control", "--config", config.to_str().unwrap()]);
        (status(&output), said(&output))
    };
    let (code, why) = control("");
    assert!(code == 1 && why.contains("no [[cloud]] is configured"), "{why}");
    let data = folder.path().join("data");
    let cloud = format!("[node]\ndata_dir = {data:?}\n[[cloud]]\nname = \"lab\"\ndriver = \"sim\"\n");
    let (code, why) = control(&format!("{cloud}[bus]\nurl = {{ file = \"/nonexistent/url\" }}\n"));
    assert!(code == 1 && why.contains("bus.url (cannot read the secret /nonexistent/url"), "{why}");
    std::fs::write(data.join("reeve.redb"), "this is no database of ours, and long enough to be one").unwrap();
    let (code, why) = control(&cloud);
    assert!(code == 1 && why.contains("reeve.redb"), "{why}");
    let (code, why) = control(&format!("{cloud}[vault]\nurl = \"file:///dev/null/vault\"\n"));
    assert!(code == 1 && why.contains("/dev/null/vault"), "{why}");
    let output = run(&["dev", "--data", "/dev/null/x"]);
    assert!(status(&output) == 1 && said(&output).contains("cannot make the folder /dev/null/x"), "{}", said(&output));
    let output = run(&["dev", "--replay", "/nonexistent/recording", "--data", data.to_str().unwrap()]);
    assert!(said(&output).contains("cannot read the recording /nonexistent/recording"), "{}", said(&output));
}

#[test]
fn a_node_starts_and_stops_in_time_while_its_broker_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("reeve.toml");
    // A port that is free now, and that nobody else is given while the listener lives; it never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[node]\ndata_dir = {:?}\n[bus]\nurl = \"amqp://u:s3cr3t@{}/%2f\"\n\
         [[cloud]]\nname = \"lab\"\ndriver = \"sim\"\nvms = 2\nnotifications = {{}}\n\
         [[cloud]]\nname = \"mute\"\ndriver = \"sim\"\nseed = 2\nvms = 1\n",
        folder.path().join("data"),
        deaf.local_addr().unwrap(),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = reeve(&["control", "--config", config.to_str().unwrap()]);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let endpoint = format!("unix:{}", folder.path().join("data/reeve.sock").display());
    let mut node = Node { child, endpoint, greeting: String::new() };
    node.until("an answer", |node| Some(node.run(&["node", "show"])).filter(|(status, ..)| *status == 0));
    node.until("what the listings found", |node| Some(node.vms()).filter(|vms| vms.len() == 3));
    let clock = || reeve_ports::Clock::now(&reeve_ports::SystemClock).as_millis();
    let told = clock();
    node.signal("-TERM");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut node.child.stderr.take().unwrap(), &mut log).unwrap();
    assert_eq!(node.exit(), Some(0), "{log}");
    assert!(clock() - told < 10_000, "{log}");
    assert!(!log.contains("s3cr3t"), "{log}");
    assert!(!log.contains("intake.mute"), "a cloud without notifications is not waited for: {log}");
}
