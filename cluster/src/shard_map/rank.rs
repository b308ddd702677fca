//! Rendezvous hashing with weights: each node has a score for each shard, and the best score is to own it. When a node
//! goes, only its own shards move; when one comes, it takes from each other what suits it best.
//!
//! The score is `-w / ln(h)` of a hash `h` in (0, 1) (Schindelhauer and Schomaker, "Weighted distributed hash tables",
//! SPAA 2005). The logarithm is taken in whole numbers, because the last bits of a machine's own `ln` differ.

use reeve_protocol::{NodeId, ShardId};

/// The bits after the point of [`negative_log2`].
const FRACTION_BITS: u32 = 32;

/// How well a node suits a shard: the greater, the better. `weight` is above 0 and finite.
#[must_use]
pub fn score(shard: ShardId, node: &NodeId, weight: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rounded the same way everywhere")]
    let log = negative_log2(hash(shard, node)) as f64;
    weight / log
}

/// FNV-1a of the node's id and the shard's number, mixed by SplitMix64's finaliser
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>, <https://prng.di.unimi.it/splitmix64.c>).
fn hash(shard: ShardId, node: &NodeId) -> u64 {
    let bytes = node.as_str().bytes().chain([0xff]).chain(shard.0.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `-log2((h + 1) / 2^64)` with [`FRACTION_BITS`] bits after the point, at least 1: the whole part from the leading
/// zeros, each bit after the point by squaring.
fn negative_log2(h: u64) -> u64 {
    let h = u128::from(h) + 1;
    let whole = h.ilog2();
    // The mantissa in [1, 2), with 63 bits after the point.
    let mut mantissa = if whole >= 63 { h >> (whole - 63) } else { h << (63 - whole) };
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        log = (log << 1) | u64::from(bit == 1);
    }
    ((64u64 << FRACTION_BITS) - log).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right() {
        for h in [0u64, 1, 2, 3, 1000, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, 0x0123_4567_89ab_cdef] {
            let expected = -(((h as f64) + 1.0) / 2f64.powi(64)).log2();
            let found = negative_log2(h) as f64 / 2f64.powi(FRACTION_BITS as i32);
            assert!((expected - found).abs() < 1e-8, "{h}: {expected} {found}");
        }
        assert_eq!(negative_log2(u64::MAX), 1);
    }

    #[test]
    fn a_score_never_changes() {
        let node = NodeId::new("n1").unwrap();
        assert_eq!(hash(ShardId(0), &node), GOLDEN_HASH);
        assert_eq!(negative_log2(GOLDEN_HASH), GOLDEN_LOG);
    }
    const GOLDEN_HASH: u64 = 4_233_997_721_426_631_376;
    const GOLDEN_LOG: u64 = 9_119_391_528;

    #[test]
    fn shards_are_won_in_proportion_to_weight() {
        let nodes = [("a", 1.0), ("b", 1.0), ("c", 2.0)].map(|(id, weight)| (NodeId::new(id).unwrap(), weight));
        let mut won = [0u32; 3];
        for shard in 0..8000 {
            let scores = nodes.each_ref().map(|(id, weight)| score(ShardId(shard), id, *weight));
            let best = (0..3).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            won[best] += 1;
        }
        assert!((1800..2200).contains(&won[0]) && (1800..2200).contains(&won[1]), "{won:?}");
        assert!((3800..4200).contains(&won[2]), "{won:?}");
    }
}
