//! Fails a test in which something was logged at ERROR.
//!
//! A supervisor that restarts a child logs an error and carries on, so a test that looks only at results would pass.
//! A test takes a guard first; when the guard goes, every recorded error that the test did not expect fails it:
//!
//! ```
//! let errors = reeve_tests::harness::forbid_errors();
//! errors.expect("disk full");
//! tracing::error!("disk full, the backup waits");
//! ```
//!
//! What the test logs is also printed, from the level in `RUST_LOG` on (default: warn).

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Errors kept by a guard. A test that logs more has failed anyway.
const KEPT: usize = 100;

/// Errors logged on this thread fail the test when the guard is dropped.
///
/// Enough for `#[tokio::test]`, whose tasks all run on the test's own thread.
#[must_use = "errors are forbidden only while the guard lives"]
pub fn forbid_errors() -> ErrorGuard {
    let recorder = Recorder::default();
    let errors = recorder.attach();
    let scope = tracing::subscriber::set_default(subscriber(recorder.clone()));
    ErrorGuard { errors, expected: Mutex::default(), recorder, _scope: Some(scope) }
}

/// Errors logged anywhere in the process fail the test when the guard is dropped.
///
/// For tests that start threads: actix arbiters, a multi-thread runtime. Another test of the same binary that runs at
/// the same time and logs an error fails this one too, so expected errors belong in a test binary of their own.
///
/// # Panics
/// When something else has installed a process-wide subscriber already.
#[must_use = "errors are forbidden only while the guard lives"]
pub fn forbid_errors_everywhere() -> ErrorGuard {
    static PROCESS: OnceLock<Recorder> = OnceLock::new();
    let recorder = PROCESS.get_or_init(|| {
        let recorder = Recorder::default();
        tracing::subscriber::set_global_default(subscriber(recorder.clone()))
            .expect("no other process-wide subscriber is installed in a test binary");
        recorder
    });
    ErrorGuard { errors: recorder.attach(), expected: Mutex::default(), recorder: recorder.clone(), _scope: None }
}

/// Forbids errors until it is dropped.
#[derive(Debug)]
pub struct ErrorGuard {
    errors: Errors,
    expected: Mutex<Vec<String>>,
    recorder: Recorder,
    _scope: Option<DefaultGuard>,
}

impl ErrorGuard {
    /// Errors whose text contains `text` are part of the test.
    pub fn expect(&self, text: impl Into<String>) {
        locked(&self.expected).push(text.into());
    }

    /// The errors recorded so far, expected ones too: target, message, then the fields.
    #[must_use]
    pub fn recorded(&self) -> Vec<String> {
        locked(&self.errors).clone()
    }

    /// The errors recorded so far that the test does not expect.
    #[must_use]
    pub fn unexpected(&self) -> Vec<String> {
        let expected = locked(&self.expected);
        let mut errors = self.recorded();
        errors.retain(|error| !expected.iter().any(|text| error.contains(text)));
        errors
    }
}

impl Drop for ErrorGuard {
    fn drop(&mut self) {
        self.recorder.detach(&self.errors);
        let unexpected = self.unexpected();
        // A second panic would abort the process and hide the first.
        if !unexpected.is_empty() && !std::thread::panicking() {
            panic!("{} errors were logged that the test does not expect:\n{}", unexpected.len(), unexpected.join("\n"));
        }
    }
}

type Errors = Arc<Mutex<Vec<String>>>;

/// Hands every ERROR event to the guards attached to it.
#[derive(Clone, Debug, Default)]
struct Recorder {
    guards: Arc<Mutex<Vec<Errors>>>,
}

impl Recorder {
    fn attach(&self) -> Errors {
        let errors = Errors::default();
        locked(&self.guards).push(errors.clone());
        errors
    }

    fn detach(&self, errors: &Errors) {
        locked(&self.guards).retain(|attached| !Arc::ptr_eq(attached, errors));
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = format!("{}: {}{}", event.metadata().target(), text.message, text.fields);
        for errors in locked(&self.guards).iter() {
            let mut errors = locked(errors);
            if errors.len() < KEPT {
                errors.push(line.clone());
            }
        }
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        }
        .expect("writing to a String never fails");
    }
}

fn subscriber(recorder: Recorder) -> impl Subscriber + Send + Sync {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let printed = tracing_subscriber::fmt::layer().with_test_writer().with_filter(filter);
    tracing_subscriber::registry().with(recorder.with_filter(LevelFilter::ERROR)).with(printed)
}

/// A panic while the lock is held leaves a list that is still whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unexpected_error_fails_the_test_and_is_quoted() {
        let panic = std::panic::catch_unwind(|| {
            let _errors = forbid_errors();
            tracing::error!(vm = 7, "the child died");
        });
        let message = *panic.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("the child died vm=7"), "{message}");
    }

    #[test]
    fn warnings_and_expected_errors_pass() {
        let errors = forbid_errors();
        errors.expect("the child died");
        tracing::warn!("something odd");
        tracing::error!("the child died, as it should");
        assert_eq!(errors.recorded().len(), 1);
        assert_eq!(errors.unexpected(), Vec::<String>::new());
    }

    #[test]
    fn an_error_on_another_thread_is_seen_by_the_wide_guard() {
        let errors = forbid_errors_everywhere();
        errors.expect("from afar");
        std::thread::spawn(|| tracing::error!("from afar")).join().unwrap();
        assert!(errors.recorded().iter().any(|error| error.contains("from afar")));
    }
}
