//! The private socket of one machine's administrators.
//!
//! Who may open it is decided by its mode, 0600. A lock file beside it belongs to the process that serves it, so that
//! the socket of a process that died is replaced and the socket of one that lives never is.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::frame::{self, CONNECTION, Reply};
use super::server::{Limits, serve_connection};

/// How many connections may be open; a further one is told so and closed.
const MAX_CONNECTIONS: usize = 64;
/// How many connections wait for being accepted.
const BACKLOG: i32 = 128;
/// How long calls under way may take when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves it.
    #[error("already running: another process serves {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// Something else has its name.
    #[error("{} is there and is no socket; it is left alone", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("{}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A bound socket. Dropped, it removes the socket file.
#[derive(Debug)]
pub struct UnixServer {
    listener: UnixListener,
    limits: Limits,
    guard: Guard,
}

/// The socket file and the right to it.
#[derive(Debug)]
struct Guard {
    path: PathBuf,
    // Locked as long as it is open. The file stays behind: removing it would let two processes lock two files.
    _lock: File,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Left behind, it would be replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl UnixServer {
    /// Binds the socket with mode 0600 and replaces one that a dead process left. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]: another process serves it, something else has its name, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| BindError::Io { path, source }
        };
        let lock_path = path.with_added_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(io_error(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(BindError::AlreadyRunning(path.to_owned())),
            Err(error) => return Err(io_error(&lock_path)(error.into())),
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(path)(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            // Nobody holds the lock, so whoever made it is gone.
            Ok(_) => std::fs::remove_file(path).map_err(io_error(path))?,
        }
        let listener = listen(path).map_err(io_error(path))?;
        let guard = Guard { path: path.to_owned(), _lock: lock };
        Ok(Self { listener, limits: Limits::default(), guard })
    }

    /// With other bounds on what one peer may take.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.guard.path
    }

    /// Serves until `stop` is ready, then lets calls under way finish for at most 2 s.
    pub async fn serve(self, service: Arc<dyn AdminService>, stop: impl Future<Output = ()>) {
        let Self { listener, limits, guard } = self;
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if connections.len() >= MAX_CONNECTIONS => turn_away(stream),
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&service), Principal::local(), limits));
                }
                Err(error) => {
                    // Out of descriptors, most likely: it passes when a connection ends.
                    tracing::warn!(%error, "a connection to the RPC socket could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop((listener, guard));
        let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path).map_err(|error| {
        let length = path.as_os_str().len();
        io::Error::other(format!("{error}: a socket's path has at most 107 bytes, this one {length}"))
    })?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the unbound socket, so there is no moment at which others could connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(StdListener::from(socket))
}

/// Tells a peer that there is no room. The few bytes fit the socket's buffer; if not, closing it says enough.
fn turn_away(stream: tokio::net::UnixStream) {
    let message = format!("{MAX_CONNECTIONS} connections are open already");
    let reply = AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, message));
    let Ok(frame) = frame::write(&Reply { id: CONNECTION, reply }) else { return };
    let _ = stream.try_write(&frame);
}
