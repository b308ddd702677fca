//! Tells over the bus that a service of a cloud does not answer this node, once, and once that it does again.
//!
//! ```text
//! driver ─► Outages (what is so now) ─┐
//!                                     ├─► unlike ─► alert.raised, alert.cleared ─► told ─► compared again
//! what was told ──────────────────────┘                      │ the bus is away
//!                                                            └─► again, after a wait
//! ```
//!
//! What is so is compared with what was told, so nothing has to be kept while the bus is away: an outage that came and
//! went meanwhile is in the log alone. A node that is started anew has told nothing: an outage that still lasts is told
//! again, and one that ended meanwhile is not called over by the next process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reeve_drivers::cloud::openstack::Outages;
use reeve_ports::{Address, Bus, BusError, Clock, Message};
use reeve_protocol::event::{EventSource, OutageEvent};
use reeve_protocol::{CloudName, Timestamp};
use tokio::sync::watch;

/// The wait after the bus did not take an event.
const AGAIN: Duration = Duration::from_secs(5);

/// Tells for ever, until the driver is gone.
pub(super) async fn tell(
    mut outages: watch::Receiver<Outages>,
    cloud: CloudName,
    source: EventSource,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
) {
    let mut told = Outages::new();
    let mut sequence = 0;
    loop {
        let so = outages.borrow_and_update().clone();
        while let Some((service, since, is_over)) = unlike(&told, &so) {
            let service_name = service.to_owned();
            let (at, cloud) = (clock.now(), cloud.clone());
            let event = OutageEvent { sequence: sequence + 1, at, cloud, service: service_name, since, is_over };
            if let Err(error) = publish(&event, &source, bus.as_ref()).await {
                tracing::warn!(%error, "an outage of a cloud is not published; it is tried again");
                clock.sleep(AGAIN).await;
                // It may be over by now.
                break;
            }
            sequence += 1;
            if is_over {
                told.remove(service)
            } else {
                told.insert(service, since)
            };
        }
        if unlike(&told, &outages.borrow()).is_none() && outages.changed().await.is_err() {
            return;
        }
    }
}

/// The next thing to tell: which service, since when it does not answer, and whether it does again. The end of an outage
/// comes before the beginning of the next.
fn unlike(told: &Outages, so: &Outages) -> Option<(&'static str, Timestamp, bool)> {
    let over = told.iter().find(|(service, since)| so.get(*service) != Some(*since));
    let begun = || so.iter().find(|(service, _)| !told.contains_key(*service));
    let found = over.map(|(service, since)| (*service, *since, true));
    found.or_else(|| begun().map(|(service, since)| (*service, *since, false)))
}

async fn publish(event: &OutageEvent, source: &EventSource, bus: &dyn Bus) -> Result<(), BusError> {
    let cloud_event = event.to_cloud_event(source);
    let message = Message {
        body: Bytes::from(serde_json::to_vec(&cloud_event).expect("an event is plain data with text keys")),
        content_type: Some("application/cloudevents+json".to_owned()),
        kind: Some(cloud_event.kind),
        message_id: Some(cloud_event.id.0),
        ..Message::default()
    };
    bus.publish(&Address::Events(event.routing_key().to_owned()), message).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn what_is_told_follows_what_is_so_step_by_step() {
        let none = Outages::new();
        let first = Outages::from([("compute", at(1)), ("image", at(2))]);
        assert_eq!(unlike(&none, &none), None);
        assert_eq!(unlike(&none, &first), Some(("compute", at(1), false)));
        assert_eq!(unlike(&Outages::from([("compute", at(1))]), &first), Some(("image", at(2), false)));
        assert_eq!(unlike(&first, &first), None, "once");
        assert_eq!(unlike(&first, &none), Some(("compute", at(1), true)));
        let second = Outages::from([("compute", at(9))]);
        let told = Outages::from([("compute", at(1))]);
        assert_eq!(unlike(&told, &second), Some(("compute", at(1), true)), "another outage, not the same one");
    }
}
