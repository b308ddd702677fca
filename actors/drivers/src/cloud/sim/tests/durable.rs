//! The cloud after the death of its process.

use std::io::Write;

use futures::StreamExt;
use reeve_lifecycle::effect::Disk;
use reeve_ports::cloud::DiskSource;

use super::*;

fn open(folder: &Path, clock: &Arc<SteppedClock>) -> Fixture {
    let cloud = Arc::new(SimCloud::open(folder, clock.clone(), config()).unwrap());
    Fixture { clock: clock.clone(), cloud }
}

/// Everything that must be the same afterwards.
fn all(fixture: &Fixture) -> (Vec<GroundTruth>, Vec<AuditEntry>) {
    let audit: Vec<_> = fixture.cloud.audit().into_iter().filter(|entry| !entry.call.is_look()).collect();
    let mut ids: Vec<_> = audit.iter().filter_map(|entry| entry.vm).chain(fixture.cloud.vm_ids()).collect();
    ids.sort_unstable();
    ids.dedup();
    (ids.into_iter().map(|vm| fixture.truth(vm)).collect(), audit)
}

fn live(fixture: &Fixture) -> VmId {
    let ids = fixture.cloud.vm_ids();
    let cloud = &fixture.cloud;
    cloud.write_root(ids[0], 4).unwrap();
    block_on(cloud.snapshot(ids[0], &Disk::Root, "kept")).unwrap();
    block_on(cloud.delete_server(ids[1])).unwrap();
    cloud.hang_guest(ids[2], Cure::Restore).unwrap();
    let content = Box::pin(futures::stream::iter([Ok(bytes::Bytes::from_static(b"foreign bytes"))]));
    let disks = vec![DiskSource { disk: Disk::Root, bytes: 13, content }];
    block_on(cloud.restore_in_place(ids[2], "op", disks)).unwrap();
    block_on(cloud.release_address(&fixture.truth(ids[2]).addresses[0])).unwrap();
    cloud.cell_down(1).unwrap();
    fixture.boot_named("late")
}

#[test]
fn the_cloud_is_the_same_after_its_process_died() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let first = open(folder.path(), &clock);
    let late = live(&first);
    let before = all(&first);
    drop(first);
    let again = open(folder.path(), &clock);
    assert_eq!(all(&again), before);
    assert!(!block_on(again.cloud.list(None)).unwrap().complete, "the cell is still down");
    assert!(again.boot_named("x") != late, "ids are not given twice");
    drop(again);
    let third = all(&open(folder.path(), &clock));
    assert_eq!(third.0.len(), before.0.len() + 1, "the VM made above is the only difference");
}

#[test]
fn tasks_go_on_and_foreign_content_is_read_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let first = open(folder.path(), &clock);
    let ids = first.cloud.vm_ids();
    live(&first);
    drop(first);
    clock.step(Duration::from_secs(10));
    let again = open(folder.path(), &clock);
    assert!(again.truth(ids[1]).gone, "the deletion ended meanwhile");
    assert_eq!(again.truth(ids[2]).guest, GuestState::Up);
    again.cloud.cell_up(1).unwrap();
    block_on(again.cloud.snapshot(ids[2], &Disk::Root, "foreign")).unwrap();
    again.later();
    let snapshot = block_on(again.cloud.find_snapshots(ids[2], "foreign")).unwrap().swap_remove(0);
    let stream = block_on(again.cloud.read_snapshot(ids[2], &snapshot.id)).unwrap();
    let chunks: Vec<_> = block_on(stream.map(Result::unwrap).collect());
    assert!(chunks.concat() == b"foreign bytes");
    let removed = block_on(again.cloud.find_snapshots(ids[0], "kept")).unwrap().swap_remove(0);
    block_on(again.cloud.delete_snapshot(ids[0], &removed.id)).unwrap();
    drop(again);
    let third = open(folder.path(), &clock);
    assert!(block_on(third.cloud.find_snapshots(ids[0], "kept")).unwrap().is_empty());
}

#[test]
fn a_torn_last_line_is_a_call_that_nobody_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let first = open(folder.path(), &clock);
    let vm = first.first();
    let before = all(&first);
    block_on(first.cloud.delete_server(vm)).unwrap();
    drop(first);
    let journal = folder.path().join("journal.jsonl");
    let whole = std::fs::read(&journal).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [last + 1, last + 20, whole.len() - 1] {
        std::fs::write(&journal, &whole[..cut]).unwrap();
        let again = open(folder.path(), &clock);
        assert_eq!(all(&again), before, "cut at {cut} of {}", whole.len());
        drop(again);
    }
    std::fs::write(&journal, &whole).unwrap();
    assert_eq!(open(folder.path(), &clock).cloud.times_applied(CallKind::DeleteServer, vm), 1);
}

#[test]
fn a_damaged_line_is_named_and_a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let first = open(folder.path(), &clock);
    let second = SimCloud::open(folder.path(), clock.clone(), config()).err();
    assert!(matches!(second, Some(SimError::Journal(JournalError::Locked { .. }))), "{second:?}");
    drop(first);
    let journal = folder.path().join("journal.jsonl");
    std::fs::File::options().append(true).open(&journal).unwrap().write_all(b"{\"nonsense\": 1}\n").unwrap();
    let damaged = SimCloud::open(folder.path(), clock, config()).err().unwrap();
    let SimError::Journal(JournalError::Damaged { path, line, .. }) = damaged else { panic!("{damaged:?}") };
    assert_eq!((path, line), (journal, 2));
}

#[test]
fn an_unfinished_compaction_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SteppedClock::new();
    let first = open(folder.path(), &clock);
    live(&first);
    let before = all(&first);
    drop(first);
    std::fs::write(folder.path().join("journal.part"), b"{\"half").unwrap();
    assert_eq!(all(&open(folder.path(), &clock)), before);
}
