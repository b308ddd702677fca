//! Producers' commands.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use reeve_lifecycle::operation::ReplyTo;
use reeve_lifecycle::{Ignored, NamedPolicy, Policies, Verdict, VmInput};
use reeve_ports::{Address, BusError, Delivery, Message, Settlement};
use reeve_protocol::command::{Answer, Command, CommandKind, Refusal, RefusalCode, answer_json, parse};
use reeve_protocol::provision::ProvisionRequest;
use reeve_protocol::{CloudName, VmId};

use super::{forward, settle};
use crate::node::router::{Delivered, Posted, Sending};
use crate::shared::Shared;

/// The most bytes of the name of a queue, and of a correlation id (AMQP 0-9-1, short strings).
const MAX_REPLY_TO: usize = 255;
/// How many times an answer is published before it is given up: the command is carried out, and the same message id
/// again gives the same answer.
const MAX_ANSWERS: u32 = 5;
/// The wait between two of them.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// A command as its VM is told it, or a refusal that needs no VM.
pub(in crate::node) fn sending(shared: &Shared, command: &Command, reply: Option<ReplyTo>) -> Result<Sending, Refusal> {
    let vm = command.vm;
    let CommandKind::VmProvision(request) = &command.kind else {
        let policy = resolve_policy(&shared.policies, command)?;
        let input = VmInput::Commanded { command: command.clone(), policy };
        return Ok(Sending { vm, cloud: None, input });
    };
    if vm != VmId::of_request(&command.id) {
        let message = format!("a request has the id that its message id gives, {}", VmId::of_request(&command.id));
        return Err(Refusal::new(RefusalCode::Invalid, message));
    }
    let cloud = cloud_of(shared, request)?;
    let admission = shared.config.runtime.provision.admit(&command.by, request, &shared.policies);
    Ok(Sending { vm, cloud: Some(cloud), input: VmInput::Asked { command: command.clone(), admission, reply } })
}

/// The cloud that a VM is asked for in.
fn cloud_of(shared: &Shared, request: &ProvisionRequest) -> Result<CloudName, Refusal> {
    let clouds = &shared.ports.cloud;
    let names = || clouds.keys().map(CloudName::as_str).collect::<Vec<_>>().join(", ");
    match &request.cloud {
        Some(cloud) if clouds.contains_key(cloud) => Ok(cloud.clone()),
        Some(cloud) => {
            Err(Refusal::new(RefusalCode::NotFound, format!("no cloud {cloud} is configured (there are: {})", names())))
        }
        None => match (clouds.keys().next(), clouds.len()) {
            (Some(only), 1) => Ok(only.clone()),
            _ => Err(Refusal::new(RefusalCode::Invalid, format!("key \"cloud\": which of {}?", names()))),
        },
    }
}

/// Where whoever sent a message waits for word.
fn reply_to(message: &Message) -> Option<ReplyTo> {
    let fits = |text: &String| text.len() <= MAX_REPLY_TO;
    let queue = message.reply_to.clone().filter(fits)?;
    Some(ReplyTo { queue, correlation: message.correlation_id.clone().filter(fits) })
}

/// The policy that a command names; a refusal if there is none of that name.
fn resolve_policy(policies: &Policies, command: &Command) -> Result<Option<NamedPolicy>, Refusal> {
    match &command.kind {
        CommandKind::LeaseSetPolicy { policy } => match policies.get(policy) {
            Some(named) => Ok(Some(named)),
            None => Err(Refusal::new(RefusalCode::NotFound, format!("no policy {policy:?} is configured"))),
        },
        CommandKind::VmAdopt
        | CommandKind::VmStart
        | CommandKind::VmStop
        | CommandKind::VmReboot
        | CommandKind::VmSuspend
        | CommandKind::VmResume
        | CommandKind::VmDelete { .. }
        | CommandKind::VmRevive { .. }
        | CommandKind::VmMaintenance(_)
        | CommandKind::LeaseExtend { .. }
        | CommandKind::LeaseExtendIf { .. }
        | CommandKind::LeaseEnd
        | CommandKind::LeaseCancelEnd
        | CommandKind::LeaseSetDelegates { .. }
        | CommandKind::LeaseExempt(_)
        | CommandKind::BackupRun
        | CommandKind::BackupVerify { .. }
        | CommandKind::BackupRestore { .. }
        | CommandKind::BackupDelete { .. }
        | CommandKind::HealthReport { .. }
        | CommandKind::RepairRun
        | CommandKind::RepairSuspend(_)
        | CommandKind::NoticeSend { .. }
        | CommandKind::VmProvision(_) => Ok(None),
    }
}

/// The answer that a verdict holds.
pub(in crate::node) fn answer_of(command: &Command, delivered: Delivered) -> Option<Answer> {
    let nothing = || {
        let message = format!("{} changes nothing", command.id);
        Ok(reeve_protocol::command::Accepted { vm: command.vm, message, ends_at: None, backup: None })
    };
    match delivered {
        Delivered::Verdict(Verdict::Denied(answer)) => Some(answer),
        Delivered::Verdict(Verdict::Accepted(answer) | Verdict::Ignored(Ignored::Duplicate(answer))) => {
            Some(answer.unwrap_or_else(nothing))
        }
        Delivered::Verdict(Verdict::Ignored(Ignored::Stale | Ignored::Nothing | Ignored::Over)) => Some(nothing()),
        Delivered::Verdict(Verdict::Busy) => {
            Some(Err(Refusal::new(RefusalCode::Unavailable, "too much is unpublished; send it again")))
        }
        Delivered::Refused(refusal) => Some(Err(refusal)),
        Delivered::Elsewhere => Some(Err(Refusal::new(RefusalCode::Unavailable, "another node owns the VM"))),
        Delivered::Poison => None,
    }
}

/// Parses and posts at once; the future returned awaits the commit, answers and settles.
pub(super) fn take(shared: Arc<Shared>, delivery: Delivery) -> impl Future<Output = ()> + Send + 'static {
    let message = &delivery.message;
    let command = match parse(message.kind.as_deref(), message.message_id.as_deref(), &message.body) {
        Ok(command) => command,
        Err(error) => return Either::Left(refuse(shared, delivery, Refusal::from(error))),
    };
    let sending = match sending(&shared, &command, reply_to(message)) {
        Ok(sending) => sending,
        Err(refusal) => return Either::Left(refuse(shared, delivery, refusal)),
    };
    let shard = shared.router.shard_of(command.vm);
    if !shared.takes(shard) {
        let message = delivery.message.clone();
        let forwarding = async move { forward(shared.bus.as_ref(), shard, delivery, message).await };
        return Either::Right(Either::Left(forwarding));
    }
    let posted = shared.router.post(sending);
    Either::Right(Either::Right(finish(shared, delivery, command, posted)))
}

async fn finish(shared: Arc<Shared>, delivery: Delivery, command: Command, posted: Posted) {
    let delivered = match shared.router.answer(posted).await {
        // No record has taken note of it: without an answer nobody would ever hear of it.
        Delivered::Refused(refusal) => return refuse(shared, delivery, refusal).await,
        Delivered::Elsewhere => {
            let (shard, message) = (shared.router.shard_of(command.vm), delivery.message.clone());
            return forward(shared.bus.as_ref(), shard, delivery, message).await;
        }
        delivered @ (Delivered::Verdict(_) | Delivered::Poison) => delivered,
    };
    match answer_of(&command, delivered) {
        Some(answer) => {
            if let (None, Err(refusal)) = (&delivery.message.reply_to, &answer) {
                tracing::info!(message_id = %command.id, vm = %command.vm, reason = %refusal.message, "a command is denied");
            }
            reply(&shared, &delivery.message, &answer).await;
            settle(delivery, Settlement::Ack).await;
        }
        None => {
            let why = format!("the supervisor of {} ended each time it was told", command.vm);
            reply(&shared, &delivery.message, &Err(Refusal::new(RefusalCode::Unavailable, why.as_str()))).await;
            settle(delivery, Settlement::Dead(why)).await;
        }
    }
}

/// Answers what cannot be carried out; without anybody to answer to, it becomes a dead letter.
async fn refuse(shared: Arc<Shared>, delivery: Delivery, refusal: Refusal) {
    if delivery.message.reply_to.is_some() {
        let reason = refusal.message.clone();
        tracing::info!(message_id = delivery.message.message_id.as_deref(), %reason, "a command is refused");
        reply(&shared, &delivery.message, &Err(refusal)).await;
        settle(delivery, Settlement::Ack).await;
    } else {
        settle(delivery, Settlement::Dead(refusal.message)).await;
    }
}

async fn reply(shared: &Shared, to: &Message, answer: &Answer) {
    let Some(reply_to) = to.reply_to.clone() else { return };
    let message = Message {
        body: Bytes::from(answer_json(answer)),
        content_type: Some("application/json".to_owned()),
        correlation_id: to.correlation_id.clone(),
        ..Message::default()
    };
    let address = Address::Reply(reply_to);
    for attempt in 1..=MAX_ANSWERS {
        match shared.bus.publish(&address, message.clone()).await {
            Ok(()) => return,
            // Whoever asked has gone.
            Err(BusError::Refused(_)) => return,
            Err(BusError::Unavailable(why)) => tracing::debug!(attempt, %why, "an answer is not published"),
        }
        shared.clock.sleep(ANSWER_WAIT).await;
    }
}
