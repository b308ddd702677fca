//! An input that ends its supervisor each time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;
use reeve_protocol::{Span, VmId};

use crate::faulty::POISON;
use crate::world::{World, run, short, until};

fn message(vm: VmId, kind: &str, id: &str, rest: &str) -> Message {
    Message {
        body: Bytes::from(format!(r#"{{"vm":"{vm}","by":"operator:test"{rest}}}"#)),
        kind: Some(kind.to_owned()),
        message_id: Some(id.to_owned()),
        ..Message::default()
    }
}

#[test]
fn a_poisonous_command_becomes_a_dead_letter_and_takes_no_other_with_it() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        // Everything arrives while the first commit waits, so that the first panic meets all of it.
        world.store.away.store(true, Ordering::SeqCst);
        let poison = message(vm, "lease.set-delegates", "poison-1", &format!(r#","delegates":["{POISON}"]"#));
        world.bus.publish(&Address::Requests, poison).await.unwrap();
        // Behind it in the same mailbox, and lost with it each time unless that is told apart.
        for n in 0..200 {
            let innocent = message(vm, "repair.suspend", &format!("innocent-{n}"), "");
            world.bus.publish(&Address::Requests, innocent).await.unwrap();
        }
        let extend = message(vm, "lease.extend", "innocent-extend", "");
        world.bus.publish(&Address::Requests, extend).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.store.away.store(false, Ordering::SeqCst);
        let letters = until("the poison is a dead letter", || async {
            match world.ask(AdminRequest::DeadList { from: 0, limit: 100 }).await {
                AdminReply::Dead(letters) if !letters.is_empty() => Some(letters),
                _ => None,
            }
        })
        .await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].message_id.as_deref(), Some("poison-1"));
        assert!(letters[0].reason.contains("ended each time"), "{}", letters[0].reason);
        let panicked = world.store.panicked.load(Ordering::SeqCst);
        assert!((2..=6).contains(&panicked), "it was tried {panicked} times");
        until("the others were carried out", || async {
            world.show(vm).await.filter(|view| view.lease.extensions == 1)
        })
        .await;
        let reply = world.command("after", vm, CommandKind::LeaseExtend { by: None }).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "the VM lives on: {reply:?}");
        assert_eq!(world.bus.dead(0, 10).await.unwrap().len(), 1);
        let world = world.stop().await.start().await;
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 2);
        world.stop().await;
    });
}
