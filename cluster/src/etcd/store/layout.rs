//! How a record is stored, and how etcd itself can tell its generation.
//!
//! ```text
//! value = [format 1][generation, u64 big-endian][0: the record as it is][record]
//! ```
//!
//! etcd compares values byte by byte from the left, so with the generation in front, and big-endian, "is of generation
//! 7" is a range of values: above `[1][7]` and below `[1][8]`. No counter of etcd's is involved, which would begin anew
//! when records are copied into another cluster. The zero after the generation makes every value longer than its
//! prefix, so that "above" holds for an empty record too.

use bytes::Bytes;
use etcd_client::{Compare, CompareOp};
use reeve_ports::store::{DamagedRecord, Stored};
use reeve_protocol::{Generation, VmId};

/// The layout above.
const FORMAT: u8 = 1;
/// The record follows as it is; another number may one day mean that it is compressed.
const PLAIN: u8 = 0;
const PREFIX_BYTES: usize = 1 + size_of::<u64>();
/// What comes before the record.
pub(super) const HEADER_BYTES: usize = PREFIX_BYTES + 1;

fn prefix(generation: Generation) -> [u8; PREFIX_BYTES] {
    let mut bytes = [FORMAT; PREFIX_BYTES];
    bytes[1..].copy_from_slice(&generation.0.to_be_bytes());
    bytes
}

/// The value of a record.
pub(super) fn encode(generation: Generation, record: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.len());
    bytes.extend_from_slice(&prefix(generation));
    bytes.push(PLAIN);
    bytes.extend_from_slice(record);
    bytes
}

/// The record of a value.
pub(super) fn decode(vm: VmId, value: Vec<u8>) -> Result<Stored, DamagedRecord> {
    let damaged = |why: String| DamagedRecord { vm, why };
    match value.first() {
        None => return Err(damaged("an empty value".to_owned())),
        Some(&found) if found > FORMAT => {
            return Err(damaged(format!("format {found} is newer than this version reads ({FORMAT})")));
        }
        Some(&FORMAT) => {}
        Some(found) => return Err(damaged(format!("format {found} is none"))),
    }
    let Some((header, _)) = value.split_first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(format!("{} bytes are too short", value.len())));
    };
    let [_, generation @ .., encoding] = *header;
    if encoding != PLAIN {
        return Err(damaged(format!("encoding {encoding} is not known to this version")));
    }
    let generation = Generation(u64::from_be_bytes(generation));
    Ok(Stored { vm, generation, value: Bytes::from(value).slice(HEADER_BYTES..) })
}

/// What holds when the record under `key` is of this generation; 0 means that there is none.
pub(super) fn is_of(key: &[u8], generation: Generation) -> Vec<Compare> {
    if generation == Generation(0) {
        return vec![Compare::create_revision(key, CompareOp::Equal, 0)];
    }
    let end = match generation.0.checked_add(1) {
        Some(next) => prefix(Generation(next)).to_vec(),
        None => vec![FORMAT + 1],
    };
    vec![Compare::value(key, CompareOp::Greater, prefix(generation)), Compare::value(key, CompareOp::Less, end)]
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn vm() -> VmId {
        VmId::new(Uuid::from_u128(7))
    }

    #[test]
    fn the_layout_is_what_other_versions_expect() {
        assert_eq!(encode(Generation(0x0102), b"ab"), [1, 0, 0, 0, 0, 0, 0, 1, 2, 0, b'a', b'b']);
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        for (generation, record) in [(1, &b"record"[..]), (u64::MAX, b""), (256, b"\xff\xff")] {
            let stored = decode(vm(), encode(Generation(generation), record)).unwrap();
            assert_eq!((stored.generation, &stored.value[..]), (Generation(generation), record));
        }
    }

    #[test]
    fn values_are_in_the_order_of_their_generations() {
        let generations = [1, 2, 255, 256, 257, 65_535, 65_536, u64::MAX - 1, u64::MAX];
        for pair in generations.windows(2) {
            let (low, high) = (Generation(pair[0]), Generation(pair[1]));
            for record in [&b""[..], &[0xff; 40]] {
                let value = encode(low, record);
                assert!(value[..] > prefix(low)[..] && value[..] < prefix(high)[..], "{low} {high}");
            }
        }
    }

    #[test]
    fn what_is_no_value_of_ours_is_damaged_and_says_why() {
        let mut compressed = encode(Generation(1), b"x");
        compressed[PREFIX_BYTES] = 9;
        let cases: [(Vec<u8>, &str); 5] = [
            (vec![], "empty"),
            (vec![2, 0, 0], "format 2 is newer"),
            (vec![0; 20], "format 0 is none"),
            (vec![1; 9], "too short"),
            (compressed, "encoding 9"),
        ];
        for (value, why) in cases {
            let damaged = decode(vm(), value).unwrap_err();
            assert!(damaged.why.contains(why) && damaged.vm == vm(), "{damaged:?}");
        }
    }
}
