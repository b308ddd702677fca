//! How contents are packed on their way into a vault, and how much of them is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reeve_ports::Clock;

use super::index::PART_BYTES;
use super::key::KeyRing;
use super::part::Compression;
use super::throttle::Gate;

/// The part's size where nothing else is said: 2 TiB in the most parts that an object may have.
const DEFAULT_PART_BYTES: u32 = 8 << 20;
/// Enough that one part is packed while another is on its way.
const DEFAULT_UNDER_WAY: u8 = 2;

/// How contents are packed. Clones share the throttle.
#[derive(Debug, Clone)]
pub struct Packing {
    pub(super) part_bytes: u32,
    pub(super) under_way: u8,
    pub(super) compression: Compression,
    pub(super) keys: KeyRing,
    pub(super) gate: Gate,
    pub(super) live: Live,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            part_bytes: DEFAULT_PART_BYTES,
            under_way: DEFAULT_UNDER_WAY,
            compression: Compression::default(),
            keys: KeyRing::default(),
            gate: Gate::default(),
            live: Live::default(),
        }
    }
}

impl Packing {
    /// Parts of this many plain bytes, brought into 1 byte to 64 MiB.
    #[must_use]
    pub fn part_bytes(mut self, bytes: u32) -> Self {
        self.part_bytes = bytes.clamp(*PART_BYTES.start(), *PART_BYTES.end());
        self
    }

    /// How many parts of one object are under way at once, at least one.
    #[must_use]
    pub fn under_way(mut self, parts: u8) -> Self {
        self.under_way = parts.max(1);
        self
    }

    /// Whether parts are compressed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The keys: the first encrypts, all of them read.
    #[must_use]
    pub fn keys(mut self, keys: KeyRing) -> Self {
        self.keys = keys;
        self
    }

    /// How many bytes a second go to and from the vault, all together; 0 sets no limit.
    #[must_use]
    pub fn max_bytes_per_second(mut self, bytes: u64, clock: Arc<dyn Clock>) -> Self {
        self.gate = if bytes == 0 { Gate::default() } else { Gate::new(bytes, clock) };
        self
    }
}

/// Counts the parts that are held in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Live(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A part that is held.
#[derive(Debug)]
pub(super) struct Held(Live);

impl Live {
    pub(super) fn hold(&self) -> Held {
        let now = self.0.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(now, Ordering::Relaxed);
        Held(self.clone())
    }

    /// How many are held, and how many were at most.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.0.now.load(Ordering::Relaxed), self.0.most.load(Ordering::Relaxed))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}
