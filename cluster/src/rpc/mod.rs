//! Administrators' calls between processes: any number in flight on one connection.
//!
//! ```text
//! RpcClient ── [length u32][format byte][bincode Envelope { id, deadline_ms, request }] ─► serve_connection ─► AdminService
//!           ◄─ [length u32][format byte][bincode Reply { id, reply }] ──────────────────
//! ```
//!
//! The transport is anything that reads and writes bytes; [`UnixServer`] is the private socket of one machine's
//! administrators, whose guard is the mode 0600. The length of a frame is checked before anything is allocated. What
//! cannot be read ends the connection, with a reply of id [`CONNECTION`] that says why. A call that takes too long ends
//! at both sides by itself. Nothing here retries: whoever asks knows whether asking twice is safe.

mod client;
mod frame;
mod server;
mod unix;

pub use client::{RpcClient, RpcError};
pub use frame::{CONNECTION, Envelope, MAX_FRAME_BYTES, Reply};
pub use server::{Limits, serve_connection};
pub use unix::{BindError, UnixServer};
