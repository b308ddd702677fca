//! One process for both actor libraries: a multi-thread tokio runtime, and an actix system in which arbiters can be
//! made.

use std::future::Future;

/// Runs `main` inside a multi-thread tokio runtime and an actix system, and returns what it returns. Nodes can be
/// started only inside of it.
///
/// # Panics
/// When the operating system refuses the threads of the runtime.
pub fn run_system<F: Future>(main: impl FnOnce() -> F) -> F::Output {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("the operating system gives the threads of the runtime")
    };
    actix_rt::System::with_tokio_rt(runtime).block_on(main())
}
