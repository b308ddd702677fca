//! The parts of a VM that was asked for: made, seen ready, taken back.
//!
//! ```text
//! find ┬ absent ─► confirm the epoch ─► make ─► find … ┬ ready ─► Done
//!      ├ pending ─────────────────────────────────────►┤ failed ─► NotApplied
//!      └ ready, failed ───────────────────────────────►┴ too long ─► Unknown
//!
//! confirm the epoch ─► remove all that carries the tag ─► … ─► a look finds nothing ─► Done
//! ```
//!
//! Everything is found by the operation's tag, so no attempt needs to know what the one before it came to. A server that
//! ran and went is not made again: somebody removed it.

use std::net::IpAddr;

use reeve_lifecycle::effect::Report;
use reeve_lifecycle::operation::ReplyTo;
use reeve_lifecycle::{Done, Outcome};
use reeve_ports::cloud::{Blueprint, PartState};
use reeve_protocol::VmId;
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::observation::VmState;
use reeve_protocol::provision::{Part, Readiness};
use serde_json::json;

use super::server::{Seen, look};
use super::wait::Patience;
use super::{Attempt, act_failed, look_failed, not_applied, retryable, unknown};

fn patience(attempt: Attempt<'_>) -> Patience<'_> {
    Patience::new(attempt.clock(), attempt.timeouts().settle, attempt.timeouts().look_every)
}

fn blueprint(attempt: Attempt<'_>) -> Result<&Blueprint, Outcome> {
    attempt.vm.blueprint.as_deref().ok_or_else(|| not_applied("the request is settled"))
}

/// Asks the cloud whether it has what is wanted, and would allow it.
pub(super) async fn check_plan(attempt: Attempt<'_>) -> Outcome {
    let plan = match blueprint(attempt) {
        Ok(blueprint) => &blueprint.plan,
        Err(outcome) => return outcome,
    };
    match attempt.cloud.check_plan(plan).await {
        Ok(()) => Outcome::Done(Done::Plain),
        Err(error) => look_failed(&error),
    }
}

/// Makes a part, unless it is there.
pub(super) async fn make_part(attempt: Attempt<'_>, part: Part) -> Outcome {
    try_make(attempt, part).await.unwrap_or_else(|outcome| outcome)
}

async fn try_make(attempt: Attempt<'_>, part: Part) -> Result<Outcome, Outcome> {
    let blueprint = blueprint(attempt)?;
    let patience = patience(attempt);
    let mut asked = false;
    loop {
        match attempt.cloud.find_part(blueprint, part).await.map_err(|error| look_failed(&error))? {
            PartState::Ready { id, addresses } => return made(part, &id, addresses),
            PartState::Failed(why) => return Ok(not_applied(format!("{}: {why}", name(part)))),
            PartState::Pending => {}
            PartState::Absent if !asked => {
                if part == Part::Server {
                    never_ran(attempt, blueprint).await?;
                }
                attempt.confirm().await?;
                attempt.cloud.make_part(blueprint, part).await.map_err(|error| act_failed(&error))?;
                asked = true;
                // Much is there at once.
                continue;
            }
            // What was made just now may not be shown yet.
            PartState::Absent => {}
        }
        if !patience.again().await {
            return Ok(unknown(format!("{} is not seen to be ready", name(part))));
        }
    }
}

fn made(part: Part, id: &str, addresses: Vec<String>) -> Result<Outcome, Outcome> {
    match part {
        Part::Server => {
            let new_vm =
                id.parse().map_err(|error| not_applied(format!("the cloud calls the server {id:?}: {error}")))?;
            Ok(Outcome::Done(Done::Launched { new_vm }))
        }
        Part::Firewall | Part::Port | Part::Address | Part::Volume(_) => Ok(Outcome::Done(Done::Part { addresses })),
    }
}

/// Refuses to make a server twice: one that was made and is gone was removed by somebody.
async fn never_ran(attempt: Attempt<'_>, blueprint: &Blueprint) -> Result<(), Outcome> {
    let found = attempt.cloud.find_launched(&blueprint.operation, attempt.pending.decided_at).await;
    let found = found.map_err(|error| look_failed(&error))?;
    match found.iter().find(|facts| facts.state == VmState::Deleted) {
        Some(facts) => Err(not_applied(format!("the server {} was made, and removed by somebody", facts.vm))),
        None => Ok(()),
    }
}

fn name(part: Part) -> String {
    match part {
        Part::Firewall => "the security group".to_owned(),
        Part::Port => "the port".to_owned(),
        Part::Address => "the public address".to_owned(),
        Part::Volume(index) => format!("volume {index}"),
        Part::Server => "the server".to_owned(),
    }
}

/// Waits until the new server is ready, as its plan says.
pub(super) async fn await_ready(attempt: Attempt<'_>, new_vm: VmId, addresses: &[String]) -> Outcome {
    try_await(attempt, new_vm, addresses).await.unwrap_or_else(|outcome| outcome)
}

async fn try_await(attempt: Attempt<'_>, new_vm: VmId, addresses: &[String]) -> Result<Outcome, Outcome> {
    let ready = &blueprint(attempt)?.plan.ready;
    let patience = patience(attempt);
    loop {
        let missing = match look(attempt, new_vm).await? {
            Seen::Gone => return Ok(not_applied(format!("the new VM {new_vm} is gone"))),
            Seen::There(facts) if facts.state == VmState::Error => {
                return Ok(not_applied(format!("the new VM {new_vm} is in state error")));
            }
            Seen::There(facts) if facts.state != VmState::Active || facts.task.is_some() => {
                Some(format!("it is {}", facts.state.as_nova()))
            }
            Seen::There(_) => not_ready(attempt, new_vm, ready, addresses).await?,
        };
        let Some(missing) = missing else { return Ok(Outcome::Done(Done::Plain)) };
        if !patience.again().await {
            return Ok(retryable(format!("the new VM {new_vm} is not ready: {missing}")));
        }
    }
}

/// What a VM that runs lacks, if it lacks anything.
async fn not_ready(
    attempt: Attempt<'_>,
    new_vm: VmId,
    ready: &Readiness,
    addresses: &[String],
) -> Result<Option<String>, Outcome> {
    match ready {
        Readiness::Active => Ok(None),
        Readiness::Console(text) => {
            let console = attempt.cloud.console(new_vm).await.map_err(|error| look_failed(&error))?;
            Ok((!console.contains(text)).then(|| format!("its console does not show {text:?}")))
        }
        Readiness::Tcp(port) => {
            let Some(address) = addresses.first().and_then(|address| address.parse::<IpAddr>().ok()) else {
                return Err(not_applied("it has no address that could be tried"));
            };
            let Some(probe) = attempt.ports.probe.get(&attempt.vm.cloud) else {
                return Err(retryable(format!("cloud {} has no probe on this node", attempt.vm.cloud)));
            };
            let takes = probe.connects(address, *port, attempt.timeouts().call).await;
            Ok((!takes).then(|| format!("{address} takes no connections on port {port}")))
        }
    }
}

/// Removes everything that was made for the request.
pub(super) async fn take_back(attempt: Attempt<'_>) -> Outcome {
    try_take_back(attempt).await.unwrap_or_else(|outcome| outcome)
}

async fn try_take_back(attempt: Attempt<'_>) -> Result<Outcome, Outcome> {
    let operation = &blueprint(attempt)?.operation;
    let patience = patience(attempt);
    loop {
        attempt.confirm().await?;
        if attempt.cloud.remove_parts(operation).await.map_err(|error| act_failed(&error))? {
            return Ok(Outcome::Done(Done::Plain));
        }
        if !patience.again().await {
            return Ok(retryable("some of it is still there"));
        }
    }
}

/// Tells whoever asked for the VM what came of it, at least once.
pub(super) async fn report(attempt: Attempt<'_>, to: &ReplyTo, report: &Report) -> Outcome {
    let (kind, body) = match report {
        Report::Delivered(delivery) => {
            ("vm.delivered", json!({ "ok": true, "result": { "request": attempt.vm.vm, "delivered": delivery } }))
        }
        Report::Failed { reason } => {
            let refusal = Refusal::new(RefusalCode::Conflict, reason.as_str());
            ("vm.provision-failed", json!({ "ok": false, "error": refusal, "request": attempt.vm.vm }))
        }
    };
    match attempt.vm.ownership.introducer.report(to, kind, body.to_string().into_bytes()).await {
        Ok(()) => Outcome::Done(Done::Plain),
        Err(reason) => retryable(reason),
    }
}
