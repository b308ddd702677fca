//! How nodes agree and talk: record stores, buses, ownership, RPC.

pub mod embedded;
pub mod rabbitmq;
pub mod rpc;
