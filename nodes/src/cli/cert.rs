//! `reeve cert …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reeve_protocol::{Span, Timestamp};
use serde_json::json;

use super::fail::{Code, Failure};
use super::output::{Output, View};
use super::session::now;
use super::table::{self, Cell};
use super::when;
use crate::cert::{self, Authority, Bearer, CertError, Existing, Host, Request};

/// The longest that a certificate may be good, in days.
const MAX_DAYS: i64 = 36_500;

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(super) enum CertCommand {
    /// Make a private authority for one cluster: ca.pem for everybody, ca.key for nobody but you
    Init(InitArgs),
    /// Sign a certificate for a node, a person, or a server or client beside Reeve
    Issue(IssueArgs),
}

/// How to make an authority.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder to make it in, mode 0700
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The cluster's name, as in [cluster] name
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// For how many days it is good
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=MAX_DAYS as u64))]
    days: u64,
}

/// How to sign a certificate.
#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// The authority's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Who shows it: node, viewer, operator, admin, tenant:PROJECT; server or client for etcd and RabbitMQ
    #[arg(long)]
    role: Bearer,
    /// The name of the node or person; also that of the files
    #[arg(long)]
    name: String,
    /// A DNS name or address by which a server or node is connected to; may be repeated
    #[arg(long, value_name = "DNS-or-IP")]
    host: Vec<Host>,
    /// For how many days it is good, but not longer than the authority
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=MAX_DAYS as u64))]
    days: u64,
    /// The folder for NAME.pem and NAME.key [default: the authority's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace NAME.pem and NAME.key
    #[arg(long)]
    force: bool,
}

/// Carries it out. Needs no node.
pub(super) fn run(output: Output, command: CertCommand) -> Result<(), Failure> {
    let now = now();
    match command {
        CertCommand::Init(InitArgs { dir, cluster, days }) => {
            let ends_at = Authority::init(&dir, &cluster, Span::from_days(days), now).map_err(|e| failure(&e))?;
            show(output, [dir.join("ca.pem"), dir.join("ca.key")], None, ends_at)
        }
        CertCommand::Issue(IssueArgs { dir, role, name, host, days, out, force }) => {
            let authority = Authority::open(&dir, now).map_err(|e| failure(&e))?;
            let request = Request { bearer: role, name, hosts: host, valid: Span::from_days(days) };
            let issued = authority.issue(&request, now).map_err(|e| failure(&e))?;
            let existing = if force { Existing::Replace } else { Existing::Keep };
            let files = cert::save(&issued, &out.unwrap_or(dir), &request.name, existing).map_err(|e| failure(&e))?;
            show(output, files, issued.uri.as_deref(), issued.ends_at)
        }
    }
}

fn show(output: Output, files: [PathBuf; 2], uri: Option<&str>, ends_at: Timestamp) -> Result<(), Failure> {
    let [cert, key] = files.map(|path| path.display().to_string());
    let value = json!({"cert": cert, "key": key, "uri": uri, "ends_at": ends_at});
    let pairs = [
        ("certificate", Cell::new(&cert)),
        ("key", Cell::new(&key)),
        ("name", Cell::new(uri.unwrap_or_default())),
        ("good until", Cell::new(when::absolute(ends_at))),
    ];
    output.show(&View { value: &value, table: &|color| table::pairs(&pairs, color), ids: vec![cert] })
}

fn failure(error: &CertError) -> Failure {
    let code = match error {
        CertError::Request(_) => Code::Usage,
        CertError::Exists(_) => Code::Conflict,
        CertError::Io { .. } | CertError::Authority { .. } | CertError::Crypto(_) => Code::Failed,
    };
    let failure = Failure::new(code, error.to_string());
    match (error, std::error::Error::source(error)) {
        (CertError::Exists(_), _) => {
            failure.because("keys are not overwritten unasked: --force replaces what was issued")
        }
        (_, Some(source)) => failure.because(source),
        (_, None) => failure,
    }
}
