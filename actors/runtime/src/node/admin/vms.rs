//! The VMs of this node, as administrators see and touch them. A tenant sees and touches those of its project; of any
//! other it is told what it is told of one that does not exist.

use futures::future::join_all;
use reeve_lifecycle::VmRecord;
use reeve_protocol::admin::{AdminReply, MAX_LIMIT, Principal, Role, VmView};
use reeve_protocol::command::{Command, CommandKind, Refusal, RefusalCode, Requester};
use reeve_protocol::event::Child;
use reeve_protocol::{ShardId, UserId, VmId};
use tokio::sync::oneshot;

use super::{Answer, LOADING, NOT_OWNER, not_found, unavailable};
use crate::actor::{ToVm, Told, VmHandle};
use crate::node::NodeHandle;
use crate::node::consumer::{answer_of, sending};
use crate::node::router::{Delivered, Standing};
use crate::node::shard::{Found, ToShard};
use crate::view;

/// Whether somebody may see a VM.
fn sees(by: &Principal, record: &VmRecord) -> bool {
    match &by.role {
        Role::Tenant(project) => record.facts.project.as_ref() == Some(project),
        Role::Viewer | Role::Operator | Role::Admin | Role::Node => true,
    }
}

const fn is_tenant(by: &Principal) -> bool {
    match &by.role {
        Role::Tenant(_) => true,
        Role::Viewer | Role::Operator | Role::Admin | Role::Node => false,
    }
}

/// The command in the name of whoever asks: nobody over the network speaks for somebody else. Whoever may open the
/// node's own socket is trusted to say who it is, as a producer on the bus is.
fn spoken(by: &Principal, mut command: Command) -> Result<Command, Refusal> {
    let name = || by.name.clone();
    match &by.role {
        Role::Tenant(project) => {
            let id = UserId::new(name()).map_err(|error| Refusal::new(RefusalCode::Invalid, error.to_string()))?;
            command.by = Requester::User { id, project: Some(project.clone()), roles: vec!["member".to_owned()] };
        }
        Role::Viewer | Role::Operator | Role::Admin if *by != Principal::local() => {
            command.by = Requester::Operator(name());
        }
        Role::Viewer | Role::Operator | Role::Admin | Role::Node => {}
    }
    Ok(command)
}

impl NodeHandle {
    async fn find(&self, vm: VmId) -> Result<Found, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let shard = self.shared.router.shard_of(vm);
        if self.shared.router.standing(shard) == Standing::Elsewhere {
            return Err(unavailable(NOT_OWNER));
        }
        if let Some(live) = self.shared.router.live(vm) {
            return Ok(Found::Live(live));
        }
        let owner = self.shared.router.owner(shard).ok_or_else(|| unavailable(LOADING))?;
        owner.send_message(ToShard::Find { vm, reply: sender }).map_err(|_| unavailable(LOADING))?;
        let found = receiver.await.map_err(|_| unavailable(LOADING))?;
        found.ok_or_else(|| not_found(format!("VM {vm}")))
    }

    /// The way to a VM that somebody may see.
    async fn live(&self, by: &Principal, vm: VmId) -> Result<VmHandle, Refusal> {
        match self.find(vm).await? {
            Found::Live(handle) if is_tenant(by) => {
                let asked = by.clone();
                let seen = handle.look(move |record| sees(&asked, record)).await.ok_or_else(|| unavailable(LOADING))?;
                if seen { Ok(handle) } else { Err(not_found(format!("VM {vm}"))) }
            }
            Found::Live(handle) => Ok(handle),
            Found::Loading => Err(unavailable(LOADING)),
            Found::Parked(_) if is_tenant(by) => Err(not_found(format!("VM {vm}"))),
            Found::Parked(reason) => {
                let message = format!("its stored record cannot be read: {reason}");
                Err(Refusal::new(RefusalCode::Conflict, message))
            }
        }
    }

    async fn of<T: Send + 'static>(
        &self,
        by: &Principal,
        vm: VmId,
        look: impl FnOnce(&VmRecord) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.live(by, vm).await?.look(look).await.ok_or_else(|| unavailable(LOADING))
    }

    pub(super) async fn show(&self, by: &Principal, vm: VmId) -> Answer {
        let shard = self.shared.router.shard_of(vm);
        let node = self.shared.config.node.clone();
        let moved = self.shared.performer.moved(vm);
        let shown = self.of(by, vm, move |record| view::vm(record, shard, &node, moved)).await?;
        Ok(AdminReply::Vm(Box::new(shown)))
    }

    pub(super) async fn history(&self, by: &Principal, vm: VmId) -> Answer {
        Ok(AdminReply::History(self.of(by, vm, view::history).await?))
    }

    pub(super) async fn backups(&self, by: &Principal, vm: VmId) -> Answer {
        let moved = self.shared.performer.moved(vm);
        Ok(AdminReply::Backups(self.of(by, vm, move |record| view::backups(record, moved)).await?))
    }

    pub(super) async fn offer(&self, by: &Principal, vm: VmId) -> Answer {
        let now = self.shared.ports.clock.now();
        let offer = self.of(by, vm, move |record| reeve_lifecycle::offer(record, now)).await?;
        Ok(AdminReply::Offer(offer))
    }

    pub(super) async fn vm_tree(&self, by: &Principal, vm: VmId) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.live(by, vm).await?.send(ToVm::Tree(sender));
        let tree = receiver.await.map_err(|_| unavailable(LOADING))?;
        Ok(AdminReply::Actors(Box::new(tree)))
    }

    pub(super) async fn kill(&self, by: &Principal, vm: VmId, child: Option<Child>) -> Answer {
        let (reply, told) = oneshot::channel();
        self.end(by, vm, ToVm::Kill(child, reply), told).await
    }

    pub(super) async fn restart(&self, by: &Principal, vm: VmId, child: Option<Child>) -> Answer {
        let (reply, told) = oneshot::channel();
        self.end(by, vm, ToVm::Restart(child, reply), told).await
    }

    async fn end(&self, by: &Principal, vm: VmId, message: ToVm, told: oneshot::Receiver<Told>) -> Answer {
        self.live(by, vm).await?.send(message);
        match told.await.map_err(|_| unavailable("its supervisor ended first; see its actor tree"))? {
            Told::Yes => Ok(AdminReply::Done),
            Told::NoSuchChild => {
                Err(Refusal::new(RefusalCode::NotFound, format!("VM {vm} has no such child now; see its actor tree")))
            }
        }
    }

    pub(super) async fn command(&self, by: &Principal, command: Command) -> Answer {
        let command = spoken(by, command)?;
        let asks_for_a_vm = matches!(command.kind, CommandKind::VmProvision(_));
        if is_tenant(by) && !asks_for_a_vm {
            self.live(by, command.vm).await?;
        }
        if self.shared.router.standing(self.shared.router.shard_of(command.vm)) == Standing::Elsewhere {
            return Err(unavailable(NOT_OWNER));
        }
        let delivered = self.shared.router.deliver(sending(&self.shared, &command, None)?).await;
        if matches!(delivered, Delivered::Elsewhere) {
            return Err(unavailable(NOT_OWNER));
        }
        match answer_of(&command, delivered) {
            Some(answer) => answer.map(AdminReply::Accepted),
            None => Err(unavailable("its supervisor ended each time it was told")),
        }
    }

    /// The VMs of this node. In a cluster only while no shard comes or goes: a list that lacks something must not look
    /// like a whole one.
    pub(super) async fn list(&self, by: &Principal, limit: u32, marker: Option<VmId>, lease: Option<String>) -> Answer {
        let before = self.standings()?;
        let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or_default();
        let mut views: Vec<VmView> = Vec::new();
        let mut after = marker;
        while views.len() < limit {
            let page = self.page(after, limit).await;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let asked = page.into_iter().map(|(vm, found)| self.row(by, vm, found, lease.clone()));
            views.extend(join_all(asked).await.into_iter().flatten());
        }
        if self.standings()? != before {
            return Err(unavailable(LOADING));
        }
        views.truncate(limit);
        Ok(AdminReply::Vms(views))
    }

    /// Where every shard stands; a refusal while one of them comes or goes. `None` without a cluster: nobody else lists
    /// what is being loaded again here.
    fn standings(&self) -> Result<Option<Vec<Standing>>, Refusal> {
        if self.is_alone() {
            return Ok(None);
        }
        let shards = (0..self.shared.config.runtime.shards).map(ShardId);
        let standings: Vec<Standing> = shards.map(|shard| self.shared.router.standing(shard)).collect();
        let moves = |standing: &Standing| matches!(standing, Standing::Claiming | Standing::Leaving);
        if standings.iter().any(moves) { Err(unavailable(LOADING)) } else { Ok(Some(standings)) }
    }

    /// The next VMs of all shards, in the order of their ids.
    async fn page(&self, after: Option<VmId>, limit: usize) -> Vec<(VmId, Found)> {
        let mut asked = Vec::new();
        for shard in 0..self.shared.config.runtime.shards {
            let (sender, receiver) = oneshot::channel();
            if let Some(owner) = self.shared.router.owner(ShardId(shard))
                && owner.send_message(ToShard::After { after, limit, reply: sender }).is_ok()
            {
                asked.push(receiver);
            }
        }
        let mut page: Vec<(VmId, Found)> = join_all(asked).await.into_iter().flatten().flatten().collect();
        page.sort_by_key(|(vm, _)| *vm);
        page.truncate(limit);
        page
    }

    async fn row(&self, by: &Principal, vm: VmId, found: Found, lease: Option<String>) -> Option<VmView> {
        let shard = self.shared.router.shard_of(vm);
        let node = self.shared.config.node.clone();
        let moved = self.shared.performer.moved(vm);
        match found {
            Found::Live(handle) => {
                let by = by.clone();
                let row = move |record: &VmRecord| {
                    let wanted = lease.is_none_or(|lease| lease == view::lease_state(&record.lease));
                    (wanted && sees(&by, record)).then(|| view::vm(record, shard, &node, moved))
                };
                handle.look(row).await.flatten()
            }
            Found::Parked(_) if lease.is_none() && !is_tenant(by) => Some(view::parked(vm, shard, &node)),
            Found::Parked(_) | Found::Loading => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use reeve_protocol::{MessageId, ProjectId};

    use super::*;

    fn by_whom(role: Role, name: &str) -> Requester {
        let command = Command {
            id: MessageId::new("m").unwrap(),
            vm: "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap(),
            by: Requester::Operator("root".to_owned()),
            kind: CommandKind::VmStop,
        };
        spoken(&Principal { role, name: name.to_owned() }, command).unwrap().by
    }

    #[test]
    fn nobody_over_the_network_speaks_for_somebody_else() {
        let project = ProjectId::new("p").unwrap();
        let tenant = Requester::User {
            id: UserId::new("ann").unwrap(),
            project: Some(project.clone()),
            roles: vec!["member".to_owned()],
        };
        assert_eq!(by_whom(Role::Tenant(project), "ann"), tenant);
        assert_eq!(by_whom(Role::Operator, "ann"), Requester::Operator("ann".to_owned()));
        assert_eq!(by_whom(Role::Admin, "ann"), Requester::Operator("ann".to_owned()));
        assert_eq!(by_whom(Role::Admin, "local"), Requester::Operator("root".to_owned()));
        assert_eq!(by_whom(Role::Node, "n1"), Requester::Operator("root".to_owned()));
    }
}
