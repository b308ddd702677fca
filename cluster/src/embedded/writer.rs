//! The writer: takes what waits, applies it in one transaction, commits with one fsync, then answers.
//!
//! ```text
//! idle ──a job is queued──► writing ──the queue is empty──► idle
//!                             │  ▲
//!        I/O error: the file is closed; every job of the batch is told
//!                             ▼  │ the next batch or read opens the file again
//!                            failed
//! ```
//!
//! It runs on a blocking thread of the runtime only while there is work: a thread of our own that tokio does not know
//! about would let paused test time run away while a commit is under way.
//!
//! It never answers before the commit, and it never reports a write as done after a failed fsync: the page cache may
//! show what the disk does not hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase};
use tokio::sync::Notify;

use super::error::WriteError;
use super::tables::{META, Tables};

/// The most jobs of one transaction: larger ones do not write faster, and everybody waits for them.
const MAX_BATCH: usize = 512;

/// Opens the file again after an I/O error.
pub(super) type Reopen = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

/// One write: applied, then told what became of the transaction.
pub(super) trait Job: Send {
    /// Applies itself to the open transaction. An error aborts the transaction with all its jobs.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error>;

    /// Answers.
    fn finish(self: Box<Self>, committed: Result<(), WriteError>);
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    writing: bool,
    closed: bool,
    transactions: u64,
}

/// The writer and what it writes to.
pub(super) struct Writer {
    runtime: tokio::runtime::Handle,
    waiting: Mutex<Waiting>,
    idle: Notify,
    /// `None` when it was closed, or failed and could not be opened again yet.
    pub(super) database: RwLock<Option<Database>>,
    reopen: Reopen,
}

/// Says that nobody is writing any more, whatever ended the writing.
struct Writing {
    writer: Arc<Writer>,
    started: bool,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut waiting = self.writer.waiting();
        // A writer that never ran was refused by a runtime that is ending: nobody will run the next one either.
        let lost = if self.started { VecDeque::new() } else { std::mem::take(&mut waiting.jobs) };
        // Jobs may have come between the last look at the queue and now, or the writer may have panicked.
        let go_on = !waiting.jobs.is_empty();
        waiting.writing = go_on;
        drop(waiting);
        for job in lost {
            job.finish(Err(WriteError::closed()));
        }
        if go_on {
            self.writer.start();
        }
        self.writer.idle.notify_waiters();
    }
}

impl Writer {
    pub(super) fn new(database: Database, reopen: Reopen) -> Arc<Self> {
        Arc::new(Self {
            runtime: tokio::runtime::Handle::current(),
            waiting: Mutex::default(),
            idle: Notify::new(),
            database: RwLock::new(Some(database)),
            reopen,
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many transactions were committed since the start.
    pub(super) fn transactions(&self) -> u64 {
        self.waiting().transactions
    }

    /// Queues a job, and wakes the writer.
    pub(super) fn submit(self: &Arc<Self>, job: Box<dyn Job>) {
        let mut waiting = self.waiting();
        if waiting.closed {
            drop(waiting);
            job.finish(Err(WriteError::closed()));
            return;
        }
        waiting.jobs.push_back(job);
        let start = !std::mem::replace(&mut waiting.writing, true);
        drop(waiting);
        if start {
            self.start();
        }
    }

    fn start(self: &Arc<Self>) {
        let mut writing = Writing { writer: Arc::clone(self), started: false };
        self.runtime.spawn_blocking(move || {
            writing.started = true;
            while let Some(batch) = writing.writer.next_batch() {
                writing.writer.write(batch);
            }
        });
    }

    fn next_batch(&self) -> Option<Vec<Box<dyn Job>>> {
        let mut waiting = self.waiting();
        let count = waiting.jobs.len().min(MAX_BATCH);
        (count > 0).then(|| waiting.jobs.drain(..count).collect())
    }

    /// Takes no more jobs, waits for those that were taken, and closes the file.
    pub(super) async fn close(self: &Arc<Self>) {
        self.waiting().closed = true;
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if !self.waiting().writing {
                break;
            }
            idle.await;
        }
        let writer = Arc::clone(self);
        // The close writes the allocator's state, which spares the next start a repair.
        let closed = self.runtime.spawn_blocking(move || drop(writer.take_database())).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the embedded database did not close in order");
        }
    }

    fn take_database(&self) -> Option<Database> {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn write(&self, mut batch: Vec<Box<dyn Job>>) {
        let outcome = self.open().and_then(|()| self.transact(&mut batch));
        for job in batch {
            job.finish(outcome.clone());
        }
    }

    /// Sees to it that the file is open, unless it was closed for good.
    pub(super) fn open(&self) -> Result<(), WriteError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            // The last batch finds the file open, or failed: either way nothing opens it after the close.
            if self.waiting().closed {
                return Err(WriteError::closed());
            }
            let opened = (self.reopen)()
                .map_err(|error| WriteError::NotWritten(format!("the file does not open again: {error}")))?;
            tracing::info!("the embedded database is open again");
            *database = Some(opened);
        }
        Ok(())
    }

    fn transact(&self, batch: &mut [Box<dyn Job>]) -> Result<(), WriteError> {
        let (failure, number) = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = database.as_ref() else { return Err(WriteError::closed()) };
            match apply(database, batch) {
                Ok((transaction, number)) => match transaction.commit() {
                    Ok(()) => {
                        self.waiting().transactions += 1;
                        return Ok(());
                    }
                    Err(error) => (redb::Error::from(error), Some(number)),
                },
                Err(error) => (error, None),
            }
        };
        tracing::error!(error = %failure, jobs = batch.len(), "the embedded database could not be written");
        // redb refuses everything after an I/O error until the file is opened anew.
        drop(self.take_database());
        match number {
            None => Err(WriteError::NotWritten(failure.to_string())),
            Some(number) => Err(self.after_failed_commit(number, &failure)),
        }
    }

    /// Opens the file again and looks whether the failed commit is in it.
    fn after_failed_commit(&self, number: u64, failure: &redb::Error) -> WriteError {
        match self.open().map_err(|error| error.to_string()).and_then(|()| self.last_commit()) {
            Ok(last) if last < number => WriteError::NotWritten(failure.to_string()),
            Ok(_) => WriteError::Unknown(format!("{failure}; the file shows the write, the disk may not hold it")),
            Err(again) => WriteError::Unknown(format!("{failure}; {again}")),
        }
    }

    fn last_commit(&self) -> Result<u64, String> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or("the file is closed")?;
        let read = || -> Result<u64, redb::Error> {
            let transaction = database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let last = meta.get("commit")?.map_or(0, |value| value.value());
            Ok(last)
        };
        read().map_err(|error| error.to_string())
    }
}

/// Applies all jobs in one transaction; returns it with its number.
fn apply(database: &Database, batch: &mut [Box<dyn Job>]) -> Result<(redb::WriteTransaction, u64), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let number = {
        let mut tables = Tables::open(&transaction)?;
        for job in &mut *batch {
            job.apply(&mut tables)?;
        }
        tables.count("commit")? + 1
    };
    Ok((transaction, number))
}
