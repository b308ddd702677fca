//! Certificates of a cluster of one node and its administrator.

use std::path::Path;

use anyhow::Result;
use reeve_cluster::rpc::TlsFiles;
use reeve_protocol::admin::Role;
use reeve_tests::harness::certify;

/// The name of the node.
pub(crate) const NODE: &str = "n1";
/// The name of the administrator.
pub(crate) const ADMIN: &str = "root";

/// Makes an authority and its certificates in a folder.
pub(crate) fn make(folder: &Path, cluster: &str) -> Result<()> {
    certify(folder, cluster, [(NODE, Role::Node), (ADMIN, Role::Admin)])
}

/// The files of a bearer.
pub(crate) fn files(folder: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        ca: folder.join("ca.pem"),
    }
}
