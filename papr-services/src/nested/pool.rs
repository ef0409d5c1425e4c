//! Memory for radix tables: one region that the firmware hands over, cut into tables of 64 KiB (roots), 4 KiB and
//! 256 bytes, and the share of it that one partition may fill with shadow tables.
//!
//! A table has exactly one owner: a [`Table`] in someone's hand, or one directory entry in the pool.
//! [`TablePool::link`] moves it from the hand into an entry, [`TablePool::unlink`] moves it back; freeing takes it by
//! value. The surprising fact: no one else can write a directory entry, `compare_exchange` refuses to.
//!
//! Which tables are free is kept in `free`.

mod free;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Ra;
use isa::lock::{Mutex, rank};
use isa::pte::{NEXT_SIZE, NEXT_TABLE, Pte};

use self::free::FreeTables;
use crate::radix::{Changed, GrowTables, Level, TableMem, TableMemMut, is_directory};

/// Sizes a table can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableSize {
    /// 64 KiB: a root.
    Chunk,
    /// 4 KiB: a directory, or 4 KiB leaves.
    Page,
    /// 256 bytes: 64 KiB leaves.
    Piece,
}

impl TableSize {
    /// Log2 of the bytes.
    const fn shift(self) -> u32 {
        match self {
            Self::Chunk => 16,
            Self::Page => 12,
            Self::Piece => 8,
        }
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1_u64.wrapping_shl(self.shift())
    }
}

impl From<Level> for TableSize {
    fn from(level: Level) -> Self {
        match level {
            Level::Root => Self::Chunk,
            Level::Gigabytes | Level::Megabytes | Level::Pages4K => Self::Page,
            Level::Pages64K => Self::Piece,
        }
    }
}

/// A table that no directory entry leads to. Dropping it loses its memory for good, which is safe; give it back with
/// [`TablePool::free`].
#[must_use = "a table that is dropped is lost to the pool"]
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    ra: Ra,
    size: TableSize,
}

impl Table {
    /// Where it is, for hardware.
    #[must_use]
    pub const fn ra(&self) -> Ra {
        self.ra
    }

    /// Its size.
    #[must_use]
    pub const fn size(&self) -> TableSize {
        self.size
    }

    /// The directory entry that leads to it.
    const fn directory(&self) -> u64 {
        // Entries have 8 bytes.
        let index_bits = self.size.shift().wrapping_sub(3) as u64;
        Pte::VALID.bits() | (self.ra.0 & NEXT_TABLE) | index_bits
    }

    /// The table a directory entry of the pool leads to. Only [`TablePool::unlink`] may ask, once it has the entry.
    const fn from_directory(entry: u64) -> Self {
        let size = match entry & NEXT_SIZE {
            13 => TableSize::Chunk,
            5 => TableSize::Piece,
            _ => TableSize::Page,
        };
        Self {
            ra: Ra(entry & NEXT_TABLE),
            size,
        }
    }
}

/// Why a region cannot be a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPool {
    /// Its address or its size is no multiple of 64 KiB, or it leaves the address space of directory entries.
    Misplaced,
    /// It has more than 2^28 tables of the smallest size (64 GiB).
    TooBig,
}

/// The machine's memory for radix tables.
pub struct TablePool {
    base: Ra,
    memory: &'static [AtomicU64],
    free: Mutex<FreeTables, rank::TablePool>,
}

impl TablePool {
    /// Takes a region: `memory` is at `base` for hardware. Its content does not matter.
    ///
    /// # Errors
    /// [`BadPool`].
    pub fn new(base: Ra, memory: &'static [AtomicU64]) -> Result<Self, BadPool> {
        let bytes = (memory.len() as u64).saturating_mul(8);
        let end = base.0.checked_add(bytes).ok_or(BadPool::Misplaced)?;
        let chunk = TableSize::Chunk;
        let aligned = Ra(base.0 | bytes).is_aligned(chunk.bytes());
        if !aligned || end > NEXT_TABLE {
            return Err(BadPool::Misplaced);
        }
        let chunks = u32::try_from(bytes.wrapping_shr(chunk.shift()))
            .ok()
            .filter(|c| *c < 1 << 20)
            .ok_or(BadPool::TooBig)?;
        Ok(Self {
            base,
            memory,
            free: Mutex::new(FreeTables::new(chunks)),
        })
    }

    /// Bytes of the whole region.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.memory.len() as u64).saturating_mul(8)
    }

    /// Bytes that are in tables now.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        self.free.lock().in_use
    }

    /// A zeroed table for a level; `None` when there is no memory.
    pub fn allocate(&self, level: Level) -> Option<Table> {
        let size = TableSize::from(level);
        let offset = self.free.lock().take(size)?;
        let table = Table {
            ra: self.base.checked_add(offset)?,
            size,
        };
        self.clear(&table);
        Some(table)
    }

    /// Takes a table back. Hardware must have forgotten it: after it was unlinked, a flush has run.
    pub fn free(&self, table: Table) {
        if let Some(offset) = table.ra.0.checked_sub(self.base.0) {
            self.free.lock().give(offset, table.size);
        }
    }

    /// Takes a table of `level` back with every table below it. Hardware must have forgotten them, see
    /// [`Self::free`].
    pub fn free_tree(&self, table: Table, level: Level) {
        self.dismantle(table, level, &mut |table| self.free(table));
    }

    /// Takes the tree below a table of `level` apart and hands out its tables, the given one last.
    pub fn dismantle(&self, table: Table, level: Level, each: &mut impl FnMut(Table)) {
        if !level.is_last() {
            for (at, entry) in self.entries(&table) {
                // The recursion ends: `follow` only leads down.
                if let Some((below, _)) = level.follow(entry).filter(|_| is_directory(entry)) {
                    if let Some(unlinked) = self.unlink(at, entry) {
                        self.dismantle(unlinked, below, each);
                    }
                }
            }
        }
        each(table);
    }

    /// Empties a table that nothing leads to.
    pub fn clear(&self, table: &Table) {
        for word in self.words(table) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The entries of a table and where they are.
    fn entries(&self, table: &Table) -> impl Iterator<Item = (Ra, u64)> + use<'_> {
        let base = table.ra;
        self.words(table)
            .iter()
            .zip(0_u64..)
            .map(move |(word, index)| {
                (
                    Ra(base.0 | (index << 3)),
                    u64::from_be(word.load(Ordering::Relaxed)),
                )
            })
    }

    /// Puts a table into the empty entry at `at`.
    ///
    /// # Errors
    /// The table comes back when the entry is not empty or not of this pool.
    pub fn link(&self, at: Ra, table: Table) -> Result<u64, Table> {
        let entry = table.directory();
        // Release: a walker that follows the entry sees the table's zeroes.
        match self.word(at).map(|word| {
            word.compare_exchange(0, entry.to_be(), Ordering::Release, Ordering::Relaxed)
        }) {
            Some(Ok(_)) => Ok(entry),
            Some(Err(_)) | None => Err(table),
        }
    }

    /// Empties a directory entry and hands out the table it led to. `None`: the entry is not `entry` any more.
    ///
    /// Hardware may still use the table, until a flush with the walk caches has run.
    pub fn unlink(&self, at: Ra, entry: u64) -> Option<Table> {
        if !is_directory(entry) {
            return None;
        }
        self.word(at)?
            .compare_exchange(entry.to_be(), 0, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|_| Table::from_directory(entry))
    }

    fn word(&self, at: Ra) -> Option<&'static AtomicU64> {
        let offset = at.0.checked_sub(self.base.0)?;
        let index = usize::try_from(offset >> 3).ok()?;
        self.memory.get(index).filter(|_| offset & 7 == 0)
    }

    /// `count` entries from `at`, a multiple of 8, on.
    pub(super) fn neighbours(&self, at: Ra, count: usize) -> Option<&'static [AtomicU64]> {
        let offset = at.0.checked_sub(self.base.0)?;
        let start = usize::try_from(offset >> 3).ok()?;
        let end = start.checked_add(count)?;
        self.memory.get(start..end).filter(|_| offset & 7 == 0)
    }

    fn words(&self, table: &Table) -> &'static [AtomicU64] {
        let range = table.ra.0.checked_sub(self.base.0).and_then(|offset| {
            let start = usize::try_from(offset >> 3).ok()?;
            let count = usize::try_from(table.size.bytes() >> 3).ok()?;
            Some(start..start.checked_add(count)?)
        });
        range
            .and_then(|range| self.memory.get(range))
            .unwrap_or(&[])
    }
}

// Loads are relaxed: what is behind an entry is reached by dependent loads, which stay in order.
impl TableMem for TablePool {
    type At = Ra;

    fn read_entry(&self, at: Ra) -> Option<u64> {
        Some(u64::from_be(self.word(at)?.load(Ordering::Relaxed)))
    }
}

impl TableMemMut for TablePool {
    /// For leaves only: an entry that leads, or would lead, to a table is refused.
    fn compare_exchange(&self, at: Ra, current: u64, new: u64) -> Result<(), Changed> {
        if is_directory(current) || is_directory(new) {
            return Err(Changed);
        }
        self.word(at)
            .ok_or(Changed)?
            .compare_exchange(
                current.to_be(),
                new.to_be(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .map(|_| ())
            .map_err(|_| Changed)
    }
}

impl GrowTables for TablePool {
    fn grow(&self, at: Ra, level: Level) -> Option<u64> {
        let table = self.allocate(level)?;
        match self.link(at, table) {
            Ok(entry) => Some(entry),
            Err(unused) => {
                self.free(unused);
                self.read_entry(at)
            }
        }
    }
}

/// What one partition may fill with shadow tables, and what it does: the host-wide guest state elements 0x0802
/// (bytes in use), 0x0803 (limit) and 0x0804 (bytes reclaimed).
pub struct TableQuota {
    pool: Arc<TablePool>,
    limit: u64,
    in_use: AtomicU64,
    reclaimed: AtomicU64,
}

impl TableQuota {
    /// A share of `limit` bytes. The sum of all shares may be more than the pool has.
    #[must_use]
    pub const fn new(pool: Arc<TablePool>, limit: u64) -> Self {
        Self {
            pool,
            limit,
            in_use: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
        }
    }

    /// The pool behind it.
    #[must_use]
    pub fn pool(&self) -> &TablePool {
        &self.pool
    }

    /// Bytes in use: element 0x0802.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Most bytes in use: element 0x0803.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that were taken away from guests because of over-commitment, ever: element 0x0804.
    #[must_use]
    pub fn reclaimed(&self) -> u64 {
        self.reclaimed.load(Ordering::Relaxed)
    }

    /// Counts bytes that were reclaimed.
    pub fn count_reclaimed(&self, bytes: u64) {
        self.reclaimed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A zeroed table for a level; `None` when the share or the pool is used up.
    pub fn allocate(&self, level: Level) -> Option<Table> {
        let bytes = level.bytes();
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let table = self.pool.allocate(level);
        if table.is_none() {
            self.in_use.fetch_sub(bytes, Ordering::Relaxed);
        }
        table
    }

    /// Takes a table of this share back; see [`TablePool::free`].
    pub fn free(&self, table: Table) {
        self.in_use
            .fetch_sub(table.size().bytes(), Ordering::Relaxed);
        self.pool.free(table);
    }
}

#[cfg(test)]
mod tests;
