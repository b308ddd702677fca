//! A store that is away, that loses answers, and that holds what cannot be read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reeve_ports::store::Change;
use reeve_ports::{Coordination, RecordStore, Write};
use reeve_protocol::admin::AdminReply;
use reeve_protocol::command::CommandKind;
use reeve_protocol::{ShardId, Span};

use crate::world::{World, run, short, until};

const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

#[test]
fn a_command_is_not_answered_before_it_is_stored() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.store.away.store(true, Ordering::SeqCst);
        let commanded = world.command("extend-1", vm, EXTEND);
        let back = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.store.away.store(false, Ordering::SeqCst);
        };
        let early = tokio::time::timeout(Duration::from_millis(200), async {
            let mut commanded = std::pin::pin!(commanded);
            tokio::select! {
                reply = &mut commanded => panic!("answered while the store is away: {reply:?}"),
                () = std::future::pending::<()>() => {}
            }
        });
        let ((), early) = tokio::join!(back, early);
        early.unwrap_err();
        let reply = world.command("extend-1", vm, EXTEND).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
        let world = world.stop().await.start().await;
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 1, "once, although it was sent twice");
        world.stop().await;
    });
}

#[test]
fn a_commit_whose_answer_is_lost_counts_once() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.store.silent.store(1, Ordering::SeqCst);
        assert!(matches!(world.command("extend-1", vm, EXTEND).await, AdminReply::Accepted(_)));
        world.store.lost.store(2, Ordering::SeqCst);
        assert!(matches!(world.command("extend-2", vm, EXTEND).await, AdminReply::Accepted(_)));
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 2);
        let world = world.stop().await.start().await;
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 2);
        world.stop().await;
    });
}

#[test]
fn a_record_of_a_newer_format_is_parked_and_left_as_it_is() {
    run(|| async {
        let world = World::new(3, short(Span::from_days(30))).await;
        let vm = world.all_leases(3, "active").await[0].id;
        let stopped = world.stop().await;
        let shard = ShardId::of(vm, 4);
        let damaged = Bytes::from_static(&[250, 1, 2, 3]);
        stopped
            .with_store(|store, coordination| async move {
                let epoch = coordination.claim(shard).await.unwrap();
                let expected = store.get(shard, vm).await.unwrap().unwrap().generation;
                let change = Change::Put { generation: expected.next(), value: damaged };
                store.commit(shard, epoch, Write { vm, expected, change }).await.unwrap();
            })
            .await;
        let world = stopped.start().await;
        world.all_leases(2, "active").await;
        let parked = || async { world.list().await.into_iter().find(|view| view.state == "parked") };
        assert_eq!(until("its record is found to be unreadable", parked).await.id, vm);
        let reply = world.command("extend-1", vm, EXTEND).await;
        assert!(matches!(&reply, AdminReply::Refused(refusal) if refusal.message.contains("newer")), "{reply:?}");
        let stored = world.store.get(shard, vm).await.unwrap().unwrap();
        assert_eq!(stored.value, Bytes::from_static(&[250, 1, 2, 3]));
        world.stop().await;
    });
}
