//! A node of one VM, which extends as a record does: once under one id, and only the period that is named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use reeve_ports::{AdminService, Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, LeaseView, NodeView, Principal, VmView};
use reeve_protocol::command::{Accepted, Answer, Command, CommandKind, Refusal, RefusalCode, Requester};
use reeve_protocol::event::Offer;
use reeve_protocol::link::{ExtendLink, LinkKey};
use reeve_protocol::{CloudName, Generation, NodeId, ShardId, Span, Timestamp, UserId, VmId};
use uuid::Uuid;

use super::super::{Desk, Links, Stage};
use crate::http::Readiness;

pub(super) const BY: Span = Span::from_days(30);

/// A node whose answers a test chooses.
pub(super) struct Fake {
    pub(super) vm: Mutex<VmView>,
    /// Whatever is asked is refused with it, if set.
    pub(super) refuses: Mutex<Option<Refusal>>,
    pub(super) lacks: Mutex<Vec<String>>,
    pub(super) asked: Mutex<Vec<AdminRequest>>,
    answers: Mutex<BTreeMap<String, Answer>>,
}

pub(super) fn key() -> LinkKey {
    LinkKey::new(&[9; 32]).unwrap()
}

pub(super) fn ends_at() -> Timestamp {
    // Far from now by the machine's clock, and whole minutes.
    "2099-01-31T12:00:00Z".parse().unwrap()
}

pub(super) fn link() -> ExtendLink {
    let owner = UserId::new("ann").unwrap();
    ExtendLink {
        vm: VmId::new(Uuid::from_u128(7)),
        ends_at: ends_at(),
        owner,
        expires_at: ends_at() + Span::from_days(2),
    }
}

pub(super) fn token() -> String {
    key().token(&link())
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        let lease = LeaseView {
            state: "warned".into(),
            started_at: Some(ends_at() - Span::from_days(30)),
            ends_at: Some(ends_at()),
            extensions: 0,
            max_extensions: 2,
            delegates: vec![UserId::new("a-delegate").unwrap()],
            ended: None,
        };
        let vm = VmView {
            id: link().vm,
            name: "<b>web</b> & \"co\"".into(),
            project: None,
            user: Some(link().owner),
            cloud: CloudName::new("lab").unwrap(),
            host: None,
            state: "active".into(),
            task: None,
            health: "up".into(),
            policy: "default".into(),
            shard: ShardId(0),
            node: NodeId::new("n1").unwrap(),
            locked: false,
            lease,
            backups: Vec::new(),
            operation: None,
            holds: Vec::new(),
            alerts: Vec::new(),
            revived_from: None,
            generation: Generation(1),
        };
        Arc::new(Self {
            vm: Mutex::new(vm),
            refuses: Mutex::default(),
            lacks: Mutex::default(),
            asked: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    /// How many commands came.
    pub(super) fn commands(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|request| matches!(request, AdminRequest::Command(_))).count()
    }

    fn offer(&self) -> Offer {
        let lease = self.vm.lock().unwrap().lease.clone();
        match lease.max_extensions - lease.extensions {
            0 => Offer::No { why: format!("all {} extensions are used", lease.max_extensions) },
            left => Offer::Extend { by: BY, left },
        }
    }

    fn command(&self, command: &Command) -> Answer {
        if let Some(known) = self.answers.lock().unwrap().get(command.id.as_str()) {
            return known.clone();
        }
        let answer = self.extend(command);
        self.answers.lock().unwrap().insert(command.id.as_str().to_owned(), answer.clone());
        answer
    }

    fn extend(&self, command: &Command) -> Answer {
        let CommandKind::LeaseExtendIf { by: None, ends_at } = command.kind else { panic!("{command:?}") };
        assert!(matches!(&command.by, Requester::User { id, .. } if *id == link().owner), "{command:?}");
        let offer = self.offer();
        let mut vm = self.vm.lock().unwrap();
        if vm.lease.ends_at != Some(ends_at) {
            return Err(Refusal::new(RefusalCode::Conflict, "this was about another period"));
        }
        if vm.lease.state == "ending" {
            return Err(Refusal::new(RefusalCode::Conflict, "the lease is being ended"));
        }
        match offer {
            Offer::No { why } => Err(Refusal::new(RefusalCode::Denied, why)),
            Offer::Extend { by, .. } => {
                vm.lease.extensions += 1;
                vm.lease.ends_at = Some(ends_at + by);
                let message = format!("extended by {by}");
                Ok(Accepted { vm: vm.id, message, ends_at: vm.lease.ends_at, backup: None })
            }
        }
    }
}

#[async_trait]
impl AdminService for Fake {
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply {
        assert_eq!(*by, Principal::local());
        self.asked.lock().unwrap().push(request.clone());
        if let Some(refusal) = self.refuses.lock().unwrap().clone() {
            return AdminReply::Refused(refusal);
        }
        match request {
            AdminRequest::VmShow(vm) if vm == link().vm => AdminReply::Vm(Box::new(self.vm.lock().unwrap().clone())),
            AdminRequest::VmShow(_) => AdminReply::Refused(Refusal::new(RefusalCode::NotFound, "no VM is known")),
            AdminRequest::LeaseOffer(_) => AdminReply::Offer(self.offer()),
            AdminRequest::Command(command) => match self.command(&command) {
                Ok(accepted) => AdminReply::Accepted(accepted),
                Err(refusal) => AdminReply::Refused(refusal),
            },
            AdminRequest::Node => AdminReply::Node(Box::new(NodeView {
                id: NodeId::new("n1").unwrap(),
                cluster: "standalone".into(),
                version: "0".into(),
                since: ends_at(),
                vms: 1,
                shards: 1,
                child_restarts: 0,
                outbox: 0,
            })),
            other => panic!("nobody asks {other:?} over HTTP"),
        }
    }
}

impl Readiness for Fake {
    fn lacks(&self) -> Vec<String> {
        self.lacks.lock().unwrap().clone()
    }
}

/// A desk in front of nothing yet.
pub(super) fn desk() -> Desk {
    let links = Links { key: key(), action: "/reeve/extend".to_owned() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Desk::new(Arc::new(Stage::default()), clock, Some(links))
}

/// A desk in front of a node.
pub(super) fn desk_of(fake: &Arc<Fake>) -> Desk {
    let desk = desk();
    desk.stage.serves(Arc::<Fake>::clone(fake), Arc::<Fake>::clone(fake));
    desk
}
