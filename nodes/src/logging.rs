//! The log: to standard error, as text for people or JSON for programs.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;

use tracing::field::display;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogSection};

/// Begins logging, and logs every panic. The first call of a process counts.
///
/// # Errors
/// When the level is no filter, or something logs already.
pub fn start(section: &LogSection) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&section.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match section.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
        let thread = std::thread::current();
        let place = panic.location().map(display);
        let message = panic.payload_as_str().unwrap_or("a panic without words");
        tracing::error!(thread = thread.name(), place, backtrace, "panic: {message}");
    }));
    Ok(())
}
