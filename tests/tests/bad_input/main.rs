//! Ten thousand bad messages, half to a cloud's exchange and half to `reeve.requests`: the node stays up, its memory
//! bounded, and each message is answered, becomes a dead letter with its reason, or was sound after all and is taken.
//!
//! `REEVE_SEED` replays a run.

mod generator;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::command::{Command, parse};
use reeve_protocol::openstack::decode;
use reeve_tests::harness::amqp::{Collected, PATIENCE, Parcel, Peer, header};
use reeve_tests::harness::control::Memory;
use reeve_tests::harness::{Control, RabbitMq};
use serde_json::{Value, json};

use generator::Generator;

const SEED: u64 = 20_261_122;
const EACH: usize = 5_000;
/// Known VMs that commands name.
const KNOWN: usize = 20;
const INTAKE: &str = "reeve.intake.nova";
const REQUESTS: &str = "reeve.requests";
const DEAD: &str = "reeve.dead";
const KEYS: [&str; 4] =
    ["versioned_notifications.info", "versioned_notifications.error", "notifications.info", "notifications.error"];
/// The largest body that the bus hands on.
const MAX_BODY: usize = 16 << 20;
/// Of a larger body, a dead letter keeps the beginning.
const KEPT_BODY: usize = 4 << 20;
const MIB: u64 = 1 << 20;
/// How much may stay resident, and how much may be so for a moment: a few bodies of 17 MiB are on the way at once.
const MAX_GROWTH: u64 = 200 * MIB;
const MAX_PEAK: u64 = 600 * MIB;
const CREATE_END: &str = include_str!("../../data/nova/versioned/instance-create-end.json");
const SAMPLE_VM: &str = "178b0921-8f85-4257-88b6-2e743b5a975c";
/// A VM that no message has spoken of.
const NEW_VM: &str = "6f1d2c3b-4a59-4687-9c0d-1e2f3a4b5c6d";
const POLL: Duration = Duration::from_millis(200);

const SECTIONS: &str = r#"
[[cloud]]
name = "nova"
driver = "sim"
vms = 0
notifications = { exchange = "nova", topics = ["versioned_notifications", "notifications"], format = "both" }

[policy.default.lease]
duration = "3650d"
max_total = "7300d"
max_extensions = 1000
warn_before = []

[policy.default.health]
enabled = false

[policy.default.backup]
every = "0s"

[runtime]
reconcile_every = "1d"
"#;

/// A dead letter by its source, `message_id`, `type` and body.
type Letter = (String, Option<String>, Option<String>, Bytes);

/// The broker, the node, and a client beside it.
struct Scene {
    _broker: RabbitMq,
    node: Control,
    peer: Peer,
    replies_to: String,
    replies: Collected,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_ten_thousand_bad_messages_are_each_accounted_for() -> Result<()> {
    let seed = std::env::var("REEVE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let began = SystemClock.elapsed();
    let mut scene = Scene::start().await?;
    let mut generator = Generator::new(seed)?;
    for n in 0..KNOWN {
        let vm = format!("00000000-0000-4000-8000-{n:012}");
        scene.create(&vm).await?;
        generator.known.push(vm);
    }
    scene.extended(&generator.known[0], "before").await?;
    let (pid, before) = (scene.node.process().pid(), scene.node.memory()?);

    let notifications: Vec<Parcel> = (0..EACH).map(|n| generator.notification(n)).collect();
    let commands: Vec<Parcel> = (0..EACH).map(|n| scene.command(&mut generator, n)).collect();
    for (some, others) in notifications.chunks(500).zip(commands.chunks(500)) {
        scene.peer.publish_all(some.iter().chain(others).cloned()).await?;
    }
    let published = SystemClock.elapsed();
    scene.until_settled().await?;
    let settled = SystemClock.elapsed();
    let after = scene.node.memory()?;

    ensure!(scene.node.process().try_exit()?.is_none(), "the node has ended\n{}", scene.node.process().log_tail());
    assert_eq!(scene.node.process().pid(), pid);
    bounded(before, after)?;
    for letter in scene.node.dead_letters().await? {
        assert!(!letter.reason.is_empty() && letter.body.len() <= 4096, "{letter:?}");
    }
    let tally = scene.account(&notifications, &commands, &generator.known).await?;
    // The VM of the samples was deleted by some of them, and stays deleted.
    scene.create(NEW_VM).await?;
    scene.extended(NEW_VM, "after").await?;
    let log = scene.node.log()?;
    assert!(!String::from_utf8_lossy(&log).contains("panicked"), "something panicked");
    eprintln!(
        "seed {seed}: {tally}\n{:.1} s in all, {:.1} s until settled; resident {} MiB before, {} after, {} at most; log {} KiB",
        SystemClock.elapsed().saturating_sub(began).as_secs_f64(),
        settled.saturating_sub(published).as_secs_f64(),
        before.now / MIB,
        after.now / MIB,
        after.most / MIB,
        log.len() / 1024,
    );
    let stopped = scene.node.process().terminate(Duration::from_secs(15)).await?;
    ensure!(stopped.success(), "the node ended with {stopped}");
    Ok(())
}

impl Scene {
    async fn start() -> Result<Self> {
        let broker = RabbitMq::start().await?;
        let peer = Peer::connect(&broker.url()).await?;
        peer.declare_as_nova_does("nova", &KEYS).await?;
        let node = Control::start(&format!("[bus]\nurl = {:?}\n{SECTIONS}", broker.url())).await?;
        let replies_to = peer.private_queue().await?;
        let replies = peer.collect(&replies_to).await?;
        let scene = Self { _broker: broker, node, peer, replies_to, replies };
        for key in ["versioned_notifications.audit", "notifications.audit"] {
            let body =
                r#"{"message_id":"probe","publisher_id":"test","event_type":"probe","priority":"AUDIT","payload":{}}"#;
            let body = Bytes::from_static(body.as_bytes());
            let probe =
                Parcel { exchange: "nova".into(), key: key.into(), properties: BasicProperties::default(), body };
            scene.peer.publish_until_taken(&probe).await?;
        }
        Ok(scene)
    }

    /// Every second command asks for an answer.
    fn command(&self, generator: &mut Generator, n: usize) -> Parcel {
        let mut parcel = generator.command(n);
        if n.is_multiple_of(2) {
            let properties = parcel.properties.clone();
            let properties = properties.with_reply_to(self.replies_to.as_str().into());
            parcel.properties = properties.with_correlation_id(format!("c-{n}").into());
        }
        parcel
    }

    /// A good creation gives a lease.
    async fn create(&self, vm: &str) -> Result<()> {
        let record: Value = serde_json::from_str(CREATE_END)?;
        let body = record["body"].as_str().context("a body")?.replace(SAMPLE_VM, vm);
        let properties = BasicProperties::default().with_message_id(format!("good-{vm}").into());
        let (exchange, key) = ("nova".to_owned(), KEYS[0].to_owned());
        self.peer.publish_all([Parcel { exchange, key, properties, body: body.into() }]).await?;
        let leased = async {
            loop {
                let vms = self.node.vms().await?;
                if vms
                    .iter()
                    .any(|view| view.id.to_string() == vm && matches!(view.lease.state.as_str(), "active" | "warned"))
                {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, leased).await.with_context(|| format!("{vm} got no lease"))?
    }

    /// A good extension is answered.
    async fn extended(&self, vm: &str, id: &str) -> Result<()> {
        let properties = BasicProperties::default()
            .with_message_id(format!("good-{id}").into())
            .with_type("lease.extend".into())
            .with_reply_to(self.replies_to.as_str().into())
            .with_correlation_id(format!("good-{id}").into());
        let body = json!({ "vm": vm, "by": "operator:test", "for": "1d" }).to_string();
        let key = "lease.extend".to_owned();
        self.peer.publish_all([Parcel { exchange: REQUESTS.to_owned(), key, properties, body: body.into() }]).await?;
        let answered = async {
            loop {
                let answers = self.answers();
                if let Some(answer) = answers.get(&format!("good-{id}")) {
                    return answer[0].clone();
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answered).await.context("a good command is not answered")?;
        ensure!(answer["ok"] == true && answer["result"]["ends_at"].is_string(), "a good extension: {answer}");
        Ok(())
    }

    /// The answers by correlation id.
    fn answers(&self) -> BTreeMap<String, Vec<Value>> {
        let mut answers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for reply in self.replies.all() {
            let id = reply.properties.correlation_id().as_ref().map(ToString::to_string).unwrap_or_default();
            answers.entry(id).or_default().push(serde_json::from_slice(&reply.body).expect("an answer is JSON"));
        }
        answers
    }

    /// Waits until nothing waits in the queues and nothing more comes of it.
    async fn until_settled(&self) -> Result<()> {
        let settling = async {
            let mut last = (0, 0);
            loop {
                let waiting = self.peer.waiting(INTAKE).await? + self.peer.waiting(REQUESTS).await?;
                let now = (self.peer.waiting(DEAD).await?, self.replies.count());
                // Longer than whatever is tried again takes.
                if waiting == 0 && now == last {
                    return Ok(());
                }
                last = now;
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
        };
        tokio::time::timeout(5 * PATIENCE, settling).await.context("never settled")?
    }

    /// Finds what became of each message.
    async fn account(&self, notifications: &[Parcel], commands: &[Parcel], known: &[String]) -> Result<String> {
        let count = self.peer.waiting(DEAD).await?;
        let dead = self.peer.collect(DEAD).await?;
        dead.reach(usize::try_from(count)?).await?;
        let mut letters: BTreeMap<Letter, usize> = BTreeMap::new();
        let mut reasons: BTreeSet<String> = BTreeSet::new();
        for letter in dead.all() {
            let reason = header(&letter.properties, "x-reeve-reason").unwrap_or_default();
            let source = header(&letter.properties, "x-reeve-source").unwrap_or_default();
            assert!(!reason.is_empty(), "a dead letter without a reason");
            reasons.insert(reason);
            *letters.entry(key_of(&source, &letter.properties, letter.body)).or_insert(0) += 1;
        }
        let mut take = |source: &str, parcel: &Parcel| {
            let kept = parcel.body.slice(..parcel.body.len().min(KEPT_BODY));
            let left = letters.get_mut(&key_of(source, &parcel.properties, kept)).filter(|left| **left > 0);
            left.map(|left| *left -= 1).is_some()
        };

        let (mut buried, mut taken) = (0, 0);
        for parcel in notifications {
            if take(INTAKE, parcel) {
                buried += 1;
            } else {
                let sound = parcel.body.len() <= MAX_BODY && decode(&parcel.body).is_ok();
                ensure!(sound, "a bad notification was swallowed: {:?}", start(parcel));
                taken += 1;
            }
        }
        let answers = self.answers();
        let (mut refused, mut accepted, mut buried_commands, mut silent) = (0, 0, 0, 0);
        let mut repeated = 0;
        for parcel in commands {
            let correlation = parcel.properties.correlation_id().as_ref().map(ToString::to_string);
            match correlation.and_then(|id| answers.get(&id)) {
                Some(answers) => {
                    let answer = &answers[0];
                    // At least once: one whose confirmation was late is sent again, and is the same.
                    let same = answers.iter().all(|other| other == answer);
                    ensure!(same, "answered differently: {answers:?} {:?}", start(parcel));
                    repeated += answers.len() - 1;
                    let error = &answer["error"];
                    let reason = error["code"].is_string() && error["message"].as_str().is_some_and(|m| !m.is_empty());
                    if answer["ok"] == true {
                        ensure!(sound(parcel).is_some(), "a bad command was accepted: {:?} {answer}", start(parcel));
                        accepted += 1;
                    } else {
                        ensure!(answer["ok"] == false && reason, "no reason: {answer}");
                        refused += 1;
                    }
                }
                None if take(REQUESTS, parcel) => buried_commands += 1,
                None => {
                    let asked = parcel.properties.reply_to().is_some();
                    ensure!(!asked, "a command was neither answered nor buried: {:?}", start(parcel));
                    let about_known = sound(parcel).is_some_and(|command| known.contains(&command.vm.to_string()));
                    ensure!(about_known, "a bad command was swallowed: {:?}", start(parcel));
                    silent += 1;
                }
            }
        }
        let left: usize = letters.values().sum();
        ensure!(left == 0, "{left} dead letters are of nothing that was sent");
        Ok(format!(
            "notifications: {buried} dead, {taken} sound and taken; commands: {refused} refused, {accepted} accepted, \
             {buried_commands} dead, {silent} sound and taken without an answer asked; {repeated} answers sent again; \
             {} different reasons",
            reasons.len()
        ))
    }
}

fn key_of(source: &str, properties: &BasicProperties, body: Bytes) -> Letter {
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    (source.to_owned(), text(properties.message_id()), text(properties.kind()), body)
}

/// The command, if it can be read.
fn sound(parcel: &Parcel) -> Option<Command> {
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    let (kind, id) = (text(parcel.properties.kind()), text(parcel.properties.message_id()));
    parse(kind.as_deref(), id.as_deref(), &parcel.body).ok()
}

fn bounded(before: Memory, after: Memory) -> Result<()> {
    let growth = after.now.saturating_sub(before.now);
    ensure!(growth < MAX_GROWTH, "the node grew by {} MiB", growth / MIB);
    let peak = after.most.saturating_sub(before.now);
    ensure!(peak < MAX_PEAK, "the node grew by {} MiB for a moment", peak / MIB);
    Ok(())
}

/// The beginning of a message, for people.
fn start(parcel: &Parcel) -> String {
    let body = &parcel.body[..parcel.body.len().min(600)];
    format!("{} {:?} {}", parcel.key, parcel.properties, String::from_utf8_lossy(body))
}
