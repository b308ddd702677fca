//! What runs: the one binary `reeve`. The only place that chooses implementations.
//!
//! [`cli`] reads the arguments; [`config`] the file; [`daemon`] is the life of a node's process; [`assemble`] puts a node
//! together out of the parts that the configuration names; [`http`] is its edge to browsers and monitoring.

pub mod assemble;
pub mod cert;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod http;
mod intake;
pub mod logging;
pub mod replay;
