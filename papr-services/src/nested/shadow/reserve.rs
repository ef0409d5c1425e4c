//! The tables that a guest has from its first run to its end, however many others want some: a root, and enough for the
//! page that faults.
//!
//! They are used first, and what comes back fills them first. So a guest never has fewer, in its tree and here together,
//! and when all of its tree is taken back, the next page gets in. The surprising fact: a guest that never ran has none of
//! this. The root alone has 64 KiB, which is what these processors demand, and many guests are made long before they
//! run.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::Shadow;
use crate::nested::pool::{Table, TableQuota, TableSize};
use crate::radix::Level;

/// There is no memory for the tables that a guest starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

/// Tables that are in no directory entry.
#[derive(Default)]
pub(super) struct Reserve {
    root: Option<Table>,
    /// Two directories and a table of 4 KiB leaves.
    pages: ArrayVec<Table, 3>,
    /// A table of 64 KiB leaves.
    piece: Option<Table>,
}

impl Reserve {
    /// Puts a table into its place; it comes back when that is taken.
    fn put(&mut self, table: Table) -> Option<Table> {
        match table.size() {
            TableSize::Page => self.pages.try_push(table).err().map(|e| e.element()),
            TableSize::Piece => self.piece.replace(table),
            TableSize::Chunk => self.root.replace(table),
        }
    }

    fn take(&mut self, size: TableSize) -> Option<Table> {
        match size {
            TableSize::Page => self.pages.pop(),
            TableSize::Piece => self.piece.take(),
            TableSize::Chunk => None,
        }
    }

    fn give_back(self, quota: &TableQuota) {
        let Self { root, pages, piece } = self;
        for table in root.into_iter().chain(pages).chain(piece) {
            quota.free(table);
        }
    }
}

/// What a guest needs to run: 76.25 KiB of tables. They go back when this is dropped.
pub struct FirstTables {
    quota: Arc<TableQuota>,
    tables: Reserve,
}

impl FirstTables {
    /// Takes them.
    ///
    /// # Errors
    /// [`OutOfTables`]: they are not to be had; nothing is taken.
    pub fn new(quota: &Arc<TableQuota>) -> Result<Self, OutOfTables> {
        let mut first = Self {
            quota: quota.clone(),
            tables: Reserve::default(),
        };
        for level in [
            Level::Root,
            Level::Gigabytes,
            Level::Megabytes,
            Level::Pages4K,
            Level::Pages64K,
        ] {
            let table = quota.allocate(level).ok_or(OutOfTables)?;
            let _always_fits = first.tables.put(table);
        }
        Ok(first)
    }
}

impl Drop for FirstTables {
    fn drop(&mut self) {
        core::mem::take(&mut self.tables).give_back(&self.quota);
    }
}

impl Shadow {
    /// Gives it the tables to run with. If it has some, these go back.
    pub fn furnish(&self, mut first: FirstTables) {
        let mut reserve = self.reserve.lock();
        if let (None, Some(root)) = (&reserve.root, &first.tables.root) {
            // Release: who sees the root sees its zeroes.
            self.root.store(root.ra().0, Ordering::Release);
            *reserve = core::mem::take(&mut first.tables);
        }
    }

    /// Gives a table back, to the reserve first.
    pub(super) fn release(&self, table: Table) {
        let rest = self.reserve.lock().put(table);
        if let Some(table) = rest {
            self.quota.free(table);
        }
    }

    pub(super) fn allocate(&self, level: Level) -> Option<Table> {
        let reserved = self.reserve.lock().take(TableSize::from(level));
        match reserved {
            Some(table) => {
                self.quota.pool().clear(&table);
                Some(table)
            }
            None => self.quota.allocate(level),
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if *self.in_hardware.get_mut() {
            log::error!("shadow tables of LPID {} dropped while in use", self.lpid);
            return;
        }
        let mut tables = core::mem::take(self.reserve.get_mut());
        // Behind `retire` the root is empty.
        if self.state.get_mut().end != 0
            && let Some(root) = tables.root.take()
        {
            let pool = self.quota.pool();
            pool.dismantle(root, Level::Root, &mut |table| self.quota.free(table));
        }
        tables.give_back(&self.quota);
    }
}
