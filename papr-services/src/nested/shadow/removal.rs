//! Taking leaves and tables out of a shadow tree: unlink, flush, free, in this order.
//!
//! A [`Removal`] collects what was unlinked and runs one flush for all of it. The surprising fact: it cannot be left
//! half done by accident, because the tables that it holds return to the pool only in `settle`, behind the flush.

use arrayvec::ArrayVec;
use isa::addr::{Nra, Ra};
use isa::pte::PageSize;

use super::{PAGES_PER_FLUSH, Shadow};
use crate::host::{Flush, Host};
use crate::nested::pool::Table;
use crate::radix::{self, Level, TableMem, TableMemMut, is_directory, is_leaf};

/// The first address that `level` has another entry for than for `nra`.
pub(super) const fn after(nra: u64, level: Level) -> u64 {
    (nra | level.span().wrapping_sub(1)).saturating_add(1)
}

/// Most tables that wait for one flush.
const RETIRED: usize = 32;

/// Leaves and tables on their way out: they are unlinked, a flush runs, then the memory is free.
#[must_use = "what was removed is in use until `finish`"]
pub(super) struct Removal<'a, H: Host> {
    shadow: &'a Shadow,
    host: &'a H,
    tables: ArrayVec<(Table, Level), RETIRED>,
    leaves: Leaves,
    freed: u64,
}

/// Leaves that were removed.
#[derive(Clone, Copy)]
enum Leaves {
    None,
    /// All of one size, in this span.
    Span(u64, u64, PageSize),
    /// More than a span can say.
    Many,
}

impl<'a, H: Host> Removal<'a, H> {
    pub(super) fn new(shadow: &'a Shadow, host: &'a H) -> Self {
        Self {
            shadow,
            host,
            tables: ArrayVec::new(),
            leaves: Leaves::None,
            freed: 0,
        }
    }

    /// Tables that wait for the flush.
    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Takes out the leaf `entry` at `at` that maps `nra`.
    pub(super) fn leaf(&mut self, nra: u64, at: Ra, entry: u64, size: PageSize) {
        if self.shadow.compare_exchange(at, entry, 0).is_err() {
            // Not ours any more: who changed it owes the flush. Under the guest's lock this does not happen.
            return;
        }
        let start = nra & !size.bytes().wrapping_sub(1);
        let end = start.saturating_add(size.bytes());
        self.leaves = match self.leaves {
            Leaves::None => Leaves::Span(start, end, size),
            Leaves::Span(first, last, same) if same == size => {
                let (first, last) = (first.min(start), last.max(end));
                if last.saturating_sub(first).wrapping_shr(size.shift()) <= PAGES_PER_FLUSH {
                    Leaves::Span(first, last, size)
                } else {
                    Leaves::Many
                }
            }
            Leaves::Span(..) | Leaves::Many => Leaves::Many,
        };
    }

    /// Takes out the directory entry at `at`, an entry of `level`, and all that is below.
    pub(super) fn directory(&mut self, at: Ra, entry: u64, level: Level) {
        let Some((below, _)) = level.follow(entry) else {
            return;
        };
        if self.tables.is_full() {
            self.settle();
        }
        if let Some(table) = self.shadow.quota.pool().unlink(at, entry) {
            // Never full here.
            if let Err(full) = self.tables.try_push((table, below)) {
                log::error!("lost {:?}", full.element());
            }
        }
    }

    /// Takes out what is in the way of a smaller leaf: see [`Place::Blocked`].
    pub(super) fn blocker(&mut self, nra: Nra, at: Ra, entry: u64) {
        if is_directory(entry) {
            self.directory(at, entry, Level::Megabytes);
        } else if let Some(tree) = self.shadow.tree()
            && let Ok(leaf) = radix::walk(self.shadow, tree, nra)
        {
            self.leaf(nra.0, leaf.entry_at, leaf.entry, leaf.size);
        }
    }

    /// Takes out all leaves that touch the range, and tables that are wholly in it, from the table of `level` at
    /// `base`, whose first entry is for `first`.
    pub(super) fn range(&mut self, level: Level, base: u64, first: u64, range: (u64, u64)) {
        let (start, end) = range;
        let limit = first.saturating_add(level.span().saturating_mul(level.entries()));
        let mut nra = first.max(start & !level.span().wrapping_sub(1));
        while nra < end.min(limit) {
            let at = Ra(level.entry_at(base, nra));
            let next = after(nra, level);
            let entry = self.shadow.read_entry(at).unwrap_or(0);
            if is_leaf(entry) {
                if let Some(size) = level.page_size() {
                    self.leaf(nra, at, entry, size);
                }
            } else if is_directory(entry) {
                if nra >= start && next <= end {
                    self.directory(at, entry, level);
                } else if let Some((below, table)) = level.follow(entry) {
                    // The recursion ends: `follow` only leads down.
                    self.range(below, table, nra, range);
                }
            }
            nra = next;
        }
    }

    /// Runs the flush that is owed, then frees the tables.
    fn settle(&mut self) {
        let lpid = self.shadow.lpid;
        let flush = match self.leaves {
            Leaves::None if self.tables.is_empty() => return,
            Leaves::Span(start, end, size) if self.tables.is_empty() => Flush::Range {
                lpid,
                start: Nra(start),
                end: Nra(end),
                size,
            },
            Leaves::None | Leaves::Span(..) | Leaves::Many => Flush::Partition { lpid },
        };
        self.host.flush(flush);
        self.leaves = Leaves::None;
        let (shadow, freed) = (self.shadow, &mut self.freed);
        for (table, level) in self.tables.drain(..) {
            shadow
                .quota
                .pool()
                .dismantle(table, level, &mut |table: Table| {
                    *freed = freed.saturating_add(table.size().bytes());
                    shadow.release(table);
                });
        }
    }

    /// Flushes, frees, and answers the bytes of tables that were freed.
    pub(super) fn finish(mut self) -> u64 {
        self.settle();
        self.freed
    }
}
