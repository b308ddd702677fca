//! What is asked of other nodes, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use reeve_ports::coordination::CoordinationError;
use reeve_protocol::admin::{AdminReply, AdminRequest, MAX_LIMIT, MemberView, Principal, ShardView, VmView};
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::{NodeId, ShardId, VmId};

use super::{Answer, Deadline, NOT_OWNER, is_passing, not_found, unavailable};
use crate::node::NodeHandle;
use crate::node::router::Standing;

/// Between two tries while a shard changes hands.
const AGAIN: Duration = Duration::from_millis(25);
/// How long another node is waited for before its shard is looked for again: it may have died meanwhile.
const ONE_NODE: Duration = Duration::from_secs(5);

/// Whether the same request again does no more than once. A command has its id.
const fn may_repeat(request: &AdminRequest) -> bool {
    match request {
        AdminRequest::ActorKill { .. }
        | AdminRequest::ActorRestart { .. }
        | AdminRequest::DeadReplay(_)
        | AdminRequest::DeadDrop(_)
        | AdminRequest::NodeDrain(_)
        | AdminRequest::NodeUndrain(_)
        | AdminRequest::Forwarded { .. }
        | AdminRequest::Cancel(_) => false,
        AdminRequest::VmList { .. }
        | AdminRequest::VmShow(_)
        | AdminRequest::VmHistory(_)
        | AdminRequest::BackupList(_)
        | AdminRequest::Command(_)
        | AdminRequest::Events { .. }
        | AdminRequest::DeadList { .. }
        | AdminRequest::ActorTree(_)
        | AdminRequest::Node
        | AdminRequest::NodeList
        | AdminRequest::NodeShow(_)
        | AdminRequest::ShardList
        | AdminRequest::ActorTreeOf(_)
        | AdminRequest::LeaseOffer(_) => true,
    }
}

fn answer_of(reply: AdminReply) -> Answer {
    match reply {
        AdminReply::Refused(refusal) => Err(refusal),
        reply @ (AdminReply::Vms(_)
        | AdminReply::Vm(_)
        | AdminReply::History(_)
        | AdminReply::Backups(_)
        | AdminReply::Accepted(_)
        | AdminReply::Events(_)
        | AdminReply::Dead(_)
        | AdminReply::Done
        | AdminReply::Actors(_)
        | AdminReply::Node(_)
        | AdminReply::Nodes(_)
        | AdminReply::Shards(_)
        | AdminReply::Offer(_)) => Ok(reply),
    }
}

fn failed(error: &CoordinationError) -> Refusal {
    match error {
        CoordinationError::Unavailable(_) => unavailable(error.to_string()),
        CoordinationError::NotOwner(_) | CoordinationError::Refused(_) => {
            Refusal::new(RefusalCode::Conflict, error.to_string())
        }
    }
}

impl NodeHandle {
    /// Whether this node has no cluster.
    pub(super) fn is_alone(&self) -> bool {
        self.shared.coordination.cluster().members.is_empty()
    }

    /// Answers what is about a VM, here or where its owner is, until patience ends.
    pub(super) async fn at_owner(&self, by: &Principal, vm: VmId, request: AdminRequest, deadline: Deadline) -> Answer {
        let shard = self.shared.router.shard_of(vm);
        loop {
            let answer = if self.shared.router.standing(shard) == Standing::Elsewhere {
                match self.shared.elsewhere(shard) {
                    Some(node) => self.of_node(&node, by, &request, deadline).await,
                    None => Err(unavailable(NOT_OWNER)),
                }
            } else {
                self.local(by, request.clone()).await
            };
            let refusal = match answer {
                Err(refusal) if refusal.code == RefusalCode::Unavailable => refusal,
                answer => return answer,
            };
            let again = is_passing(&refusal) || may_repeat(&request);
            if !again || deadline.left() < AGAIN * 2 || self.is_alone() {
                return Err(refusal);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn of_node(&self, node: &NodeId, by: &Principal, request: &AdminRequest, deadline: Deadline) -> Answer {
        let patience = deadline.left().min(ONE_NODE);
        answer_of(self.shared.peers.ask(node, by, request.clone(), patience).await)
    }

    /// Answers what is about a node.
    pub(super) async fn at_node(
        &self,
        by: &Principal,
        node: &NodeId,
        request: AdminRequest,
        deadline: Deadline,
    ) -> Answer {
        if *node == self.shared.config.node {
            return self.local(by, request).await;
        }
        if !self.shared.coordination.cluster().members.contains_key(node) {
            return Err(not_found(format!("node {node}")));
        }
        self.of_node(node, by, &request, deadline).await
    }

    /// The VMs of the cluster: every owner of a shard answers, or there is no list.
    pub(super) async fn list_all(
        &self,
        by: &Principal,
        limit: u32,
        marker: Option<VmId>,
        lease: Option<String>,
        deadline: Deadline,
    ) -> Answer {
        if self.is_alone() {
            return self.list(by, limit, marker, lease).await;
        }
        loop {
            let before = self.owners();
            let listed = match &before {
                Some(owners) => self.gather(by, owners, (limit, marker, lease.clone()), deadline).await,
                None => Err(unavailable("not every shard has an owner now")),
            };
            match listed {
                // Nothing changed hands meanwhile, so nothing is missing.
                Ok(reply) if self.owners() == before => return Ok(reply),
                Err(refusal) if refusal.code != RefusalCode::Unavailable => return Err(refusal),
                Err(refusal) if deadline.left() < AGAIN * 2 => return Err(refusal),
                Ok(_) | Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The owner of each shard, if each has one.
    fn owners(&self) -> Option<Vec<NodeId>> {
        self.shared.coordination.cluster().shards.into_iter().map(|shard| shard.owner).collect()
    }

    async fn gather(
        &self,
        by: &Principal,
        owners: &[NodeId],
        (limit, marker, lease): (u32, Option<VmId>, Option<String>),
        deadline: Deadline,
    ) -> Answer {
        let request = &AdminRequest::VmList { limit, marker, lease };
        let nodes: BTreeSet<&NodeId> = owners.iter().collect();
        let asked = nodes.into_iter().map(async |node| {
            let answer = if *node == self.shared.config.node {
                self.local(by, request.clone()).await
            } else {
                self.of_node(node, by, request, deadline).await
            };
            (node, answer)
        });
        let mut rows: BTreeMap<VmId, VmView> = BTreeMap::new();
        for (node, answer) in join_all(asked).await {
            let views = match answer {
                Ok(AdminReply::Vms(views)) => views,
                Ok(_) => return Err(unavailable(format!("node {node} answers something else"))),
                Err(refusal) if refusal.code == RefusalCode::Unavailable => {
                    return Err(unavailable(format!("node {node} does not list its VMs: {}", refusal.message)));
                }
                Err(refusal) => return Err(refusal),
            };
            for view in views {
                // A shard that has just changed hands may be listed twice: its owner's word counts.
                let is_owners = owners.get(usize::from(view.shard.0)) == Some(node);
                if is_owners || !rows.contains_key(&view.id) {
                    rows.insert(view.id, view);
                }
            }
        }
        let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or_default();
        Ok(AdminReply::Vms(rows.into_values().take(limit).collect()))
    }

    /// The nodes of the cluster; without one, this node.
    pub(super) async fn members(&self) -> Result<Vec<MemberView>, Refusal> {
        let members = self.shared.coordination.cluster().members;
        if !members.is_empty() {
            return Ok(members.into_values().collect());
        }
        let node = self.node().await?;
        Ok(vec![MemberView {
            id: node.id,
            state: "ready".to_owned(),
            leader: true,
            version: node.version,
            address: None,
            since: Some(node.since),
            shards: node.shards,
            vms: node.vms,
            clock_skew_ms: None,
        }])
    }

    /// The shards of the cluster; without one, those of this node.
    pub(super) fn shards(&self) -> Vec<ShardView> {
        let shards = self.shared.coordination.cluster().shards;
        if !shards.is_empty() {
            return shards;
        }
        let me = &self.shared.config.node;
        let shards = (0..self.shared.config.runtime.shards).map(ShardId);
        let view = |id| {
            let is_here = self.shared.router.standing(id) == Standing::Owned;
            ShardView { id, owner: is_here.then(|| me.clone()), epoch: None, wanted: Some(me.clone()) }
        };
        shards.map(view).collect()
    }

    pub(super) async fn drain(&self, node: &NodeId) -> Answer {
        self.is_member(node)?;
        let drained = self.shared.coordination.drain(node).await;
        drained.map(|()| AdminReply::Done).map_err(|error| failed(&error))
    }

    pub(super) async fn undrain(&self, node: &NodeId) -> Answer {
        self.is_member(node)?;
        let undrained = self.shared.coordination.undrain(node).await;
        undrained.map(|()| AdminReply::Done).map_err(|error| failed(&error))
    }

    fn is_member(&self, node: &NodeId) -> Result<(), Refusal> {
        let members = self.shared.coordination.cluster().members;
        let known = *node == self.shared.config.node || members.contains_key(node);
        if known { Ok(()) } else { Err(not_found(format!("node {node}"))) }
    }
}
