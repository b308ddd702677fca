//! A cluster's coordination in one process: who is to own what is what the test says, and an owner can be robbed, muted
//! and told that its clock is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use reeve_cluster::embedded::EmbeddedCoordination;
use reeve_ports::coordination::{Cluster, CoordinationError, Load, Skew};
use reeve_ports::{AdminService, Coordination, Peers};
use reeve_protocol::admin::{AdminReply, AdminRequest, MemberView, Principal, Role, ShardView};
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::{Epoch, NodeId, ShardId};
use reeve_runtime::NodeHandle;
use tokio::sync::watch;

#[derive(Default)]
struct State {
    members: BTreeMap<NodeId, Load>,
    wanted: Vec<Option<NodeId>>,
    owners: Vec<Option<(NodeId, Epoch)>>,
    /// Those whose right to act has lapsed.
    lapsed: BTreeSet<NodeId>,
    /// Those whose clock differs from the others'.
    skewed: BTreeSet<NodeId>,
    drained: BTreeSet<NodeId>,
    /// Those whose claims are made and not answered.
    muted: BTreeSet<NodeId>,
    /// Whose owner dies of the next look at it, and who is to own it then.
    traps: BTreeMap<ShardId, NodeId>,
}

/// What the nodes agree on.
pub(crate) struct Council {
    epochs: EmbeddedCoordination,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Council {
    pub(crate) fn new(epochs: EmbeddedCoordination, shards: u16) -> Arc<Self> {
        let none = usize::from(shards);
        let state = State { wanted: vec![None; none], owners: vec![None; none], ..State::default() };
        Arc::new(Self { epochs, state: Mutex::new(state), changes: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changes.send_modify(|changes| *changes += 1);
        result
    }

    async fn until(&self, so: impl Fn(&State) -> bool + Send) {
        let mut changes = self.changes.subscribe();
        while !so(&self.state()) {
            changes.changed().await.unwrap();
        }
    }

    /// From now on this node is to own the shard.
    pub(crate) fn plan(&self, shard: ShardId, node: &NodeId) {
        self.change(|state| state.wanted[usize::from(shard.0)] = Some(node.clone()));
    }

    /// Takes a shard from its owner without asking, for this node: what the owner writes is refused from now on.
    pub(crate) async fn seize(&self, shard: ShardId, node: &NodeId) {
        self.epochs.claim(shard).await.unwrap();
        self.change(|state| {
            state.wanted[usize::from(shard.0)] = Some(node.clone());
            state.owners[usize::from(shard.0)] = None;
        });
    }

    pub(crate) fn owner(&self, shard: ShardId) -> Option<NodeId> {
        self.state().owners[usize::from(shard.0)].as_ref().map(|(node, _)| node.clone())
    }

    pub(crate) fn lapse(&self, node: &NodeId, lapsed: bool) {
        self.change(|state| if lapsed { state.lapsed.insert(node.clone()) } else { state.lapsed.remove(node) });
    }

    pub(crate) fn skew(&self, node: &NodeId, skewed: bool) {
        self.change(|state| if skewed { state.skewed.insert(node.clone()) } else { state.skewed.remove(node) });
    }

    /// Claims of this node are made and not answered, until they are.
    pub(crate) fn mute(&self, node: &NodeId, muted: bool) {
        self.change(|state| if muted { state.muted.insert(node.clone()) } else { state.muted.remove(node) });
    }

    /// The owner of the shard dies when it next asks whether it still is, and from then on this node is to own it.
    pub(crate) fn trap(&self, shard: ShardId, next: &NodeId) {
        self.change(|state| state.traps.insert(shard, next.clone()));
    }

    fn spring(&self, shard: ShardId) {
        let sprung = self.change(|state| {
            let next = state.traps.remove(&shard)?;
            state.wanted[usize::from(shard.0)] = Some(next);
            Some(())
        });
        assert!(sprung.is_none(), "told so: the owner dies");
    }

    pub(crate) fn load(&self, node: &NodeId) -> Load {
        self.state().members[node]
    }

    pub(crate) fn is_drained(&self, node: &NodeId) -> bool {
        self.state().drained.contains(node)
    }
}

/// A node's seat in the council.
pub(crate) struct Seat {
    council: Arc<Council>,
    me: NodeId,
}

impl Seat {
    pub(crate) fn new(council: &Arc<Council>, me: &NodeId) -> Self {
        council.change(|state| state.members.insert(me.clone(), Load::default()));
        Self { council: Arc::clone(council), me: me.clone() }
    }
}

#[async_trait]
impl Coordination for Seat {
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError> {
        let at = usize::from(shard.0);
        let is_free = {
            let state = self.council.state();
            let is_mine = state.owners[at].as_ref().is_none_or(|(node, _)| *node == self.me);
            state.wanted[at].as_ref() == Some(&self.me) && is_mine
        };
        if !is_free {
            return Err(CoordinationError::NotOwner(shard));
        }
        let epoch = self.council.epochs.claim(shard).await?;
        self.council.change(|state| state.owners[at] = Some((self.me.clone(), epoch)));
        self.council.until(|state| !state.muted.contains(&self.me)).await;
        Ok(epoch)
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        self.council.epochs.confirm(shard, epoch).await
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        let at = usize::from(shard.0);
        if self.council.state().owners[at] == Some((self.me.clone(), epoch)) {
            // Whatever is still written by this owner is refused.
            self.council.epochs.claim(shard).await?;
            self.council.change(|state| state.owners[at] = None);
        }
        Ok(())
    }

    async fn until_wanted(&self, shard: ShardId) {
        self.council.until(|state| state.wanted[usize::from(shard.0)].as_ref() == Some(&self.me)).await;
    }

    async fn until_unwanted(&self, shard: ShardId) {
        self.council.until(|state| state.wanted[usize::from(shard.0)].as_ref() != Some(&self.me)).await;
    }

    async fn until_lost(&self, shard: ShardId, epoch: Epoch) {
        let mine = Some((self.me.clone(), epoch));
        self.council.until(|state| state.owners[usize::from(shard.0)] != mine).await;
    }

    fn may_act(&self) -> bool {
        !self.council.state().lapsed.contains(&self.me)
    }

    fn holds(&self, shard: ShardId, _epoch: Epoch) -> bool {
        self.council.spring(shard);
        self.may_act()
    }

    fn report(&self, load: Load) {
        self.council.change(|state| state.members.insert(self.me.clone(), load));
    }

    fn skew(&self) -> Skew {
        let exceeded = self.council.state().skewed.contains(&self.me);
        Skew { by_ms: Some(if exceeded { 3_600_000 } else { 0 }), exceeded }
    }

    fn cluster(&self) -> Cluster {
        let state = self.council.state();
        let member = |(id, load): (&NodeId, &Load)| {
            let view = MemberView {
                id: id.clone(),
                state: "ready".to_owned(),
                leader: false,
                version: String::new(),
                address: None,
                since: None,
                shards: 0,
                vms: load.vms,
                clock_skew_ms: None,
            };
            (id.clone(), view)
        };
        let shards = state.owners.iter().zip(&state.wanted).zip(0..).map(|((owner, wanted), number)| ShardView {
            id: ShardId(number),
            owner: owner.as_ref().map(|(node, _)| node.clone()),
            epoch: owner.as_ref().map(|(_, epoch)| *epoch),
            wanted: wanted.clone(),
        });
        Cluster { members: state.members.iter().map(member).collect(), shards: shards.collect() }
    }

    async fn drain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        self.council.change(|state| state.drained.insert(node.clone()));
        Ok(())
    }

    async fn undrain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        self.council.change(|state| state.drained.remove(node));
        Ok(())
    }
}

/// The nodes that can be reached.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<NodeId, NodeHandle>>,
}

impl Wires {
    pub(crate) fn connect(&self, node: &NodeId, handle: NodeHandle) {
        self.nodes.lock().unwrap().insert(node.clone(), handle);
    }

    pub(crate) fn cut(&self, node: &NodeId) {
        self.nodes.lock().unwrap().remove(node);
    }
}

/// The other nodes as one of them reaches them.
pub(crate) struct Lines {
    pub(crate) me: NodeId,
    pub(crate) wires: Arc<Wires>,
}

#[async_trait]
impl Peers for Lines {
    async fn ask(&self, node: &NodeId, by: &Principal, request: AdminRequest, patience: Duration) -> AdminReply {
        let unavailable = |why: &str| AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, why));
        let Some(handle) = self.wires.nodes.lock().unwrap().get(node).cloned() else {
            return unavailable("no connection");
        };
        let me = Principal { role: Role::Node, name: self.me.to_string() };
        let forwarded = AdminRequest::Forwarded { by: by.clone(), request: Box::new(request) };
        match tokio::time::timeout(patience, handle.ask(&me, forwarded)).await {
            Ok(reply) => reply,
            Err(_) => unavailable("no answer"),
        }
    }
}
