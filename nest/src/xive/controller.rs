//! One chip's controller: its lock, its tables in memory, what is allocated in them.
//!
//! Owns [`Controller`] and [`Locked`], the evidence that a chip's lock is held, on which all that changes the chip's
//! state is defined. The surprising fact: an interrupt of the kernel is allocated when its assignment is valid; there is
//! no second list of it.

use isa::addr::Ra;

use super::memory::{ENDS_LOG2, PER_PAGE, SOURCES_LOG2, TableMemory, VPS_LOG2, XiveMemory};
use super::registers::{PAGE, Windows, esb};
use super::tables::{Eas, End, Index, Nvp, Vsd, low32};
use super::{Capabilities, HW_THREADS, HW_VP_BASE, Pages, SourceGroup, XiveError};
use crate::chip::AddressMap;
use crate::lock::{Mutex, MutexGuard, rank};
use crate::mmio::{Mmio, Reg};
use crate::scom::ChipIndex;

/// First source that is given out; kernels use the numbers below as "no interrupt".
const FIRST_SOURCE: u32 = 0x10;
/// Sources of a chip.
const SOURCES: u32 = 1 << SOURCES_LOG2;
/// Sets of eight event descriptors of a chip.
const SETS: u32 = 1 << VPS_LOG2;
/// Priorities, and event descriptors of a virtual processor.
pub const PRIORITIES: u8 = 8;
/// Groups of sources with pages of their own: PSI and six PCI host bridges, and one to spare.
const GROUPS: usize = 8;

/// One chip's controller.
#[derive(Debug)]
pub(crate) struct Controller<W> {
    pub(crate) windows: W,
    /// Which chip.
    pub(crate) chip: ChipIndex,
    /// Its number among the controllers, which is in every id.
    pub(crate) block: u8,
    pub(crate) memory: XiveMemory,
    pub(crate) map: AddressMap,
    pub(crate) capabilities: Capabilities,
    pub(crate) state: Mutex<State, rank::XiveController>,
}

/// What is allocated.
#[derive(Debug)]
pub(crate) struct State {
    /// No source below it is free, down to [`FIRST_SOURCE`].
    source_hint: u32,
    /// No source from it on was ever given to the kernel.
    source_top: u32,
    /// The hardware's sources start here.
    hardware: u32,
    /// No set below it is free.
    set_hint: u32,
    /// Pages in the list.
    donated: u32,
    /// The hardware's sources.
    groups: [Option<SourceGroup>; GROUPS],
}

impl State {
    pub(crate) const fn new() -> Self {
        Self {
            source_hint: FIRST_SOURCE,
            source_top: FIRST_SOURCE,
            hardware: SOURCES,
            set_hint: HW_SETS,
            donated: 0,
            groups: [None; GROUPS],
        }
    }
}

/// Sets that are never given out: set 0, whose index means "none", and those of the hardware threads.
const HW_SETS: u32 = 1 + HW_THREADS;

impl<W: Windows> Controller<W> {
    /// Takes the lock.
    pub(crate) fn lock<'a, T>(&'a self, tables: &'a T) -> Locked<'a, W, T> {
        Locked {
            chip: self,
            tables,
            state: self.state.lock(),
        }
    }

    /// Where this chip has what chip 0 has at `base`.
    pub(crate) fn at(&self, base: Ra) -> Ra {
        self.map.of_chip(base, self.chip)
    }

    /// The first event descriptor of a hardware thread of this chip. Fixed, so that it needs no allocation.
    pub(crate) fn thread_ends(&self, local: u8) -> Index {
        Index {
            block: self.block,
            index: (1 + u32::from(local)) * u32::from(PRIORITIES),
        }
    }
}

/// A chip's controller, locked.
pub(crate) struct Locked<'a, W, T> {
    pub(crate) chip: &'a Controller<W>,
    pub(crate) tables: &'a T,
    state: MutexGuard<'a, State, rank::XiveController>,
}

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    fn own(&self, index: u32) -> Index {
        Index {
            block: self.chip.block,
            index,
        }
    }

    // Sources.

    fn eas_at(&self, index: u32) -> Option<Ra> {
        let (base, _) = self.chip.memory.eas();
        (index < SOURCES).then(|| Ra(base.0 + u64::from(index) * 8))
    }

    /// The assignment of a source that is in use.
    pub(crate) fn eas(&self, index: u32) -> Result<Eas, XiveError> {
        let at = self.eas_at(index).ok_or(XiveError::NoSource)?;
        let eas = Eas(self.tables.load(at));
        if eas.is_valid() {
            Ok(eas)
        } else {
            Err(XiveError::NoSource)
        }
    }

    /// Sets the assignment of a source. When the chip does not forget its copy of the old one, that stays.
    pub(crate) fn set_eas(&self, index: u32, eas: Eas) -> Result<(), XiveError> {
        let at = self.eas_at(index).ok_or(XiveError::NoSource)?;
        let old = self.tables.load(at);
        self.tables.store(at, eas.0);
        let done = self.scrub_eas(index);
        if done.is_err() {
            self.tables.store(at, old);
        }
        done
    }

    /// Gives out a source: masked, off, its data its own number.
    pub(crate) fn allocate_source(&mut self) -> Result<u32, XiveError> {
        let mut free = self.state.source_hint..self.state.hardware;
        let index = free.find(|index| self.eas(*index).is_err());
        let index = index.ok_or(XiveError::Full)?;
        self.state.source_hint = index + 1;
        self.state.source_top = self.state.source_top.max(index + 1);
        self.turn_off(index);
        let number = u32::from(self.chip.block) << 24 | index;
        self.set_eas(index, Eas::masked(number))?;
        Ok(index)
    }

    /// Whether the source was given out by [`allocate_source`](Self::allocate_source).
    fn is_allocated(&self, index: u32) -> bool {
        (FIRST_SOURCE..self.state.source_top).contains(&index) && self.eas(index).is_ok()
    }

    /// Takes a source back.
    pub(crate) fn free_source(&mut self, index: u32) -> Result<(), XiveError> {
        if !self.is_allocated(index) {
            return Err(XiveError::NoSource);
        }
        self.turn_off(index);
        self.set_eas(index, Eas::default())?;
        self.state.source_hint = self.state.source_hint.min(index);
        Ok(())
    }

    /// Turns a source of the controller's own pages off.
    fn turn_off(&self, index: u32) {
        let page = u64::from(index) * 2 * PAGE + PAGE;
        let _ = self
            .chip
            .windows
            .esb()
            .read64(Reg::new(page + esb::SET_OFF));
    }

    /// Reserves `count` sources, a power of two and aligned to it, for a device: valid, masked, data their number.
    pub(crate) fn reserve_hardware(&mut self, count: u32, pages: Pages) -> Result<u32, XiveError> {
        let fits = count.is_power_of_two() && count <= SOURCES / 2;
        let first = self.state.hardware.checked_sub(count).filter(|_| fits);
        let first = first.map(|first| first & !(count - 1));
        let first = first.filter(|first| *first >= self.state.source_top);
        let first = first.ok_or(XiveError::Full)?;
        let slot = self.state.groups.iter_mut().find(|slot| slot.is_none());
        *slot.ok_or(XiveError::Full)? = Some(SourceGroup {
            first,
            count,
            pages,
        });
        self.state.hardware = first;
        for index in first..first + count {
            if matches!(pages, Pages::Controller { .. }) {
                self.turn_off(index);
            }
            let number = u32::from(self.chip.block) << 24 | index;
            self.set_eas(index, Eas::masked(number))?;
        }
        Ok(first)
    }

    /// The device's group that a source belongs to; `None` for an interrupt of the kernel.
    pub(crate) fn group(&self, index: u32) -> Result<Option<SourceGroup>, XiveError> {
        if index >= SOURCES {
            return Err(XiveError::NoSource);
        }
        let groups = self.state.groups.iter().flatten();
        let mut group =
            groups.filter(|group| (group.first..group.first + group.count).contains(&index));
        Ok(group.next().copied())
    }

    /// Takes back all that the kernel has, and masks the hardware's sources. Those with pages of their own are off only
    /// once their drivers turned them off.
    pub(crate) fn reset_sources(&mut self) -> Result<(), XiveError> {
        for index in FIRST_SOURCE..self.state.source_top {
            if self.eas(index).is_ok() {
                self.turn_off(index);
                self.set_eas(index, Eas::default())?;
            }
        }
        self.state.source_hint = FIRST_SOURCE;
        self.state.source_top = FIRST_SOURCE;
        for index in self.state.hardware..SOURCES {
            if let Ok(eas) = self.eas(index)
                && !eas.is_masked()
            {
                if let Some(SourceGroup {
                    pages: Pages::Controller { .. },
                    ..
                }) = self.group(index)?
                {
                    self.turn_off(index);
                }
                self.set_eas(index, eas.with_masked(true))?;
            }
        }
        Ok(())
    }

    // Pages of indirect tables.

    /// Takes a page for the tables.
    pub(crate) fn donate(&mut self, page: Ra) -> Result<(), XiveError> {
        let (list, bytes) = self.chip.memory.donated();
        let offset = u64::from(self.state.donated) * 8;
        if offset >= bytes {
            return Err(XiveError::Full);
        }
        self.tables.store(Ra(list.0 + offset), page.0);
        self.state.donated += 1;
        Ok(())
    }

    /// A donated page.
    fn take_page(&mut self) -> Result<Ra, XiveError> {
        let left = self
            .state
            .donated
            .checked_sub(1)
            .ok_or(XiveError::NoPages)?;
        self.state.donated = left;
        let (list, _) = self.chip.memory.donated();
        Ok(Ra(self.tables.load(Ra(list.0 + u64::from(left) * 8))))
    }

    /// The page of entry `index` of an indirect table.
    fn page_of(&self, table: (Ra, u64), index: u32) -> (Ra, Vsd) {
        let slot = Ra(table.0.0 + u64::from(index / PER_PAGE) * 8);
        (slot, Vsd(self.tables.load(slot)))
    }

    fn entry_at(&self, table: (Ra, u64), index: u32) -> Option<Ra> {
        let page = self.page_of(table, index).1.address()?;
        Some(Ra(page.0 + u64::from(index % PER_PAGE) * 32))
    }

    fn load_entry(&self, at: Ra) -> [u64; 4] {
        let mut entry = [0; 4];
        for (offset, doubleword) in (0..).step_by(8).zip(&mut entry) {
            *doubleword = self.tables.load(Ra(at.0 + offset));
        }
        entry
    }

    // Event descriptors.

    /// An event descriptor as memory has it.
    pub(crate) fn load_end(&self, index: u32) -> Result<End, XiveError> {
        if index >= 1 << ENDS_LOG2 {
            return Err(XiveError::NoEnd);
        }
        let at = self.entry_at(self.chip.memory.end_pages(), index);
        Ok(End::from_doublewords(
            self.load_entry(at.ok_or(XiveError::NoEnd)?),
        ))
    }

    /// Gives an indirect table's page to the chip, all event descriptors off.
    pub(crate) fn clear_end_page(&self, page: Ra) {
        let off = End::off().doublewords();
        for entry in 0..u64::from(PER_PAGE) {
            for (n, doubleword) in (0..).zip(off) {
                self.tables
                    .store(Ra(page.0 + entry * 32 + n * 8), doubleword);
            }
        }
    }

    fn set_place(&self, set: u32) -> (Ra, u64) {
        let (base, _) = self.chip.memory.end_sets();
        let word = Ra(base.0 + u64::from(set / 64) * 8);
        (word, 1 << (set % 64))
    }

    fn mark_set(&self, set: u32, taken: bool) {
        let (word, bit) = self.set_place(set);
        let old = self.tables.load(word);
        let new = if taken { old | bit } else { old & !bit };
        self.tables.store(word, new);
    }

    fn is_set_taken(&self, set: u32) -> bool {
        let (word, bit) = self.set_place(set);
        self.tables.load(word) & bit != 0
    }

    /// Makes sure that the next `count` sets have pages. Pages that it could take stay in the table when there are not
    /// enough, so that each donation is a step forward.
    pub(crate) fn provide_ends(&mut self, count: u32) -> Result<(), XiveError> {
        let mut left = count;
        let mut set = self.state.set_hint;
        while left > 0 {
            if set >= SETS {
                return Err(XiveError::Full);
            }
            if !self.is_set_taken(set) {
                left -= 1;
                let table = self.chip.memory.end_pages();
                let (slot, vsd) = self.page_of(table, set * u32::from(PRIORITIES));
                if vsd == Vsd::NONE {
                    let page = self.take_page()?;
                    self.clear_end_page(page);
                    isa::barrier::sync();
                    self.tables.store(slot, Vsd::memory(page, PAGE).0);
                }
            }
            set += 1;
        }
        Ok(())
    }

    /// Gives out a set of eight event descriptors that has a page.
    pub(crate) fn allocate_ends(&mut self) -> Result<Index, XiveError> {
        self.provide_ends(1)?;
        let mut free = (self.state.set_hint..SETS).filter(|set| !self.is_set_taken(*set));
        let set = free.next().ok_or(XiveError::Full)?;
        self.mark_set(set, true);
        self.state.set_hint = set + 1;
        Ok(self.own(set * u32::from(PRIORITIES)))
    }

    /// Takes a set back, its event descriptors off.
    pub(crate) fn free_ends(&mut self, ends: Index) -> Result<(), XiveError> {
        let set = ends.index / u32::from(PRIORITIES);
        if ends.block != self.chip.block || set < HW_SETS || !self.is_set_taken(set) {
            return Err(XiveError::NoEnd);
        }
        self.turn_ends_off(ends)?;
        self.mark_set(set, false);
        self.state.set_hint = self.state.set_hint.min(set);
        Ok(())
    }

    /// Turns the event descriptors of a set off.
    pub(crate) fn turn_ends_off(&self, ends: Index) -> Result<(), XiveError> {
        for priority in 0..PRIORITIES {
            let index = ends.plus(priority).index;
            if self.load_end(index)? != End::off() {
                self.update_end(index, |_| End::off())?;
            }
        }
        Ok(())
    }

    // Virtual processors.

    /// A virtual processor as memory has it.
    pub(crate) fn load_nvp(&self, index: u32) -> Result<Nvp, XiveError> {
        if index >= 1 << VPS_LOG2 {
            return Err(XiveError::NoVp);
        }
        let at = self.entry_at(self.chip.memory.nvp_pages(), index);
        Ok(Nvp::from_doublewords(
            self.load_entry(at.ok_or(XiveError::NoVp)?),
        ))
    }

    /// A virtual processor that is allocated, and its event descriptors.
    pub(crate) fn allocated_nvp(&self, index: u32) -> Result<(Nvp, Index), XiveError> {
        let nvp = self.load_nvp(index)?;
        let ends = nvp.ends().ok_or(XiveError::NoVp)?;
        if ends.block == self.chip.block {
            Ok((nvp, ends))
        } else {
            Err(XiveError::NoVp)
        }
    }

    /// Makes sure that virtual processors `first..first + count` have pages.
    pub(crate) fn provide_nvps(&mut self, first: u32, count: u32) -> Result<(), XiveError> {
        let table = self.chip.memory.nvp_pages();
        let last = first + count - 1;
        for page in first / PER_PAGE..=last / PER_PAGE {
            let (slot, vsd) = self.page_of(table, page * PER_PAGE);
            if vsd == Vsd::NONE {
                let memory = self.take_page()?;
                self.tables.fill(memory, PAGE, 0);
                isa::barrier::sync();
                self.tables.store(slot, Vsd::memory(memory, PAGE).0);
            }
        }
        Ok(())
    }

    /// Takes back every set and every virtual processor that is not a hardware thread's, and all donated pages.
    pub(crate) fn reset_tables(&mut self) -> Result<(), XiveError> {
        let (bitmap, bytes) = self.chip.memory.end_sets();
        for offset in (0..bytes).step_by(8) {
            let taken = self.tables.load(Ra(bitmap.0 + offset));
            for bit in (0..64).filter(|bit| taken >> bit & 1 == 1) {
                let set = low32(offset * 8) + bit;
                self.turn_ends_off(self.own(set * u32::from(PRIORITIES)))?;
            }
            if taken != 0 {
                self.tables.store(Ra(bitmap.0 + offset), 0);
            }
        }
        for local in 0..HW_THREADS {
            self.turn_ends_off(self.own((1 + local) * u32::from(PRIORITIES)))?;
        }
        let table = self.chip.memory.nvp_pages();
        let hardware = HW_VP_BASE..HW_VP_BASE + HW_THREADS;
        for first in (0..1 << VPS_LOG2).step_by(PER_PAGE as usize) {
            if self.page_of(table, first).1 == Vsd::NONE {
                continue;
            }
            for index in (first..first + PER_PAGE).filter(|index| !hardware.contains(index)) {
                if self.load_nvp(index)? != Nvp::default() {
                    self.update_nvp(index, |_| Nvp::default())?;
                }
            }
        }
        for (table, bytes) in [table, self.chip.memory.end_pages()] {
            for offset in (0..bytes).step_by(8) {
                let slot = Ra(table.0 + offset);
                let vsd = Vsd(self.tables.load(slot));
                if vsd != Vsd::NONE && !vsd.is_firmware() {
                    self.tables.store(slot, Vsd::NONE.0);
                }
            }
        }
        self.state.set_hint = HW_SETS;
        self.state.donated = 0;
        self.kill_indirect()
    }
}
