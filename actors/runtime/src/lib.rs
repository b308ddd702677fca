//! The actor shells: per-VM trees, shard owners and the node tree.
