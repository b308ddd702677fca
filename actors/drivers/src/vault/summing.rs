//! What a content is known by, computed beside its reading.
//!
//! ```text
//! bytes 1 ─► add ─► a blocking thread hashes them
//! bytes 2 ─► add ─► waits until that is over ─► a blocking thread hashes them ─► …  ─► known
//! ```
//!
//! Two hashes of 8 MiB take some ten milliseconds, which is long for a thread on which everything else of a node waits its
//! turn. At most one piece is being hashed, so no more than that one is held for it.

use bytes::Bytes;
use reeve_ports::VaultError;
use tokio::task::JoinHandle;

use super::object::{Known, Sum};

/// So few bytes are hashed where they are.
const FEW: usize = 256 * 1024;

/// A sum of what comes in order.
pub(super) enum Summing {
    Here(Box<Sum>),
    Aside(JoinHandle<Box<Sum>>),
}

impl Default for Summing {
    fn default() -> Self {
        Self::Here(Box::default())
    }
}

impl Summing {
    /// Goes on with these bytes, once those before are summed up.
    pub(super) async fn add(&mut self, bytes: &Bytes) -> Result<(), VaultError> {
        let mut sum = std::mem::take(self).sum().await?;
        *self = if bytes.len() <= FEW {
            sum.add(bytes);
            Self::Here(sum)
        } else {
            let bytes = bytes.clone();
            Self::Aside(tokio::task::spawn_blocking(move || {
                sum.add(&bytes);
                sum
            }))
        };
        Ok(())
    }

    /// What the whole is known by.
    pub(super) async fn known(self) -> Result<Known, VaultError> {
        Ok(self.sum().await?.known())
    }

    async fn sum(self) -> Result<Box<Sum>, VaultError> {
        match self {
            Self::Here(sum) => Ok(sum),
            Self::Aside(summing) => {
                summing.await.map_err(|why| VaultError::Unavailable(format!("hashing has ended: {why}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_of_any_size_are_summed_up_in_their_order() {
        let pieces = [FEW + 1, 3, 2 * FEW, 0, FEW, FEW + 7]
            .map(|bytes| Bytes::from(vec![u8::try_from(bytes % 251).unwrap(); bytes]));
        let (mut summing, mut whole) = (Summing::default(), Sum::default());
        for piece in &pieces {
            summing.add(piece).await.unwrap();
            whole.add(piece);
        }
        assert_eq!(summing.known().await, Ok(whole.known()));
    }
}
