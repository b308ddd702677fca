//! What every [`Bus`] does. An implementation writes a [`BusFixture`] and one line:
//!
//! ```ignore
//! reeve_ports::bus_conformance!(#[tokio::test] Fixture::new().await);
//! ```
//!
//! Each case gets a fixture of its own, whose queues and dead letters are empty. Its bus keeps events `backup.*` for rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reeve_protocol::admin::EventView;
use reeve_protocol::event::{CloudEvent, Event, EventKind, EventSource};
use reeve_protocol::{CloudName, NodeId, ShardId, Timestamp, VmId};
use tokio::sync::mpsc;

use crate::bus::{Address, Bus, BusError, Consumer, DeadLetter, Delivery, Message, Queue, Settlement};

/// A bus under test and what surrounds it.
#[async_trait]
pub trait BusFixture: Send + Sync {
    /// The bus.
    fn bus(&self) -> Arc<dyn Bus>;

    /// Breaks the bus and brings it back: a lost connection, or a process that was killed. Consumers made before may
    /// end. [`BusFixture::bus`] gives the bus afterwards.
    async fn restart(&mut self);

    /// Puts a notification where the cloud would.
    async fn notify(&self, cloud: &CloudName, message: Message) {
        let to = Address::Intake(cloud.clone());
        self.bus().publish(&to, message).await.expect("a notification is published");
    }

    /// Makes an address for replies; what arrives there comes out of the receiver.
    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>);

    /// How many times a message may be redelivered before it is a dead letter. Small, so that the case is quick.
    fn delivery_limit(&self) -> u32;

    /// How long to wait for what must come.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// How long to wait before saying that nothing comes.
    fn quiet(&self) -> Duration {
        Duration::from_millis(500)
    }
}

/// Makes one test of each case. First the attribute of the tests, then an expression (it may `await`) that makes a
/// fixture.
#[macro_export]
macro_rules! bus_conformance {
    (#[$test:meta] $fixture:expr) => {
        $crate::bus_conformance!(@cases #[$test] $fixture;
            a_message_arrives_with_everything_that_it_carries
            messages_arrive_in_the_order_of_publishing
            an_acknowledged_message_never_comes_again
            a_dropped_delivery_comes_again_with_its_count
            a_returned_delivery_comes_again_before_what_follows_it
            a_dropped_consumer_gives_back_what_it_held_in_order
            a_consumer_holds_at_most_its_prefetch
            consumers_of_the_requests_share_them
            a_shard_has_one_active_consumer
            queues_do_not_mix
            what_was_taken_survives_a_restart
            an_acknowledged_message_stays_away_after_a_restart
            a_message_over_the_delivery_limit_is_a_dead_letter
            a_dead_letter_says_why_whence_and_when
            dead_letters_are_read_in_pages_by_stable_numbers
            a_replayed_dead_letter_is_where_it_came_from
            a_dropped_dead_letter_is_gone
            a_dead_letter_that_is_not_there_is_refused
            the_history_is_in_order_and_in_pages
            the_history_begins_at_a_time
            a_reply_reaches_who_waits_for_it
            a_reply_that_nobody_waits_for_is_no_failure
            notifications_arrive_at_their_clouds_intake
            events_for_rules_wait_until_they_are_settled
        );
    };
    (@cases #[$test:meta] $fixture:expr; $($case:ident)*) => {
        $(
            #[$test]
            async fn $case() {
                let mut fixture = $fixture;
                $crate::conformance::bus::$case(&mut fixture).await;
            }
        )*
    };
}

fn message(body: &str) -> Message {
    Message { body: Bytes::copy_from_slice(body.as_bytes()), message_id: Some(body.to_owned()), ..Message::default() }
}

fn cloud(name: &str) -> CloudName {
    CloudName::new(name).expect("a name of a test")
}

async fn publish(fixture: &impl BusFixture, to: &Address, bodies: &[&str]) {
    let bus = fixture.bus();
    for body in bodies {
        bus.publish(to, message(body)).await.expect("the bus takes a message");
    }
}

async fn consume(fixture: &impl BusFixture, queue: &Queue, prefetch: u16) -> Consumer {
    fixture.bus().consume(queue, prefetch).await.expect("the queue can be consumed")
}

async fn next(fixture: &impl BusFixture, consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(fixture.patience(), consumer.next())
        .await
        .expect("a delivery comes in time")
        .expect("the bus is open")
}

/// The next delivery, which must have this body.
async fn expect(fixture: &impl BusFixture, consumer: &mut Consumer, body: &str) -> Delivery {
    let delivery = next(fixture, consumer).await;
    assert_eq!(delivery.message.body, body.as_bytes(), "delivered {:?}", delivery.message);
    delivery
}

async fn expect_nothing(fixture: &impl BusFixture, consumer: &mut Consumer) {
    if let Ok(delivery) = tokio::time::timeout(fixture.quiet(), consumer.next()).await {
        panic!("nothing was to come, but {:?} did", delivery.map(|delivery| delivery.message));
    }
}

async fn ack(delivery: Delivery) {
    delivery.settle.settle(Settlement::Ack).await.expect("a delivery can be acknowledged");
}

async fn bury(delivery: Delivery, reason: &str) {
    delivery.settle.settle(Settlement::Dead(reason.to_owned())).await.expect("a delivery can be given up");
}

/// The dead letters, once there are `count` of them.
async fn dead_letters(fixture: &impl BusFixture, count: usize) -> Vec<DeadLetter> {
    let bus = fixture.bus();
    let wait = async {
        loop {
            let letters = bus.dead(0, 100).await.expect("dead letters can be read");
            if letters.len() >= count {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let letters = tokio::time::timeout(fixture.patience(), wait).await.expect("the dead letters come in time");
    assert_eq!(letters.len(), count, "{letters:?}");
    letters
}

/// Body, properties and headers are what they were.
pub async fn a_message_arrives_with_everything_that_it_carries(fixture: &mut impl BusFixture) {
    let sent = Message {
        body: Bytes::from_static(b"{\"vm\":\"\xff\x00\"}"),
        content_type: Some("application/json".into()),
        kind: Some("lease.extend".into()),
        message_id: Some("m-1".into()),
        correlation_id: Some("c-1".into()),
        reply_to: Some("answers".into()),
        headers: BTreeMap::from([("x-one".into(), "1".into()), ("x-two".into(), "zwei ü".into())]),
    };
    for (to, queue) in [(Address::Requests, Queue::Requests), (Address::Shard(ShardId(3)), Queue::Shard(ShardId(3)))] {
        fixture.bus().publish(&to, sent.clone()).await.expect("the bus takes a message");
        let mut consumer = consume(fixture, &queue, 1).await;
        let delivery = next(fixture, &mut consumer).await;
        assert_eq!((&delivery.message, delivery.redelivered), (&sent, 0));
        ack(delivery).await;
    }
}

/// First in, first out.
pub async fn messages_arrive_in_the_order_of_publishing(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Shard(ShardId(0)), &["a", "b", "c", "d", "e"]).await;
    let mut consumer = consume(fixture, &Queue::Shard(ShardId(0)), 2).await;
    for body in ["a", "b", "c", "d", "e"] {
        ack(expect(fixture, &mut consumer, body).await).await;
    }
}

/// Not to the same consumer and not to the next.
pub async fn an_acknowledged_message_never_comes_again(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Requests, &["a", "b"]).await;
    let mut consumer = consume(fixture, &Queue::Requests, 10).await;
    ack(expect(fixture, &mut consumer, "a").await).await;
    ack(expect(fixture, &mut consumer, "b").await).await;
    expect_nothing(fixture, &mut consumer).await;
    drop(consumer);
    let mut consumer = consume(fixture, &Queue::Requests, 10).await;
    expect_nothing(fixture, &mut consumer).await;
}

/// Each time one more.
pub async fn a_dropped_delivery_comes_again_with_its_count(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Requests, &["a"]).await;
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    for before in 0..2 {
        let delivery = expect(fixture, &mut consumer, "a").await;
        assert_eq!(delivery.redelivered, before);
        drop(delivery);
    }
    let delivery = expect(fixture, &mut consumer, "a").await;
    assert_eq!(delivery.redelivered, 2);
    ack(delivery).await;
    expect_nothing(fixture, &mut consumer).await;
}

/// The order of a shard's commands survives a hand-over.
pub async fn a_returned_delivery_comes_again_before_what_follows_it(fixture: &mut impl BusFixture) {
    let (to, queue) = (Address::Shard(ShardId(1)), Queue::Shard(ShardId(1)));
    publish(fixture, &to, &["a", "b"]).await;
    let mut consumer = consume(fixture, &queue, 1).await;
    let first = expect(fixture, &mut consumer, "a").await;
    first.settle.settle(Settlement::Return).await.expect("a delivery can be returned");
    let again = expect(fixture, &mut consumer, "a").await;
    assert_eq!(again.redelivered, 1);
    ack(again).await;
    ack(expect(fixture, &mut consumer, "b").await).await;
}

/// To whoever consumes next, in the old order, one delivery more.
pub async fn a_dropped_consumer_gives_back_what_it_held_in_order(fixture: &mut impl BusFixture) {
    let (to, queue) = (Address::Shard(ShardId(2)), Queue::Shard(ShardId(2)));
    publish(fixture, &to, &["a", "b", "c", "d"]).await;
    let mut first = consume(fixture, &queue, 3).await;
    ack(expect(fixture, &mut first, "a").await).await;
    let held = [expect(fixture, &mut first, "b").await, expect(fixture, &mut first, "c").await];
    drop(first);
    drop(held);
    let mut second = consume(fixture, &queue, 1).await;
    for body in ["b", "c"] {
        let delivery = expect(fixture, &mut second, body).await;
        assert_eq!(delivery.redelivered, 1);
        ack(delivery).await;
    }
    ack(expect(fixture, &mut second, "d").await).await;
    expect_nothing(fixture, &mut second).await;
}

/// And goes on when it settles one.
pub async fn a_consumer_holds_at_most_its_prefetch(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Requests, &["a", "b", "c"]).await;
    let mut consumer = consume(fixture, &Queue::Requests, 2).await;
    let a = expect(fixture, &mut consumer, "a").await;
    let b = expect(fixture, &mut consumer, "b").await;
    expect_nothing(fixture, &mut consumer).await;
    ack(a).await;
    let c = expect(fixture, &mut consumer, "c").await;
    ack(b).await;
    ack(c).await;
}

/// Each message goes to one of them.
pub async fn consumers_of_the_requests_share_them(fixture: &mut impl BusFixture) {
    let mut one = consume(fixture, &Queue::Requests, 1).await;
    let mut two = consume(fixture, &Queue::Requests, 1).await;
    publish(fixture, &Address::Requests, &["a", "b"]).await;
    let (first, second) = (next(fixture, &mut one).await, next(fixture, &mut two).await);
    let mut bodies = [first.message.body.clone(), second.message.body.clone()];
    bodies.sort();
    assert_eq!(bodies, [Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
    ack(first).await;
    ack(second).await;
}

/// The second waits until the first is gone.
pub async fn a_shard_has_one_active_consumer(fixture: &mut impl BusFixture) {
    let (to, queue) = (Address::Shard(ShardId(4)), Queue::Shard(ShardId(4)));
    let mut active = consume(fixture, &queue, 1).await;
    let mut waiting = consume(fixture, &queue, 1).await;
    publish(fixture, &to, &["a", "b"]).await;
    expect_nothing(fixture, &mut waiting).await;
    ack(expect(fixture, &mut active, "a").await).await;
    drop(active);
    let delivery = expect(fixture, &mut waiting, "b").await;
    ack(delivery).await;
}

/// A shard's commands reach that shard only.
pub async fn queues_do_not_mix(fixture: &mut impl BusFixture) {
    let mut five = consume(fixture, &Queue::Shard(ShardId(5)), 10).await;
    let mut six = consume(fixture, &Queue::Shard(ShardId(6)), 10).await;
    let mut requests = consume(fixture, &Queue::Requests, 10).await;
    publish(fixture, &Address::Shard(ShardId(6)), &["six"]).await;
    publish(fixture, &Address::Requests, &["request"]).await;
    ack(expect(fixture, &mut six, "six").await).await;
    ack(expect(fixture, &mut requests, "request").await).await;
    expect_nothing(fixture, &mut five).await;
    expect_nothing(fixture, &mut six).await;
    expect_nothing(fixture, &mut requests).await;
}

/// Publish returned: whatever happens now, the message comes, in its order. So does what was held and not settled.
pub async fn what_was_taken_survives_a_restart(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Requests, &["r1", "r2"]).await;
    publish(fixture, &Address::Shard(ShardId(7)), &["s1", "s2"]).await;
    let mut consumer = consume(fixture, &Queue::Shard(ShardId(7)), 1).await;
    let held = expect(fixture, &mut consumer, "s1").await;
    fixture.restart().await;
    drop(held);
    drop(consumer);
    let mut consumer = consume(fixture, &Queue::Shard(ShardId(7)), 1).await;
    let again = expect(fixture, &mut consumer, "s1").await;
    assert!(again.redelivered >= 1, "it was delivered before");
    ack(again).await;
    ack(expect(fixture, &mut consumer, "s2").await).await;
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    ack(expect(fixture, &mut consumer, "r1").await).await;
    ack(expect(fixture, &mut consumer, "r2").await).await;
}

/// What was settled is settled, and dead letters stay dead letters.
pub async fn an_acknowledged_message_stays_away_after_a_restart(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Requests, &["a", "b", "c"]).await;
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    ack(expect(fixture, &mut consumer, "a").await).await;
    bury(expect(fixture, &mut consumer, "b").await, "no good").await;
    drop(consumer);
    dead_letters(fixture, 1).await;
    fixture.restart().await;
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    ack(expect(fixture, &mut consumer, "c").await).await;
    expect_nothing(fixture, &mut consumer).await;
    assert_eq!(dead_letters(fixture, 1).await[0].message.body, b"b".as_slice());
}

/// It is delivered at most once more than the limit, then parked; what follows it is not held up.
pub async fn a_message_over_the_delivery_limit_is_a_dead_letter(fixture: &mut impl BusFixture) {
    publish(fixture, &Address::Shard(ShardId(8)), &["poison", "good"]).await;
    let mut consumer = consume(fixture, &Queue::Shard(ShardId(8)), 1).await;
    let mut deliveries = 0;
    let good = loop {
        let delivery = next(fixture, &mut consumer).await;
        if delivery.message.body == b"good".as_slice() {
            break delivery;
        }
        deliveries += 1;
        assert!(deliveries <= fixture.delivery_limit() + 1, "delivered {deliveries} times");
    };
    assert!(deliveries >= fixture.delivery_limit(), "delivered only {deliveries} times");
    assert_eq!(good.redelivered, 0);
    ack(good).await;
    let letters = dead_letters(fixture, 1).await;
    assert_eq!(letters[0].message.body, b"poison".as_slice());
    assert_eq!(letters[0].reason, "delivery limit");
    assert_eq!(letters[0].source, Queue::Shard(ShardId(8)).name());
}

/// And is still the message that it was.
pub async fn a_dead_letter_says_why_whence_and_when(fixture: &mut impl BusFixture) {
    let mut sent = message("bad");
    sent.kind = Some("lease.extend".into());
    sent.headers.insert("x-one".into(), "1".into());
    fixture.bus().publish(&Address::Requests, sent.clone()).await.expect("the bus takes a message");
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    bury(next(fixture, &mut consumer).await, "field \"by\" is missing").await;
    expect_nothing(fixture, &mut consumer).await;
    let letter = dead_letters(fixture, 1).await.remove(0);
    assert_eq!(letter.reason, "field \"by\" is missing");
    assert_eq!(letter.source, Queue::Requests.name());
    assert!(letter.at > Timestamp::EPOCH, "{}", letter.at);
    assert_eq!((letter.message.body, letter.message.kind), (sent.body, sent.kind));
    assert_eq!(letter.message.message_id, sent.message_id);
    assert_eq!(letter.message.headers.get("x-one"), sent.headers.get("x-one"));
}

async fn bury_all(fixture: &impl BusFixture, bodies: &[&str]) {
    publish(fixture, &Address::Requests, bodies).await;
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    for body in bodies {
        bury(expect(fixture, &mut consumer, body).await, "because").await;
    }
}

/// Oldest first.
pub async fn dead_letters_are_read_in_pages_by_stable_numbers(fixture: &mut impl BusFixture) {
    bury_all(fixture, &["a", "b", "c"]).await;
    let all = dead_letters(fixture, 3).await;
    let bodies: Vec<_> = all.iter().map(|letter| letter.message.body.clone()).collect();
    assert_eq!(bodies, ["a", "b", "c"]);
    assert!(all.is_sorted_by(|one, two| one.number < two.number), "{all:?}");
    let bus = fixture.bus();
    assert_eq!(bus.dead(0, 2).await.expect("dead letters can be read"), all[..2]);
    assert_eq!(bus.dead(all[1].number, 100).await.expect("dead letters can be read"), all[1..]);
    assert_eq!(bus.dead(all[2].number + 1, 100).await.expect("dead letters can be read"), []);
    bus.drop_dead(all[0].number).await.expect("a dead letter can be dropped");
    assert_eq!(dead_letters(fixture, 2).await, all[1..]);
}

/// And no dead letter any more.
pub async fn a_replayed_dead_letter_is_where_it_came_from(fixture: &mut impl BusFixture) {
    bury_all(fixture, &["a", "b"]).await;
    let letters = dead_letters(fixture, 2).await;
    fixture.bus().replay_dead(letters[0].number).await.expect("a dead letter can be replayed");
    assert_eq!(dead_letters(fixture, 1).await, letters[1..]);
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    let again = expect(fixture, &mut consumer, "a").await;
    assert_eq!(again.message, message("a"), "nothing of the dead letter clings to it");
    ack(again).await;
    expect_nothing(fixture, &mut consumer).await;
}

/// And its queue does not see it again.
pub async fn a_dropped_dead_letter_is_gone(fixture: &mut impl BusFixture) {
    bury_all(fixture, &["a", "b"]).await;
    let letters = dead_letters(fixture, 2).await;
    fixture.bus().drop_dead(letters[1].number).await.expect("a dead letter can be dropped");
    assert_eq!(dead_letters(fixture, 1).await, letters[..1]);
    let mut consumer = consume(fixture, &Queue::Requests, 1).await;
    expect_nothing(fixture, &mut consumer).await;
}

/// With its number in the reason.
pub async fn a_dead_letter_that_is_not_there_is_refused(fixture: &mut impl BusFixture) {
    let bus = fixture.bus();
    for refused in [bus.replay_dead(7_654_321).await, bus.drop_dead(7_654_321).await] {
        assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("7654321")), "{refused:?}");
    }
}

fn event(vm: VmId, sequence: u64, second: i64) -> CloudEvent {
    let source = EventSource { cluster: "suite".into(), node: NodeId::new("n1").expect("a name of a test") };
    Event { sequence, at: Timestamp::from_millis(1_700_000_000_000 + second * 1000), vm, kind: EventKind::VmTerminated }
        .to_cloud_event(&source)
}

async fn publish_event(fixture: &impl BusFixture, event: &CloudEvent) {
    let message = Message {
        body: EventView::new(0, event).json.into(),
        content_type: Some("application/cloudevents+json".into()),
        message_id: Some(event.id.0.clone()),
        ..Message::default()
    };
    let key = event.kind.trim_start_matches("reeve.").to_owned();
    fixture.bus().publish(&Address::Events(key), message).await.expect("the bus takes an event");
}

/// What the history says about this VM since a time, once there are `count` of it.
async fn history(fixture: &impl BusFixture, vm: VmId, since: Timestamp, count: usize) -> Vec<(u64, CloudEvent)> {
    let (bus, subject) = (fixture.bus(), format!("vm/{vm}"));
    let wait = async {
        loop {
            let past = bus.history(since, None, 1000).await.expect("the history can be read");
            let about: Vec<_> = past
                .into_iter()
                .filter(|past| past.event.subject == subject)
                .map(|past| (past.position, past.event))
                .collect();
            if about.len() >= count {
                return about;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(fixture.patience(), wait).await.expect("the history shows the events in time")
}

fn new_vm() -> VmId {
    VmId::new(uuid::Uuid::new_v4())
}

/// Each page begins after a position.
pub async fn the_history_is_in_order_and_in_pages(fixture: &mut impl BusFixture) {
    let vm = new_vm();
    let events: Vec<_> = (1..=5).map(|n| event(vm, n, i64::try_from(n).unwrap_or(0))).collect();
    for event in &events {
        publish_event(fixture, event).await;
    }
    let past = history(fixture, vm, Timestamp::EPOCH, 5).await;
    assert_eq!(past.iter().map(|(_, event)| event).collect::<Vec<_>>(), events.iter().collect::<Vec<_>>());
    assert!(past.is_sorted_by(|one, two| one.0 < two.0));
    let bus = fixture.bus();
    let page = bus.history(Timestamp::EPOCH, Some(past[1].0), 2).await.expect("the history can be read");
    let page: Vec<_> = page.into_iter().map(|past| (past.position, past.event)).collect();
    assert_eq!(page, past[2..4]);
    assert_eq!(bus.history(Timestamp::EPOCH, Some(past[4].0), 10).await.expect("the history can be read"), []);
}

/// The time of the event itself, whatever the order of publishing.
pub async fn the_history_begins_at_a_time(fixture: &mut impl BusFixture) {
    let vm = new_vm();
    for (n, second) in [(1, 10), (2, 30), (3, 20), (4, 30)] {
        publish_event(fixture, &event(vm, n, second)).await;
    }
    assert_eq!(history(fixture, vm, Timestamp::EPOCH, 4).await.len(), 4);
    let since = history(fixture, vm, event(vm, 0, 30).time, 2).await;
    assert_eq!(since.iter().map(|(_, event)| event.sequence).collect::<Vec<_>>(), [2, 4]);
}

/// With its correlation.
pub async fn a_reply_reaches_who_waits_for_it(fixture: &mut impl BusFixture) {
    let (address, mut replies) = fixture.reply_queue().await;
    let mut reply = message("{\"ok\":true}");
    reply.correlation_id = Some("c-9".into());
    fixture.bus().publish(&Address::Reply(address), reply.clone()).await.expect("the bus takes a reply");
    let received = tokio::time::timeout(fixture.patience(), replies.recv()).await.expect("the reply comes in time");
    assert_eq!(received, Some(reply));
}

/// The requester may be gone; its command must not fail for that.
pub async fn a_reply_that_nobody_waits_for_is_no_failure(fixture: &mut impl BusFixture) {
    let (gone, replies) = fixture.reply_queue().await;
    drop(replies);
    for address in [gone, "nobody.ever.made.this".to_owned()] {
        let published = fixture.bus().publish(&Address::Reply(address), message("{\"ok\":true}")).await;
        assert_eq!(published, Ok(()));
    }
}

/// And not at another cloud's.
pub async fn notifications_arrive_at_their_clouds_intake(fixture: &mut impl BusFixture) {
    let (east, west) = (cloud("east"), cloud("west"));
    let mut at_east = consume(fixture, &Queue::Intake(east.clone()), 10).await;
    let mut at_west = consume(fixture, &Queue::Intake(west.clone()), 10).await;
    fixture.notify(&east, message("e1")).await;
    fixture.notify(&west, message("w1")).await;
    drop(expect(fixture, &mut at_east, "e1").await);
    let again = expect(fixture, &mut at_east, "e1").await;
    assert_eq!(again.redelivered, 1);
    bury(again, "unreadable").await;
    ack(expect(fixture, &mut at_west, "w1").await).await;
    expect_nothing(fixture, &mut at_east).await;
    let letter = dead_letters(fixture, 1).await.remove(0);
    assert_eq!(letter.source, Queue::Intake(east).name());
}

/// And others do not come; whoever is there shares them, and a restart loses none.
pub async fn events_for_rules_wait_until_they_are_settled(fixture: &mut impl BusFixture) {
    let vm = new_vm();
    let source = EventSource { cluster: "suite".into(), node: NodeId::new("n1").expect("a name of a test") };
    let missed = |sequence| {
        let kind = EventKind::BackupMissed { due_at: Timestamp::EPOCH };
        Event { sequence, at: Timestamp::EPOCH, vm, kind }.to_cloud_event(&source)
    };
    publish_event(fixture, &missed(1)).await;
    publish_event(fixture, &event(vm, 2, 1)).await;
    publish_event(fixture, &missed(3)).await;
    fixture.restart().await;
    let mut consumer = consume(fixture, &Queue::Rules, 1).await;
    let first = next(fixture, &mut consumer).await;
    assert_eq!(first.message.message_id, Some(missed(1).id.0));
    assert_eq!(first.message.body, EventView::new(0, &missed(1)).json.as_bytes());
    drop(first);
    let again = next(fixture, &mut consumer).await;
    assert_eq!(again.message.message_id, Some(missed(1).id.0));
    ack(again).await;
    let third = next(fixture, &mut consumer).await;
    assert_eq!(third.message.message_id, Some(missed(3).id.0), "what no rule is for does not come");
    bury(third, "no channel").await;
    expect_nothing(fixture, &mut consumer).await;
    let letter = dead_letters(fixture, 1).await.remove(0);
    assert_eq!((letter.source, letter.reason.as_str()), (Queue::Rules.name(), "no channel"));
    fixture.bus().replay_dead(letter.number).await.expect("a dead letter can be replayed");
    let replayed = next(fixture, &mut consumer).await;
    assert_eq!(replayed.message.message_id, Some(missed(3).id.0));
    ack(replayed).await;
}
