//! In which format the content of a disk is.
//!
//! A snapshot's image is `raw`, or `qcow2` where Nova keeps the disks of its guests so (`snapshot_image_format` of
//! <https://docs.openstack.org/nova/latest/configuration/config.html>). A backup holds the content alone, so it is the
//! content that tells what an image is that is made of it.
//!
//! A guest writes what it likes on a raw disk, a header too. What such a header could gain is a look at files of a host:
//! as a backing file, or as a file with the data. An image with either is never a snapshot of Nova's, and is taken for a
//! raw disk. The header: <https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt>.

use futures::StreamExt;
use futures::stream;

use super::content::Content;

/// How much of a content tells its format: the header of version 2, and the feature bits that version 3 has after it.
const TELLS: usize = 80;
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Version 3, bit 2 of the incompatible features: the data are in another file.
const DATA_ELSEWHERE: u64 = 1 << 2;

/// The format of a content, as Glance calls it, and the same content.
pub(super) async fn recognised(mut content: Content) -> (&'static str, Content) {
    let mut chunks = Vec::new();
    let mut start = Vec::new();
    while start.len() < TELLS
        && let Some(chunk) = content.next().await
    {
        if let Ok(bytes) = &chunk {
            start.extend(bytes.iter().take(TELLS - start.len()));
        }
        let failed = chunk.is_err();
        chunks.push(chunk);
        if failed {
            break;
        }
    }
    (of(&start), stream::iter(chunks).chain(content).boxed())
}

/// The format of a content that begins so.
fn of(start: &[u8]) -> &'static str {
    if is_plain_qcow2(start).unwrap_or(false) { "qcow2" } else { "raw" }
}

/// Whether this is the header of an image that holds all its data itself; `None` if it is too short for one.
fn is_plain_qcow2(start: &[u8]) -> Option<bool> {
    let version = u32::from_be_bytes(*start.get(4..8)?.first_chunk()?);
    let backing_file = u64::from_be_bytes(*start.get(8..16)?.first_chunk()?);
    let features = if version >= 3 { u64::from_be_bytes(*start.get(72..80)?.first_chunk()?) } else { 0 };
    let is_whole = backing_file == 0 && features & DATA_ELSEWHERE == 0;
    Some(start.starts_with(&MAGIC) && matches!(version, 2 | 3) && is_whole)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn header(version: u32, backing_file: u64, features: u64) -> Vec<u8> {
        let mut header = [&MAGIC[..], &version.to_be_bytes(), &backing_file.to_be_bytes()].concat();
        header.resize(72, 0);
        header.extend(features.to_be_bytes());
        header
    }

    #[test]
    fn a_whole_qcow2_is_one() {
        assert_eq!(of(&header(2, 0, 0)), "qcow2");
        assert_eq!(of(&header(3, 0, 0)), "qcow2");
        assert_eq!(of(&header(3, 0, 1)), "qcow2", "one that was not closed in order");
    }

    #[test]
    fn a_header_that_names_another_file_is_content_of_a_raw_disk() {
        assert_eq!(of(&header(3, 104, 0)), "raw");
        assert_eq!(of(&header(2, 104, 0)), "raw");
        assert_eq!(of(&header(3, 0, DATA_ELSEWHERE)), "raw");
    }

    #[test]
    fn anything_else_is_raw() {
        assert_eq!(of(b""), "raw");
        assert_eq!(of(b"QFI\xfb"), "raw");
        assert_eq!(of(&header(3, 0, 0)[..79]), "raw");
        assert_eq!(of(&header(4, 0, 0)), "raw");
        assert_eq!(of(&[0; 512]), "raw");
    }

    #[tokio::test]
    async fn the_content_stays_as_it_came() {
        for size in [1, 7, 80, 1_000] {
            let mut whole = header(3, 0, 0);
            whole.extend([7; 200]);
            let chunks: Vec<_> = whole.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let (format, content) = recognised(stream::iter(chunks).boxed()).await;
            let came: Vec<Bytes> = content.map(|chunk| chunk.expect("no failure")).collect().await;
            assert_eq!((format, came.concat()), ("qcow2", whole), "in chunks of {size}");
        }
    }

    #[tokio::test]
    async fn a_failure_on_the_way_stays_one() {
        let broken = std::io::Error::other("broken");
        let chunks = vec![Ok(Bytes::from_static(&MAGIC)), Err(broken), Ok(Bytes::from_static(&[0; 100]))];
        let (format, content) = recognised(stream::iter(chunks).boxed()).await;
        let came: Vec<bool> = content.map(|chunk| chunk.is_ok()).collect().await;
        assert_eq!((format, came), ("raw", vec![true, false, true]));
    }
}
