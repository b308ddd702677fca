//! A shard that goes from one node to another in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reeve_drivers::cloud::sim::CallKind;
use reeve_ports::{Address, Bus, Clock, Message, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;
use reeve_protocol::{ShardId, Span, Timestamp, VmId};

use crate::realm::{Plan, Realm, SHARDS, list, shards};
use crate::world::{TestClock, run, short, until};

const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

/// Looks at every VM again and again, on both nodes; the longest time that one was on neither.
async fn watch(realm: &Realm, vms: &[VmId], over: &AtomicBool) -> Duration {
    let mut seen: BTreeMap<VmId, Duration> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::SeqCst) {
        for vm in vms {
            let before = SystemClock.elapsed();
            let (a, b) = tokio::join!(realm.a.tree_alone(*vm), realm.b.tree_alone(*vm));
            if a.is_some() || b.is_some() {
                let last = seen.insert(*vm, SystemClock.elapsed()).unwrap_or(before);
                longest = longest.max(before.saturating_sub(last));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    longest
}

/// Sends every VM commands over the bus; how many of them were granted, by VM. Each is answered.
async fn load(realm: &Realm, vms: &[VmId], rounds: usize) -> BTreeMap<VmId, u32> {
    let mut replies = realm.bus.reply_queue();
    let address = replies.address.clone();
    let send = async {
        for round in 0..rounds {
            for vm in vms {
                let id = format!("{vm} {round}");
                let message = Message {
                    body: Bytes::from(format!(r#"{{"vm":"{vm}","by":"operator:test"}}"#)),
                    kind: Some("lease.extend".to_owned()),
                    message_id: Some(id.clone()),
                    reply_to: Some(address.clone()),
                    correlation_id: Some(id),
                    ..Message::default()
                };
                realm.bus.publish(&Address::Requests, message).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    };
    let receive = async {
        let mut granted: BTreeMap<VmId, u32> = BTreeMap::new();
        let mut answers: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        while answers.len() < vms.len() * rounds {
            let reply = tokio::time::timeout(Duration::from_secs(30), replies.messages.recv()).await;
            let reply = reply.unwrap_or_else(|_| panic!("{} commands are answered", answers.len())).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert!(answer["ok"] == true || answer["error"]["code"] == "denied", "{answer}");
            let id = reply.correlation_id.unwrap();
            let vm = id.split(' ').next().unwrap().parse().unwrap();
            // What was delivered again is answered again, with the same answer.
            match answers.insert(id, answer.clone()) {
                Some(before) => assert_eq!(before, answer),
                None => *granted.entry(vm).or_default() += u32::from(answer["ok"] == true),
            }
        }
        granted
    };
    let ((), granted) = tokio::join!(send, receive);
    granted
}

#[test]
fn a_hand_over_under_load_answers_every_command_once_and_leaves_every_vm_supervised() {
    run(|| async {
        let plan = Plan { clock: TestClock::scaled(1), ..Plan::new(24, short(Span::from_days(30))) };
        let realm = Realm::new(plan).await;
        let vms: Vec<VmId> = realm.all_leases(24, "active").await.iter().map(|vm| vm.id).collect();
        let over = AtomicBool::new(false);
        let moves = async {
            for (from, to) in [(&realm.a, &realm.b), (&realm.b, &realm.a)] {
                for shard in shards() {
                    assert_eq!(realm.council.owner(shard).as_ref(), Some(&from.id));
                    realm.council.plan(shard, &to.id);
                    realm.until_owned(shard, to).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let work = async {
            let (granted, ()) = tokio::join!(load(&realm, &vms, 6), moves);
            over.store(true, Ordering::SeqCst);
            granted
        };
        let (granted, longest) = tokio::join!(work, watch(&realm, &vms, &over));
        println!("longest unattended: {} ms", longest.as_millis());
        for view in realm.all_leases(24, "active").await {
            assert_eq!(view.lease.extensions, granted[&view.id], "{} was extended as often as was said", view.id);
            assert_eq!(view.lease.extensions, view.lease.max_extensions);
        }
        assert_eq!(realm.bus.dead(0, 10).await.unwrap(), [], "nothing is given up");
        for member in [&realm.a, &realm.b] {
            assert_eq!(member.store.fenced.load(Ordering::SeqCst), 0, "nobody writes after a hand-over");
        }
        let events = realm.bus.history(Timestamp::MIN, None, 10_000).await.unwrap();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for past in events {
            let last = last.entry(past.event.subject.clone()).or_default();
            assert!(past.event.sequence <= *last + 1, "{} has a gap after {last}", past.event.subject);
            *last = past.event.sequence.max(*last);
        }
        realm.stop().await;
    });
}

#[test]
fn what_was_begun_before_a_hand_over_is_done_once_after_it() {
    run(|| async {
        let realm = Realm::new(Plan::new(8, short(Span::from_days(30)))).await;
        let vms: Vec<VmId> = realm.all_leases(8, "active").await.iter().map(|vm| vm.id).collect();
        for vm in &vms {
            let reply = realm.a.command(&format!("end-{vm}"), *vm, CommandKind::LeaseEnd).await;
            assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
        }
        // To and fro while every VM is backed up and destroyed.
        for round in 0..6 {
            let to = if round % 2 == 0 { &realm.b } else { &realm.a };
            for shard in shards() {
                realm.council.plan(shard, &to.id);
            }
            for shard in shards() {
                realm.until_owned(shard, to).await;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        realm.all_leases(vms.len(), "ended").await;
        for vm in &vms {
            assert_eq!(realm.sim.times_applied(CallKind::DeleteServer, *vm), 1);
        }
        realm.stop().await;
    });
}

#[test]
fn any_node_answers_for_any_vm_and_a_list_is_whole_or_refused() {
    run(|| async {
        let realm = Realm::new(Plan::new(12, short(Span::from_days(30)))).await;
        let vms: Vec<VmId> = realm.all_leases(12, "active").await.iter().map(|vm| vm.id).collect();
        // Half of the shards go to the other node.
        for shard in shards().filter(|shard| shard.0.is_multiple_of(2)) {
            realm.council.plan(shard, &realm.b.id);
            realm.until_owned(shard, &realm.b).await;
        }
        for vm in &vms {
            let owner = if ShardId::of(*vm, SHARDS).0.is_multiple_of(2) { &realm.b } else { &realm.a };
            for node in [&realm.a, &realm.b] {
                let view = node.show(*vm).await.unwrap();
                assert_eq!(view.node, owner.id, "asked on {}", node.id);
                let AdminReply::Actors(tree) = node.ask(AdminRequest::ActorTree(Some(*vm))).await else { panic!() };
                assert!(tree.mailbox.is_some());
                let reply = node.command(&format!("extend-{}-{vm}", node.id), *vm, EXTEND).await;
                assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
            }
            assert_eq!(owner.show(*vm).await.unwrap().lease.extensions, 2);
            let other = if owner.id == realm.a.id { &realm.b } else { &realm.a };
            let reply = other.ask_alone(AdminRequest::VmShow(*vm)).await;
            let is_refused =
                matches!(&reply, AdminReply::Refused(refusal) if refusal.message.contains("not the owner"));
            assert!(is_refused, "a node that is asked by another asks nobody: {reply:?}");
        }
        for node in [&realm.a, &realm.b] {
            let AdminReply::Vms(views) = node.ask(list()).await else { panic!() };
            assert!(views.iter().map(|view| view.id).eq(vms.iter().copied()), "all of them, in order");
            let page = AdminRequest::VmList { limit: 5, marker: Some(vms[3]), lease: None };
            let AdminReply::Vms(views) = node.ask(page).await else { panic!() };
            assert!(views.iter().map(|view| view.id).eq(vms[4..9].iter().copied()));
            let AdminReply::Node(other) = node.ask(AdminRequest::NodeShow(realm.b.id.clone())).await else { panic!() };
            assert_eq!((other.id, other.shards), (realm.b.id.clone(), SHARDS / 2));
            let AdminReply::Actors(_) = node.ask(AdminRequest::ActorTreeOf(realm.b.id.clone())).await else { panic!() };
            let AdminReply::Nodes(nodes) = node.ask(AdminRequest::NodeList).await else { panic!() };
            assert_eq!(nodes.len(), 2);
            let AdminReply::Shards(seen) = node.ask(AdminRequest::ShardList).await else { panic!() };
            assert!(seen.iter().all(|shard| shard.owner == shard.wanted && shard.owner.is_some()), "{seen:?}");
        }
        let nobody = reeve_protocol::NodeId::new("nobody").unwrap();
        for request in [AdminRequest::NodeShow(nobody.clone()), AdminRequest::NodeDrain(nobody)] {
            let AdminReply::Refused(refusal) = realm.a.ask(request).await else { panic!() };
            assert_eq!(refusal.code, reeve_protocol::command::RefusalCode::NotFound);
        }
        assert_eq!(realm.a.ask(AdminRequest::NodeDrain(realm.b.id.clone())).await, AdminReply::Done);
        assert!(realm.council.is_drained(&realm.b.id));
        until("each node tells how many VMs it has", || async {
            let vms = realm.council.load(&realm.a.id).vms + realm.council.load(&realm.b.id).vms;
            (vms == 12).then_some(())
        })
        .await;
        realm.stop().await;
    });
}

#[test]
fn a_list_that_lacks_a_node_is_refused_and_names_it() {
    run(|| async {
        let realm = Realm::new(Plan::new(6, short(Span::from_days(30)))).await;
        realm.all_leases(6, "active").await;
        realm.council.plan(ShardId(0), &realm.b.id);
        realm.until_owned(ShardId(0), &realm.b).await;
        realm.wires.cut(&realm.b.id);
        let wires = Arc::clone(&realm.wires);
        let reply = realm.a.ask(list()).await;
        let AdminReply::Refused(refusal) = reply else { panic!("{reply:?}") };
        assert!(refusal.message.contains("node b"), "{refusal:?}");
        wires.connect(&realm.b.id, realm.b.handle.clone());
        let reply = realm.a.ask(list()).await;
        assert!(matches!(&reply, AdminReply::Vms(vms) if vms.len() == 6), "{reply:?}");
        realm.stop().await;
    });
}
