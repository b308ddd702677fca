//! What comes over the bus: lives, commands and rubbish.

use bytes::Bytes;
use reeve_ports::{Address, Bus, Message};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::{Span, VmId};

use crate::world::{World, cloud, run, short, until};

async fn request(world: &World, kind: &str, id: &str, body: String) -> serde_json::Value {
    let mut replies = world.bus.reply_queue();
    let message = Message {
        body: Bytes::from(body),
        kind: Some(kind.to_owned()),
        message_id: Some(id.to_owned()),
        reply_to: Some(replies.address.clone()),
        correlation_id: Some("c".to_owned()),
        ..Message::default()
    };
    world.bus.publish(&Address::Requests, message).await.unwrap();
    let reply = replies.messages.recv().await.unwrap();
    assert_eq!(reply.correlation_id.as_deref(), Some("c"));
    serde_json::from_slice(&reply.body).unwrap()
}

fn body(vm: VmId, rest: &str) -> String {
    format!(r#"{{"vm":"{vm}","by":"operator:test"{rest}}}"#)
}

#[test]
fn vms_are_discovered_and_their_events_are_published_in_order() {
    run(|| async {
        let world = World::new(5, short(Span::from_days(30))).await;
        world.all_leases(5, "active").await;
        until("every event is out", || async {
            let events = world.events().await;
            let created = events.iter().filter(|event| event.kind == "reeve.lease.created").count();
            (created == 5).then_some(())
        })
        .await;
        world.stop().await;
    });
}

#[test]
fn a_command_is_answered_once_it_is_stored_and_again_with_the_same_answer() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        let first = request(&world, "lease.extend", "m1", body(vm, "")).await;
        assert_eq!(first["ok"], true, "{first}");
        assert_eq!(request(&world, "lease.extend", "m1", body(vm, "")).await, first);
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 1);
        let unknown: VmId = "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap();
        let refused = request(&world, "lease.extend", "m2", body(unknown, "")).await;
        assert_eq!(refused["error"]["code"], "not_found", "{refused}");
        let refused = request(&world, "lease.set-policy", "m3", body(vm, r#","policy":"gold""#)).await;
        assert_eq!(refused["error"]["code"], "not_found", "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains("gold"));
        let refused = request(&world, "lease.grow", "m4", body(vm, "")).await;
        assert_eq!(refused["error"]["code"], "invalid", "{refused}");
        world.stop().await;
    });
}

#[test]
fn rubbish_becomes_dead_letters_with_reasons_and_the_node_goes_on() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        for n in 0..50u8 {
            let body = Bytes::from(vec![n; usize::from(n)]);
            let message = Message { body, ..Message::default() };
            world.bus.publish(&Address::Intake(cloud()), message.clone()).await.unwrap();
            world.bus.publish(&Address::Requests, message).await.unwrap();
        }
        until("all are dead letters", || async {
            match world.ask(AdminRequest::DeadList { from: 0, limit: 1000 }).await {
                AdminReply::Dead(letters) if letters.len() == 100 => Some(letters),
                _ => None,
            }
        })
        .await
        .iter()
        .for_each(|letter| assert!(!letter.reason.is_empty()));
        world.all_leases(1, "active").await;
        world.stop().await;
    });
}
