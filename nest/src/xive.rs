//! XIVE2, the interrupt controller: sources, event queues, virtual processors, thread contexts
//! (reference/hardware.md 5).
//!
//! A source's event goes through its assignment ([`tables::Eas`]) to an event descriptor ([`tables::End`]), which puts
//! a word into a queue and notifies a virtual processor ([`tables::Nvp`]); if that runs on a thread, the thread takes an
//! interrupt, if not, the event stays pending and may escalate. [`Xive`] is the controllers of all chips, each under its
//! own lock, usable from any thread. What a kernel may name in a call is checked here, in the tables themselves: a number
//! that leads nowhere is an error, never an access.
//!
//! | file | |
//! |---|---|
//! | `registers` | the chip's windows | `tables` | formats in memory |
//! | `memory` | the region of a chip | `vp_blocks` | which virtual processors are taken |
//! | `cache` | watch, scrub, sync | `controller` | one chip: lock and allocation |
//! | `setup` | bringing all chips up | `routing` | sources and queues |
//! | `processors` | virtual processors | `tima` | a thread's own context |
//! | `guest` | what a host of partitions needs | | |
//!
//! The surprising fact: the chip's number in all ids is its block, the order in which its controller was set up, and not
//! its place in the machine.

mod cache;
mod controller;
mod guest;
pub mod memory;
#[cfg(test)]
pub(crate) mod model;
mod processors;
pub mod registers;
mod routing;
mod setup;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod tima;
mod vp_blocks;

use core::fmt;

use isa::addr::Ra;

use crate::lock::{Mutex, rank};
use crate::scom::{ChipIndex, ScomError};
use controller::Controller;
use memory::{SOURCES_LOG2, TableMemory};
use registers::{PAGE, Windows};
use tables::Index;
use vp_blocks::VpBlocks;

pub use controller::PRIORITIES;
pub use guest::PQ_OFF;
pub use memory::{REGION, XiveMemory};
pub use processors::{VpInfo, VpSetup};
pub use routing::{Queue, QueueInfo, Route, RouteInfo, SourceInfo};
pub use setup::ChipSetup;

/// Most chips of a machine.
pub const MAX_CHIPS: usize = 16;
/// Bytes of a chip's window of sources' pages.
pub const ESB_BYTES: u64 = (2 * PAGE) << SOURCES_LOG2;
/// Bytes of a chip's window of event descriptors' pages.
pub const END_BYTES: u64 = (2 * PAGE) << memory::ENDS_LOG2;
/// Bytes of a chip's window of virtual processors.
pub const NVPG_BYTES: u64 = (2 * PAGE) << memory::VPS_LOG2;
/// Hardware threads of a chip that the controller can tell apart: thread ids are 7 bits, 8 do not work (HW527671).
pub const HW_THREADS: u32 = 128;
/// The virtual processor of hardware thread 0: what the chip puts before the thread id.
pub const HW_VP_BASE: u32 = HW_THREADS;

/// A part of a controller that can get stuck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Cache of assignments.
    EasCache,
    /// Cache of event descriptors.
    EndCache,
    /// Cache of virtual processors.
    NvpCache,
    /// Draining of the queues.
    Sync,
    /// Indirect tables of the VC.
    VcKill,
    /// Indirect tables of the PC.
    PcKill,
}

/// Why something could not be done. Nothing was changed, unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XiveError {
    /// No source has this number, or it is not in use.
    NoSource,
    /// No such event descriptor.
    NoEnd,
    /// No virtual processor has this number, or it is not allocated.
    NoVp,
    /// No such block or chip.
    NoBlock,
    /// Priorities are 0 to 7.
    NoPriority,
    /// The queue gathers the escalations of its processor, or is in use so that it cannot.
    Gathering,
    /// The queue or the virtual processor is not enabled.
    Disabled,
    /// The virtual processor is enabled.
    Active,
    /// An address is not aligned, or beyond what the tables can hold.
    BadAddress,
    /// Nothing left to give.
    Full,
    /// The tables need more pages.
    NoPages,
    /// The chip kept changing the entry; try again.
    Busy,
    /// The chip did not answer; what was asked for may happen later, or never.
    Stuck(Unit),
    /// It is done, but the chip did not say in time that all of it knows: memory may be behind its copy of an entry, or
    /// events may still be on their way to where they went before.
    Unsettled(Unit),
    /// A register was not reached.
    Scom(ScomError),
    /// Not a controller of this kind: the generation it says.
    Generation(u8),
    /// The configuration was not taken.
    Config {
        /// What was written.
        wanted: u64,
        /// What was read.
        found: u64,
    },
    /// The chip did not enable the thread.
    NotEnabled,
    /// The context's virtual processor did not become valid.
    NotPushed,
}

impl From<ScomError> for XiveError {
    fn from(error: ScomError) -> Self {
        Self::Scom(error)
    }
}

impl fmt::Display for XiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NoSource => "no such interrupt source",
            Self::NoEnd => "no such event descriptor",
            Self::NoVp => "no such virtual processor",
            Self::NoBlock => "no such block",
            Self::NoPriority => "no such priority",
            Self::Gathering => "the queue gathers escalations",
            Self::Disabled => "not enabled",
            Self::Active => "still enabled",
            Self::BadAddress => "bad address",
            Self::Full => "nothing left to give",
            Self::NoPages => "the tables need more pages",
            Self::Busy => "the chip keeps changing the entry",
            Self::Stuck(unit) => return write!(f, "the chip did not answer ({unit:?})"),
            Self::Unsettled(unit) => {
                return write!(f, "done, but the chip did not confirm it ({unit:?})");
            }
            Self::Scom(error) => return write!(f, "register not reached ({error})"),
            Self::Generation(found) => return write!(f, "generation {found} instead of 2"),
            Self::Config { wanted, found } => {
                return write!(f, "configured as {found:#018x}, not {wanted:#018x}");
            }
            Self::NotEnabled => "the chip did not enable the thread",
            Self::NotPushed => "the thread's context did not become valid",
        };
        f.write_str(text)
    }
}

/// What a chip's controller can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// It saves and restores virtual processors' contexts itself.
    pub save_restore: bool,
    /// A store can end an interrupt.
    pub store_eoi: bool,
    /// PCI host bridges may leave P and Q to the controller.
    pub phb_pq_disable: bool,
    /// PCI host bridges may have their events triggered by address.
    pub phb_abt: bool,
}

/// Where the pages of a group of sources are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// In the controller's window, two for each source.
    Controller {
        /// The sources are levels, not edges.
        level: bool,
    },
    /// In a window of the device, one of 64 KiB for each source.
    Device {
        /// The first source's page.
        base: Ra,
        /// The sources are levels, not edges.
        level: bool,
        /// A store can end an interrupt.
        store_eoi: bool,
    },
}

/// A device's sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceGroup {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where their pages are.
    pub pages: Pages,
}

/// An interrupt source of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Source {
    /// One with an assignment of its own.
    Interrupt(Index),
    /// The escalation of an event descriptor.
    Escalation(Index),
}

impl Source {
    /// Its place.
    #[must_use]
    pub const fn index(self) -> Index {
        match self {
            Self::Interrupt(index) | Self::Escalation(index) => index,
        }
    }
}

/// The controllers of all chips.
#[derive(Debug)]
pub struct Xive<W, T> {
    /// By block.
    chips: [Option<Controller<W>>; MAX_CHIPS],
    /// Controllers.
    blocks: u8,
    tables: T,
    /// Taken before any chip's lock.
    vps: Mutex<VpBlocks, rank::XiveProcessors>,
}

impl<W: Windows, T: TableMemory> Xive<W, T> {
    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u8 {
        self.blocks
    }

    /// Log2 of the number of blocks over which virtual processors are spread: with 3 chips, two have them.
    #[must_use]
    pub const fn vp_blocks_log2(&self) -> u8 {
        tables::low8(self.blocks.ilog2() as u64)
    }

    fn controllers(&self) -> impl Iterator<Item = &Controller<W>> {
        self.chips.iter().flatten()
    }

    fn controller(&self, block: u8) -> Result<&Controller<W>, XiveError> {
        let slot = self.chips.get(usize::from(block));
        slot.and_then(Option::as_ref).ok_or(XiveError::NoBlock)
    }

    /// The chip of a block.
    #[must_use]
    pub fn chip_of(&self, block: u8) -> Option<ChipIndex> {
        self.controller(block).ok().map(|found| found.chip)
    }

    /// The block of a chip.
    #[must_use]
    pub fn block_of(&self, chip: ChipIndex) -> Option<u8> {
        let mut found = self.controllers().filter(|found| found.chip == chip);
        found.next().map(|found| found.block)
    }

    /// What a block's controller can do.
    #[must_use]
    pub fn capabilities(&self, block: u8) -> Option<Capabilities> {
        self.controller(block).ok().map(|found| found.capabilities)
    }

    /// The real address of the port `offset` of a block's IC window, for a device that sends its events there.
    #[must_use]
    pub fn notify_port(&self, block: u8, offset: u64) -> Option<Ra> {
        let found = self.controller(block).ok()?;
        Some(Ra(found.at(found.map.xive_ic).0 + offset))
    }

    /// What a device adds to the number of a source of its own to name it to the notify port.
    #[must_use]
    pub fn notify_base(first: Index) -> u32 {
        u32::from(first.block) << 28 | first.index
    }

    /// The virtual processor of a hardware thread, by its PIR.
    ///
    /// # Errors
    /// [`XiveError::NoVp`] when there is no such thread.
    pub fn thread_vp(&self, pir: u32) -> Result<Index, XiveError> {
        let (block, local) = self.thread(pir)?;
        let index = HW_VP_BASE + u32::from(local);
        self.controller(block)?
            .lock(&self.tables)
            .allocated_nvp(index)?;
        Ok(Index { block, index })
    }

    /// The hardware thread whose virtual processor that is.
    #[must_use]
    pub fn thread_of_vp(&self, vp: Index) -> Option<u32> {
        let local = vp.index.checked_sub(HW_VP_BASE)?;
        let chip = self.chip_of(vp.block)?;
        (local < HW_THREADS).then(|| u32::from(chip.0) << 8 | local)
    }

    /// The block of a thread's chip and the thread's number there.
    fn thread(&self, pir: u32) -> Result<(u8, u8), XiveError> {
        let local = pir & 0xff;
        let chip = u8::try_from(pir >> 8).map_err(|_| XiveError::NoVp)?;
        let block = self.block_of(ChipIndex(chip)).ok_or(XiveError::NoVp)?;
        if local < HW_THREADS {
            Ok((block, tables::low8(local.into())))
        } else {
            Err(XiveError::NoVp)
        }
    }

    /// Gives out an interrupt of a block: masked, off.
    ///
    /// # Errors
    /// [`XiveError::Full`].
    pub fn allocate_source(&self, block: u8) -> Result<Index, XiveError> {
        let mut chip = self.controller(block)?.lock(&self.tables);
        let index = chip.allocate_source()?;
        Ok(Index { block, index })
    }

    /// Takes back what [`allocate_source`](Self::allocate_source) gave, and turns it off.
    ///
    /// # Errors
    /// [`XiveError::NoSource`] for anything else.
    pub fn free_source(&self, source: Index) -> Result<(), XiveError> {
        self.controller(source.block)
            .map_err(|_| XiveError::NoSource)?
            .lock(&self.tables)
            .free_source(source.index)
    }

    /// Reserves `count` sources of a device, a power of two and aligned to it: masked.
    ///
    /// # Errors
    /// [`XiveError::Full`].
    pub fn reserve_sources(&self, block: u8, count: u32, pages: Pages) -> Result<Index, XiveError> {
        let mut chip = self.controller(block)?.lock(&self.tables);
        let index = chip.reserve_hardware(count, pages)?;
        Ok(Index { block, index })
    }

    /// Gives a page of 64 KiB to a block's tables until the next reset.
    ///
    /// # Errors
    /// [`XiveError::BadAddress`] when it is not aligned or too high, [`XiveError::Full`] when there are more pages than
    /// the tables can ever use.
    pub fn donate(&self, block: u8, page: Ra) -> Result<(), XiveError> {
        let chip = self.controller(block)?;
        if page.0 == 0 || !page.is_aligned(PAGE) || page.0 >= 1 << 56 {
            return Err(XiveError::BadAddress);
        }
        chip.lock(&self.tables).donate(page)
    }

    /// Waits until all events in flight in a block have reached their queues.
    ///
    /// # Errors
    /// [`XiveError::Stuck`].
    pub fn sync(&self, block: u8) -> Result<(), XiveError> {
        self.controller(block)?.lock(&self.tables).sync()
    }

    /// Brings everything back to where it was after set-up: sources masked, the kernel's interrupts and virtual
    /// processors taken back, queues off, donated pages forgotten, threads' contexts pushed anew. Devices with pages of
    /// their own turn their sources off themselves.
    ///
    /// # Errors
    /// The first one; the rest was reset all the same.
    pub fn reset(&self) -> Result<(), XiveError> {
        let vps = self.vps.lock();
        let mut outcome = Ok(());
        let mut note = |result: Result<(), XiveError>| outcome = outcome.and(result);
        for chip in self.controllers() {
            note(chip.lock(&self.tables).reset_sources());
        }
        for chip in self.controllers() {
            note(chip.lock(&self.tables).sync());
        }
        for chip in self.controllers() {
            let mut locked = chip.lock(&self.tables);
            locked.pull_contexts();
            note(locked.reset_tables());
            note(locked.reset_contexts());
        }
        vps.clear(&self.tables);
        Self::reserve_threads(&vps, &self.tables);
        outcome
    }
}
