//! Why the embedded half fails.

use std::path::PathBuf;

/// Why the file cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process has it.
    #[error("{} is already in use by another reeve", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of Reeve wrote it.
    #[error("{} has format {found}, newer than this version of reeve reads ({supported}); run the newer version", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest that this version reads.
        supported: u64,
    },
    /// It was not written by Reeve.
    #[error("{} was not written by reeve ({why}); name another file or move this one away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// It was written by Reeve and cannot be read any more.
    #[error("{} is damaged ({why}); restore it from a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// It cannot be opened, made or read.
    #[error("{} cannot be opened ({why})", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

/// Why a write has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WriteError {
    /// Nothing was written.
    #[error("{0}")]
    NotWritten(String),
    /// It may have been written or not.
    #[error("{0}")]
    Unknown(String),
}

impl WriteError {
    pub(super) fn closed() -> Self {
        Self::NotWritten("the embedded database is closed".into())
    }
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored cannot be read.
    #[error("{0}")]
    Damaged(String),
}

impl From<redb::Error> for ReadError {
    fn from(error: redb::Error) -> Self {
        if let redb::Error::Corrupted(why) = error { Self::Damaged(why) } else { Self::Unavailable(error.to_string()) }
    }
}
