//! The history of a run: everything that was asked, answered, called, said and broken, one JSON object a line.
//!
//! Whoever acts writes first and acts then, so that a command that was sent is never missing from the history. Times are
//! those of the machine's own clock, which no fault touches.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::Policy;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::VmView;
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{BackupId, Epoch, MessageId, NodeId, ShardId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use super::faults::FaultKind;

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the machine's clock.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A run begins: always the first line.
    Begun {
        /// The seed.
        seed: u64,
        /// How many shards there are.
        shards: u16,
        /// The policies, by name.
        policies: BTreeMap<String, Policy>,
    },
    /// A user made a VM in the cloud.
    VmMade {
        /// Which.
        vm: VmId,
        /// The policy that its metadata name.
        policy: String,
        /// Its owner.
        user: String,
    },
    /// A user deleted a VM in the cloud, past Reeve.
    VmRemoved {
        /// Which.
        vm: VmId,
    },
    /// From now on nobody is to touch the VM: the cloud locked it, or maintenance was accepted.
    HandsOff {
        /// Which.
        vm: VmId,
    },
    /// It may be touched again.
    HandsOn {
        /// Which.
        vm: VmId,
    },
    /// A command is about to be sent, for the first time, or again by somebody who never trusts the first.
    Sent(Sent),
    /// A command is about to be sent again, with the same id.
    Resent {
        /// Which.
        id: MessageId,
        /// Why.
        why: Again,
    },
    /// An answer came.
    Answered {
        /// To which command.
        id: MessageId,
        /// The whole answer.
        answer: Value,
    },
    /// A call that reached the cloud.
    Call(Call),
    /// An event came out of the broker, maybe not for the first time.
    Event {
        /// The event.
        event: Box<CloudEvent>,
    },
    /// A fault begins.
    FaultBegan {
        /// Counts from 1.
        number: u64,
        /// Which.
        kind: FaultKind,
        /// What it meets.
        target: String,
    },
    /// It is healed.
    FaultEnded {
        /// Which.
        number: u64,
    },
    /// A fault could not be made.
    FaultFailed {
        /// Which.
        number: u64,
        /// Why.
        why: String,
    },
    /// A node's wall clock differs from the machine's from now on.
    Stepped {
        /// Which.
        node: NodeId,
        /// By how much.
        offset_ms: i64,
    },
    /// A node owns a shard, as etcd says.
    Owned {
        /// Which shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Nobody owns the shard.
    Disowned {
        /// Which shard.
        shard: ShardId,
    },
    /// No node answered for a VM for so long.
    Unattended {
        /// Which.
        vm: VmId,
        /// How long.
        ms: u64,
    },
    /// The load is over, every fault is healed, and it is quiet, or will not be: what follows is what is left.
    Healed,
    /// The cluster did not become quiet.
    Restless {
        /// What still went on.
        why: String,
    },
    /// What Reeve says of a VM at the end.
    LastVm {
        /// The VM.
        view: Box<VmView>,
    },
    /// What a node says of itself at the end.
    LastNode {
        /// Which.
        node: NodeId,
        /// How many VMs it supervises.
        vms: u64,
        /// How many events it has not published.
        outbox: u64,
    },
    /// Who owns a shard at the end.
    LastShard {
        /// Which.
        shard: ShardId,
        /// Its owner.
        owner: Option<NodeId>,
    },
    /// A VM that the cloud has at the end.
    InCloud {
        /// Which.
        vm: VmId,
        /// Its state in Nova's words.
        state: String,
    },
    /// A sealed backup that the vault has at the end.
    InVault {
        /// Of which VM.
        vm: VmId,
        /// Which.
        backup: BackupId,
    },
}

/// A command on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Its key.
    pub id: MessageId,
    /// The VM.
    pub vm: VmId,
    /// Its type, for example `lease.extend`.
    pub kind: String,
    /// Its body.
    pub body: Value,
}

/// Why a command is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// No answer came for a while.
    NoAnswer,
    /// The answer was `unavailable`.
    Unavailable,
    /// The VM was not known, which may be so for a moment only.
    NotFound,
    /// The connection ended before the broker had confirmed it: it may never have been taken.
    Unconfirmed,
}

/// A call that reached the cloud and changes something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its place among the calls.
    pub seq: u64,
    /// Who called.
    pub by: Caller,
    /// What.
    pub call: CallKind,
    /// On which VM.
    pub vm: Option<VmId>,
    /// The name, id, key or operation that the call named.
    pub detail: String,
    /// Whether it changed anything.
    pub applied: bool,
}

/// Who called the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A node of Reeve's.
    Node(NodeId),
    /// The owner of the VM, past Reeve, or nobody at all.
    Others,
}

/// Writes a history. Cheap to clone; all clones write the same one.
#[derive(Debug, Clone)]
pub struct History {
    path: Arc<PathBuf>,
    file: Arc<Mutex<BufWriter<File>>>,
}

impl History {
    /// A new file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make the history {}", path.display()))?;
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(Mutex::new(BufWriter::new(file))) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what happens now.
    ///
    /// # Panics
    /// When the disk does not take it: a run without its history proves nothing.
    pub fn write(&self, what: What) {
        self.write_at(SystemClock.now(), what);
    }

    /// Writes what happened at a time.
    ///
    /// # Panics
    /// As [`History::write`].
    pub fn write_at(&self, at: Timestamp, what: What) {
        let line = serde_json::to_string(&Entry { at, what }).expect("an entry is plain data with text keys");
        writeln!(self.locked(), "{line}").expect("the disk of the history has room");
    }

    /// Everything written so far.
    ///
    /// # Errors
    /// When the file cannot be read back.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.locked().flush().context("cannot write the history")?;
        read(&self.path)
    }

    fn locked(&self) -> MutexGuard<'_, BufWriter<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a history. A last line that was cut short is left out.
///
/// # Errors
/// When the file cannot be read, or a line is no entry.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let file = File::open(path).with_context(|| format!("cannot read the history {}", path.display()))?;
    let lines: Vec<String> = BufReader::new(file).lines().collect::<Result<_, _>>()?;
    let last = lines.len();
    let mut entries = Vec::with_capacity(last);
    for (number, line) in (1..).zip(&lines) {
        match serde_json::from_str(line) {
            Ok(entry) => entries.push(entry),
            Err(_) if number == last => {}
            Err(error) => return Err(error).with_context(|| format!("{}:{number}", path.display())),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::create(&folder.path().join("history.jsonl")).unwrap();
        let vm: VmId = "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap();
        let said = [
            What::Begun { seed: 7, shards: 64, policies: BTreeMap::from([("default".to_owned(), Policy::default())]) },
            What::VmRemoved { vm },
            What::Resent { id: MessageId::new("c-1").unwrap(), why: Again::NoAnswer },
            What::Call(Call {
                seq: 1,
                by: Caller::Node(NodeId::new("n1").unwrap()),
                call: CallKind::DeleteServer,
                vm: Some(vm),
                detail: String::new(),
                applied: true,
            }),
            What::FaultBegan { number: 1, kind: FaultKind::KillNode, target: "n1".to_owned() },
            What::Healed,
        ];
        for what in &said {
            history.write_at(Timestamp::from_millis(5), what.clone());
        }
        let read: Vec<What> = history.entries().unwrap().into_iter().map(|entry| entry.what).collect();
        assert_eq!(read, said);
    }
}
