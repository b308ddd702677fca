//! Opening the file, and saying clearly why it does not open.
//!
//! A new file is made aside and linked into place when it is complete: redb writes its magic number last, so a process
//! killed while making the file would leave one that nobody could open.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableHandle};

use super::error::EmbeddedError;
use super::tables::{FORMAT, META, Tables};

/// redb's own default of 1 GiB is meant for a machine of its own.
const CACHE_BYTES: usize = 128 * 1024 * 1024;

/// Opens the file, or makes it.
pub(super) fn open(path: &Path) -> Result<Database, EmbeddedError> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() > 0 => open_existing(path),
        Ok(found) if found.is_file() => {
            Err(EmbeddedError::Damaged { path: path.to_owned(), why: "it is empty".into() })
        }
        Ok(_) => Err(EmbeddedError::Foreign { path: path.to_owned(), why: "it is no file".into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(EmbeddedError::Io { path: path.to_owned(), why: error.to_string() }),
    }
}

/// Opens the file after an I/O error: its content was checked when it was opened first.
pub(super) fn reopen(path: &Path) -> Result<Database, redb::Error> {
    Ok(builder().open(path)?)
}

pub(super) fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_repair_callback(|session| {
        tracing::info!(progress = session.progress(), "the embedded database was not closed in order: checking it");
    });
    builder
}

fn open_existing(path: &Path) -> Result<Database, EmbeddedError> {
    let mut builder = builder();
    // A file changed behind redb's back may panic later on; better an error now.
    builder.set_check_integrity_on_open(true);
    let database = builder.open(path).map_err(|error| explain(path, error))?;
    check_format(path, &database)?;
    Ok(database)
}

fn make(path: &Path) -> Result<Database, EmbeddedError> {
    let io = |error: io::Error| EmbeddedError::Io { path: path.to_owned(), why: error.to_string() };
    let aside = aside(path);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let database = builder().create(&aside).map_err(|error| explain(path, error))?;
    initialise(&database).map_err(|error| EmbeddedError::Io { path: path.to_owned(), why: error.to_string() })?;
    // A link, because it fails where a rename would replace what another process made in the meantime. The lock of the
    // open file holds under its new name.
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside).map_err(io)?;
    match linked {
        Ok(()) => sync_folder(path).map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return open_existing(path),
        Err(error) => return Err(io(error)),
    }
    Ok(database)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    path.with_file_name(name)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Makes all tables and notes the format.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction)?;
        tables.meta.insert("format", FORMAT)?;
    }
    transaction.commit()?;
    Ok(())
}

fn check_format(path: &Path, database: &Database) -> Result<(), EmbeddedError> {
    let found = read_format(database)
        .map_err(|error| EmbeddedError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    match found {
        None => Err(EmbeddedError::Foreign { path: path.to_owned(), why: "a redb file without a format".into() }),
        Some(found) if found > FORMAT => {
            Err(EmbeddedError::NewerFormat { path: path.to_owned(), found, supported: FORMAT })
        }
        Some(_) => Ok(()),
    }
}

fn read_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    if !transaction.list_tables()?.any(|table| table.name() == META.name()) {
        return Ok(None);
    }
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get("format")?.map(|value| value.value())),
        Err(redb::TableError::Storage(error)) => Err(error.into()),
        // A table of this name, and not ours.
        Err(_) => Ok(None),
    }
}

fn explain(path: &Path, error: DatabaseError) -> EmbeddedError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => EmbeddedError::InUse { path },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            EmbeddedError::Foreign { path, why: error.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            EmbeddedError::Damaged { path, why: error.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(error)) => EmbeddedError::Io { path, why: error.to_string() },
        other => EmbeddedError::Damaged { path, why: other.to_string() },
    }
}
