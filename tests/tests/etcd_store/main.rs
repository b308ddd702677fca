//! The record store on a real etcd: the suite that every store passes, and what only a server and a network can break.

mod across;
mod conformance;
mod fixture;
mod harness;
mod lost;
mod many;
