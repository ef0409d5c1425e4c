//! The shadow tables of one nested guest: what the hardware walks while it runs.
//!
//! A nested guest's real addresses mean something only in its partition's tree, which lies in the partition's memory
//! and changes at any time. The shadow tree holds compositions of that tree with the partition's extents, a leaf for
//! each address that faulted and for its neighbours (`around`): [`Shadow::fault`] walks, composes and installs;
//! [`Shadow::invalidate`] removes.
//!
//! Laws, which the tests check:
//! * A leaf gives no right that the partition's leaf did not give when it was installed, leads into the partition's
//!   memory, and is no larger than the partition's leaf.
//! * R is always set, and a leaf exists only when the partition's leaf has R. It has W only together with C, and only
//!   when the partition's leaf has W and C. So "not dirty yet" shows as a protection fault, no storage interrupt
//!   comes for R or C, and no hardware can hide a store from the partition.
//! * Removing or narrowing a leaf runs a flush before the call returns; adding or widening one needs none, because
//!   hardware keeps no invalid entries and a stale weaker one faults again. A table's memory is used again only
//!   after the flush that followed its unlinking.
//!
//! The surprising fact: running out of tables is not an error. [`Shadow::fault`] takes leaf tables back from this
//! guest, and the few that every guest keeps from its first run on (`reserve`) see to it that the page at hand always
//! gets in.
//!
//! # What is guaranteed today about threads
//! One lock per guest. A fault only tries it, and when it is taken answers [`Outcome::Retry`]: the vCPU faults again.
//! An invalidation waits for it and holds it over its flush, so that when it returns no walk is under way, none has
//! seen the old entries, and no R or C is stored in a table that the partition frees next. Entries are atomics that
//! change only by compare-exchange, so walkers without a lock (nested.md 4.8 item 7) can replace the lock in `fault`.
//!
//! # Where more comes
//! * Promotion to larger leaves (4.8 item 4) goes behind `install` in `fault`, where the lock is held and the
//!   partition's leaf and its place are known.
//! * Harvest of cleared R bits (4.8 item 10) is a sweep of both trees at once, with a `Removal`.

mod around;
mod composition;
mod page_fault;
mod removal;
mod reserve;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isa::addr::{Gra, Nra, Ra};
use isa::lock::{Mutex, rank};
use isa::pte::{self, PageSize};

use self::composition::Composition;
pub use self::page_fault::{Access, Outcome, PageFault, cause};
use self::page_fault::{needs, reflect, reflect_walk};
use self::removal::{Removal, after};
use self::reserve::Reserve;
pub use self::reserve::{FirstTables, OutOfTables};
use super::pool::TableQuota;
use crate::guest_ram::GuestRam;
use crate::host::{Flush, Host};
use crate::radix::{
    self, Changed, GrowTables, Leaf, Level, NoPlace, Place, Root, TableMem, TableMemMut,
    is_directory,
};

/// Leaves that were installed, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    /// 4 KiB.
    pub size_4k: u64,
    /// 64 KiB.
    pub size_64k: u64,
    /// 2 MiB.
    pub size_2m: u64,
    /// 1 GiB.
    pub size_1g: u64,
}

/// The shadow tables of a nested guest.
pub struct Shadow {
    lpid: u32,
    quota: Arc<TableQuota>,
    /// The root table, or [`NO_ROOT`] before the first run.
    root: AtomicU64,
    reserve: Mutex<Reserve, rank::ShadowReserve>,
    /// Hardware may know the root: it was asked for, and no flush has run since the partition-table entry went.
    in_hardware: AtomicBool,
    state: Mutex<State, rank::Shadow>,
    installed: [AtomicU64; 4],
}

/// What the lock of a guest protects, besides the order of changes.
struct State {
    /// The partition's tree for this guest.
    table: Option<Root<Gra>>,
    /// Where reclaim goes on.
    hand: u64,
    /// Nothing is mapped from here on: what looks at all of the tree need not look at all of its root.
    end: u64,
}

/// No table is there.
const NO_ROOT: u64 = u64::MAX;

/// How often a fault is tried again when the partition changes its leaf meanwhile.
const LEAF_ATTEMPTS: u32 = 4;
/// Tables that one reclaim takes: each costs the guest a flush, and its pages fault again.
const RECLAIM_BATCH: usize = 8;
/// Pages above which everything of the guest is flushed instead of page after page, as Linux does.
pub(super) const PAGES_PER_FLUSH: u64 = 33;

impl Shadow {
    /// An empty tree, without any table so far, for the guest with this LPID, which no one else uses and of which
    /// hardware remembers nothing.
    #[must_use]
    pub fn new(quota: Arc<TableQuota>, lpid: u32) -> Self {
        Self {
            lpid,
            quota,
            root: AtomicU64::new(NO_ROOT),
            reserve: Mutex::new(Reserve::default()),
            in_hardware: AtomicBool::new(false),
            state: Mutex::new(State {
                table: None,
                hand: 0,
                end: 0,
            }),
            installed: [const { AtomicU64::new(0) }; 4],
        }
    }

    /// The guest's LPID.
    #[must_use]
    pub const fn lpid(&self) -> u32 {
        self.lpid
    }

    /// The root table, for the partition-table entry; none before [`Self::furnish`].
    #[must_use]
    pub fn root_ra(&self) -> Option<Ra> {
        let root = self.tree()?.base;
        self.in_hardware.store(true, Ordering::Relaxed);
        Some(root)
    }

    /// Leaves installed so far.
    #[must_use]
    pub fn installed(&self) -> LeafCounts {
        let [size_4k, size_64k, size_2m, size_1g] =
            self.installed.each_ref().map(|n| n.load(Ordering::Relaxed));
        LeafCounts {
            size_4k,
            size_64k,
            size_2m,
            size_1g,
        }
    }

    /// Takes another tree of the partition (its root table), or none: nothing of the old one is used any more.
    pub fn set_table<H: Host>(&self, root: Option<Gra>, host: &H) {
        let mut state = self.state.lock();
        self.clear_all(&mut state, host);
        state.table = root.map(|base| Root { base });
    }

    /// Removes every leaf that touches `[start, end)`, whatever its size. Work is bounded by the shadow tree, not by
    /// the range.
    pub fn invalidate<H: Host>(&self, start: Nra, end: Nra, host: &H) {
        let walkers_out = self.state.lock();
        self.clear(start.0, end.0.min(walkers_out.end), host);
    }

    /// Takes all tables but the root back because somebody else needs them: counted as reclaimed.
    pub fn take_back<H: Host>(&self, host: &H) {
        let mut state = self.state.lock();
        self.reclaim(&mut state, Reclaim::Everything, host);
    }

    /// Removes every leaf, and all tables but the root.
    pub fn invalidate_all<H: Host>(&self, host: &H) {
        let mut walkers_out = self.state.lock();
        self.clear_all(&mut walkers_out, host);
    }

    /// Ends the use of the tables: the partition-table entry of the LPID is gone already, hardware forgets the rest.
    /// Without it, dropping a shadow that hardware may know loses its root.
    pub fn retire<H: Host>(&self, host: &H) {
        let mut state = self.state.lock();
        state.table = None;
        self.clear_all(&mut state, host);
        host.flush(Flush::Partition { lpid: self.lpid });
        self.in_hardware.store(false, Ordering::Relaxed);
    }

    /// Answers a fault of the guest: installs what the partition's tree says, or names the reason why not. `ram` is
    /// the memory of the partition.
    pub fn fault<H: Host>(&self, ram: &GuestRam, fault: &PageFault, host: &H) -> Outcome {
        let Some(mut state) = self.state.try_lock() else {
            return Outcome::Retry;
        };
        let Some(table) = state.table else {
            return reflect(fault, cause::NO_TRANSLATION);
        };
        for _ in 0..LEAF_ATTEMPTS {
            let leaf = match radix::walk(ram, table, fault.nra) {
                Ok(leaf) => leaf,
                Err(error) => {
                    self.drop_leaf_unless(fault.nra, None, host);
                    return reflect_walk(fault, error);
                }
            };
            let Some(page) = Composition::new(ram, &leaf) else {
                self.drop_leaf_unless(fault.nra, None, host);
                return reflect(fault, cause::UNSUPPORTED_MMU);
            };
            let (right, referenced, missing) = needs(fault.access);
            if !leaf.pte().intersects(right) {
                self.drop_leaf_unless(fault.nra, Some(&page), host);
                return reflect(fault, missing);
            }
            if leaf.pte().contains(referenced) {
                return self.install_block(&mut state, ram, fault, (&leaf, &page), host);
            }
            // As hardware would: the whole doubleword, or not at all. The entry was read as the partition's memory
            // in this walk, and its page is, too. Then everything is looked at again.
            let updated = leaf.entry | referenced.bits();
            let _may_have_changed = ram.compare_exchange(leaf.entry_at, leaf.entry, updated);
        }
        Outcome::Retry
    }

    /// Does now what a fault will ask for, which went to the partition before: it has mapped the page since, or it has
    /// not and nothing happens. R and C are left to the access itself, which may never come.
    pub fn prefault<H: Host>(&self, ram: &GuestRam, fault: &PageFault, host: &H) {
        let Some(mut state) = self.state.try_lock() else {
            return;
        };
        let leaf = state.table.map(|table| radix::walk(ram, table, fault.nra));
        let Some(Ok(leaf)) = leaf else {
            return;
        };
        let (right, referenced, _) = needs(fault.access);
        if leaf.pte().intersects(right)
            && leaf.pte().contains(referenced)
            && let Some(page) = Composition::new(ram, &leaf)
        {
            let _ = self.install_block(&mut state, ram, fault, (&leaf, &page), host);
        }
    }

    /// Puts a leaf in, and those of its neighbours.
    fn install_block<H: Host>(
        &self,
        state: &mut State,
        ram: &GuestRam,
        fault: &PageFault,
        (leaf, page): (&Leaf<Gra>, &Composition),
        host: &H,
    ) -> Outcome {
        let (outcome, placed) = self.install(state, fault, page, host);
        if let Some((at, size)) = placed
            && size == leaf.size
        {
            self.around(ram, leaf, at);
        }
        outcome
    }

    /// Puts a leaf in, and tells where and of which size when it is there.
    fn install<H: Host>(
        &self,
        state: &mut State,
        fault: &PageFault,
        page: &Composition,
        host: &H,
    ) -> (Outcome, Option<(Ra, PageSize)>) {
        let Some(tree) = self.tree() else {
            // No guest runs without tables.
            return (reflect(fault, cause::NO_TRANSLATION), None);
        };
        state.end = state.end.max(after(fault.nra.0, Level::Root));
        for reclaim in [
            Reclaim::SomeTables,
            Reclaim::SomeTables,
            Reclaim::Everything,
            Reclaim::Everything,
        ] {
            match radix::place(self, tree, fault.nra, page.size) {
                Ok(Place::Slot { at, entry, size }) => {
                    return match self.put(at, entry, fault.nra, page.leaf(size), size, host) {
                        Ok(()) => (Outcome::Resolved, Some((at, size))),
                        Err(Changed) => (Outcome::Retry, None),
                    };
                }
                Ok(Place::Blocked { at, entry }) => {
                    let mut removal = Removal::new(self, host);
                    removal.blocker(fault.nra, at, entry);
                    removal.finish();
                }
                Err(NoPlace::OutOfTables) => self.reclaim(state, reclaim, host),
                Err(NoPlace::BadTree) => {
                    log::error!("shadow tables of LPID {} are damaged", self.lpid);
                    return (reflect(fault, cause::UNSUPPORTED_MMU), None);
                }
            }
        }
        (Outcome::Retry, None)
    }

    /// Changes the entry at `at` to `new`, by way of an empty entry and a flush when that takes anything away.
    fn put<H: Host>(
        &self,
        at: Ra,
        old: u64,
        nra: Nra,
        new: u64,
        size: PageSize,
        host: &H,
    ) -> Result<(), Changed> {
        if old == new {
            return Ok(());
        }
        let mut old = old;
        if old & !new != 0 || (old ^ new) & pte::RPN != 0 && old != 0 {
            let mut removal = Removal::new(self, host);
            removal.leaf(nra.0, at, old, size);
            removal.finish();
            old = 0;
        }
        self.compare_exchange(at, old, new)?;
        if old == 0 {
            self.count(size);
        }
        Ok(())
    }

    /// Counts a leaf that was put into an empty entry.
    fn count(&self, size: PageSize) {
        let [size_4k, size_64k, size_2m, size_1g] = &self.installed;
        let counter = match size {
            PageSize::Size4K => size_4k,
            PageSize::Size64K => size_64k,
            PageSize::Size2M => size_2m,
            PageSize::Size1G => size_1g,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the leaf that maps `nra`, unless it is no more than `allowed`.
    fn drop_leaf_unless<H: Host>(&self, nra: Nra, allowed: Option<&Composition>, host: &H) {
        let Some(Ok(leaf)) = self.tree().map(|tree| radix::walk(self, tree, nra)) else {
            return;
        };
        if allowed.is_some_and(|page| page.covers(&leaf)) {
            return;
        }
        let mut removal = Removal::new(self, host);
        removal.leaf(nra.0, leaf.entry_at, leaf.entry, leaf.size);
        removal.finish();
    }

    fn clear_all<H: Host>(&self, state: &mut State, host: &H) {
        self.clear(0, state.end, host);
        state.end = 0;
    }

    fn clear<H: Host>(&self, start: u64, end: u64, host: &H) {
        if let Some(tree) = self.tree() {
            let mut removal = Removal::new(self, host);
            removal.range(Level::Root, tree.base.0, 0, (start, end));
            removal.finish();
        }
    }

    /// Takes tables back from the guest. Its accesses fault again.
    fn reclaim<H: Host>(&self, state: &mut State, how: Reclaim, host: &H) {
        let Some(tree) = self.tree() else {
            return;
        };
        let mut removal = Removal::new(self, host);
        match how {
            Reclaim::Everything => removal.range(Level::Root, tree.base.0, 0, (0, state.end)),
            Reclaim::SomeTables => {
                // Clock-wise: hardware keeps no reference bits here, so the hand takes what it meets.
                let mut wrapped = false;
                while removal.tables() < RECLAIM_BATCH {
                    match self.next_leaf_table(tree, state.hand, state.end) {
                        Some((nra, at, entry)) => {
                            state.hand = nra.saturating_add(Level::Megabytes.span());
                            removal.directory(at, entry, Level::Megabytes);
                        }
                        None if wrapped => break,
                        None => {
                            state.hand = 0;
                            wrapped = true;
                        }
                    }
                }
            }
        }
        self.quota.count_reclaimed(removal.finish());
    }

    /// The first directory entry in `[from, end)` that leads to leaves, with its address in the guest.
    fn next_leaf_table(&self, tree: Root<Ra>, from: u64, end: u64) -> Option<(u64, Ra, u64)> {
        let mut nra = from;
        while nra < end {
            let (mut level, mut base) = (Level::Root, tree.base.0);
            loop {
                let at = Ra(level.entry_at(base, nra));
                let entry = self.read_entry(at)?;
                let below = level.follow(entry).filter(|_| is_directory(entry));
                match below {
                    Some((last, _)) if last.is_last() => {
                        return Some((nra & !level.span().wrapping_sub(1), at, entry));
                    }
                    Some(next) => (level, base) = next,
                    None => {
                        nra = after(nra, level);
                        break;
                    }
                }
            }
        }
        None
    }

    /// Where the tree begins, once there is one.
    fn tree(&self) -> Option<Root<Ra>> {
        // Relaxed: its entries are reached by dependent loads, which stay in order.
        let base = self.root.load(Ordering::Relaxed);
        (base != NO_ROOT).then_some(Root { base: Ra(base) })
    }
}

impl TableMem for Shadow {
    type At = Ra;

    fn read_entry(&self, at: Ra) -> Option<u64> {
        self.quota.pool().read_entry(at)
    }
}

impl TableMemMut for Shadow {
    fn compare_exchange(&self, at: Ra, current: u64, new: u64) -> Result<(), Changed> {
        self.quota.pool().compare_exchange(at, current, new)
    }
}

impl GrowTables for Shadow {
    fn grow(&self, at: Ra, level: Level) -> Option<u64> {
        let table = self.allocate(level)?;
        match self.quota.pool().link(at, table) {
            Ok(entry) => Some(entry),
            Err(unused) => {
                self.release(unused);
                self.read_entry(at)
            }
        }
    }
}

/// How much [`Shadow::reclaim`] takes.
#[derive(Clone, Copy)]
enum Reclaim {
    SomeTables,
    /// Afterwards the reserve is full: all tables that were taken from it were in this tree.
    Everything,
}

#[cfg(test)]
pub(crate) mod tests;
