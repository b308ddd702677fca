//! Chance by seed (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).

use std::ops::RangeInclusive;

use reeve_protocol::Span;

/// A source of throws that follow from a seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    /// Throws for one purpose of a run.
    pub(super) fn new(seed: u64, purpose: &str) -> Self {
        let folded = purpose.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        });
        let mut chance = Self(folded);
        chance.number();
        chance
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let width = range.end() - range.start() + 1;
        range.start() + self.number() % width
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).expect("a count fits");
        usize::try_from(self.number() % count).expect("below a usize")
    }

    pub(super) fn per_mille(&mut self, share: u64) -> bool {
        self.number() % 1_000 < share
    }

    /// A length of time between these, in seconds.
    pub(super) fn seconds(&mut self, range: RangeInclusive<u64>) -> Span {
        Span::from_secs(self.within(range))
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
