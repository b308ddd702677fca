//! `backup`: an image of 4 GiB from Glance into the vault, sealed and verified, by the performer of a node; beside
//! `curl | sha256sum` of the same image.
//!
//! ```text
//! this process: Glance with one image ─┬─ HTTP ─► a process of its own: performer ─► OpenStackCloud ─► OpendalVault (a folder)
//!                                      └─ HTTP ─► curl | sha256sum
//! ```
//!
//! What is read is the read of a real node: the image's length and SHA-512 are compared with its record, BLAKE3 and
//! SHA-256 of the whole go into the manifest, parts are compressed, encrypted, written and synced. curl writes nothing and
//! computes one hash. All of it shares the cores of the machine with the server. The memory is what the process's resident
//! bytes were at most (`VmHWM`) above what they were before the first call.
//!
//! Half of the content does not shrink, half is text ([`reeve_tests::harness::one_image`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use futures::future::LocalBoxFuture;
use reeve_drivers::cloud::openstack::{OpenStackCloud, OpenStackConfig};
use reeve_drivers::vault::{Compression, KeyRing, Packing, VaultKey};
use reeve_drivers::{MemoryNotifier, OpendalVault};
use reeve_lifecycle::effect::{Disk, Snapshot};
use reeve_lifecycle::{Done, Effect, EffectKey, Outcome, PendingEffect};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, Epoch, Generation, ShardId};
use reeve_runtime::{Acts, EffectContext, Ownership, Ports, Timeouts, perform};
use reeve_tests::harness::OneImage;
use reeve_tests::harness::one_image::{IMAGE, auth};
use reeve_tests::nobody::Nobody;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::child::{argument, ask, forget_peak, number, peak, resident};
use crate::node::{self, Alone};
use crate::records;
use crate::runner::{Figure, Goal, Measured, Options};

/// The part of this benchmark.
pub(crate) const CHILD: &str = "backup";
const MIB: f64 = (1 << 20) as f64;
/// What the node may take beside what it has.
const MAX_GROWTH_MIB: f64 = 64.0;
/// How parts are packed, as the child is told.
const PACKED: &str = "packed";
const PLAIN: &str = "plain";

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    Box::pin(measure(*options))
}

/// What the rounds of a way of packing came to.
#[derive(Default)]
struct Rounds {
    store: Vec<f64>,
    verify: Vec<f64>,
    growth_mib: Vec<f64>,
    last: Value,
}

async fn measure(options: Options) -> Result<Vec<Figure>> {
    let (bytes, rounds): (u64, usize) = options.pick((4 << 30, 3), (256 << 20, 1));
    let image = OneImage::start(bytes).await?;
    let (mut packed, mut plain, mut curl) = (Rounds::default(), Rounds::default(), Vec::new());
    for _ in 0..rounds {
        let sha256 = packed.measure(PACKED, &image, bytes).await?;
        let (hash, rate) = curl_and_sum(&image, bytes).await?;
        ensure!(hash == sha256, "curl got another content: {hash} instead of {sha256}");
        curl.push(rate);
        plain.measure(PLAIN, &image, bytes).await?;
    }
    image.stop().await;
    figures(bytes, packed, plain, Measured::of(curl)?)
}

fn figures(bytes: u64, packed: Rounds, plain: Rounds, curl: Measured) -> Result<Vec<Figure>> {
    const CURL: &str = "curl | sha256sum";
    let speed = |name: &str, rates: Vec<f64>| {
        let figure = Figure::new(name, &Measured::of(rates)?, "MiB/s", Goal::Recorded).of(bytes);
        Ok::<_, anyhow::Error>(figure.against(CURL, curl.median))
    };
    let mut memory =
        Figure::new("backup/memory", &Measured::of(packed.growth_mib.clone())?, "MiB more", GROWTH).of(bytes);
    // The worst is what counts.
    memory.value = packed.growth_mib.iter().copied().fold(0.0, f64::max);
    let as_it_is = plain.growth_mib.iter().copied().fold(0.0, f64::max);
    let memory = memory
        .beside("without compression and encryption", as_it_is)
        .note("content", "half pseudo-random, half text, in turns of 64 KiB")
        .note("packed", packed.last)
        .note("plain", plain.last);
    Ok(vec![
        memory,
        speed("backup/store", packed.store)?,
        speed("backup/verify", packed.verify)?,
        speed("backup/store, without compression and encryption", plain.store)?,
        speed("backup/verify, without compression and encryption", plain.verify)?,
    ])
}

const GROWTH: Goal = Goal::AtMost(MAX_GROWTH_MIB);

impl Rounds {
    /// One round; the SHA-256 of the content.
    async fn measure(&mut self, packing: &str, image: &OneImage, bytes: u64) -> Result<String> {
        let folder = tempfile::tempdir().context("a folder for the vault")?;
        let at = folder.path().to_str().context("the folder's name")?.to_owned();
        let mut answer = ask(CHILD, &[image.url().to_owned(), packing.to_owned(), at]).await?;
        ensure!(number(&answer, "bytes")? == bytes as f64, "the backup has another size: {answer}");
        answer["stored_mib"] = json!(size_of(folder.path())? as f64 / MIB);
        self.store.push(bytes as f64 / MIB / number(&answer, "store_s")?);
        self.verify.push(bytes as f64 / MIB / number(&answer, "verify_s")?);
        self.growth_mib.push(number(&answer, "growth_mib")?);
        let sha256 = answer["sha256"].as_str().context("no SHA-256")?.to_owned();
        self.last = answer;
        Ok(sha256)
    }
}

/// The hash, and MiB/s.
async fn curl_and_sum(image: &OneImage, bytes: u64) -> Result<(String, f64)> {
    let line = format!("curl --silent --fail {} | sha256sum", image.content_url());
    let began = Instant::now();
    let told = tokio::task::spawn_blocking(move || Command::new("sh").arg("-c").arg(line).output());
    let told = told.await.context("curl")?.context("curl")?;
    let took = began.elapsed().as_secs_f64();
    ensure!(told.status.success(), "curl | sha256sum: {}", String::from_utf8_lossy(&told.stderr));
    let hash = String::from_utf8_lossy(&told.stdout).split_whitespace().next().map(str::to_owned);
    Ok((hash.context("sha256sum says nothing")?, bytes as f64 / MIB / took))
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let (entry, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        bytes += if meta.is_dir() { size_of(&entry)? } else { meta.len() };
    }
    Ok(bytes)
}

/// Answers how long the image took, and how much memory.
pub(crate) fn child(arguments: &[String]) -> Result<Value> {
    let (url, packing, folder): (String, String, String) =
        (argument(arguments, 0)?, argument(arguments, 1)?, argument(arguments, 2)?);
    node::run(|| async move {
        let performer = Performer::new(&url, self::packing(&packing)?, &folder)?;
        let backup = BackupId::of(performer.vm.vm, Generation(1));
        let before = resident("self")?;
        forget_peak()?;
        let began = Instant::now();
        let snapshot = Snapshot { disk: Disk::Root, id: IMAGE.to_owned() };
        let stored = performer.done(Effect::StoreDisk { backup, snapshot }).await?;
        let Done::Stored(stored) = stored else { bail!("not stored: {stored:?}") };
        let sha256: String = stored.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        performer.done(Effect::SealBackup { backup, purpose: BackupPurpose::Manual, disks: vec![stored] }).await?;
        let (store_s, after_store) = (began.elapsed().as_secs_f64(), peak("self")?);
        let began = Instant::now();
        let verified = performer.done(Effect::VerifyBackup { backup }).await?;
        let Done::Verified { bytes } = verified else { bail!("not verified: {verified:?}") };
        let (verify_s, after_verify) = (began.elapsed().as_secs_f64(), peak("self")?);
        let growth = |peak: u64| peak.saturating_sub(before) as f64 / MIB;
        Ok(json!({
            "bytes": bytes, "sha256": sha256, "store_s": store_s, "verify_s": verify_s, "before_mib": before as f64 / MIB,
            "growth_in_store_mib": growth(after_store), "growth_mib": growth(after_verify.max(after_store)),
        }))
    })
}

fn packing(told: &str) -> Result<Packing> {
    match told {
        PACKED => {
            let key = VaultKey::new("bench", &"5e".repeat(32)).context("a key")?;
            Ok(Packing::default().keys(KeyRing::new(vec![key])?))
        }
        PLAIN => Ok(Packing::default().compression(Compression::None)),
        other => bail!("parts are not packed {other}"),
    }
}

/// Effects on one VM, as a node performs them.
struct Performer {
    ports: Ports,
    vm: EffectContext,
}

impl Performer {
    fn new(url: &str, packing: Packing, folder: &str) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = OpenStackConfig::new(auth(url));
        let cloud = OpenStackCloud::new(records::cloud(), config, Arc::clone(&clock), "reeve-bench")?;
        let ports = Ports {
            clock,
            cloud: BTreeMap::from([(records::cloud(), Arc::new(cloud) as _)]),
            probe: BTreeMap::new(),
            vault: Arc::new(OpendalVault::in_folder(folder)?.with(packing)),
            notifier: Arc::new(MemoryNotifier::new(1)),
            timeouts: Timeouts::default(),
        };
        let ownership = Arc::new(Ownership {
            shard: ShardId(0),
            epoch: Epoch(1),
            coordination: Arc::new(Alone),
            introducer: Arc::new(Nobody),
            acts: Acts::default(),
        });
        let record = records::record(0, SystemClock.now());
        let vm = EffectContext::new(&record, &Effect::TakeInventory, ownership);
        Ok(Self { ports, vm })
    }

    async fn done(&self, effect: Effect) -> Result<Done> {
        let key = EffectKey { generation: Generation(1), index: 0 };
        let pending = PendingEffect { key, effect, decided_at: SystemClock.now(), failures: 0, retry_at: None };
        match perform(&self.ports, &self.vm, &pending).await {
            Outcome::Done(done) => Ok(done),
            Outcome::NotApplied { reason } | Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
                bail!("{:?}: {reason}", pending.effect)
            }
        }
    }
}
