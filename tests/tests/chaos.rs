//! `kill -9` of `reeve dev` at random moments of a busy run, started again each time: no lease lost or early, nothing
//! destroyed, restored or launched twice in the simulated cloud's audit, every accepted command carried out.
//!
//! `REEVE_SEED` replays a run; `REEVE_LONG=1` kills four times as often.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reeve_cluster::rpc::RpcClient;
use reeve_drivers::cloud::sim::{Actor, AuditEntry, CallKind, SimCloud, SimConfig};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::command::{Accepted, Command, CommandKind, RefusalCode, Requester};
use reeve_protocol::event::{BackupPurpose, CloudEvent};
use reeve_protocol::{MessageId, Timestamp, VmId};
use reeve_tests::harness::ChildGuard;
use reeve_tests::harness::reeve::reeve_binary;

const VMS: usize = 24;
const KILLS: u32 = 50;
const CALL: Duration = Duration::from_secs(5);

/// Leases of seconds, so that a run of a minute sees whole lives.
const CONFIG: &str = r#"
[policy.default.lease]
duration = "9s"
warn_before = ["4s", "2s"]
extension = "4s"
max_extensions = 3
max_total = "40s"
min_notice = "1s"

[policy.default.health]
interval = "1s"
timeout = "500ms"

[policy.default.repair]
boot_wait = "1s"
boot_wait_max = "5s"
cooldown = "1s"

[policy.default.backup]
every = "10s"
window = "6s"
keep_last = 2
daily = 0
weekly = 0

[runtime]
reconcile_every = "2s"
"#;

struct Scene {
    data: tempfile::TempDir,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    random: ChaCha8Rng,
    /// Commands without an answer yet, kept before they are sent: sent again under the same key until there is one.
    open: BTreeMap<MessageId, Command>,
    accepted: Vec<(Command, Accepted)>,
    sent: u64,
}

impl Scene {
    fn new(seed: u64) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let config = data.path().join("chaos.toml");
        std::fs::write(&config, CONFIG)?;
        Ok(Self {
            binary: reeve_binary()?,
            config,
            log: data.path().join("reeve.log"),
            data,
            random: ChaCha8Rng::seed_from_u64(seed),
            open: BTreeMap::new(),
            accepted: Vec::new(),
            sent: 0,
        })
    }

    fn folder(&self) -> PathBuf {
        self.data.path().join("data")
    }

    async fn start(&self) -> Result<(ChildGuard, RpcClient)> {
        let mut command = Process::new(&self.binary);
        command.arg("dev").arg("--data").arg(self.folder()).arg("--config").arg(&self.config);
        command.args(["--vms", &VMS.to_string()]);
        let mut node = ChildGuard::spawn("reeve dev", command, &self.log)?;
        let socket = self.folder().join("reeve.sock");
        for _ in 0..600 {
            if let Ok(client) = RpcClient::connect_unix(&socket).await
                && client.call(AdminRequest::Node, CALL).await.is_ok()
            {
                return Ok((node, client));
            }
            if let Some(status) = node.try_exit()? {
                bail!("reeve dev ended with {status}\n{}", node.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        bail!("reeve dev does not answer\n{}", node.log_tail())
    }

    /// Sends what is open and something new, as long as the node answers.
    async fn bother(&mut self, client: &RpcClient) {
        self.send_open(client).await;
        let Ok(vms) = list(client).await else { return };
        for _ in 0..3 {
            if vms.is_empty() {
                return;
            }
            let vm = &vms[self.random.random_range(0..vms.len())];
            let kind = match (vm.lease.state.as_str(), self.random.random_range(0..5)) {
                ("ended", _) if self.accepted.iter().filter(|(command, _)| is_revive(command)).count() < 6 => {
                    CommandKind::VmRevive { backup: None, name: None }
                }
                ("active" | "warned", 0) => CommandKind::LeaseExtend { by: None },
                ("active", 1) => CommandKind::BackupRun,
                ("active", 2) => CommandKind::VmReboot,
                ("active", 3) => CommandKind::BackupRestore { backup: None },
                _ => continue,
            };
            self.sent += 1;
            let id = MessageId::new(format!("chaos-{}", self.sent)).expect("a short text");
            let command = Command { id, vm: vm.id, by: Requester::Operator("chaos".into()), kind };
            self.open.insert(command.id.clone(), command);
        }
        self.send_open(client).await;
    }

    async fn send_open(&mut self, client: &RpcClient) {
        for (id, command) in self.open.clone() {
            match client.call(AdminRequest::Command(command.clone()), CALL).await {
                Ok(AdminReply::Accepted(accepted)) => self.accepted.push((command, accepted)),
                Ok(AdminReply::Refused(refusal)) if refusal.code == RefusalCode::Unavailable => continue,
                Ok(_) => {}
                Err(_) => continue,
            }
            self.open.remove(&id);
        }
    }
}

fn is_revive(command: &Command) -> bool {
    matches!(command.kind, CommandKind::VmRevive { .. })
}

async fn list(client: &RpcClient) -> Result<Vec<VmView>> {
    let mut all: Vec<VmView> = Vec::new();
    loop {
        let marker = all.last().map(|vm| vm.id);
        match client.call(AdminRequest::VmList { limit: 200, marker, lease: None }, CALL).await? {
            AdminReply::Vms(page) if page.is_empty() => return Ok(all),
            AdminReply::Vms(page) => all.extend(page),
            other => bail!("vm list answered {other:?}"),
        }
    }
}

async fn events(client: &RpcClient) -> Result<Vec<CloudEvent>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let request = AdminRequest::Events { since: Timestamp::EPOCH, after, subject: None, limit: 500 };
        match client.call(request, CALL).await? {
            AdminReply::Events(page) => {
                let Some(last) = page.last() else { return Ok(all) };
                after = Some(last.position);
                for event in page {
                    all.push(serde_json::from_str(&event.json)?);
                }
            }
            other => bail!("events answered {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_nothing_is_lost_and_nothing_is_done_twice() -> Result<()> {
    let seed = std::env::var("REEVE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::try_from(SystemClock.now().as_millis()).unwrap_or_default());
    println!("REEVE_SEED={seed}");
    let kills = if std::env::var_os("REEVE_LONG").is_some() { 4 * KILLS } else { KILLS };
    let mut scene = Scene::new(seed)?;
    for _ in 0..kills {
        let (mut node, client) = scene.start().await?;
        let lives = Duration::from_millis(scene.random.random_range(20..900));
        let _ = tokio::time::timeout(lives, async {
            loop {
                scene.bother(&client).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        })
        .await;
        node.kill();
    }
    let (mut node, client) = scene.start().await?;
    let vms = settle(&mut scene, &client, &node).await?;
    let events = events(&client).await?;
    let status = node.terminate(Duration::from_secs(10)).await?;
    ensure!(status.success(), "SIGTERM: {status}\n{}", node.log_tail());
    judge(&scene, &vms, &events)?;
    let count = |call| audit_of(&scene).map(|audit| applied(&audit, call).count());
    println!("{} launched, {} restored", count(CallKind::Launch)?, count(CallKind::RestoreInPlace)?);
    println!("{} VMs, {} events, {kills} kills, {} commands accepted", vms.len(), events.len(), scene.accepted.len());
    Ok(())
}

/// Waits until every command is answered and every lease is over.
async fn settle(scene: &mut Scene, client: &RpcClient, node: &ChildGuard) -> Result<Vec<VmView>> {
    for _ in 0..1_800 {
        scene.send_open(client).await;
        let vms = list(client).await?;
        let busy = |vm: &&VmView| vm.lease.state != "ended" || vm.operation.is_some();
        let over = !vms.iter().any(|vm| busy(&vm));
        if over && scene.open.is_empty() && vms.len() >= VMS {
            return Ok(vms);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let vms = list(client).await?;
    let late: Vec<_> = vms.iter().filter(|vm| vm.lease.state != "ended" || vm.operation.is_some()).collect();
    bail!("not over after three minutes: {late:#?}\n{}", node.log_tail())
}

fn cloud_of(scene: &Scene) -> Result<SimCloud> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(SimCloud::open(&scene.folder().join("cloud").join("sim"), clock, SimConfig::default())?)
}

fn audit_of(scene: &Scene) -> Result<Vec<AuditEntry>> {
    Ok(cloud_of(scene)?.audit())
}

fn judge(scene: &Scene, vms: &[VmView], events: &[CloudEvent]) -> Result<()> {
    let cloud = cloud_of(scene)?;
    let audit = cloud.audit();
    ensure!(cloud.audit_dropped() == 0, "the audit is complete");
    let known: BTreeSet<VmId> = vms.iter().map(|vm| vm.id).collect();
    for vm in vms {
        end_of(vm, &audit, &scene.folder().join("vault")).with_context(|| format!("{vm:#?}"))?;
    }
    let left = cloud.vm_ids();
    let unknown: Vec<_> = left.iter().filter(|id| !known.contains(id)).collect();
    ensure!(unknown.is_empty(), "not known to Reeve: {unknown:?}");
    ensure!(left.is_empty(), "still there: {left:?}");
    once(&audit)?;
    sequences(events)?;
    commands(scene, vms, events, &audit)
}

fn applied(audit: &[AuditEntry], kind: CallKind) -> impl Iterator<Item = &AuditEntry> {
    audit.iter().filter(move |entry| entry.call == kind && entry.by == Actor::Caller && entry.applied)
}

/// Destroyed once, not before its end, not before its final backup was verified and is in the vault.
fn end_of(vm: &VmView, audit: &[AuditEntry], vault: &Path) -> Result<()> {
    let deletions: Vec<_> = applied(audit, CallKind::DeleteServer).filter(|entry| entry.vm == Some(vm.id)).collect();
    ensure!(deletions.len() == 1, "destroyed {} times", deletions.len());
    let at = deletions[0].at;
    let ends_at = vm.lease.ends_at.context("a lease that ended has an end")?;
    ensure!(at >= ends_at, "destroyed at {at}, before the end of its lease");
    let last = vm.backups.iter().find(|backup| backup.purpose == BackupPurpose::Final && backup.state == "verified");
    let last = last.context("no verified final backup")?;
    ensure!(last.verified_at.is_some_and(|verified| verified <= at), "verified after it was destroyed");
    let manifest =
        vault.join(vm.cloud.as_str()).join(vm.id.to_string()).join(last.id.to_string()).join("manifest.json");
    ensure!(manifest.is_file(), "no manifest in the vault: {}", manifest.display());
    Ok(())
}

fn once(audit: &[AuditEntry]) -> Result<()> {
    let kinds = [CallKind::DeleteVolume, CallKind::ReleaseAddress, CallKind::Launch, CallKind::RestoreInPlace];
    for kind in kinds {
        let mut seen = BTreeSet::new();
        for entry in applied(audit, kind) {
            ensure!(seen.insert(entry.detail.as_str()), "{kind:?} {} was done twice", entry.detail);
        }
    }
    Ok(())
}

fn sequences(events: &[CloudEvent]) -> Result<()> {
    let mut by_subject: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in events {
        by_subject.entry(&event.subject).or_default().push(event.sequence);
    }
    for (subject, mut sequences) in by_subject {
        sequences.sort_unstable();
        let expected: Vec<u64> = (1..=u64::try_from(sequences.len())?).collect();
        ensure!(sequences == expected, "{subject}: {sequences:?}");
    }
    Ok(())
}

/// Every accepted command has had its effect, once.
fn commands(scene: &Scene, vms: &[VmView], events: &[CloudEvent], audit: &[AuditEntry]) -> Result<()> {
    for vm in vms {
        let of = |kind: fn(&CommandKind) -> bool| {
            scene.accepted.iter().filter(|(command, _)| command.vm == vm.id && kind(&command.kind)).collect::<Vec<_>>()
        };
        let extensions = of(|kind| matches!(kind, CommandKind::LeaseExtend { .. }));
        let granted = usize::try_from(vm.lease.extensions)?;
        ensure!(extensions.len() == granted, "{}: {} extensions accepted, {granted} granted", vm.id, extensions.len());
        let latest = extensions.iter().filter_map(|(_, accepted)| accepted.ends_at).max();
        ensure!(latest.is_none() || latest == vm.lease.ends_at, "{}: told {latest:?}", vm.id);
        let revivals = of(|kind| matches!(kind, CommandKind::VmRevive { .. }));
        let successors = vms.iter().filter(|other| other.revived_from == Some(vm.id)).count();
        ensure!(revivals.len() == successors, "{}: {} revivals, {successors} successors", vm.id, revivals.len());
        let backups = of(|kind| matches!(kind, CommandKind::BackupRun));
        let begun = events.iter().filter(|event| {
            event.subject == format!("vm/{}", vm.id)
                && event.kind == "reeve.backup.started"
                && event.data["purpose"] == "manual"
        });
        // One that the end of the lease overtook is served by the final backup.
        let begun = begun.count();
        ensure!(begun + 1 >= backups.len(), "{}: {} manual backups accepted, {begun} begun", vm.id, backups.len());
        let reboots = of(|kind| matches!(kind, CommandKind::VmReboot));
        let done = applied(audit, CallKind::HardReboot).filter(|entry| entry.vm == Some(vm.id)).count();
        ensure!(done >= reboots.len(), "{}: {} reboots accepted, {done} done", vm.id, reboots.len());
        let restores = of(|kind| matches!(kind, CommandKind::BackupRestore { .. }));
        let done = applied(audit, CallKind::RestoreInPlace).filter(|entry| entry.vm == Some(vm.id)).count();
        ensure!(done == restores.len(), "{}: {} restores accepted, {done} done", vm.id, restores.len());
    }
    Ok(())
}
