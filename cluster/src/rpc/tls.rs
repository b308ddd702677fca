//! Mutual TLS: who connects is who its certificate says, and so is who answers.
//!
//! ```text
//! TlsFiles ── read, checked ──► Loaded ── one for each new handshake ──► TlsServer, RpcClient::connect_tls, RpcPeers
//!    ▲                            │
//!    └── looked at every few seconds: a change that reads well replaces it, any other leaves it as it is
//! ```
//!
//! TLS 1.3 and ALPN `reeve/1` at both sides, and a full handshake each time: a resumed session would not look at the
//! certificate again. Both sides present a certificate of the cluster's own authority, with one URI name
//! `reeve://<cluster>/<role>/<name>` ([`Identity`](super::Identity)). Connections that are open stay as they are when
//! the files change.

pub(in crate::rpc) mod alert;
mod client;
mod load;
mod server;
mod socket;
mod verify;

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reeve_protocol::Timestamp;

pub use server::{TlsLimits, TlsServer};

use super::identity::{Identity, IdentityError};
use load::Loaded;

/// The protocol that both sides name in the handshake.
const ALPN: &[u8] = b"reeve/1";

/// The files of somebody who speaks TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, first its own and then those between it and the authority.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
    /// The authorities that both sides' certificates come from. While authorities change, both.
    pub ca: PathBuf,
}

/// Why TLS files cannot be used. Never holds what is in a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The key is of another certificate.
    #[error("the key {} does not belong to the certificate {}", key.display(), cert.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The certificate was valid until then.
    #[error("the certificate {} expired at {at}: issue a new one", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// Since when.
        at: Timestamp,
    },
    /// The certificate is valid from then.
    #[error("the certificate {} is valid from {at} only: is the clock right?", path.display())]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// From when.
        at: Timestamp,
    },
    /// The other side would not accept the certificate.
    #[error("the certificate {} does not verify against {}: {why}", cert.display(), ca.display())]
    NotAccepted {
        /// The certificate's file.
        cert: PathBuf,
        /// The authorities' file.
        ca: PathBuf,
        /// Why.
        why: String,
    },
    /// The certificate speaks for nobody.
    #[error("the certificate {}: {why}", path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: IdentityError,
    },
    /// The certificate is not of a node of this cluster.
    #[error("the certificate {} is of {found}, and a node needs reeve://{cluster}/node/ID", path.display())]
    NotANode {
        /// Which file.
        path: PathBuf,
        /// Whom it is of.
        found: Box<Identity>,
        /// The cluster.
        cluster: String,
    },
    /// The certificate that replaces a node's own is of somebody else.
    #[error("the certificate {} is of {found}, and this node is {own}", path.display())]
    AnotherNode {
        /// Which file.
        path: PathBuf,
        /// Whom it is of.
        found: Box<Identity>,
        /// Who the node is since its start.
        own: Box<Identity>,
    },
    /// TLS cannot be set up with them.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// Nothing can listen there.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

impl TlsError {
    /// The error and what it came from, in one line.
    fn with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// What tells whether a file was replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// One stamp for each file; `None` for one that is not there.
type Stamps = [Option<Stamp>; 3];

/// Certificate, key and authorities, read and checked, and read again when the files change. Clones are the same.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    files: TlsFiles,
    /// Which cluster's node the certificate must be of; for a client, whatever it says.
    node_of: Option<String>,
    state: Mutex<State>,
}

struct State {
    loaded: Arc<Loaded>,
    /// Of the files that were tried last, well or not.
    tried: Stamps,
    /// Counts the changes.
    version: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("files", &self.inner.files).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files of somebody of any role, to call nodes of the cluster that the certificate names.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and what was expected.
    pub fn client(files: TlsFiles) -> Result<Self, TlsError> {
        Self::read(files, None)
    }

    /// Reads the files of a node of a cluster, to serve and to call other nodes.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and what was expected.
    pub fn node(files: TlsFiles, cluster: &str) -> Result<Self, TlsError> {
        Self::read(files, Some(cluster.to_owned()))
    }

    fn read(files: TlsFiles, node_of: Option<String>) -> Result<Self, TlsError> {
        // Stamps first: what changes while it is read is read again.
        let tried = stamps(&files);
        let loaded = Arc::new(Loaded::read(&files, node_of.as_deref())?);
        let state = Mutex::new(State { loaded, tried, version: 0 });
        Ok(Self { inner: Arc::new(Inner { files, node_of, state }) })
    }

    /// Whom the certificate speaks for.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.current().identity.clone()
    }

    /// Reads the files again, whether or not they changed. What cannot be used leaves everything as it was, and so does
    /// a certificate of another node. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and what was expected.
    pub fn reload(&self) -> Result<(), TlsError> {
        let tried = stamps(&self.inner.files);
        let read = Loaded::read(&self.inner.files, self.inner.node_of.as_deref());
        let mut state = self.state();
        state.tried = tried;
        let loaded = read?;
        let own = &state.loaded.identity;
        if self.inner.node_of.is_some() && loaded.identity != *own {
            let (found, own) = (Box::new(loaded.identity), Box::new(own.clone()));
            return Err(TlsError::AnotherNode { path: self.inner.files.cert.clone(), found, own });
        }
        state.loaded = Arc::new(loaded);
        state.version += 1;
        Ok(())
    }

    /// Reads the files again if they changed, and logs what comes of it: once for each change. Blocks.
    pub(super) fn refresh(&self) {
        if self.state().tried == stamps(&self.inner.files) {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!(cert = %self.inner.files.cert.display(), "the TLS files changed and were read"),
            Err(error) => {
                let error = error.with_source();
                tracing::error!(error, "the TLS files changed and cannot be used; those read before stay");
            }
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.state().version
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.state().loaded)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is one step, so a panic elsewhere leaves it sound.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    let stamp = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Stamp { device: found.dev(), inode: found.ino(), bytes: found.size(), modified })
    };
    [stamp(&files.cert), stamp(&files.key), stamp(&files.ca)]
}
