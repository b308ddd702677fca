//! The one file and its one writer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use redb::{ReadTransaction, ReadableDatabase};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::{EmbeddedError, ReadError, WriteError};
use super::file;
use super::tables::Tables;
use super::writer::{Job, Reopen, Writer};

/// The most writes that wait at once; further ones wait for their turn to wait.
const MAX_WAITING: usize = 4096;

/// The embedded database: one redb file, open in one process. Clones are handles to the same.
#[derive(Clone)]
pub struct EmbeddedDb {
    writer: Arc<Writer>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
    path: Arc<Path>,
}

impl EmbeddedDb {
    /// Opens the file, or makes it. After a crash the whole file is read once, which takes about a second for 500 MB.
    /// Must be called within the tokio runtime that shall do the writing.
    ///
    /// # Errors
    /// [`EmbeddedError`], which names the file.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, EmbeddedError> {
        let path = path.as_ref().to_owned();
        let at = path.clone();
        let database = tokio::task::spawn_blocking(move || file::open(&at))
            .await
            // redb may panic on a file that was changed behind its back.
            .map_err(|error| EmbeddedError::Damaged { path: path.clone(), why: error.to_string() })??;
        let at = path.clone();
        Ok(Self::new(path, database, Box::new(move || file::reopen(&at))))
    }

    pub(super) fn new(path: PathBuf, database: redb::Database, reopen: Reopen) -> Self {
        Self {
            writer: Writer::new(database, reopen),
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            closed: CancellationToken::new(),
            path: path.into(),
        }
    }

    /// Finishes what was begun and closes the file. Afterwards every read and write fails as unavailable, and
    /// consumers end. Dropping all handles instead is safe too, but the next start has to check the file.
    pub async fn close(&self) {
        self.closed.cancel();
        self.writer.close().await;
    }

    /// How many transactions were committed since the file was opened: with many writers far fewer than writes.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    /// The file, for messages to people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Cancelled when the database closes.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Reads. On a blocking thread, because redb reads with `pread`: a page that is not in its cache waits for the disk.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, ReadError> {
        let writer = Arc::clone(&self.writer);
        let read = tokio::task::spawn_blocking(move || {
            writer.open().map_err(|error| ReadError::Unavailable(error.to_string()))?;
            let database = writer.database.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = database.as_ref() else {
                return Err(ReadError::Unavailable("the embedded database is closed".into()));
            };
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            Ok(read(&transaction)?)
        });
        read.await.map_err(|error| ReadError::Unavailable(error.to_string()))?
    }

    /// Writes, and returns after the commit. A write whose future is dropped is carried out all the same.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.write_then(apply, move |result| {
            // Whoever asked may have gone.
            let _ = answer.send(result);
        })
        .await;
        answered.await.unwrap_or_else(|_| Err(WriteError::Unknown("the writer failed".into())))
    }

    /// Queues a write, waiting for room; `done` is called after the commit, in the order of the writes.
    pub(super) async fn write_then<T: Send + 'static>(
        &self,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
        done: impl FnOnce(Result<T, WriteError>) + Send + 'static,
    ) {
        match Arc::clone(&self.room).acquire_owned().await {
            Ok(permit) => self.submit(Some(permit), apply, done),
            Err(_) => done(Err(WriteError::closed())),
        }
    }

    /// Queues a write at once. For what is bounded elsewhere, such as the settlement of a delivery.
    pub(super) fn write_now<T: Send + 'static>(
        &self,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
        done: impl FnOnce(Result<T, WriteError>) + Send + 'static,
    ) {
        self.submit(None, apply, done);
    }

    fn submit<T: Send + 'static>(
        &self,
        permit: Option<OwnedSemaphorePermit>,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
        done: impl FnOnce(Result<T, WriteError>) + Send + 'static,
    ) {
        self.writer.submit(Box::new(Typed { apply: Some(apply), value: None, done: Some(done), _permit: permit }));
    }
}

/// A job made of two closures.
struct Typed<T, A, D: FnOnce(Result<T, WriteError>)> {
    apply: Option<A>,
    value: Option<T>,
    done: Option<D>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T, A, D> Job for Typed<T, A, D>
where
    T: Send,
    A: FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send,
    D: FnOnce(Result<T, WriteError>) + Send,
{
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        let apply = self.apply.take().expect("a job is applied once");
        self.value = Some(apply(tables)?);
        Ok(())
    }

    fn finish(mut self: Box<Self>, committed: Result<(), WriteError>) {
        let result = committed.map(|()| self.value.take().expect("a committed job was applied"));
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl<T, A, D: FnOnce(Result<T, WriteError>)> Drop for Typed<T, A, D> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(WriteError::Unknown("the writer failed in the middle".into())));
        }
    }
}
