//! `reeve demo`: whole lives of VMs in seconds, on the embedded engine and the simulated cloud.
//!
//! ```text
//! curtain ─► VMs are made ─► people and fate act ─► actors are killed ─► the node is taken down and put up ─► every
//! lease is over ─► the events and the cloud's audit are held against the safety rules ─► summary
//! ```
//!
//! Nothing of the node is special: the same actors, store, bus and core as `reeve control`, and leases of seconds.

mod audit;
mod cast;
mod people;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reeve_drivers::SimConfig;
use reeve_drivers::cloud::sim::SimCloud;
use reeve_lifecycle::policy::POLICY_KEY;
use reeve_ports::{AdminService, Bus, Clock, SystemClock, Vault};
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{BackupId, ProjectId, Span, Timestamp, UserId, VmId};

use self::audit::{Evidence, Summary};
use self::cast::Role;
use self::people::People;
use self::stage::{Play, Stage};

/// The longest that a demo may take; what is not over then counts as lost.
const CURTAIN: Duration = Duration::from_secs(58);
/// How often people look at the events.
const LOOK: Duration = Duration::from_millis(50);
/// The most VMs of a demo.
const MAX_VMS: u32 = 5_000;

/// How to play.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many VMs, at most 5000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VMS)))]
    pub vms: u32,
    /// What looks random follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// End with one JSON object on a line of its own
    #[arg(long)]
    pub json: bool,
}

/// How a demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every rule held and every VM is accounted for.
    Well,
    /// A rule was broken or a VM lost; it was said which.
    Badly,
}

/// Plays a demo.
///
/// # Errors
/// When a part of the stage cannot be set up.
pub fn run(args: &DemoArgs) -> anyhow::Result<Ending> {
    reeve_runtime::run_system(|| play(args))
}

async fn play(args: &DemoArgs) -> anyhow::Result<Ending> {
    let begun = SystemClock.elapsed();
    let vms = usize::try_from(args.vms)?;
    let sim = SimConfig { seed: args.seed, vms: 0, hosts: 8, ..SimConfig::default() };
    let stage = Stage::new(SimCloud::new(std::sync::Arc::new(SystemClock), sim)?, cast::policies(vms)?)?;
    let driven = {
        let cloud = std::sync::Arc::clone(&stage.cloud);
        tokio::spawn(async move { cloud.drive().await })
    };
    let mut show = Show {
        people: People::new(std::sync::Arc::clone(&stage.cloud)),
        bar: progress_bar(args.json),
        events: Vec::new(),
        after: None,
        begun,
        children_restarted: 0,
    };
    let mut play = stage.raise().await?;
    show.make_vms(&stage, &play, vms).await?;
    show.watch_for(&play, Duration::from_secs(3)).await?;
    show.kill_actors(&play).await;
    show.watch_for(&play, Duration::from_secs(2)).await?;
    show.count_restarts(&play).await;
    play.fall().await;
    play = stage.raise().await?;
    show.watch_until_over(&play).await?;
    show.count_restarts(&play).await;
    show.look(&play).await?;
    play.fall().await;
    driven.abort();
    show.bar.finish_and_clear();
    let summary = show.judge(&stage, vms).await?;
    let ending = if summary.rules_broken + summary.lost == 0 { Ending::Well } else { Ending::Badly };
    print(&summary, args.json)?;
    Ok(ending)
}

struct Show {
    people: People,
    bar: ProgressBar,
    events: Vec<CloudEvent>,
    after: Option<u64>,
    begun: Duration,
    children_restarted: u64,
}

impl Show {
    /// Users make their VMs, over a second or two.
    async fn make_vms(&mut self, stage: &Stage, play: &Play, vms: usize) -> anyhow::Result<()> {
        let pause = Duration::from_millis(1_500) / u32::try_from(vms)?;
        for number in 0..vms {
            let role = Role::of(number);
            let metadata = BTreeMap::from([(POLICY_KEY.to_owned(), role.policy().to_owned())]);
            let (project, user) = (ProjectId::new("demo")?, UserId::new("owner")?);
            let vm = stage.cloud.boot_vm(&format!("{role:?}-{number}").to_lowercase(), project, user, metadata)?;
            self.people.add(vm, role);
            SystemClock.sleep(pause).await;
            if number % 20 == 0 {
                self.look(play).await?;
            }
        }
        Ok(())
    }

    /// Shows people what has happened since they last looked.
    async fn look(&mut self, play: &Play) -> anyhow::Result<()> {
        loop {
            let page = play.bus.history(Timestamp::EPOCH, self.after, 500).await?;
            let Some(last) = page.last() else { break };
            self.after = Some(last.position);
            for past in page {
                self.people.see(play.bus.as_ref(), &past.event).await;
                self.events.push(past.event);
            }
        }
        let (over, all) = self.people.progress();
        self.bar.set_length(u64::try_from(all)?);
        self.bar.set_position(u64::try_from(over)?);
        let told = |kind| audit::count(&self.events, kind);
        self.bar.set_message(format!(
            "{} leases · {} backups verified · {} repairs · {} revived",
            told("reeve.lease.created"),
            told("reeve.backup.verified"),
            told("reeve.repair.succeeded"),
            told("reeve.vm.revived"),
        ));
        Ok(())
    }

    async fn watch_for(&mut self, play: &Play, time: Duration) -> anyhow::Result<()> {
        let until = SystemClock.elapsed() + time;
        while SystemClock.elapsed() < until {
            self.look(play).await?;
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    async fn watch_until_over(&mut self, play: &Play) -> anyhow::Result<()> {
        while !self.people.all_over() && SystemClock.elapsed() - self.begun < CURTAIN {
            self.look(play).await?;
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    async fn kill_actors(&self, play: &Play) {
        for (vm, child) in self.people.victims() {
            play.node.ask(&Principal::local(), AdminRequest::ActorKill { vm, child }).await;
        }
    }

    async fn count_restarts(&mut self, play: &Play) {
        if let AdminReply::Node(node) = play.node.ask(&Principal::local(), AdminRequest::Node).await {
            self.children_restarted += node.child_restarts;
        }
    }

    async fn judge(&self, stage: &Stage, made: usize) -> anyhow::Result<Summary> {
        let vms: Vec<VmId> = self.people.cast.keys().copied().collect();
        let mut in_vault: BTreeSet<BackupId> = BTreeSet::new();
        for vm in &vms {
            in_vault.extend(stage.vault.list(&stage.name, *vm).await?);
        }
        let calls = stage.cloud.audit();
        let evidence = Evidence { events: &self.events, calls: &calls, vms: &vms, in_vault: &in_vault };
        let broken = audit::broken(&evidence);
        let lost = audit::lost(&evidence);
        for rule in &broken {
            tracing::error!("rule broken: {rule}");
        }
        for vm in &lost {
            let state = stage.cloud.ground_truth(*vm).map(|truth| truth.facts.state);
            let subject = format!("vm/{vm}");
            let story = self.events.iter().filter(|event| event.subject == subject);
            let story: Vec<String> =
                story.map(|event| format!("{} {} {}", event.time, event.kind, event.data)).collect();
            tracing::error!("lost: {vm}, {state:?}\n  {}", story.join("\n  "));
        }
        Ok(self.summary(made, broken.len(), lost.len(), &calls))
    }

    fn summary(
        &self,
        vms: usize,
        rules_broken: usize,
        lost: usize,
        calls: &[reeve_drivers::cloud::sim::AuditEntry],
    ) -> Summary {
        let count = |kind| audit::count(&self.events, kind);
        let (destroyed, deleted_by_owner) = audit::deletions(calls);
        Summary {
            vms,
            leases_created: count("reeve.lease.created"),
            warned: count("reeve.lease.expiring"),
            extended: count("reeve.lease.extended"),
            extension_denied: count("reeve.lease.extension-denied"),
            expired: count("reeve.lease.expired"),
            backups_verified: count("reeve.backup.verified"),
            destroyed,
            deleted_by_owner,
            revived: count("reeve.vm.revived"),
            repairs_succeeded: count("reeve.repair.succeeded"),
            children_restarted: self.children_restarted,
            node_restarts: 1,
            events: self.events.len(),
            rules_broken,
            lost,
            seconds: (SystemClock.elapsed() - self.begun).as_secs_f64(),
        }
    }
}

fn progress_bar(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len} lives over · {msg}");
    bar.set_style(style.expect("the template is a constant"));
    bar
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(summary)?)?;
        return Ok(());
    }
    let took = Span::from_millis((summary.seconds * 1000.0) as u64);
    writeln!(out, "{} VMs lived their lives in {took}:", summary.vms)?;
    let rows = [
        ("leases begun", summary.leases_created),
        ("notices before an end", summary.warned),
        ("extensions granted", summary.extended),
        ("extensions refused", summary.extension_denied),
        ("leases that came to their end", summary.expired),
        ("backups verified", summary.backups_verified),
        ("VMs destroyed after a verified backup", summary.destroyed),
        ("VMs destroyed by their owners", summary.deleted_by_owner),
        ("VMs revived", summary.revived),
        ("repairs that succeeded", summary.repairs_succeeded),
        ("actors restarted", usize::try_from(summary.children_restarted).unwrap_or(usize::MAX)),
        ("events", summary.events),
        ("safety rules broken", summary.rules_broken),
        ("VMs lost", summary.lost),
    ];
    for (what, count) in rows {
        writeln!(out, "  {count:>7}  {what}")?;
    }
    Ok(())
}
