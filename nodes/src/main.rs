//! The binary `reeve`.

use std::process::ExitCode;

/// Many small records live for months: jemalloc gives memory back and does not fragment as the system's allocator does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    reeve_nodes::cli::main()
}
