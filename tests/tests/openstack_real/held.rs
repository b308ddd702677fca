//! What a cloud holds, as its plain client lists it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use reeve_ports::{Clock, SystemClock};
use reeve_tests::harness::OpenStack;
use serde_json::Value;

use super::fixture::PATIENCE;

const LISTS: [(&str, &[&str]); 7] = [
    ("servers", &["server", "list", "--all-projects"]),
    ("volumes", &["volume", "list", "--all-projects"]),
    ("snapshots", &["volume", "snapshot", "list", "--all-projects"]),
    ("images", &["image", "list"]),
    ("ports", &["port", "list"]),
    ("floating IPs", &["floating", "ip", "list"]),
    ("security groups", &["security", "group", "list"]),
];

/// Everything that a server may leave behind: by kind, the ids and what the client shows of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held(BTreeMap<&'static str, BTreeMap<String, String>>);

impl Held {
    /// Asks the cloud.
    pub(crate) async fn by(cloud: &OpenStack) -> Result<Self> {
        let mut held = BTreeMap::new();
        for (kind, list) in LISTS {
            let listed = cloud.ask(list).await?;
            // Neutron makes one for each project that it hears of.
            let is_made = |thing: &&Value| !(kind == "security groups" && thing["Name"] == "default");
            let things = listed.as_array().with_context(|| format!("a list of {kind}"))?.iter().filter(is_made);
            let things = things.filter_map(|thing| Some((thing["ID"].as_str()?.to_owned(), thing.to_string())));
            held.insert(kind, things.collect());
        }
        Ok(Self(held))
    }

    /// How many there are of a kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, BTreeMap::len)
    }

    /// What is here and not there, and the other way round.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for (kind, things) in &self.0 {
            let others = other.0.get(kind).cloned().unwrap_or_default();
            let lost = things.iter().filter(|(id, _)| !others.contains_key(*id));
            all.extend(lost.map(|(_, one)| format!("lost {kind}: {one}")));
            let left = others.iter().filter(|(id, _)| !things.contains_key(*id));
            all.extend(left.map(|(_, one)| format!("left {kind}: {one}")));
        }
        all
    }

    /// Waits until the cloud holds as many of everything as it held.
    pub(crate) async fn amounts_come_back(&self, cloud: &OpenStack) -> Result<()> {
        let amounts = |held: &Self| LISTS.map(|(kind, _)| (kind, held.count(kind)));
        let began = SystemClock.elapsed();
        loop {
            let held = Self::by(cloud).await?;
            if amounts(&held) == amounts(self) {
                return Ok(());
            }
            if SystemClock.elapsed().saturating_sub(began) > PATIENCE {
                bail!("expected {:?}:\n{}", amounts(self), self.differences(&held).join("\n"));
            }
        }
    }

    /// Waits until the cloud holds what it held: nothing more, nothing less.
    pub(crate) async fn comes_back(&self, cloud: &OpenStack) -> Result<()> {
        let began = SystemClock.elapsed();
        loop {
            let differences = self.differences(&Self::by(cloud).await?);
            if differences.is_empty() {
                return Ok(());
            }
            if SystemClock.elapsed().saturating_sub(began) > PATIENCE {
                bail!("the cloud does not hold what it held:\n{}", differences.join("\n"));
            }
        }
    }
}
