//! What is done to a server that is there.

use reeve_ports::CloudError;
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::{Timestamp, VmId};
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, Ask};
use super::server::{One, Record};
use super::session::Service;
use super::time;

/// Nova keeps whole seconds of when an action began: it was before the next one.
const REST_OF_SECOND_MS: i64 = 999;

#[derive(Deserialize)]
struct Actions {
    #[serde(rename = "instanceActions")]
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct Action {
    action: String,
    start_time: Option<String>,
}

impl Api {
    /// A server, whole.
    pub(super) async fn server(&self, vm: VmId) -> Result<(Record, Said), CloudError> {
        let answer = self.ask(Ask::get(Service::Compute, format!("/servers/{vm}"))).await?;
        let One { server } = answer.json()?;
        if server.is_partial() {
            return Err(CloudError::Unavailable(format!("the cell of instance {vm} does not answer")));
        }
        Ok((server, self.said(&answer)))
    }

    /// A server as it was written before microversion 2.47, with the id of its flavor; one that is gone if need be.
    pub(super) async fn server_or_ghost(&self, vm: VmId) -> Result<Record, CloudError> {
        let living = self.ask(Ask::get(Service::Compute, format!("/servers/{vm}")).exactly(2, 46)).await;
        match living {
            Ok(answer) => Ok(answer.json::<One>()?.server),
            Err(CloudError::NotFound(why)) => {
                let ask = Ask::servers().exactly(2, 46).query("deleted", "1").query("uuid", vm.to_string());
                let gone: Vec<Record> = self.every(ask).await?;
                gone.into_iter().find(|server| server.id == vm).ok_or(CloudError::NotFound(why))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn act(&self, vm: VmId, action: Value) -> Result<(), CloudError> {
        self.ask(Ask::post(Service::Compute, format!("/servers/{vm}/action"), action)).await.map(|_| ())
    }

    /// An action that ends in this state. Refused by a server that is there already, it is done.
    pub(super) async fn act_towards(&self, vm: VmId, action: Value, state: VmState) -> Result<(), CloudError> {
        let refused = match self.act(vm, action).await {
            Err(CloudError::Refused(why)) if why.starts_with("409") => why,
            other => return other,
        };
        let seen: Result<VmFacts, CloudError> = self.server(vm).await.map(|(server, _)| server.facts());
        match seen {
            Ok(facts) if facts.state == state && facts.task.is_none() => Ok(()),
            Ok(_) | Err(_) => Err(CloudError::Refused(refused)),
        }
    }

    /// The last reboot in the history of a server. Told too late rather than too early: one that came after a decision
    /// must not look as if it had come before.
    pub(super) async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        let answer = self.ask(Ask::get(Service::Compute, format!("/servers/{vm}/os-instance-actions"))).await?;
        let reboots = answer.json::<Actions>()?.actions.into_iter().filter(|action| action.action == "reboot");
        let times = reboots.filter_map(|action| time::openstack(action.start_time.as_deref()?));
        Ok(times.max().map(|at| match at.as_millis() % 1_000 {
            0 => Timestamp::from_millis(at.as_millis() + REST_OF_SECOND_MS),
            _ => at,
        }))
    }
}
