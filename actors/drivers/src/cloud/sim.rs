//! A simulated cloud: hosts, VMs with guests inside, disks with content, volumes, public addresses, snapshots.
//!
//! It is deterministic: everything that looks random follows from a seed, the time is the [`Clock`]'s, and state
//! follows from times kept with each object, so that nothing runs in the background (the diagram is in `model`).
//! Faults can be ordered for any call, every call is audited, and a durable cloud survives the death of its process as a
//! real one would. It is a product mode (`driver = "sim"`), not only a test double.
//!
//! It does not protect its callers from themselves: launching twice makes two VMs, restoring twice restores twice, and
//! the audit tells.
//!
//! Owner of the state: one `std` mutex that is never held over an `await` or while the sink is called.

mod actions;
mod audit;
mod belongings;
mod calls;
pub mod catalog;
mod chance;
mod config;
mod content;
mod control;
mod fault;
mod fleet;
mod journal;
mod making;
mod model;
mod notification;
mod parts;
mod probe;
mod provider;
#[cfg(test)]
mod tests;
mod world;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reeve_ports::{Clock, CloudError};
use reeve_protocol::{Timestamp, VmId};

pub use self::audit::{Actor, Answer, AuditEntry, CallKind, MAX_CHANGES, MAX_LOOKS, as_caller};
pub use self::belongings::{Made, MadeKind, Port, SecurityGroup, SecurityRule};
pub use self::config::{MAX_DISK_BYTES, SimConfig, SimConfigError};
pub use self::content::Content;
pub use self::fault::{Fault, FaultError, FaultKind, MAX_ORDERED, RandomFaults};
pub use self::journal::JournalError;
pub use self::making::{NewAddress, NewServer};
pub use self::model::{Cure, GroundTruth, GuestState};
pub use self::provider::{AddressView, ServerView, SnapshotView, VolumeView};

use self::chance::Dice;
use self::content::Contents;
use self::fault::FaultPlan;
use self::journal::Journal;
use self::world::World;

/// The longest that [`SimCloud::drive`] sleeps at once: a change made meanwhile is told no later than this.
const DRIVE_STEP: Duration = Duration::from_millis(200);
const NOT_POISONED: &str = "nothing panics while the simulated cloud is locked";

/// Takes the bodies of notifications. Called without any lock held.
pub type Sink = Arc<dyn Fn(Vec<u8>) + Send + Sync>;

/// Is shown every entry of the audit that changes something, in order and before the call is answered. Called with the
/// cloud locked: it must neither call the cloud nor wait.
pub type Witness = Arc<dyn Fn(&AuditEntry) + Send + Sync>;

/// Why a simulated cloud could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A key is out of its limits.
    #[error("simulated cloud")]
    Config(#[from] SimConfigError),
    /// Its files do not serve.
    #[error("simulated cloud")]
    Journal(#[from] JournalError),
}

/// A simulated cloud. Cheap to share through an [`Arc`].
pub struct SimCloud {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    world: World,
    faults: FaultPlan,
    journal: Option<Journal>,
    /// Why the journal could not be written: what is in memory is not on file, so nothing is answered any more.
    broken: Option<String>,
    sink: Option<Sink>,
    witness: Option<Witness>,
    /// A notification that comes late: sent after the next one.
    late: Option<Vec<u8>>,
    sent: u64,
}

/// A call to be made.
#[derive(Clone)]
struct Call {
    by: Actor,
    kind: CallKind,
    vm: Option<VmId>,
    detail: String,
}

/// What came of a call that was not refused.
struct Done<T> {
    value: T,
    applied: bool,
    /// The VM that the call made.
    made: Option<VmId>,
}

impl<T> Done<T> {
    const fn looked(value: T) -> Self {
        Self { value, applied: false, made: None }
    }

    const fn changed(value: T) -> Self {
        Self { value, applied: true, made: None }
    }
}

type Act<T> = Result<Done<T>, CloudError>;

impl SimCloud {
    /// A cloud in memory, with the fleet that the configuration asks for.
    ///
    /// # Errors
    /// [`SimError::Config`] when a key is out of its limits.
    pub fn new(clock: Arc<dyn Clock>, config: SimConfig) -> Result<Self, SimError> {
        config.validate()?;
        let mut world = World::new(config, Contents::default());
        world.counters.runs = 1;
        fleet::seed(&mut world, clock.now());
        Ok(Self::of(clock, world, None))
    }

    /// A cloud that is kept in a folder. What is there wins over `config`: the fleet is made only the first time.
    ///
    /// # Errors
    /// [`SimError::Config`] when a key is out of its limits, [`SimError::Journal`] when the folder cannot be used.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>, config: SimConfig) -> Result<Self, SimError> {
        config.validate()?;
        let contents = Contents::in_folder(folder.join("content"))
            .map_err(|why| JournalError::Io { path: folder.to_owned(), why })?;
        let mut world = World::new(config, contents);
        let (lock, found) = Journal::replay(folder, &mut world)?;
        world.counters.runs += 1;
        if !found {
            fleet::seed(&mut world, clock.now());
        }
        let journal = Journal::begin(folder, lock, &world)?;
        Ok(Self::of(clock, world, Some(journal)))
    }

    fn of(clock: Arc<dyn Clock>, mut world: World, journal: Option<Journal>) -> Self {
        world.take_change();
        let faults = FaultPlan::new(world.config.faults_per_mille);
        let inner = Inner { world, faults, journal, broken: None, sink: None, witness: None, late: None, sent: 0 };
        Self { clock, inner: Mutex::new(inner) }
    }

    /// Sends every notification from now on to this sink, in the order in which they are said, less the noise that the
    /// configuration asks for.
    pub fn notify(&self, sink: Sink) {
        let mut inner = self.lock();
        inner.world.listened_to = true;
        inner.sink = Some(sink);
    }

    /// Shows every changing call from now on to this witness.
    pub fn witness(&self, witness: Witness) {
        self.lock().witness = Some(witness);
    }

    /// Gives its folder free, whoever still holds on to it: nothing is answered from now on.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.broken = Some("this simulated cloud is closed".to_owned());
        inner.journal = None;
    }

    /// Ends every task whose time has come, and tells of it. Every call does this first.
    pub fn settle(&self) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        // What could not be journaled is known to `broken`; there is nobody here to tell.
        let _ = inner.commit();
        self.send(inner);
    }

    /// When the next task ends, if one is under way.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        self.lock().world.next_change()
    }

    /// Settles whenever a task ends, so that notifications are told in time although nobody calls. Never returns.
    pub async fn drive(&self) {
        loop {
            self.settle();
            let now = self.clock.now();
            let wait =
                self.next_change().map_or(DRIVE_STEP, |at| at.since(now)).clamp(Duration::from_millis(1), DRIVE_STEP);
            self.clock.sleep(wait).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect(NOT_POISONED)
    }

    /// Makes a call: meets its fault, acts, is audited and journaled, and only then answered.
    async fn call<T: Send>(
        &self,
        call: Call,
        act: impl FnOnce(&mut World, Timestamp, Option<FaultKind>) -> Act<T> + Send,
    ) -> Result<T, CloudError> {
        let (fault, hang) = {
            let mut inner = self.lock();
            let Inner { world, faults, .. } = &mut *inner;
            (faults.pick(world.config.seed, world.counters.runs, call.kind, call.vm), world.config.hang)
        };
        match fault {
            Some(FaultKind::Slow(span)) => self.clock.sleep(span.duration()).await,
            Some(FaultKind::Hang) => self.clock.sleep(hang.duration()).await,
            _ => {}
        }
        self.perform(call, fault, act)
    }

    /// The part of a call that does not wait.
    fn perform<T>(
        &self,
        call: Call,
        fault: Option<FaultKind>,
        act: impl FnOnce(&mut World, Timestamp, Option<FaultKind>) -> Act<T>,
    ) -> Result<T, CloudError> {
        let now = self.clock.now();
        let mut inner = self.lock();
        if let Some(why) = &inner.broken {
            return Err(CloudError::Unavailable(why.clone()));
        }
        inner.world.settle(now);
        let result = meet(&mut inner.world, &call, fault, now, act);
        inner.world.counters.calls += 1;
        let (applied, made, result) = match result {
            Ok((Done { value, applied, made }, None)) => (applied, made, Ok(value)),
            Ok((Done { applied, made, .. }, Some(lost))) => (applied, made, Err(lost)),
            Err(error) => (false, None, Err(error)),
        };
        let entry = AuditEntry {
            seq: inner.world.counters.calls,
            at: now,
            by: call.by,
            caller: audit::caller(),
            call: call.kind,
            vm: made.or(call.vm),
            detail: call.detail,
            fault,
            answer: Answer::of(&result),
            applied,
        };
        if let Some(witness) = inner.witness.as_ref().filter(|_| entry.applied || !entry.call.is_look()) {
            witness(&entry);
        }
        inner.world.log(entry);
        let committed = inner.commit();
        self.send(inner);
        committed.and(result)
    }

    /// Hands the notifications out, after the lock is gone.
    fn send(&self, mut inner: MutexGuard<'_, Inner>) {
        let bodies = inner.through_noise();
        let Some(sink) = inner.sink.clone() else { return };
        drop(inner);
        for body in bodies {
            sink(body);
        }
    }
}

/// Acts as the fault lets it. The second part of an answer is why it was lost.
fn meet<T>(
    world: &mut World,
    call: &Call,
    fault: Option<FaultKind>,
    now: Timestamp,
    act: impl FnOnce(&mut World, Timestamp, Option<FaultKind>) -> Act<T>,
) -> Result<(Done<T>, Option<CloudError>), CloudError> {
    match fault {
        None
        | Some(
            FaultKind::Slow(_)
            | FaultKind::FailedSnapshot
            | FaultKind::TruncatedSnapshot
            | FaultKind::BrokenStream
            | FaultKind::FailedPart,
        ) => act(world, now, fault).map(|done| (done, None)),
        Some(FaultKind::Error) => Err(CloudError::Unavailable("503 Service Unavailable".to_owned())),
        Some(FaultKind::Refused) => Err(CloudError::Refused("403 policy does not allow it".to_owned())),
        Some(FaultKind::Quota) => Err(CloudError::Refused("403 quota exceeded".to_owned())),
        Some(FaultKind::TimeoutBefore | FaultKind::Hang) => Err(CloudError::Unknown("timed out".to_owned())),
        Some(FaultKind::TimeoutAfter) => {
            let lost = || CloudError::Unknown("timed out".to_owned());
            act(world, now, fault).map(|done| (done, Some(lost()))).map_err(|_| lost())
        }
        Some(FaultKind::Vanish) => {
            if let Some(vm) = call.vm {
                world.vanish(vm, now);
            }
            act(world, now, fault).map(|done| (done, None))
        }
    }
}

impl Inner {
    /// Writes what changed to the journal. When that fails the answer is not known, and none is given from then on.
    fn commit(&mut self) -> Result<(), CloudError> {
        let change = self.world.take_change();
        let (Some(journal), Some(change)) = (&mut self.journal, change) else { return Ok(()) };
        journal.append(&change).map_err(|why| {
            let why = format!("the journal of the simulated cloud cannot be written: {why}");
            tracing::error!("{why}; the simulated cloud answers nothing more until it is started again");
            self.broken = Some(why.clone());
            CloudError::Unknown(why)
        })
    }

    /// Loses, doubles and delays what the configuration says.
    fn through_noise(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for body in std::mem::take(&mut self.world.outgoing) {
            self.sent += 1;
            let config = &self.world.config;
            let mut dice = Dice::new(config.seed, &format!("noise/{}/{}", self.world.counters.runs, self.sent));
            if dice.per_mille(config.lost_per_mille) {
                continue;
            }
            let copies = if dice.per_mille(config.doubled_per_mille) { 2 } else { 1 };
            if dice.per_mille(config.late_per_mille) && self.late.is_none() {
                self.late = Some(body);
                continue;
            }
            out.extend(std::iter::repeat_n(body, copies));
            out.extend(self.late.take());
        }
        out
    }
}
