//! The binary `reeve`.
fn main() {}
