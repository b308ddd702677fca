//! What one sweep over all servers of a cloud saw: of each server the little that a probe's verdict needs, in some twenty
//! bytes, so that the view of a large cloud is small.

use std::fmt;
use std::time::Duration;

use reeve_lifecycle::effect::ProbeVerdict;
use reeve_protocol::VmId;
use reeve_protocol::observation::{PowerState, VmState};
use serde::Deserialize;

use super::server::{self, Link};

/// What was seen of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is active, runs, and nothing is known against its host.
    Up,
    /// It does not run.
    Down { state: VmState, power: Option<PowerState> },
    /// Its host is in doubt, and so is whatever is told of the server.
    Host(HostDoubt),
    /// Its cell did not answer.
    Silent,
    /// The cloud lists no such server. Whether it is gone is for listings to say.
    Unlisted,
}

/// Nova's `host_status` that makes a host doubtful. Where the policy hides it, the host is not in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostDoubt {
    Down,
    Unknown,
}

impl fmt::Display for HostDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "DOWN",
            Self::Unknown => "UNKNOWN",
        })
    }
}

impl Sight {
    pub(super) fn verdict(self) -> ProbeVerdict {
        let unclear = |why: String| ProbeVerdict::Inconclusive { why };
        match self {
            Self::Up => ProbeVerdict::Up,
            Self::Down { state, power } => {
                ProbeVerdict::Down { cause: format!("vm_state {}, power {power:?}", state.as_nova()) }
            }
            Self::Host(doubt) => unclear(format!("the host of the VM is {doubt}")),
            Self::Silent => unclear("the cell of the VM does not answer".to_owned()),
            Self::Unlisted => unclear("the cloud lists no such VM".to_owned()),
        }
    }
}

/// A server as Nova writes it, of which only this is read.
#[derive(Deserialize)]
pub(super) struct Glimpse {
    id: VmId,
    #[serde(default)]
    status: String,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: Option<String>,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power_state: Option<i64>,
    host_status: Option<String>,
}

impl Glimpse {
    pub(super) fn sight(&self) -> Sight {
        let vm_state = self.vm_state.as_deref();
        if server::is_partial(&self.status, vm_state) {
            return Sight::Silent;
        }
        match self.host_status.as_deref() {
            Some("DOWN") => return Sight::Host(HostDoubt::Down),
            Some("UNKNOWN") => return Sight::Host(HostDoubt::Unknown),
            Some(_) | None => {}
        }
        match (server::state(&self.status, vm_state), self.power_state.and_then(server::power)) {
            (VmState::Active, Some(PowerState::Running)) => Sight::Up,
            (state, power) => Sight::Down { state, power },
        }
    }
}

/// One server by itself.
#[derive(Deserialize)]
pub(super) struct OneGlimpse {
    pub(super) server: Glimpse,
}

/// A page of a listing.
#[derive(Deserialize)]
pub(super) struct GlimpsePage {
    servers: Vec<Glimpse>,
    #[serde(default)]
    servers_links: Vec<Link>,
}

/// What a sweep saw.
#[derive(Debug)]
pub(super) struct View {
    /// When the sweep began, by the clock that never steps: all of it was seen after that.
    pub(super) began: Duration,
    /// How many calls it took.
    pub(super) calls: usize,
    /// By id.
    seen: Vec<(VmId, Sight)>,
    /// Whether every cell answered, so that what is not listed is not there.
    complete: bool,
}

impl View {
    /// Nothing yet.
    pub(super) const fn new(began: Duration) -> Self {
        Self { began, calls: 0, seen: Vec::new(), complete: true }
    }

    /// Takes a page in. Where the next one begins, if there is one.
    pub(super) fn take(&mut self, page: &GlimpsePage) -> Option<String> {
        self.calls += 1;
        for server in &page.servers {
            let sight = server.sight();
            self.complete &= sight != Sight::Silent;
            self.seen.push((server.id, sight));
        }
        server::next_marker(&page.servers_links, page.servers.last().map(|last| last.id))
    }

    /// How many servers it holds.
    pub(super) const fn servers(&self) -> usize {
        self.seen.len()
    }

    /// No page is missing: it may be looked into.
    pub(super) fn whole(mut self) -> Self {
        self.seen.sort_by_key(|(vm, _)| *vm);
        self.seen.shrink_to_fit();
        self
    }

    /// What was seen of a VM.
    pub(super) fn of(&self, vm: VmId) -> Sight {
        match self.seen.binary_search_by_key(&vm, |(vm, _)| *vm) {
            Ok(at) => self.seen[at].1,
            Err(_) if self.complete => Sight::Unlisted,
            // It may be in the cell that did not answer.
            Err(_) => Sight::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> VmId {
        VmId::new(Uuid::from_u128(number))
    }

    fn server(number: u128, state: &str, power: i64, host: &str) -> Value {
        json!({ "id": id(number), "status": "ACTIVE", "OS-EXT-STS:vm_state": state, "OS-EXT-STS:power_state": power,
            "host_status": host, "name": "not \"read\"" })
    }

    fn page(servers: Vec<Value>, more: &[&str]) -> GlimpsePage {
        let links: Vec<_> = more.iter().map(|rel| json!({ "rel": rel, "href": "" })).collect();
        serde_json::from_value(json!({ "servers": servers, "servers_links": links })).unwrap()
    }

    #[test]
    fn pages_in_any_order_become_one_view() {
        let mut view = View::new(Duration::from_secs(5));
        let first = vec![server(7, "active", 1, "UP"), server(3, "active", 4, "UP")];
        assert_eq!(view.take(&page(first, &["next"])), Some(id(3).to_string()));
        let second =
            vec![server(5, "active", 1, "DOWN"), server(1, "error", 1, "UP"), server(9, "active", 1, "UNKNOWN")];
        assert_eq!(view.take(&page(second, &["self"])), None);
        let view = view.whole();
        assert_eq!((view.calls, view.servers()), (2, 5));
        assert_eq!(view.of(id(7)), Sight::Up);
        assert_eq!(view.of(id(3)), Sight::Down { state: VmState::Active, power: Some(PowerState::Shutdown) });
        assert_eq!(view.of(id(5)), Sight::Host(HostDoubt::Down));
        assert_eq!(view.of(id(1)), Sight::Down { state: VmState::Error, power: Some(PowerState::Running) });
        assert_eq!(view.of(id(9)), Sight::Host(HostDoubt::Unknown));
        assert_eq!(view.of(id(4)), Sight::Unlisted);
    }

    #[test]
    fn nothing_is_said_against_a_vm_that_a_silent_cell_may_hold() {
        let mut view = View::new(Duration::ZERO);
        view.take(&page(vec![server(1, "active", 1, "UP"), json!({ "id": id(2), "status": "UNKNOWN" })], &[]));
        let view = view.whole();
        assert_eq!((view.of(id(1)), view.of(id(2)), view.of(id(3))), (Sight::Up, Sight::Silent, Sight::Silent));
        assert!(matches!(view.of(id(3)).verdict(), ProbeVerdict::Inconclusive { .. }));
    }

    #[test]
    fn a_server_takes_few_bytes() {
        assert!(size_of::<(VmId, Sight)>() <= 24);
    }
}
