//! How nodes agree and talk: record stores, buses, ownership, RPC.

pub mod embedded;
pub mod etcd;
pub mod rabbitmq;
pub mod rpc;
pub mod shard_map;
