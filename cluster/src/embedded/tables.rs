//! The tables of the file. Their names and types are its format: a change that an older version cannot read raises
//! [`FORMAT`].

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

/// The format of the file.
pub(super) const FORMAT: u64 = 1;

/// `format`; `commit`: one more with every transaction; `dead`: the number of the next dead letter.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// (shard, VM) → generation, 8 bytes little-endian, then the record.
pub(super) const RECORDS: TableDefinition<(u16, u128), &[u8]> = TableDefinition::new("records");
/// Shard → the epoch of its last claim.
pub(super) const EPOCHS: TableDefinition<u16, u64> = TableDefinition::new("epochs");
/// (queue, number) → message. Numbers grow, across all queues.
pub(super) const MESSAGES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("messages");
/// Number of a message → how many times it was delivered, once that is more than once.
pub(super) const DELIVERIES: TableDefinition<u64, u32> = TableDefinition::new("deliveries");
/// Number → dead letter.
pub(super) const DEAD: TableDefinition<u64, &[u8]> = TableDefinition::new("dead");
/// Position → (time of the event in milliseconds, the event as JSON).
pub(super) const HISTORY: TableDefinition<u64, (i64, &[u8])> = TableDefinition::new("history");
/// (time of the event in milliseconds, position): finds the events since a time.
pub(super) const HISTORY_TIMES: TableDefinition<(i64, u64), ()> = TableDefinition::new("history_times");
/// Id of an event → its position: an event is in the history once.
pub(super) const HISTORY_IDS: TableDefinition<&str, u64> = TableDefinition::new("history_ids");

/// All tables, open for writing.
pub(super) struct Tables<'txn> {
    pub(super) meta: Table<'txn, &'static str, u64>,
    pub(super) records: Table<'txn, (u16, u128), &'static [u8]>,
    pub(super) epochs: Table<'txn, u16, u64>,
    pub(super) messages: Table<'txn, (&'static str, u64), &'static [u8]>,
    pub(super) deliveries: Table<'txn, u64, u32>,
    pub(super) dead: Table<'txn, u64, &'static [u8]>,
    pub(super) history: Table<'txn, u64, (i64, &'static [u8])>,
    pub(super) history_times: Table<'txn, (i64, u64), ()>,
    pub(super) history_ids: Table<'txn, &'static str, u64>,
}

impl<'txn> Tables<'txn> {
    /// Opens all tables, and makes those that are not there.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            records: transaction.open_table(RECORDS)?,
            epochs: transaction.open_table(EPOCHS)?,
            messages: transaction.open_table(MESSAGES)?,
            deliveries: transaction.open_table(DELIVERIES)?,
            dead: transaction.open_table(DEAD)?,
            history: transaction.open_table(HISTORY)?,
            history_times: transaction.open_table(HISTORY_TIMES)?,
            history_ids: transaction.open_table(HISTORY_IDS)?,
        })
    }

    /// Raises a counter of [`META`] by one and returns what it was.
    pub(super) fn count(&mut self, name: &'static str) -> Result<u64, redb::Error> {
        let before = self.meta.get(name)?.map_or(0, |value| value.value());
        self.meta.insert(name, before + 1)?;
        Ok(before)
    }
}
