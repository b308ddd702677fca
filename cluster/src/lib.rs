//! How nodes agree and talk: record stores, buses, ownership, RPC.
