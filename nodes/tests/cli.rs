//! The command line, by the built binary: without a node, and against a node that is played.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use reeve_cluster::rpc::UnixServer;
use reeve_ports::AdminService;
use reeve_protocol::admin::{
    ActorView, AdminReply, AdminRequest, BackupView, DeadView, EventView, LeaseView, MemberView, NodeView, Principal,
    ShardView, VmView,
};
use reeve_protocol::command::{Accepted, CommandKind, Refusal, RefusalCode};
use reeve_protocol::event::{About, BackupPurpose, CloudEvent, TYPES};
use reeve_protocol::{CloudName, EventId, Generation, NodeId, ShardId, Timestamp, VmId};
use serde_json::{Value, json};
use support::{printed, project, reeve, run, said, status};
use uuid::Uuid;

#[test]
fn a_wrong_use_is_answered_with_status_2() {
    for arguments in [
        &["fly"][..],
        &[],
        &["vm", "list", "--limit", "0"],
        &["vm", "maintenance", "x", "maybe"],
        &["lease", "extend", "x", "--by", "soon"],
        &["event", "tail", "--since", "yesterday"],
        &["actor", "kill", "vm/x/plumber"],
        &["vm", "list", "--endpoint", "tls://h:7471"],
        &["vm", "list", "--endpoint", "/run/x"],
        &["vm", "list", "--endpoint", "tls://h:7471", "--cert", "c", "--key", "k"],
        &["node", "drain", "n", "--wait", "--no-wait"],
        &["cert", "issue", "--dir", "d", "--role", "root", "--name", "n"],
        &["host"],
        &["repair", "list"],
    ] {
        let output = run(arguments);
        assert_eq!(status(&output), 2, "{arguments:?}: {}", said(&output));
        assert_eq!(printed(&output), "");
    }
    let output = run(&["vm", "lost", "-o", "json"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((status(&output), &error["error"]["code"]), (2, &json!("invalid")));
}

#[test]
fn help_and_version_are_no_errors() {
    let output = run(&["--help"]);
    assert_eq!(status(&output), 0);
    for command in
        ["dev", "control", "config", "decode", "vm", "lease", "health", "backup", "node", "shard", "actor", "event"]
    {
        assert!(printed(&output).contains(&format!("\n  {command} ")), "{command}");
    }
    assert_eq!(printed(&run(&["--version"])), format!("reeve {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(status(&output), 0);
        assert!(printed(&output).contains("maintenance"), "{shell}");
    }
}

#[test]
fn without_a_node_every_question_ends_with_status_6() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("unix:{}", folder.path().join("none.sock").display());
    let output = run(&["vm", "list", "--endpoint", &endpoint]);
    assert_eq!(status(&output), 6);
    assert!(said(&output).starts_with(&format!("error: no node answers at {endpoint} (")), "{}", said(&output));
    let output = reeve(&["node", "show"]).env("XDG_STATE_HOME", folder.path()).output().unwrap();
    assert_eq!(status(&output), 6);
    assert!(said(&output).starts_with("error: no node runs here (no socket at "), "{}", said(&output));
    let output = run(&["node", "show", "-o", "json", "--endpoint", &endpoint]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unavailable");
}

#[test]
fn decode_prints_one_line_for_each_file_in_order() {
    let mut files: Vec<PathBuf> = ["versioned", "legacy"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(project("tests/data/nova").join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    assert!(files.len() > 10);
    let names: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
    let output = run(&[&["decode"][..], &names].concat());
    assert_eq!(status(&output), 0, "{}", said(&output));
    let lines: Vec<Value> = printed(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<&str> = lines.iter().map(|line| line["file"].as_str().unwrap()).collect();
    assert_eq!(seen, names);
    for key in ["format", "event_type", "message_id", "vm", "project", "host", "state", "about"] {
        assert!(lines.iter().all(|line| line.get(key).is_some()), "{key}");
    }
}

#[test]
fn decode_goes_on_after_what_it_cannot_read_and_fails_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.json");
    std::fs::write(&bad, "{nonsense").unwrap();
    let good = first_sample();
    let output = run(&["decode", "/nonexistent.json", bad.to_str().unwrap(), good.to_str().unwrap()]);
    assert_eq!(status(&output), 1);
    assert!(said(&output).contains("error: cannot read /nonexistent.json"), "{}", said(&output));
    let lines: Vec<Value> = printed(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0]["error"].is_string() && lines[1]["error"].is_null());
}

fn first_sample() -> PathBuf {
    let folder = std::fs::read_dir(project("tests/data/nova/versioned")).unwrap();
    folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .min()
        .unwrap()
}

#[test]
fn decode_reads_json_lines_from_standard_input() {
    let line: Value = serde_json::from_slice(&std::fs::read(first_sample()).unwrap()).unwrap();
    let mut child = reeve(&["decode"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{line}\n{line}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(status(&output), 0);
    assert_eq!(printed(&output).lines().count(), 2);
}

#[test]
fn nobody_reading_the_output_is_no_error() {
    let sample = first_sample();
    let many = vec![sample.to_str().unwrap(); 2000];
    let mut command = reeve(&[&["decode"][..], &many].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

/// A node that is played.
struct Stage {
    endpoint: String,
    asked: Arc<Mutex<Vec<AdminRequest>>>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

struct Player {
    vms: Vec<VmView>,
    asked: Arc<Mutex<Vec<AdminRequest>>>,
}

const SINCE: &str = "2026-11-01T10:00:00Z";

fn vm(number: u128, name: &str) -> VmView {
    let id = VmId::new(Uuid::from_u128(0xabcd_0000_0000_0000_0000_0000_0000_0000 | number));
    let at: Timestamp = SINCE.parse().unwrap();
    VmView {
        id,
        name: name.into(),
        project: None,
        user: None,
        cloud: CloudName::new("sim").unwrap(),
        host: None,
        state: "active".into(),
        task: None,
        health: "up".into(),
        policy: "default".into(),
        shard: ShardId::of(id, 64),
        node: NodeId::new("n").unwrap(),
        locked: false,
        lease: LeaseView {
            state: "active".into(),
            started_at: Some(at),
            ends_at: Some(at),
            extensions: 0,
            max_extensions: 3,
            delegates: Vec::new(),
            ended: None,
        },
        backups: vec![BackupView {
            id: reeve_protocol::BackupId::of(id, Generation(1)),
            vm: id,
            purpose: BackupPurpose::Scheduled,
            at,
            state: "verified".into(),
            bytes: Some(2048),
            verified_at: Some(at),
        }],
        operation: None,
        holds: Vec::new(),
        alerts: vec![reeve_protocol::event::Alert::EndingStuck],
        revived_from: None,
        generation: Generation(7),
    }
}

impl Player {
    fn command(&self, command: &reeve_protocol::command::Command) -> AdminReply {
        let refuse = |code, message: &str| AdminReply::Refused(Refusal::new(code, message));
        match command.kind {
            CommandKind::LeaseExtend { .. } => refuse(RefusalCode::Denied, "no extension is left"),
            CommandKind::VmStop => refuse(RefusalCode::Conflict, "a backup is under way"),
            _ => AdminReply::Accepted(Accepted {
                vm: command.vm,
                message: "it begins".into(),
                ends_at: None,
                backup: self.vms.iter().find(|vm| vm.id == command.vm).map(|vm| vm.backups[0].id),
            }),
        }
    }

    /// Three nodes: n1 gives up one shard each time it is looked at, n2 stays as it is, and n3 was undrained.
    fn members(&self) -> Vec<MemberView> {
        let asked = self.asked.lock().unwrap();
        let looks = asked.iter().filter(|request| matches!(request, AdminRequest::NodeList)).count();
        let left = 3_u16.saturating_sub(u16::try_from(looks).unwrap());
        let member = |id: &str, state: &str, shards: u16| MemberView {
            id: NodeId::new(id).unwrap(),
            state: state.into(),
            leader: id == "n2",
            version: "0.1.0".into(),
            address: Some(format!("{id}.example:7471")),
            since: Some(SINCE.parse().unwrap()),
            shards,
            vms: 7,
            clock_skew_ms: Some(-12),
        };
        let drained = if left == 0 { "drained" } else { "draining" };
        let undrained = if looks > 1 { "ready" } else { "draining" };
        vec![member("n1", drained, left), member("n2", "draining", 5), member("n3", undrained, 9)]
    }

    fn events(&self, subject: Option<&str>, after: Option<u64>) -> Vec<EventView> {
        let event = |position: u64, vm: &VmView, kind: &str, data: Value| {
            let event = CloudEvent {
                specversion: "1.0".into(),
                id: EventId::of_vm(vm.id, position),
                source: "/reeve/standalone/n".into(),
                kind: format!("reeve.{kind}"),
                subject: format!("vm/{}", vm.id),
                time: SINCE.parse().unwrap(),
                sequence: position,
                datacontenttype: "application/json".into(),
                category: TYPES.iter().find(|(name, _)| *name == kind).unwrap().1,
                about: About::default(),
                data,
            };
            EventView::new(position, &event)
        };
        let (first, second) = (&self.vms[0], &self.vms[1]);
        let all = [
            (first, event(1, first, "backup.started", json!({"backup": first.backups[0].id}))),
            (second, event(2, second, "backup.failed", json!({"backup": second.backups[0].id, "reason": "disk full"}))),
            (first, event(3, first, "backup.verified", json!({"backup": first.backups[0].id, "bytes": 2048}))),
        ];
        let wanted = |vm: &VmView| subject.is_none_or(|subject| subject == format!("vm/{}", vm.id));
        let after = after.unwrap_or(0);
        all.into_iter().filter(|(vm, event)| wanted(vm) && event.position > after).map(|(_, event)| event).collect()
    }
}

#[async_trait]
impl AdminService for Player {
    async fn ask(&self, _: &Principal, request: AdminRequest) -> AdminReply {
        self.asked.lock().unwrap().push(request.clone());
        let missing = || AdminReply::Refused(Refusal::new(RefusalCode::NotFound, "there is no such VM"));
        let find = |id: VmId| self.vms.iter().find(|vm| vm.id == id).cloned();
        let at: Timestamp = SINCE.parse().unwrap();
        match request {
            AdminRequest::VmList { limit, marker, .. } => {
                let after = self.vms.iter().filter(|vm| marker.is_none_or(|marker| vm.id > marker));
                AdminReply::Vms(after.take(usize::try_from(limit).unwrap()).cloned().collect())
            }
            AdminRequest::VmShow(id) => find(id).map_or_else(missing, |vm| AdminReply::Vm(Box::new(vm))),
            AdminRequest::BackupList(id) => find(id).map_or_else(missing, |vm| AdminReply::Backups(vm.backups)),
            AdminRequest::VmHistory(_) => AdminReply::History(Vec::new()),
            AdminRequest::Command(command) => self.command(&command),
            AdminRequest::Events { subject, after, .. } => AdminReply::Events(self.events(subject.as_deref(), after)),
            AdminRequest::DeadList { from, .. } => AdminReply::Dead(
                (from..=3)
                    .map(|number| DeadView {
                        number,
                        reason: "not JSON\u{1b}[31m".into(),
                        source: "reeve.requests".into(),
                        at,
                        message_id: None,
                        kind: None,
                        bytes: 3,
                        body: "xyz".into(),
                    })
                    .collect(),
            ),
            AdminRequest::ActorTree(vm) => AdminReply::Actors(Box::new(ActorView {
                name: vm.map_or_else(|| "node".into(), |vm| format!("vm/{vm}")),
                state: "running".into(),
                restarts: 0,
                since: at,
                mailbox: None,
                children: Vec::new(),
            })),
            AdminRequest::Node => AdminReply::Node(Box::new(NodeView {
                id: NodeId::new("n").unwrap(),
                cluster: "standalone".into(),
                version: "0".into(),
                since: at,
                vms: 2,
                shards: 64,
                child_restarts: 0,
                outbox: 0,
            })),
            AdminRequest::NodeList => AdminReply::Nodes(self.members()),
            AdminRequest::ShardList => AdminReply::Shards(
                (0..3)
                    .map(|number| ShardView {
                        id: ShardId(number),
                        owner: (number > 0).then(|| NodeId::new("n1").unwrap()),
                        epoch: (number > 0).then_some(reeve_protocol::Epoch(42)),
                        wanted: Some(NodeId::new("n2").unwrap()),
                    })
                    .collect(),
            ),
            AdminRequest::NodeUndrain(node) | AdminRequest::NodeDrain(node) if node.as_str() == "nobody" => {
                AdminReply::Refused(Refusal::new(RefusalCode::NotFound, "there is no such node"))
            }
            AdminRequest::NodeDrain(_) | AdminRequest::NodeUndrain(_) => AdminReply::Done,
            AdminRequest::ActorTreeOf(node) => AdminReply::Actors(Box::new(ActorView {
                name: format!("node/{node}"),
                state: "running".into(),
                restarts: 0,
                since: at,
                mailbox: None,
                children: Vec::new(),
            })),
            AdminRequest::NodeShow(_)
            | AdminRequest::Forwarded { .. }
            | AdminRequest::Cancel(_)
            | AdminRequest::LeaseOffer(_) => {
                AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, "it plays alone"))
            }
            // Nobody ever answers this one.
            AdminRequest::DeadDrop(9) => std::future::pending().await,
            AdminRequest::DeadReplay(_)
            | AdminRequest::DeadDrop(_)
            | AdminRequest::ActorKill { .. }
            | AdminRequest::ActorRestart { .. } => AdminReply::Done,
        }
    }
}

impl Stage {
    fn with(vms: Vec<VmView>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reeve.sock");
        let asked = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let player = Arc::new(Player { vms, asked: Arc::clone(&asked) });
        let server = runtime.block_on(async { UnixServer::bind(&path).unwrap() });
        runtime.spawn(server.serve(player, std::future::pending()));
        Self { endpoint: format!("unix:{}", path.display()), asked, _runtime: runtime, _folder: folder }
    }

    fn new() -> Self {
        Self::with(vec![vm(1, "web"), vm(2, "db"), vm(3, "twin"), vm(4, "twin")])
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = reeve(arguments).env("REEVE_ENDPOINT", &self.endpoint).output().unwrap();
        (status(&output), printed(&output), said(&output))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (status, out, said) = self.run(&[arguments, &["-o", "json"]].concat());
        assert_eq!(status, 0, "{arguments:?}: {said}");
        serde_json::from_str(&out).unwrap()
    }
}

#[test]
fn vms_are_listed_aligned_and_as_arrays() {
    let stage = Stage::new();
    let (status, out, _) = stage.run(&["vm", "list"]);
    assert_eq!(status, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].starts_with("ID") && !out.contains('\u{1b}'));
    assert_eq!(lines[0].find("NAME"), lines[1].find("web"));
    assert_eq!(stage.json(&["vm", "list"]).as_array().unwrap().len(), 4);
    let (_, out, said) = stage.run(&["vm", "list", "--limit", "2", "--quiet"]);
    assert_eq!(out.lines().count(), 2);
    // A program that reads ids must not take a part for the whole.
    assert!(said.contains(&format!("--marker {}", vm(2, "").id)), "{said}");
    let (_, _, said) = stage.run(&["vm", "list", "--limit", "2"]);
    assert!(said.contains(&format!("--marker {}", vm(2, "").id)), "{said}");
    let (_, out, _) = stage.run(&["vm", "list", "-q", "--marker", &vm(3, "").id.to_string()]);
    assert_eq!(out.trim(), vm(4, "").id.to_string());
}

#[test]
fn a_long_list_is_read_page_by_page() {
    let stage = Stage::with((1..=450).map(|n| vm(n, "v")).collect());
    assert_eq!(stage.json(&["vm", "list", "--all"]).as_array().unwrap().len(), 450);
    assert!(stage.asked.lock().unwrap().len() >= 3);
}

#[test]
fn a_vm_is_found_by_id_by_its_start_and_by_name() {
    let stage = Stage::new();
    let id = vm(1, "web").id.to_string();
    let eldest = Stage::with(vec![vm(1, "web")]);
    assert_eq!(stage.json(&["vm", "show", &id])["name"], "web");
    assert_eq!(stage.json(&["vm", "show", "web"])["id"], json!(id));
    assert_eq!(eldest.json(&["vm", "show", &id[..4]])["name"], "web");
    let (status, _, said) = stage.run(&["vm", "show", "twin"]);
    assert_eq!(status, 2);
    assert!(said.contains(&vm(3, "").id.to_string()) && said.contains(&vm(4, "").id.to_string()), "{said}");
    let (status, _, said) = stage.run(&["vm", "show", "nobody"]);
    assert_eq!((status, said.starts_with("error: no VM is called \"nobody\"")), (3, true), "{said}");
    let (status, ..) = stage.run(&["vm", "show", "00000000-0000-0000-0000-000000000009"]);
    assert_eq!(status, 3);
}

#[test]
fn times_are_shown_relative_and_absolute() {
    let (_, out, _) = Stage::new().run(&["vm", "show", "web"]);
    let line = out.lines().find(|line| line.starts_with("lease ends")).unwrap();
    assert!(line.ends_with("(2026-11-01 10:00:00Z)"), "{line}");
    assert!(out.contains("ending_stuck"));
}

#[test]
fn a_refusal_decides_the_exit_status() {
    let stage = Stage::new();
    let (status, out, said) = stage.run(&["lease", "extend", "web", "--by", "7d"]);
    assert_eq!((status, out.as_str(), said.as_str()), (4, "", "error: no extension is left\n"));
    assert_eq!(stage.run(&["vm", "stop", "web"]).0, 5);
    let (status, _, said) = stage.run(&["dead", "drop", "9", "--timeout", "200ms"]);
    // The node gives the call up at the same moment: either word for it is right.
    assert!(status == 7 || status == 6, "{said}");
}

#[test]
fn a_command_goes_under_its_key_in_the_name_of_the_local_user() {
    let stage = Stage::new();
    let (status, out, _) = stage.run(&["vm", "delete", "web", "--no-backup", "--idempotency-key", "k1"]);
    assert_eq!(status, 0);
    assert!(out.starts_with("it begins\n"), "{out}");
    let asked = stage.asked.lock().unwrap();
    let Some(AdminRequest::Command(command)) = asked.last() else { panic!("{asked:?}") };
    assert_eq!((command.id.as_str(), command.vm), ("k1", vm(1, "").id));
    assert!(command.by.to_string().starts_with("operator:"));
    assert_eq!(command.kind, CommandKind::VmDelete { backup: reeve_protocol::command::BackupFirst::No });
}

#[test]
fn a_backup_is_followed_until_it_is_verified_or_has_failed() {
    let stage = Stage::new();
    let (status, _, said) = stage.run(&["backup", "run", "web", "--wait"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("is verified"), "{said}");
    let (status, _, said) = stage.run(&["backup", "run", "db", "--wait"]);
    assert_eq!(status, 1);
    assert!(said.ends_with("(disk full)\n"), "{said}");
    let (status, _, said) = stage.run(&["vm", "start", "db", "--wait", "--wait-for", "10ms"]);
    assert_eq!(status, 7, "{said}");
}

#[test]
fn backups_are_found_by_the_start_of_their_id() {
    let stage = Stage::new();
    let id = vm(2, "").backups[0].id.to_string();
    assert_eq!(stage.json(&["backup", "show", &id[..8]])["vm"], json!(vm(2, "").id));
    assert_eq!(stage.json(&["backup", "list"]).as_array().unwrap().len(), 4);
    assert_eq!(stage.json(&["backup", "list", "db"])[0]["id"], json!(id));
    assert_eq!(stage.run(&["backup", "show", "ffffffff"]).0, 3);
    assert_eq!(stage.run(&["backup", "restore", &id, "--yes"]).0, 0);
}

#[test]
fn events_come_one_a_line() {
    let stage = Stage::new();
    let (_, out, _) = stage.run(&["event", "tail", "--since", SINCE]);
    assert_eq!(out.lines().count(), 3);
    assert!(out.lines().nth(1).unwrap().contains("backup.failed") && out.contains("reason=\"disk full\""), "{out}");
    let (_, out, _) = stage.run(&["event", "tail", "--subject", "db", "-o", "json"]);
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((events.len(), &events[0]["type"]), (1, &json!("reeve.backup.failed")));
    assert_eq!(events[0]["category"], "exception");
    let (_, out, _) = stage.run(&["event", "tail", "--since", SINCE, "--category", "exception"]);
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(out.contains("exception    backup.failed"), "{out}");
    assert_eq!(stage.run(&["event", "tail", "--category", "grave"]).0, 2);
}

#[test]
fn dead_letters_actors_and_the_node_are_shown() {
    let stage = Stage::new();
    let (_, out, _) = stage.run(&["dead", "list"]);
    assert_eq!(out.lines().count(), 5, "{out}");
    assert!(!out.contains('\u{1b}'), "foreign text cannot play with the terminal");
    assert_eq!(stage.json(&["dead", "show", "2"])["body"], "xyz");
    assert_eq!(stage.run(&["dead", "show", "7"]).0, 3);
    assert_eq!(stage.run(&["dead", "replay", "2"]).0, 0);
    assert!(stage.run(&["actor", "tree"]).1.starts_with("node  running"));
    assert_eq!(stage.json(&["actor", "tree", "vm/web"])["name"], json!(format!("vm/{}", vm(1, "").id)));
    assert_eq!(stage.run(&["actor", "kill", "vm/web/poller"]).0, 0);
    assert_eq!(stage.run(&["actor", "show", "vm/web/poller"]).0, 3);
    assert_eq!(stage.json(&["node", "show"])["id"], "n");
    assert_eq!(stage.json(&["health", "show", "web"])["health"], "up");
    let (_, out, _) = stage.run(&["node", "show", "-o", "yaml"]);
    assert!(out.contains("cluster: standalone\n"), "{out}");
}

#[test]
fn nodes_and_shards_are_listed() {
    let stage = Stage::new();
    let (status, out, _) = stage.run(&["node", "list"]);
    assert_eq!(status, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "ID STATE ROLE VERSION ADDRESS SINCE SHARDS VMS CLOCK"
    );
    assert!(
        lines[2].contains("leader") && lines[2].contains("n2.example:7471") && lines[2].ends_with("-12 ms"),
        "{out}"
    );
    assert_eq!(stage.json(&["node", "list"])[1]["leader"], true);
    assert_eq!(stage.run(&["node", "list", "-q"]).1, "n1\nn2\nn3\n");
    assert_eq!(stage.run(&["node", "show", "n2"]).0, 6);
    let (_, out, _) = stage.run(&["shard", "list"]);
    assert_eq!(
        out,
        "SHARD  OWNER  EPOCH  WANTED\n0      -      -      n2\n1      n1     42     n2\n2      n1     42     n2\n"
    );
    assert_eq!(stage.json(&["shard", "list"])[1]["epoch"], 42);
    assert_eq!(stage.json(&["actor", "tree", "node/n2"])["name"], "node/n2");
}

#[test]
fn a_drain_is_followed_until_the_node_owns_nothing() {
    let stage = Stage::new();
    let (status, out, said) = stage.run(&["node", "drain", "n1"]);
    assert_eq!((status, out.as_str(), said.as_str()), (0, "", "node n1 owns no shard\n"));
    assert!(stage.asked.lock().unwrap().len() >= 4);
    let (status, _, said) = stage.run(&["node", "drain", "n2", "--wait-for", "10ms"]);
    assert_eq!((status, said.starts_with("error: node n2 still owns 5 shards")), (7, true), "{said}");
    let stage = Stage::new();
    let (status, _, said) = stage.run(&["node", "drain", "n3"]);
    assert_eq!((status, said.contains("undrained it meanwhile")), (5, true), "{said}");
    assert_eq!(stage.run(&["node", "drain", "nobody"]).0, 3);
    let (status, _, said) = stage.run(&["node", "drain", "n2", "--no-wait"]);
    assert_eq!((status, said.as_str()), (0, "node n2 hands its shards over\n"));
    assert_eq!(stage.run(&["node", "undrain", "n2"]).0, 0);
}

#[test]
fn endpoints_are_tried_in_turn() {
    let stage = Stage::new();
    let nowhere = tempfile::tempdir().unwrap();
    let none = format!("unix:{}", nowhere.path().join("none").display());
    let both = format!("{none},{}", stage.endpoint);
    assert_eq!(status(&run(&["node", "show", "--endpoint", &both])), 0);
    let neither = run(&["node", "show", "--endpoint", &format!("{none},{none}")]);
    assert_eq!(status(&neither), 6);
    assert!(said(&neither).starts_with("error: no node answers ("), "{}", said(&neither));
}

#[test]
fn the_socket_of_the_dev_node_is_found_by_itself() {
    let stage = Stage::new();
    let socket = stage.endpoint.strip_prefix("unix:").unwrap();
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(state.path().join("reeve/dev")).unwrap();
    std::os::unix::fs::symlink(Path::new(socket), state.path().join("reeve/dev/reeve.sock")).unwrap();
    let output = reeve(&["node", "show"]).env("XDG_STATE_HOME", state.path()).output().unwrap();
    assert_eq!(status(&output), 0, "{}", said(&output));
}
