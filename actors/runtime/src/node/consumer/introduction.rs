//! New VMs made of backups: told to their own supervisors, on whichever node those are.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reeve_lifecycle::operation::ReplyTo;
use reeve_lifecycle::{Verdict, VmInput};
use reeve_ports::{Address, BusError, Delivery, Message, Settlement};
use reeve_protocol::codec::CodecError;
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::{CloudName, VmId, codec};

use super::{HEADER_CLOUD, INTRODUCTION, forward, settle};
use crate::node::router::{Delivered, Sending};
use crate::perform::Introducer;
use crate::shared::Shared;

/// The format byte of an introduction in a shard's queue: of a VM with an ancestor, which every version reads, and of one
/// without.
const WITH_ANCESTOR: u8 = 1;
const WITHOUT: u8 = 2;

/// Introduces VMs to their supervisors, here or over the queue of their shard.
pub(in crate::node) struct ClusterIntroducer(pub(in crate::node) Arc<Shared>);

#[async_trait]
impl Introducer for ClusterIntroducer {
    async fn introduce(&self, vm: VmId, cloud: &CloudName, input: VmInput) -> Result<(), String> {
        let shared = &self.0;
        let sending = Sending { vm, cloud: Some(cloud.clone()), input: input.clone() };
        if !shared.takes(shared.router.shard_of(vm)) {
            return send(shared, vm, cloud, input).await;
        }
        match shared.router.deliver(sending).await {
            // A duplicate or something that is over says as well that there is nothing left to tell.
            Delivered::Verdict(Verdict::Accepted(_) | Verdict::Ignored(_)) => Ok(()),
            Delivered::Verdict(Verdict::Denied(answer)) => Err(format!("the new VM refused: {answer:?}")),
            Delivered::Verdict(Verdict::Busy) => Err("the new VM is busy".to_owned()),
            Delivered::Refused(refusal) => Err(refusal.message),
            Delivered::Poison => Err("the new VM's supervisor ended each time".to_owned()),
            Delivered::Elsewhere => send(shared, vm, cloud, input).await,
        }
    }

    async fn report(&self, to: &ReplyTo, kind: &str, body: Vec<u8>) -> Result<(), String> {
        let message = Message {
            body: Bytes::from(body),
            content_type: Some("application/json".to_owned()),
            kind: Some(kind.to_owned()),
            correlation_id: to.correlation.clone(),
            ..Message::default()
        };
        match self.0.bus.publish(&Address::Reply(to.queue.clone()), message).await {
            // Whoever asked has gone.
            Ok(()) | Err(BusError::Refused(_)) => Ok(()),
            Err(error @ BusError::Unavailable(_)) => Err(error.to_string()),
        }
    }
}

/// Hands an introduction to the queue of the new VM's shard. The bus has taken responsibility for it then.
async fn send(shared: &Shared, vm: VmId, cloud: &CloudName, input: VmInput) -> Result<(), String> {
    let VmInput::Introduced { revived_from, facts, said } = input else {
        return Err("only introductions travel this way".to_owned());
    };
    let body = match revived_from {
        Some(from) => codec::encode(WITH_ANCESTOR, &(from, facts, said)),
        None => codec::encode(WITHOUT, &(facts, said)),
    };
    let body = body.map_err(|error| error.to_string())?;
    let mut message = Message {
        body: Bytes::from(body),
        kind: Some(INTRODUCTION.to_owned()),
        message_id: Some(format!("introduce/{vm}")),
        ..Message::default()
    };
    message.headers.insert(HEADER_CLOUD.to_owned(), cloud.to_string());
    let to = Address::Shard(shared.router.shard_of(vm));
    shared.bus.publish(&to, message).await.map_err(|error| error.to_string())
}

fn decode(body: &[u8]) -> Result<(Option<VmId>, VmFacts, Said), CodecError> {
    if body.first() == Some(&WITHOUT) {
        let (_, (facts, said)) = codec::decode(WITHOUT, body)?;
        return Ok((None, facts, said));
    }
    let (_, (from, facts, said)) = codec::decode(WITH_ANCESTOR, body)?;
    Ok((Some(from), facts, said))
}

/// Takes an introduction from the queue of a shard.
pub(super) async fn take(shared: Arc<Shared>, cloud: CloudName, delivery: Delivery) {
    let (revived_from, facts, said) = match decode(&delivery.message.body) {
        Ok(introduced) => introduced,
        Err(error) => return settle(delivery, Settlement::Dead(error.to_string())).await,
    };
    let vm = facts.vm;
    let input = VmInput::Introduced { revived_from, facts, said };
    let settlement = match shared.router.deliver(Sending { vm, cloud: Some(cloud), input }).await {
        Delivered::Verdict(_) => Settlement::Ack,
        Delivered::Elsewhere => {
            let message = delivery.message.clone();
            return forward(shared.bus.as_ref(), shared.router.shard_of(vm), delivery, message).await;
        }
        Delivered::Refused(refusal) => Settlement::Dead(refusal.message),
        Delivered::Poison => Settlement::Dead(format!("the supervisor of {vm} ended each time it was told")),
    };
    settle(delivery, settlement).await;
}
