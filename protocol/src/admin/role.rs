//! Who asks a node, and what each may.
//!
//! | role | may |
//! |---|---|
//! | `viewer` | look at everything |
//! | `operator` | that, and every command to a VM, dead letters, one actor restarted |
//! | `admin` | that, and drain nodes, kill actors |
//! | `tenant:<project>` | look at and command the VMs of the project, as a member of it |
//! | `node` | ask other nodes in anybody's name |

use std::fmt;

use serde::{Deserialize, Serialize};

use super::AdminRequest;
use crate::ProjectId;
use crate::command::{Refusal, RefusalCode};

/// What somebody may. Append only: the order is part of the RPC's wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Runs the cluster's day.
    Operator,
    /// Everything that people may.
    Admin,
    /// The members of one project: its VMs and nothing else.
    Tenant(ProjectId),
    /// Another node of the cluster.
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Viewer => f.write_str("viewer"),
            Self::Operator => f.write_str("operator"),
            Self::Admin => f.write_str("admin"),
            Self::Tenant(project) => write!(f, "tenant:{project}"),
            Self::Node => f.write_str("node"),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// What they may.
    pub role: Role,
    /// Their name.
    pub name: String,
}

impl Principal {
    /// Whoever may open the private socket of a node's machine.
    #[must_use]
    pub fn local() -> Self {
        Self { role: Role::Admin, name: "local".to_owned() }
    }
}

/// Whether a role may ask this at all. A tenant's request is also held to the tenant's VMs, where they are known.
///
/// # Errors
/// A refusal of code `denied` that names the role that would be needed.
pub fn permit(by: &Principal, request: &AdminRequest) -> Result<(), Refusal> {
    let needs = |needed: &str| {
        let message = format!("{} is {}, and this needs {needed}", by.name, by.role);
        Err(Refusal::new(RefusalCode::Denied, message))
    };
    match (&by.role, need(request)) {
        (Role::Node, Need::Node) | (_, Need::Nothing) => Ok(()),
        (_, Need::Node) => needs("node"),
        // A node speaks for others only; what it wants to know itself it may look at.
        (Role::Node | Role::Viewer | Role::Operator | Role::Admin, Need::Look) => Ok(()),
        (Role::Viewer | Role::Operator | Role::Admin | Role::Tenant(_), Need::LookAtVm)
        | (Role::Operator | Role::Admin | Role::Tenant(_), Need::CommandVm) => Ok(()),
        (Role::Operator | Role::Admin, Need::Operate) | (Role::Admin, Need::Administer) => Ok(()),
        (_, Need::Look | Need::LookAtVm) => needs("viewer"),
        (_, Need::CommandVm | Need::Operate) => needs("operator"),
        (_, Need::Administer) => needs("admin"),
    }
}

/// What a request takes.
enum Need {
    Nothing,
    Look,
    LookAtVm,
    CommandVm,
    Operate,
    Administer,
    Node,
}

const fn need(request: &AdminRequest) -> Need {
    match request {
        AdminRequest::VmList { .. }
        | AdminRequest::VmShow(_)
        | AdminRequest::VmHistory(_)
        | AdminRequest::BackupList(_)
        | AdminRequest::LeaseOffer(_) => Need::LookAtVm,
        AdminRequest::Command(_) => Need::CommandVm,
        AdminRequest::Events { .. }
        | AdminRequest::DeadList { .. }
        | AdminRequest::ActorTree(_)
        | AdminRequest::ActorTreeOf(_)
        | AdminRequest::Node
        | AdminRequest::NodeList
        | AdminRequest::NodeShow(_)
        | AdminRequest::ShardList => Need::Look,
        AdminRequest::DeadReplay(_) | AdminRequest::DeadDrop(_) | AdminRequest::ActorRestart { .. } => Need::Operate,
        AdminRequest::ActorKill { .. } | AdminRequest::NodeDrain(_) | AdminRequest::NodeUndrain(_) => Need::Administer,
        AdminRequest::Forwarded { .. } => Need::Node,
        AdminRequest::Cancel(_) => Need::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn may(role: Role, request: &AdminRequest) -> bool {
        permit(&Principal { role, name: "somebody".to_owned() }, request).is_ok()
    }

    #[test]
    fn each_role_may_what_its_name_says_and_no_more() {
        let list = AdminRequest::VmList { limit: 1, marker: None, lease: None };
        let drain = AdminRequest::NodeDrain(NodeId::new("n1").unwrap());
        let forwarded = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(list.clone()) };
        let tenant = || Role::Tenant(ProjectId::new("p").unwrap());
        assert!(may(Role::Viewer, &list) && may(tenant(), &list));
        assert!(may(Role::Viewer, &AdminRequest::NodeList) && !may(tenant(), &AdminRequest::NodeList));
        assert!(!may(Role::Viewer, &AdminRequest::DeadDrop(1)) && may(Role::Operator, &AdminRequest::DeadDrop(1)));
        assert!(!may(Role::Operator, &drain) && may(Role::Admin, &drain) && !may(Role::Node, &drain));
        assert!(may(Role::Node, &forwarded) && !may(Role::Admin, &forwarded));
    }
}
