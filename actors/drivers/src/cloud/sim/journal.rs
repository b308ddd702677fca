//! The file that keeps a simulated cloud over the death of its process.
//!
//! One JSON line per commit, written with one `write_all` before the call returns, each with the complete objects that
//! changed. Opening replays it and writes it anew as a single line, aside, then renames. A last line without its end is
//! what a killed process leaves: that commit did not happen, and nobody was told that it did. Nothing is synced to the
//! disk: only the death of the process is survived, not that of the machine.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::world::{Change, World};

const NAME: &str = "journal.jsonl";

/// Why a simulated cloud could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The files cannot be read or written.
    #[error("{path}: {why}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Another process has it open.
    #[error("{path}: another process has this simulated cloud open")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A complete line is not what a journal holds.
    #[error("{path}: line {line}: {why}")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
}

/// An open journal; the folder is locked until it is dropped.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    lock: File,
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing it is not enough: a child that is just being started has a copy of it until it runs its own program.
        let _ = self.lock.unlock();
    }
}

impl Journal {
    /// Locks the folder and replays what is there into the world. The first time there is nothing: false.
    pub(super) fn replay(folder: &Path, world: &mut World) -> Result<(File, bool), JournalError> {
        let lock = lock(folder)?;
        let path = folder.join(NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok((lock, false)),
            Err(why) => return Err(JournalError::Io { path, why }),
        };
        let mut reader = BufReader::new(file);
        let mut bytes = Vec::new();
        let mut line = 0;
        loop {
            bytes.clear();
            reader.read_until(b'\n', &mut bytes).map_err(|why| JournalError::Io { path: path.clone(), why })?;
            if bytes.last() != Some(&b'\n') {
                break;
            }
            line += 1;
            let change: Change = serde_json::from_slice(&bytes).map_err(|why| JournalError::Damaged {
                path: path.clone(),
                line,
                why: why.to_string(),
            })?;
            world.absorb(change);
        }
        world.load_contents().map_err(|why| JournalError::Io { path: folder.to_owned(), why })?;
        Ok((lock, line > 0))
    }

    /// Writes everything as one line, aside, and takes it into use.
    pub(super) fn begin(folder: &Path, lock: File, world: &World) -> Result<Self, JournalError> {
        let path = folder.join(NAME);
        let aside = folder.join("journal.part");
        let written = line(&world.everything())
            .and_then(|line| std::fs::write(&aside, line))
            .and_then(|()| std::fs::rename(&aside, &path))
            .and_then(|()| File::options().append(true).open(&path));
        let file = written.map_err(|why| JournalError::Io { path, why })?;
        Ok(Self { file, lock })
    }

    pub(super) fn append(&mut self, change: &Change) -> io::Result<()> {
        self.file.write_all(&line(change)?)
    }
}

fn lock(folder: &Path) -> Result<File, JournalError> {
    let path = folder.join("lock");
    let open = || {
        std::fs::create_dir_all(folder)?;
        File::options().create(true).truncate(false).write(true).open(&path)
    };
    let file = open().map_err(|why| JournalError::Io { path: path.clone(), why })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path }),
        Err(TryLockError::Error(why)) => Err(JournalError::Io { path, why }),
    }
}

fn line(change: &Change) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(change)?;
    line.push(b'\n');
    Ok(line)
}
