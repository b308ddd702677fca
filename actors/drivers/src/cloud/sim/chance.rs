//! Chance by seed. Every throw is named by what it is for, never by how many came before it, so that the order in which
//! concurrent calls arrive changes nothing for the others.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use reeve_protocol::Span;
use uuid::Uuid;

/// Throws for one named purpose.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Between `least` and `most`, both included.
    pub(super) fn within(&mut self, [least, most]: [u64; 2]) -> u64 {
        match most.saturating_sub(least).checked_add(1) {
            Some(width) => least + self.number() % width,
            None => self.number(),
        }
    }

    pub(super) fn span(&mut self, range: [Span; 2]) -> Span {
        Span::from_millis(self.within(range.map(Span::as_millis)))
    }

    /// True in so many of 1,000 cases.
    pub(super) fn per_mille(&mut self, share: u16) -> bool {
        self.number() % 1_000 < u64::from(share)
    }
}

/// A UUID that follows from the seed and a name.
pub(super) fn uuid(seed: u64, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::from_u128(u128::from(seed)), name.as_bytes())
}
