//! The index of an object: which parts it consists of. Pure. Every index is foreign until it was checked.
//!
//! ```text
//! {"format":2,"name":"root","part_bytes":8388608,"bytes":…,"blake3":"…","sha256":"…","key":{…},"parts":2}
//! 5312 <id> <BLAKE3 of the part as it is stored>
//! 98 <id> <…>
//! ```
//!
//! One line of JSON, then a line a part. A part's file is named by its number and these two hashes, so it never changes, and
//! two attempts never overwrite each other's. `id` is a hash of the plain bytes, keyed where the object is encrypted: an
//! attempt that begins again finds by it what is there already.

use serde::{Deserialize, Serialize};

use super::hex;
use super::key::KeyMark;
use super::manifest::FORMAT;
use super::part::{OVERHEAD, Spot};

/// The most parts of an object.
pub(super) const MAX_PARTS: u32 = 1 << 18;
/// The smallest and the largest part, in plain bytes.
pub(super) const PART_BYTES: std::ops::RangeInclusive<u32> = 1..=64 << 20;
/// The largest index that is read, in bytes.
pub(super) const MAX_INDEX_BYTES: u64 = 32 << 20;

/// A part as the index lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// As it is stored.
    pub(super) bytes: u32,
    pub(super) id: [u8; 16],
    /// Of the part as it is stored.
    pub(super) blake3: [u8; 32],
}

/// The parts of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) part_bytes: u32,
    pub(super) bytes: u64,
    pub(super) blake3: String,
    pub(super) sha256: String,
    pub(super) key: Option<KeyMark>,
    pub(super) parts: Vec<Listed>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    name: String,
    part_bytes: u32,
    bytes: u64,
    blake3: String,
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<KeyMark>,
    parts: u32,
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = Head {
            format: FORMAT,
            name: self.name.clone(),
            part_bytes: self.part_bytes,
            bytes: self.bytes,
            blake3: self.blake3.clone(),
            sha256: self.sha256.clone(),
            key: self.key.clone(),
            parts: u32::try_from(self.parts.len()).expect("parts are counted in 32 bits"),
        };
        let mut text = serde_json::to_string(&head).expect("a plain struct is JSON");
        text.push('\n');
        for part in &self.parts {
            text.push_str(&part.bytes.to_string());
            text.push(' ');
            text.push_str(&hex::encode(&part.id));
            text.push(' ');
            text.push_str(&hex::encode(&part.blake3));
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Reads an index; what it says of its own size is checked, so that every part has its place and length.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "an index that is not UTF-8".to_owned())?;
        let (head, lines) = text.split_once('\n').ok_or("an index without its first line")?;
        let head: Head = serde_json::from_str(head).map_err(|why| format!("no index: {why}"))?;
        if head.format != FORMAT {
            return Err(format!("an index of format {}, expected {FORMAT}", head.format));
        }
        if !PART_BYTES.contains(&head.part_bytes) || head.parts == 0 || head.parts > MAX_PARTS {
            return Err(format!("an index of {} parts of {} bytes", head.parts, head.part_bytes));
        }
        let full = u64::from(head.parts - 1) * u64::from(head.part_bytes);
        let fits = head.bytes >= full && head.bytes - full <= u64::from(head.part_bytes);
        if !fits || (head.parts > 1 && head.bytes == full) {
            return Err(format!("{} bytes are not {} parts of {}", head.bytes, head.parts, head.part_bytes));
        }
        let parts = lines.lines().take(head.parts as usize + 1).map(line).collect::<Option<Vec<_>>>();
        let parts =
            parts.filter(|parts| parts.len() == head.parts as usize).ok_or("an index with a line that is none")?;
        let most = u64::from(head.part_bytes) + OVERHEAD as u64;
        if let Some(part) = parts.iter().find(|part| u64::from(part.bytes) > most) {
            return Err(format!("a part of {} bytes, at most {most} are stored of it", part.bytes));
        }
        let Head { name, part_bytes, bytes, blake3, sha256, key, .. } = head;
        Ok(Self { name, part_bytes, bytes, blake3, sha256, key, parts })
    }

    /// What a part of this index is.
    pub(super) fn spot(&self, number: u32) -> Spot {
        let last = number as usize + 1 == self.parts.len();
        let rest = self.bytes - u64::from(number) * u64::from(self.part_bytes);
        let bytes = rest.min(u64::from(self.part_bytes));
        Spot { number, last, bytes: u32::try_from(bytes).expect("no more than a part, which is 32 bits") }
    }

    /// The size of all parts as they are stored.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }
}

fn line(line: &str) -> Option<Listed> {
    let mut words = line.split(' ');
    let bytes = words.next()?.parse().ok()?;
    let (id, blake3) = (hex::decode(words.next()?)?, hex::decode(words.next()?)?);
    words.next().is_none().then_some(Listed { bytes, id, blake3 })
}

/// The file name of a part.
pub(super) fn part_name(number: u32, id: &[u8; 16], blake3: &[u8; 32]) -> String {
    format!("{number:08}-{}-{}", hex::encode(id), hex::encode(blake3))
}

/// Reads the file name of a part.
pub(super) fn read_part_name(name: &str) -> Option<(u32, [u8; 16], [u8; 32])> {
    let mut words = name.split('-');
    let number = words.next().filter(|digits| digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_digit()));
    let found = (number?.parse().ok()?, hex::decode(words.next()?)?, hex::decode(words.next()?)?);
    words.next().is_none().then_some(found)
}

/// The file name of an index: by the content, and by the index itself.
pub(super) fn index_name(content: &str, index: &str) -> String {
    format!("{content}-{index}.index")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(parts: u32, part_bytes: u32, last: u32) -> Index {
        Index {
            name: "root".into(),
            part_bytes,
            bytes: u64::from(parts - 1) * u64::from(part_bytes) + u64::from(last),
            blake3: "0".repeat(64),
            sha256: "1".repeat(64),
            key: None,
            parts: (0..parts).map(|n| Listed { bytes: n % 9, id: [3; 16], blake3: [n as u8; 32] }).collect(),
        }
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_knows_its_spots() {
        for index in [index(1, 8, 0), index(1, 8, 8), index(3, 8, 1)] {
            assert_eq!(Index::decode(&index.encode()), Ok(index));
        }
        let index = index(3, 8, 1);
        assert_eq!(index.spot(1), Spot { number: 1, last: false, bytes: 8 });
        assert_eq!(index.spot(2), Spot { number: 2, last: true, bytes: 1 });
        assert_eq!(read_part_name(&part_name(7, &[1; 16], &[2; 32])), Some((7, [1; 16], [2; 32])));
    }

    #[test]
    fn an_index_that_does_not_add_up_is_refused() {
        let good = String::from_utf8(index(3, 8, 1).encode()).unwrap();
        for (from, to) in [
            ("\"parts\":3", "\"parts\":2"),
            ("\"parts\":3", "\"parts\":4294967295"),
            ("\"bytes\":17", "\"bytes\":16"),
            ("\"bytes\":17", "\"bytes\":25"),
            ("\"part_bytes\":8", "\"part_bytes\":0"),
            ("\"part_bytes\":8", "\"part_bytes\":4294967295"),
            ("\"format\":2", "\"format\":3"),
            ("\n0 ", "\n-1 "),
            ("\n1 ", "\n99 "),
            ("\n0 ", "\n"),
        ] {
            assert!(good.contains(from), "{from}");
            assert!(Index::decode(good.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        assert!(Index::decode(good.trim_end().rsplit_once('\n').unwrap().0.as_bytes()).is_err(), "a line is missing");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Index::decode(&bytes);
        }
    }
}
