//! Certificates of a cluster of one node, by the authority that `reeve cert` has.

use std::path::Path;

use anyhow::Result;
use reeve_cluster::rpc::TlsFiles;
use reeve_nodes::cert::{Authority, Bearer, Existing, Request, save};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::Span;
use reeve_protocol::admin::Role;

/// Longer than any measurement.
const VALID: Span = Span::from_days(2);
/// The node, and an administrator.
const BEARERS: [(&str, Role); 2] = [(NODE, Role::Node), (ADMIN, Role::Admin)];

/// The name of the node.
pub(crate) const NODE: &str = "n1";
/// The name of the administrator.
pub(crate) const ADMIN: &str = "root";

/// Makes an authority and its certificates in a folder.
pub(crate) fn make(folder: &Path, cluster: &str) -> Result<()> {
    let now = SystemClock.now();
    Authority::init(folder, cluster, VALID, now)?;
    let authority = Authority::open(folder, now)?;
    for (name, role) in BEARERS {
        let request = Request { bearer: Bearer::Reeve(role), name: name.to_owned(), hosts: Vec::new(), valid: VALID };
        save(&authority.issue(&request, now)?, folder, name, Existing::Replace)?;
    }
    Ok(())
}

/// The files of a bearer.
pub(crate) fn files(folder: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        ca: folder.join("ca.pem"),
    }
}
