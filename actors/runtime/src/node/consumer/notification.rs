//! Foreign notifications.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::Either;
use reeve_lifecycle::VmInput;
use reeve_ports::{Delivery, Settlement};
use reeve_protocol::openstack::{About, decode_with};
use reeve_protocol::{CloudName, ShardId};

use super::{HEADER_CLOUD, NOTIFICATION, forward, settle};
use crate::node::router::{Delivered, Sending};
use crate::shared::Shared;

/// Decodes and posts at once; the future returned awaits the commit and settles.
pub(super) fn take(
    shared: Arc<Shared>,
    cloud: CloudName,
    delivery: Delivery,
) -> impl Future<Output = ()> + Send + 'static {
    let wanted = shared.config.runtime.notifications.get(&cloud).copied().unwrap_or_default();
    let compression = delivery.message.headers.get("compression").map(String::as_str);
    let notification = match decode_with(&delivery.message.body, compression) {
        Ok(notification) => notification,
        Err(error) => return Either::Left(settle(delivery, Settlement::Dead(error.to_string()))),
    };
    let reads = wanted.reads(notification.family());
    let input = match notification.about {
        About::Vm(input) if reads => input,
        About::Vm(_) | About::Service(_) | About::Other { .. } => {
            shared.counters.not_about_vms.fetch_add(1, Ordering::Relaxed);
            return Either::Left(settle(delivery, Settlement::Ack));
        }
    };
    let vm = input.facts.vm;
    let shard = shared.router.shard_of(vm);
    if !shared.takes(shard) {
        return Either::Right(Either::Left(pass_on(shared, shard, cloud, delivery)));
    }
    let posted = shared.router.post(Sending { vm, cloud: Some(cloud.clone()), input: VmInput::Notified(*input) });
    Either::Right(Either::Right(async move {
        let settlement = match shared.router.answer(posted).await {
            Delivered::Verdict(_) => Settlement::Ack,
            Delivered::Elsewhere => return pass_on(shared, shard, cloud, delivery).await,
            Delivered::Refused(refusal) => Settlement::Dead(refusal.message),
            Delivered::Poison => Settlement::Dead(format!("the supervisor of {vm} ended each time it was told")),
        };
        settle(delivery, settlement).await;
    }))
}

/// Hands a notification to the queue of its shard, with the cloud that it is from.
async fn pass_on(shared: Arc<Shared>, shard: ShardId, cloud: CloudName, delivery: Delivery) {
    let mut message = delivery.message.clone();
    message.kind = Some(NOTIFICATION.to_owned());
    message.headers.insert(HEADER_CLOUD.to_owned(), cloud.to_string());
    forward(shared.bus.as_ref(), shard, delivery, message).await;
}
