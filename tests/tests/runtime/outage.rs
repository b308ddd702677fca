//! A bus that takes no events for long.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_lifecycle::record::MAX_OUTBOX;
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::Span;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;

use crate::world::{World, run, short, until};

/// More than an outbox, what a supervisor holds and a prefetch together.
const COMMANDS: usize = 1_500;

#[test]
fn a_bus_that_is_away_for_minutes_holds_intake_back_and_loses_nothing() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        until("the first events are out", || async { (outbox(&world).await == 0).then_some(()) }).await;
        // A backup's first step answers only when nothing can be taken in any more: its answer has to wait, and nobody
        // would say it again.
        world.sim.inject(Fault::next(CallKind::Inventory, FaultKind::Slow(Span::from_secs(45)))).unwrap();
        assert!(matches!(world.command("backup", vm, CommandKind::BackupRun).await, AdminReply::Accepted(_)));
        world.outward.away.store(true, Ordering::SeqCst);
        for n in 0..COMMANDS {
            // Three are granted, the others are denied; each says so in an event.
            let message = Message {
                body: Bytes::from(format!(r#"{{"vm":"{vm}","by":"operator:test"}}"#)),
                kind: Some("lease.extend".to_owned()),
                message_id: Some(format!("extend-{n}")),
                ..Message::default()
            };
            world.bus.publish(&Address::Requests, message).await.unwrap();
        }
        let full = u64::try_from(MAX_OUTBOX).unwrap();
        until("the outbox is full", || async { (outbox(&world).await >= full).then_some(()) }).await;
        world.clock.suspend(Span::from_secs(600));
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let answered = world.sim.audit().iter().any(|entry| entry.call == CallKind::Inventory);
        assert!(answered, "the backup's first step has answered");
        let waiting = outbox(&world).await;
        // One decision may say several things.
        assert!((full..full + 8).contains(&waiting), "{waiting} events wait");
        assert!(world.outward.failed.load(Ordering::SeqCst) > 1, "it is tried again");
        world.outward.away.store(false, Ordering::SeqCst);
        let events = until("every command has had its event", || async {
            let events = world.events().await;
            let said = events
                .iter()
                .filter(|event| matches!(event.kind.as_str(), "reeve.lease.extended" | "reeve.lease.extension-denied"));
            let said = said.count();
            assert!(said <= COMMANDS, "{said} events for {COMMANDS} commands");
            (said == COMMANDS).then_some(events)
        })
        .await;
        let ids: BTreeSet<_> = events.iter().map(|event| event.id.0.clone()).collect();
        assert_eq!(ids.len(), events.len(), "each event is there once");
        let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, without a gap");
        assert_eq!(world.bus.dead(0, 10).await.unwrap(), []);
        until("the backup is verified", || async {
            let view = world.show(vm).await?;
            view.backups.iter().any(|backup| backup.state == "verified").then_some(())
        })
        .await;
        world.stop().await;
    });
}

async fn outbox(world: &World) -> u64 {
    match world.ask(AdminRequest::Node).await {
        AdminReply::Node(node) => node.outbox,
        other => panic!("{other:?}"),
    }
}
