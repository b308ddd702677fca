//! Administrators' calls between processes: any number in flight on one connection.
//!
//! ```text
//! RpcClient ── [length u32][format byte][bincode Envelope { id, deadline_ms, request }] ─► serve_connection ─► AdminService
//!           ◄─ [length u32][format byte][bincode Reply { id, reply }] ──────────────────
//! ```
//!
//! The transport is anything that reads and writes bytes. [`UnixServer`] is the private socket of one machine's
//! administrators, whose guard is the mode 0600. [`TlsServer`] is the port for everybody else: nodes and the command
//! line, each with a certificate that says who they are. [`RpcPeers`] asks other nodes.
//!
//! The length of a frame is checked before anything is allocated. What cannot be read ends the connection, with a reply
//! of id [`CONNECTION`] that says why. A call that takes too long ends at both sides by itself; one whose caller gives up
//! is cancelled by [`AdminRequest::Cancel`](reeve_protocol::admin::AdminRequest::Cancel), which has no answer. Nothing
//! here retries: whoever asks knows whether asking twice is safe.

mod calls;
mod client;
mod frame;
mod identity;
mod incoming;
mod outgoing;
mod peers;
mod server;
mod tls;
mod unix;

pub use client::{RpcClient, RpcError};
pub use frame::{CONNECTION, Envelope, MAX_FRAME_BYTES, Reply};
pub use identity::{Identity, IdentityError};
pub use peers::RpcPeers;
pub use server::{Limits, serve_connection};
pub use tls::{Credentials, TlsError, TlsFiles, TlsLimits, TlsServer};
pub use unix::{BindError, UnixServer};
