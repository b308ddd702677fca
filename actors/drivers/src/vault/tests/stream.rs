//! How much of a content is in memory, and that a vault that stands still stops its source.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reeve_ports::Clock;
use reeve_ports::clock::Sleep;
use reeve_protocol::Timestamp;

use super::*;

const MIB: usize = 1 << 20;

/// Counted by parts, not by time or by what an allocator says: a part is all that is held of a content.
#[tokio::test(flavor = "multi_thread")]
async fn of_256_mib_there_are_never_more_parts_in_memory_than_may_be_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let packing = Packing::default().part_bytes(MIB as u32).under_way(3).keys(ring(&["k"]));
    let live = packing.live.clone();
    let vault = OpendalVault::in_folder(folder.path()).unwrap().with(packing);
    let path = path_of(VmId::new(Uuid::from_u128(5)));
    let block = Bytes::from(content(1, MIB / 2));
    let blocks = (0_u32..512).map(move |number| {
        // No two parts are alike.
        let mut block = block.to_vec();
        block[..4].copy_from_slice(&number.to_be_bytes());
        Ok(Bytes::from(block))
    });
    let stored = vault.store(&path, &Disk::Root, futures::stream::iter(blocks).boxed()).await.unwrap();
    assert_eq!(stored.bytes, 256 * MIB as u64);
    let (now, most) = live.counts();
    assert!(now == 0 && (1..=3).contains(&most), "{now} now, {most} at most");
    let manifest = reeve_ports::conformance::vault::manifest_of(&path, &[stored]);
    vault.seal(&path, &manifest).await.unwrap();
    assert_eq!(vault.verify(&path).await, Ok(Verification::Equal { bytes: 256 * MIB as u64 }));
    let (now, most) = live.counts();
    assert!(now == 0 && most <= 3, "{now} now, {most} at most");
}

/// A clock that stands still.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH
    }
    fn elapsed(&self) -> Duration {
        Duration::from_secs(1_000)
    }
    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn while_nothing_goes_out_no_more_is_read_than_may_be_under_way() {
    let fixture = Fixture::new();
    let slow = packing(&[]).max_bytes_per_second(1, Arc::new(Stopped));
    let vault = fixture.vault.clone().with(slow);
    let read = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&read);
    let endless = std::iter::repeat_with(move || {
        count.fetch_add(1_000, Ordering::Relaxed);
        Ok(Bytes::from(vec![7; 1_000]))
    });
    let store = vault.store(&fixture.path, &Disk::Root, futures::stream::iter(endless).boxed());
    let killed = tokio::time::timeout(Duration::from_millis(300), store).await;
    assert!(killed.is_err(), "the store cannot have ended");
    // Three under way, and what shows that the third is not the last.
    let read = read.load(Ordering::Relaxed);
    assert!(read <= 31_000, "{read} bytes were read");
    assert!(fixture.parts("root").is_empty(), "nothing passed the throttle");
    assert_eq!(vault.packing.live.counts().0, 0, "what was dropped is let go");
}
