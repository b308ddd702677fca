//! A conversation with a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reeve_cluster::rpc::{RpcClient, RpcError};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::{Accepted, Command, CommandKind, Requester};
use reeve_protocol::{MessageId, Timestamp, VmId};
use uuid::Uuid;

use super::Common;
use super::endpoint::{self, Endpoint};
use super::fail::{Code, Failure};

/// A connection to a node, and what all its requests have in common.
pub(super) struct Session {
    client: RpcClient,
    timeout: Duration,
}

impl Session {
    /// Connects to the first of the endpoints that the options name and that answers, else to the first socket of a node
    /// on this machine.
    pub(super) async fn open(common: &Common) -> Result<Self, Failure> {
        let timeout = common.timeout.duration();
        if let Some(text) = &common.endpoint {
            let client = first_of(&endpoint::list(text)?, common).await?;
            return Ok(Self { client, timeout });
        }
        let candidates = candidates();
        let mut refused = None;
        for path in &candidates {
            match RpcClient::connect_unix(path).await {
                Ok(client) => return Ok(Self { client, timeout }),
                // A socket that is there but cannot be used says more than one that is not there.
                Err(error) if path.exists() => refused = refused.or(Some(error)),
                Err(_) => {}
            }
        }
        Err(refused.map_or_else(|| nobody(&candidates), |error: RpcError| error.into()))
    }

    /// Asks; a refusal is a failure.
    pub(super) async fn ask(&self, request: AdminRequest) -> Result<AdminReply, Failure> {
        match self.client.call(request, self.timeout).await? {
            AdminReply::Refused(refusal) => Err(Failure::refused(&refusal)),
            reply => Ok(reply),
        }
    }

    /// Sends a command in the name of the local user.
    pub(super) async fn command(&self, vm: VmId, kind: CommandKind, key: &Key) -> Result<Accepted, Failure> {
        self.command_as(key.message_id()?, vm, kind).await
    }

    /// The same, under this id.
    pub(super) async fn command_as(&self, id: MessageId, vm: VmId, kind: CommandKind) -> Result<Accepted, Failure> {
        let command = Command { id, vm, by: Requester::Operator(local_user()), kind };
        match self.ask(AdminRequest::Command(command)).await? {
            AdminReply::Accepted(accepted) => Ok(accepted),
            other => Err(unexpected(&other)),
        }
    }
}

/// Idempotency of a command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Key {
    /// Send the command under this key: the same key again gives the same answer and changes nothing [default: new]
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
}

impl Key {
    pub(super) fn message_id(&self) -> Result<MessageId, Failure> {
        let text = self.idempotency_key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        MessageId::new(text).map_err(|error| Failure::new(Code::Usage, "--idempotency-key").because(error))
    }
}

/// A reply of another kind than was asked for: the node is of another version.
#[must_use]
pub(super) fn unexpected(reply: &AdminReply) -> Failure {
    let kind = format!("{reply:?}");
    let kind = kind.split(['(', ' ']).next().unwrap_or_default().to_owned();
    Failure::new(Code::Failed, "the node answered something else than was asked").because(kind)
}

/// The wall clock.
#[must_use]
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// Tries one endpoint after the other, and tells of all of them if none answers.
async fn first_of(endpoints: &[Endpoint], common: &Common) -> Result<RpcClient, Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for endpoint in endpoints {
        let connected = match endpoint {
            Endpoint::Unix(path) => RpcClient::connect_unix(path).await,
            Endpoint::Tls(address) => RpcClient::connect_tls(address, &common.identity.files()?).await,
        };
        match connected {
            Ok(client) => return Ok(client),
            Err(error) => failures.push(error.into()),
        }
    }
    let last = failures.pop().expect("a list has at least one endpoint");
    if failures.is_empty() {
        return Err(last);
    }
    let all: Vec<String> = failures.iter().chain([&last]).map(ToString::to_string).collect();
    Err(Failure::new(last.code, "no node answers").because(all.join("; ")))
}

/// Where a node of this machine may answer: the service's sockets, then that of `reeve dev`.
fn candidates() -> Vec<PathBuf> {
    let service = ["/run/reeve/reeve.sock", "/var/lib/reeve/reeve.sock"].map(PathBuf::from);
    let dev = dev_data_dir().map(|folder| folder.join("reeve.sock"));
    service.into_iter().chain(dev).collect()
}

fn nobody(candidates: &[PathBuf]) -> Failure {
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    let why = format!("no socket at {}: start `reeve dev`, or name a node by --endpoint unix:PATH", tried.join(", "));
    Failure::new(Code::Unavailable, "no node runs here").because(why)
}

/// The data folder of `reeve dev` unless it is told another: `$XDG_STATE_HOME/reeve/dev`, by default under
/// `~/.local/state`. `None` without a home.
#[must_use]
pub(super) fn dev_data_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("reeve/dev"))
}

/// Who asks, for the record: whoever became root by sudo, else the name of this process's user.
fn local_user() -> String {
    let uid = rustix::process::getuid();
    let sudo = if uid.is_root() { std::env::var("SUDO_USER").ok() } else { None };
    let name = sudo.or_else(|| user_name(uid.as_raw(), Path::new("/etc/passwd")));
    let name = name.unwrap_or_else(|| format!("uid-{}", uid.as_raw()));
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn user_name(uid: u32, passwd: &Path) -> Option<String> {
    let text = std::fs::read_to_string(passwd).ok()?;
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
