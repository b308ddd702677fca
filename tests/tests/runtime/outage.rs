//! A bus that takes no events for long.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reeve_lifecycle::record::MAX_OUTBOX;
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::Span;

use crate::world::{World, run, short, until};

/// More than an outbox, what a supervisor holds and a prefetch together.
const COMMANDS: usize = 700;

#[test]
fn a_bus_that_is_away_for_minutes_holds_intake_back_and_loses_nothing() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        until("the first events are out", || async { (outbox(&world).await == 0).then_some(()) }).await;
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
        // Meanwhile the guest hangs: what the poller and the workers say has to wait too, and is not to get lost.
        world.sim.hang_guest(vm, reeve_drivers::cloud::sim::Cure::Reboot).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
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
        until("the VM is repaired", || async {
            let events = world.events().await;
            events.iter().any(|event| event.kind == "reeve.repair.succeeded").then_some(())
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
