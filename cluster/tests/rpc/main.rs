//! Administrators' calls: what is said, over TLS, and between nodes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod basics;
mod certificates;
mod hostile;
mod peers;
mod reload;
mod service;
mod tls;
mod together;
