//! The captured streams of a real Nova over a real broker: in order, shuffled, and each message three times, with the
//! broker restarted in the middle. Leases, states and tombstones come out the same and as the streams say, whoever reads
//! Nova's default queues still gets every message, and every event is published once, without gaps.
//!
//! The captures are published as they are but for their day, which becomes yesterday: a tombstone is kept for a week.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{Span, Timestamp};
use reeve_tests::harness::amqp::{Collected, PATIENCE, Parcel, Peer, Received};
use reeve_tests::harness::rabbitmq::REGISTRATION_FLUSH;
use reeve_tests::harness::{Control, RabbitMq};
use serde_json::Value;

const EXCHANGE: &str = "nova";
const INTAKE: &str = "reeve.intake.nova";
const EVENTS: &str = "test.events";
const KEYS: [&str; 4] =
    ["versioned_notifications.info", "versioned_notifications.error", "notifications.info", "notifications.error"];
/// Only Reeve's own bindings take these.
const PROBES: [&str; 2] = ["versioned_notifications.audit", "notifications.audit"];
const CAPTURED_ON: &str = "2026-11-21";
/// What stands in the captures where older Novas put a live token.
const TOKEN: &str = concat!("gAAAAAB-this-was-a", "-live-token-in-the-payload");
const LEASE: Span = Span::from_days(3650);
/// Messages that lie in the queue while the broker restarts.
const HELD: usize = 60;
const QUIET: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(200);

const SECTIONS: &str = r#"
[log]
level = "info,reeve_runtime=debug,reeve_cluster=debug,reeve_nodes=debug,reeve_protocol=debug"

[[cloud]]
name = "nova"
driver = "sim"
vms = 0
notifications = { exchange = "nova", topics = ["versioned_notifications", "notifications"], format = "versioned" }

[policy.default.lease]
duration = "3650d"
max_total = "3650d"
warn_before = []
adopt = "launch"

[policy.default.health]
enabled = false

[policy.default.backup]
every = "0s"

[runtime]
reconcile_every = "1d"
"#;

/// What a run does to the broker when half of the stream is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// Shut down in good order, with messages in the node's hands.
    Stop,
    /// Killed, with messages in the node's hands.
    Kill,
    /// Shut down while the node works and publishes.
    StopAtWork,
}

/// A VM as all runs have to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    name: String,
    project: Option<String>,
    user: Option<String>,
    state: String,
    host: Option<String>,
    lease: String,
    started_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    ended: Option<String>,
}

type Outcomes = BTreeMap<String, Outcome>;

#[derive(Debug, Clone)]
struct Line {
    key: String,
    body: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_the_captured_streams_come_out_the_same_in_any_order_and_number() -> Result<()> {
    let lines = captured()?;
    let expected = expected(&lines)?;
    assert_eq!(expected.len(), 8, "the captures tell of eight VMs");
    let mut shuffled = lines.clone();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    let thrice: Vec<Line> = lines.iter().flat_map(|line| [line.clone(), line.clone(), line.clone()]).collect();

    for (name, stream, how) in [
        ("in order", &lines, Break::Stop),
        ("shuffled", &shuffled, Break::Kill),
        ("each three times", &thrice, Break::StopAtWork),
    ] {
        let began = SystemClock.elapsed();
        let told = run(stream, how, &expected).await.with_context(|| format!("{name}, {how:?}"))?;
        let took = SystemClock.elapsed().saturating_sub(began);
        eprintln!("{name} ({how:?}): {} messages, {told}, {:.1} s", stream.len(), took.as_secs_f64());
    }
    Ok(())
}

async fn run(stream: &[Line], how: Break, expected: &Outcomes) -> Result<String> {
    let mut broker = RabbitMq::start().await?;
    let mut nova = Peer::connect(&broker.url()).await?;
    nova.declare_as_nova_does(EXCHANGE, &KEYS).await?;
    let mut node = Control::start(&format!("[bus]\nurl = {:?}\n{SECTIONS}", broker.url())).await?;
    until_bound(&nova).await?;
    nova.queue_of_everything(EVENTS, "reeve.events").await?;
    tokio::time::sleep(REGISTRATION_FLUSH).await;

    let (first, second) = stream.split_at(stream.len() / 2);
    let beside = beside(&nova).await?;
    match how {
        Break::Stop | Break::Kill => {
            let (early, held) = first.split_at(first.len() - HELD);
            nova.publish_all(early.iter().map(parcel)).await?;
            until_quiet(&node, &nova).await?;
            node.hold()?;
            nova.publish_all(held.iter().map(parcel)).await?;
        }
        Break::StopAtWork => {
            nova.publish_all(first.iter().map(parcel)).await?;
        }
    }
    // The default queues are transient: what is in them goes with the broker.
    expect_all(&beside, first).await?;
    match how {
        Break::Stop | Break::StopAtWork => broker.stop().await?,
        Break::Kill => broker.kill(),
    }
    node.go_on()?;
    node.node().await.context("while the broker is away")?;
    broker.restart().await?;

    nova = Peer::connect(&broker.url()).await?;
    nova.declare_as_nova_does(EXCHANGE, &KEYS).await?;
    until_bound(&nova).await?;
    let beside = self::beside(&nova).await?;
    nova.publish_all(second.iter().map(parcel)).await?;
    expect_all(&beside, second).await?;
    let seen = until_quiet(&node, &nova).await?;
    assert_eq!(&seen, expected, "what the node makes of the stream");

    let copies = check_events(&node, &nova, expected).await?;
    if how != Break::StopAtWork {
        assert_eq!(copies.1, 0, "no confirmation can have been lost, so no event may have come twice");
    }
    no_token_is_kept(&mut node, &nova).await?;
    ensure!(node.process().try_exit()?.is_none(), "the node has ended");
    let stopped = node.process().terminate(Duration::from_secs(15)).await?;
    ensure!(stopped.success(), "the node ended with {stopped}");
    Ok(format!("{} events, {} of them again after the restart", copies.0, copies.1))
}

/// The streams one after the other, with the day moved.
fn captured() -> Result<Vec<Line>> {
    let yesterday = SystemClock.now().saturating_sub(Duration::from_secs(86_400)).to_string();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/nova/captured");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file.path())?.replace(CAPTURED_ON, &yesterday[..10]);
        for line in text.lines() {
            let record: Value = serde_json::from_str(line)?;
            ensure!(record["exchange"] == EXCHANGE, "a capture of another exchange");
            let field = |name: &str| record[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
            lines.push(Line { key: field("routing_key")?, body: field("raw_body")? });
        }
    }
    ensure!(lines.iter().any(|line| line.body.contains(TOKEN)), "the captures hold the token");
    Ok(lines)
}

/// As oslo.messaging publishes it.
fn parcel(line: &Line) -> Parcel {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_priority(0)
        .with_headers(FieldTable::default());
    let body = Bytes::copy_from_slice(line.body.as_bytes());
    Parcel { exchange: EXCHANGE.to_owned(), key: line.key.clone(), properties, body }
}

/// What follows from the stream, read without Reeve: the newest versioned payload of each VM, its creation, its end.
fn expected(lines: &[Line]) -> Result<Outcomes> {
    struct Story {
        newest: (String, Value),
        launched: Option<Timestamp>,
        deleted: bool,
    }
    let mut stories: BTreeMap<String, Story> = BTreeMap::new();
    for line in lines {
        let envelope: Value = serde_json::from_str(&line.body)?;
        let message: Value = serde_json::from_str(envelope["oslo.message"].as_str().context("oslo.message")?)?;
        let (kind, data) = (message["event_type"].as_str().context("type")?, &message["payload"]["nova_object.data"]);
        let (Some(vm), true) = (data["uuid"].as_str(), kind.starts_with("instance.")) else { continue };
        let said = message["timestamp"].as_str().context("timestamp")?.to_owned();
        let story = stories.entry(vm.to_owned()).or_insert_with(|| Story {
            newest: (said.clone(), data.clone()),
            launched: None,
            deleted: false,
        });
        if kind == "instance.create.end" {
            story.launched = Some(data["launched_at"].as_str().context("launched_at")?.parse()?);
        }
        story.deleted |= kind == "instance.delete.end";
        if said >= story.newest.0 {
            story.newest = (said, data.clone());
        }
    }
    let outcome = |story: Story| {
        let text = |key: &str| story.newest.1[key].as_str().map(str::to_owned);
        let lease = match (story.launched, story.deleted) {
            (None, _) => "none",
            (Some(_), true) => "ended",
            (Some(_), false) => "active",
        };
        let state = if story.deleted { Some("deleted".to_owned()) } else { text("state") };
        Outcome {
            name: text("display_name").unwrap_or_default(),
            project: text("tenant_id"),
            user: text("user_id"),
            state: state.unwrap_or_default(),
            host: text("host"),
            lease: lease.to_owned(),
            started_at: story.launched,
            ends_at: story.launched.map(|at| at + LEASE),
            ended: (lease == "ended").then(|| "vm_gone".to_owned()),
        }
    };
    Ok(stories.into_iter().map(|(vm, story)| (vm, outcome(story))).collect())
}

fn outcomes(vms: Vec<VmView>) -> Outcomes {
    let outcome = |vm: VmView| Outcome {
        name: vm.name,
        project: vm.project.map(|id| id.to_string()),
        user: vm.user.map(|id| id.to_string()),
        state: vm.state,
        host: vm.host.map(|host| host.to_string()),
        lease: vm.lease.state,
        started_at: vm.lease.started_at,
        ends_at: vm.lease.ends_at,
        ended: vm.lease.ended,
    };
    vms.into_iter().map(|vm| (vm.id.to_string(), outcome(vm))).collect()
}

/// Nova tells nothing before Reeve listens: what it tells earlier is found by listings, which this test has none of.
async fn until_bound(nova: &Peer) -> Result<()> {
    for key in PROBES {
        let body =
            r#"{"message_id":"probe","publisher_id":"test","event_type":"probe","priority":"AUDIT","payload":{}}"#;
        nova.publish_until_taken(&parcel(&Line { key: key.to_owned(), body: body.to_owned() })).await?;
    }
    Ok(())
}

async fn beside(nova: &Peer) -> Result<Vec<(&'static str, Collected)>> {
    let mut all = Vec::new();
    for key in KEYS {
        all.push((key, nova.collect(key).await?));
    }
    Ok(all)
}

/// The other consumer of each default queue got exactly what was published with its key.
async fn expect_all(beside: &[(&str, Collected)], stream: &[Line]) -> Result<()> {
    for (key, collected) in beside {
        let mut sent: BTreeMap<Bytes, usize> = BTreeMap::new();
        for line in stream.iter().filter(|line| line.key == *key) {
            *sent.entry(Bytes::copy_from_slice(line.body.as_bytes())).or_insert(0) += 1;
        }
        collected.reach(sent.values().sum()).await.with_context(|| format!("default queue {key}"))?;
        assert!(collected.bodies() == sent, "default queue {key} got other messages than were published");
    }
    Ok(())
}

/// What the node shows once nothing has changed for a while and nothing waits.
async fn until_quiet(node: &Control, peer: &Peer) -> Result<Outcomes> {
    let mut last = (Vec::new(), 0);
    let mut since = SystemClock.elapsed();
    let began = since;
    loop {
        let vms = node.vms().await?;
        let waiting = peer.waiting(INTAKE).await? + u32::try_from(node.node().await?.outbox)?;
        let now = (vms, peer.waiting(EVENTS).await?);
        if now != last || waiting > 0 {
            (last, since) = (now, SystemClock.elapsed());
        }
        if SystemClock.elapsed().saturating_sub(since) > QUIET {
            return Ok(outcomes(last.0));
        }
        ensure!(SystemClock.elapsed().saturating_sub(began) < PATIENCE, "never quiet; {waiting} wait");
        tokio::time::sleep(POLL).await;
    }
}

/// Each event once per id, gapless and in order for each VM; gives how many, and how many came again.
async fn check_events(node: &Control, peer: &Peer, expected: &Outcomes) -> Result<(usize, usize)> {
    let count = peer.waiting(EVENTS).await?;
    let collected = peer.collect(EVENTS).await?;
    collected.reach(usize::try_from(count)?).await?;
    let mut by_id: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut sequences: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut again = 0;
    for Received { key, properties, body } in collected.all() {
        let event: CloudEvent = serde_json::from_slice(&body).context("an event is a CloudEvent")?;
        assert!(!contains(&body, TOKEN), "the token is in an event: {key}");
        assert_eq!(event.kind, format!("reeve.{key}"));
        assert_eq!(properties.message_id().as_ref().map(ToString::to_string), Some(event.id.0.clone()));
        if let Some(earlier) = by_id.insert(event.id.0.clone(), body.clone()) {
            assert_eq!(earlier, body, "two events have the id {}", event.id.0);
            again += 1;
            continue;
        }
        sequences.entry(event.subject).or_default().push(event.sequence);
    }
    let subjects: BTreeSet<String> = expected.keys().map(|vm| format!("vm/{vm}")).collect();
    assert_eq!(sequences.keys().cloned().collect::<BTreeSet<_>>(), subjects);
    for (subject, found) in &sequences {
        let gapless: Vec<u64> = (1..=u64::try_from(found.len())?).collect();
        assert_eq!(found, &gapless, "the sequence of {subject}");
    }
    let asked = AdminRequest::Events { since: Timestamp::EPOCH, after: None, subject: None, limit: 1000 };
    let AdminReply::Events(history) = node.ask(asked).await? else { bail!("expected events") };
    let told: BTreeSet<String> =
        history.iter().map(|past| Ok(serde_json::from_str::<CloudEvent>(&past.json)?.id.0)).collect::<Result<_>>()?;
    assert_eq!(told, by_id.keys().cloned().collect(), "the history holds the same events");
    Ok((by_id.len(), again))
}

/// Sends a message with the token that cannot be read, and looks for the token wherever it must not be.
async fn no_token_is_kept(node: &mut Control, nova: &Peer) -> Result<()> {
    let letters = node.dead_letters().await?;
    assert!(letters.is_empty(), "every captured message can be read: {letters:?}");
    let line = captured()?.into_iter().find(|line| line.body.contains(TOKEN)).context("a line with the token")?;
    let cut = line.body.find(TOKEN).context("the token")? + TOKEN.len() + 200;
    for body in [line.body[..cut].to_owned(), format!("{{\"exception\": \"Failed({{'auth_token': u'{TOKEN}'}})\"")] {
        nova.publish_all([parcel(&Line { key: line.key.clone(), body })]).await?;
    }
    let waiting = async {
        loop {
            let letters = node.dead_letters().await?;
            if letters.len() >= 2 {
                return Ok::<_, anyhow::Error>(letters);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    for letter in tokio::time::timeout(PATIENCE, waiting).await.context("no dead letters")?? {
        assert!(!letter.reason.is_empty() && letter.source == INTAKE, "{letter:?}");
        assert!(!format!("{letter:?}").contains(TOKEN), "the token is in a dead letter: {letter:?}");
    }
    assert!(!format!("{:?}", node.vms().await?).contains(TOKEN), "the token is in a VM");
    let log = node.log()?;
    assert!(!log.is_empty() && !contains(&log, TOKEN), "the token is in the log");
    let mut folders = vec![node.data_dir()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let (path, kind) = {
                let entry = entry?;
                (entry.path(), entry.file_type()?)
            };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files += 1;
                assert!(!contains(&std::fs::read(&path)?, TOKEN), "the token is in {}", path.display());
            }
        }
    }
    ensure!(files > 0, "the node has written nothing");
    Ok(())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
