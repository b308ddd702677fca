//! Certificates of a cluster's bearers, by the authority that `reeve cert` has.

use std::path::Path;

use anyhow::Result;
use reeve_nodes::cert::{Authority, Bearer, Existing, Request, save};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::Span;
use reeve_protocol::admin::Role;

/// Longer than any run.
const VALID: Span = Span::from_days(2);

/// Makes an authority and the certificates of these bearers in a folder.
///
/// # Errors
/// When they cannot be made or written.
pub fn certify<'a>(folder: &Path, cluster: &str, bearers: impl IntoIterator<Item = (&'a str, Role)>) -> Result<()> {
    let now = SystemClock.now();
    Authority::init(folder, cluster, VALID, now)?;
    let authority = Authority::open(folder, now)?;
    for (name, role) in bearers {
        let request = Request { bearer: Bearer::Reeve(role), name: name.to_owned(), hosts: Vec::new(), valid: VALID };
        save(&authority.issue(&request, now)?, folder, name, Existing::Replace)?;
    }
    Ok(())
}
