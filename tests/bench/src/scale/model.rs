//! The model: rates per second and demands beside what was measured, all from the figures of a run, the simulated moves
//! of shards and the simulated month of a VM. Pure arithmetic.

use super::assumptions::{
    Assumptions, BEATS_PER_TTL, ENTRY_BYTES, HAND_OVER_SECS, LISTED_BYTES, LOAD_PAGE, TIMER_CHUNK_SECS, key_bytes,
};
use super::figures::Readings;
use super::life::Life;
use super::moves::Moves;
use reeve_lifecycle::policy::ProbeKind;

const DAY_SECS: f64 = 86_400.0;

/// A cluster, and what is known of its parts.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) given: Assumptions,
    pub(super) readings: Readings,
    pub(super) moves: Moves,
    pub(super) life: Life,
}

/// What happens in a second of the busiest hours, in the whole cluster where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) notifications: f64,
    /// Those that a node takes from the cloud's queue and hands to a shard's: it does not own their VM.
    pub(super) passed_on: f64,
    pub(super) events: f64,
    /// Messages that the broker takes: notifications, those passed on, events.
    pub(super) messages: f64,
    /// Record writes.
    pub(super) commits: f64,
    /// Signs of life, each a write and a keep-alive.
    pub(super) beats: f64,
    /// Bytes of records written.
    pub(super) written: f64,
    /// What etcd tells those who watch: each sign of life to each node.
    pub(super) watched: f64,
    pub(super) probes: f64,
    /// Timers that wake up to look at the clock.
    pub(super) wakes: f64,
    /// Pages of listings, by all who list.
    pub(super) pages: f64,
    /// VMs that a node hears of in its listings: its own.
    pub(super) listed: f64,
    /// Calls of the clouds' API for probes.
    pub(super) probe_calls: f64,
    /// Calls of the RPC that a node answers, those among nodes too.
    pub(super) rpc: f64,
}

impl Model {
    /// The same cluster with other assumptions; moves and life are those of the same shards and changes.
    pub(super) fn with(&self, change: impl FnOnce(&mut Assumptions)) -> Self {
        let mut model = self.clone();
        change(&mut model.given);
        model
    }

    pub(super) fn rates(&self) -> Rates {
        let (given, nodes) = (&self.given, self.given.nodes());
        let a_day = |per_vm: f64| given.vms * per_vm / DAY_SECS * given.peak;
        let elsewhere = (nodes - 1.0) / nodes;
        let notifications = a_day(given.notifications);
        let (passed_on, events) = (notifications * elsewhere, a_day(self.life.events));
        let beats = nodes * BEATS_PER_TTL / given.ttl.as_secs_f64();
        let commits = a_day(self.life.commits);
        let probes = given.vms / given.probe_secs;
        let a_probe = match given.probe {
            ProbeKind::GuestAgent => 1.0,
            // Measured on a node that is alone; each node lists for the probes of its own VMs.
            ProbeKind::Cloud => given.listers * self.readings.calls_per_thousand / 1000.0,
        };
        Rates {
            notifications,
            passed_on,
            events,
            messages: notifications + passed_on + events,
            commits,
            beats,
            written: commits * self.written_bytes(),
            watched: beats * nodes,
            probes,
            wakes: given.vms / TIMER_CHUNK_SECS,
            pages: given.listers * given.vms / given.page / given.listing_secs,
            listed: given.vms / nodes / given.listing_secs,
            probe_calls: probes * a_probe,
            rpc: a_day(given.calls) * (1.0 + elsewhere) / nodes,
        }
    }

    /// Bytes of a record as it rests in the store.
    pub(super) fn resting_bytes(&self) -> f64 {
        self.life.resting_bytes * self.given.record_factor
    }

    /// Bytes of a record as it is written.
    pub(super) fn written_bytes(&self) -> f64 {
        self.life.written_bytes * self.given.record_factor
    }

    /// Bytes of etcd's file for a value of so many.
    pub(super) fn in_etcd(&self, value: f64) -> f64 {
        let plain = |value: f64| value + key_bytes() + ENTRY_BYTES;
        let measured = self.readings.database_bytes.map(|bytes| bytes / plain(self.readings.stored_bytes));
        plain(value) * measured.unwrap_or(1.0).max(1.0)
    }

    /// Bytes of the records as they are, over all etcds.
    pub(super) fn database(&self) -> f64 {
        self.given.vms * self.in_etcd(self.resting_bytes())
    }

    /// Bytes of the history of the busiest hours, over all etcds.
    pub(super) fn history(&self) -> f64 {
        self.rates().commits * self.given.history_hours * 3600.0 * self.in_etcd(self.written_bytes())
    }

    pub(super) fn vms_per_shard(&self) -> f64 {
        self.given.vms / f64::from(self.moves.shards)
    }

    /// VMs of so many shards.
    pub(super) fn vms_of(&self, shards: usize) -> f64 {
        self.vms_per_shard() * shards as f64
    }

    /// Seconds until so many shards are loaded by others. At best every node loads as fast as the one that was
    /// measured; at worst an etcd gives no more to all than it gave to that one.
    pub(super) fn load_secs(&self, moved: usize, gained: usize) -> (f64, f64) {
        let alone = self.vms_of(gained) / self.readings.loads_per_second;
        let together = self.vms_of(moved) / (self.readings.loads_per_second * self.given.etcds);
        (alone, together.max(alone))
    }

    /// Seconds for which a shard has no owner at work while it is handed over.
    pub(super) fn hand_over_secs(&self) -> f64 {
        HAND_OVER_SECS + self.vms_per_shard() / self.readings.loads_per_second
    }

    /// Reads of etcd for so many shards.
    pub(super) fn reads_of(&self, shards: usize) -> f64 {
        shards as f64 * (self.vms_per_shard() / LOAD_PAGE).ceil().max(1.0)
    }

    /// Bytes of memory of the largest node while another is away.
    pub(super) fn memory_of_node(&self) -> f64 {
        let heavier = self.resting_bytes() / self.readings.stored_bytes - 1.0;
        let per_vm = self.readings.bytes_per_vm + self.readings.record_in_memory * heavier.max(0.0);
        self.vms_of(self.moves.most()) * per_vm + self.given.vms * LISTED_BYTES
    }

    /// Cores that the largest node takes in the busiest hours, and what for.
    pub(super) fn cores_of_node(&self) -> Vec<(&'static str, f64)> {
        let (rates, vms) = (self.rates(), self.vms_of(self.moves.most()));
        let share = vms / self.given.vms;
        let idle = rates.notifications * (1.0 - f64::from(self.given.changes) / self.given.notifications).max(0.0);
        vec![
            ("probes", rates.probes * share / self.readings.probes_per_core),
            ("timers that wait", vms * self.readings.idle_cores_per_vm),
            // A commit costs no more than a notification that changes something.
            ("commits and events", rates.commits * share * self.readings.intake_core_seconds),
            ("notifications that change nothing, at most", idle * share * self.readings.intake_core_seconds),
            (
                "listings, a VM on a page taken for a probe",
                self.given.vms / self.given.listing_secs / self.readings.probes_per_core,
            ),
        ]
    }

    /// Seconds in which all nodes are restarted one after the other: each hands over, starts, waits until it counts as
    /// settled and takes its share back.
    pub(super) fn rolling_secs(&self, start_secs: f64) -> f64 {
        let nodes = self.given.nodes();
        let moved = (self.moves.patient.moved as f64 / 2.0 / nodes).ceil() as usize;
        let away = moved as f64 * HAND_OVER_SECS + self.load_secs(moved, moved).1;
        nodes * (2.0 * away + start_secs + 2.0 * self.given.ttl.as_secs_f64())
    }
}
