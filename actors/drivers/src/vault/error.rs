//! What `opendal`'s errors mean for the next attempt.

use std::error::Error;
use std::io;

use opendal::ErrorKind;
use reeve_ports::VaultError;

/// The cause in words, without `opendal`'s own context.
pub(super) fn reason(error: &opendal::Error) -> String {
    io_cause(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// A failed look.
pub(super) fn of_read(path: &str, error: &opendal::Error) -> VaultError {
    let why = format!("{path}: {}", reason(error));
    if error.kind() == ErrorKind::NotFound { VaultError::NotFound(why) } else { VaultError::Unavailable(why) }
}

/// A failed change: a full disk, a missing right and a folder that is none need a human, the rest may pass.
pub(super) fn of_write(path: &str, error: &opendal::Error) -> VaultError {
    let why = format!("{path}: {}", reason(error));
    let for_good = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::ConfigInvalid => {
            true
        }
        _ => io_cause(error).is_some_and(|cause| blocks_writing(cause.kind())),
    };
    if for_good { VaultError::NotWritable(why) } else { VaultError::Unavailable(why) }
}

/// A failed change of the file system itself.
pub(super) fn of_io(path: &str, error: &io::Error) -> VaultError {
    let why = format!("{path}: {error}");
    if blocks_writing(error.kind()) { VaultError::NotWritable(why) } else { VaultError::Unavailable(why) }
}

const fn blocks_writing(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidFilename
    )
}

fn io_cause(error: &opendal::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}
