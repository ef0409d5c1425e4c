//! Memory by real address, as words: the one place that makes references to memory that no Rust object owns.
//!
//! Surprising fact: two views of the same memory are fine. Words are atomics, so whoever else writes them (a guest,
//! another view) makes no undefined behaviour, only other values.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use isa::addr::Ra;
use nest::chip::Chip;
use nest::lpc::CiLpc;
use nest::scom::{ChipIndex, Scom};
use nest::{occ, occ_sensors};
use opal_calls::args::OsAddr;
use opal_calls::os_memory::{BadPointer, BadRanges, OsMap, OsMemory};
use papr_services::guest_ram::Extent;

use crate::console::memory::{Control, MemoryConsole};
use crate::fdt::{self, FdtError};
use crate::handover::OwnMemory;
use crate::memory::{
    FIRMWARE, LOW_SIZE, MEMORY_CONSOLE, NOTE, PARTITION, POOL, PartitionExtent, Plan, THREAD_BLOCKS,
};
use crate::payload::{Loaded, Memory};
use crate::thread::{BLOCK_SIZE, ThreadBlock};

/// The words of `range`.
///
/// # Safety
/// The range must be memory, multiples of 8, not empty, and not of any Rust object.
unsafe fn words(range: Range<u64>) -> &'static [AtomicU64] {
    let start = core::ptr::with_exposed_provenance(range.start as usize);
    // SAFETY: the caller vouches for the range; real mode addresses are real addresses; memory is never taken away.
    unsafe { core::slice::from_raw_parts(start, ((range.end - range.start) / 8) as usize) }
}

/// The LPC bus of chip 0, which is the one with UART and BMC. For one caller.
pub fn lpc(chip: &Chip) -> &'static CiLpc {
    // SAFETY: the chip's table says that the window is there; only boot calls this, once, and all drivers share the result.
    let bus = unsafe { CiLpc::at(chip.map.lpc) };
    bus.init();
    Box::leak(Box::new(bus))
}

/// What the on-chip controller of `chip` shares with the firmware, if it has such memory.
pub fn occ_area(scom: &mut impl Scom, chip: ChipIndex) -> Option<&'static [AtomicU8]> {
    let at = occ::homer(scom, chip)? + occ::AREA.start;
    let length = (occ::AREA.end - occ::AREA.start) as usize;
    // SAFETY: the bridge's registers say that this is memory, and below where devices are; whoever set them up keeps it from
    // everybody but the controller and us.
    Some(unsafe { bytes(at, length) })
}

/// Where the `n`-th on-chip controller puts what it measures, if there is such memory; by the bridge of `chip`.
pub fn occ_sensors(scom: &mut impl Scom, chip: ChipIndex, n: u8) -> Option<&'static [AtomicU8]> {
    let block = occ_sensors::block(scom, chip, n)?;
    // SAFETY: as above.
    Some(unsafe { bytes(block.start, (block.end - block.start) as usize) })
}

/// Memory that another processor writes at any time: its bytes are atomics.
///
/// # Safety
/// The range must be memory, and not of any Rust object.
unsafe fn bytes(at: u64, length: usize) -> &'static [AtomicU8] {
    let start = core::ptr::with_exposed_provenance(at as usize);
    // SAFETY: the caller vouches for the range; real mode addresses are real addresses; memory is never taken away.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// The memory console in its place.
pub fn memory_console() -> MemoryConsole {
    /// The control structure, then the buffer.
    const BUFFER: u64 = MEMORY_CONSOLE.start + 0x40;
    const _: () = assert!(size_of::<Control>() <= 0x40);
    let control: *const Control = core::ptr::with_exposed_provenance(MEMORY_CONSOLE.start as usize);
    let buffer: *const AtomicU8 = core::ptr::with_exposed_provenance(BUFFER as usize);
    // SAFETY: the range is memory in the firmware's block and the console's alone (`crate::memory`); its fields are atomics, for
    // which every bit pattern is a value.
    let control = unsafe { &*control };
    // SAFETY: as above.
    let buffer =
        unsafe { core::slice::from_raw_parts(buffer, (MEMORY_CONSOLE.end - BUFFER) as usize) };
    MemoryConsole::new(control, buffer, BUFFER)
}

/// Overwrites memory below the firmware's block from `at` on, a multiple of 8, when the kernel has it no more; `None`, and
/// nothing done, when it is not there.
pub fn overwrite(at: u64, with: &[u64]) -> Option<()> {
    let end = at.checked_add(with.len() as u64 * 8)?;
    if !at.is_multiple_of(8) || at == end || end > FIRMWARE {
        return None;
    }
    // SAFETY: below the firmware's block there is memory only (the smallest machine has 1 GiB), and no Rust object.
    let memory = unsafe { words(at..end) };
    for (to, from) in memory.iter().zip(with) {
        to.store(*from, Ordering::Relaxed);
    }
    Some(())
}

/// The word of the firmware's own memory that a reset leaves alone.
pub fn note() -> &'static AtomicU64 {
    let note: *const AtomicU64 = core::ptr::with_exposed_provenance(NOTE as usize);
    // SAFETY: the address is memory in the firmware's block that no object lies in (`crate::memory`), a multiple of 8; every bit
    // pattern is a value.
    unsafe { &*note }
}

/// Why there is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTree {
    /// The register was 0: whoever started us describes the machine by HDAT.
    Absent,
    /// The register holds this, where a tree cannot be.
    BadAddress(u64),
    /// What lies there is no tree.
    Broken(u64, FdtError),
}

/// Copies the tree at `address` out. The bytes are as hostile as they were.
///
/// # Errors
/// [`NoTree`].
pub fn copy_tree(address: u64) -> Result<Vec<u8>, NoTree> {
    if address == 0 {
        return Err(NoTree::Absent);
    }
    let largest = fdt::MAX_SIZE as u64;
    if !address.is_multiple_of(8) || address < LOW_SIZE || address > FIRMWARE - largest {
        return Err(NoTree::BadAddress(address));
    }
    // SAFETY: below the firmware's block there is memory only (the smallest machine has 1 GiB), and nothing of ours above LOW_SIZE.
    let area = unsafe { words(address..address + largest) };
    let bytes = |count: usize| {
        let mut bytes = Vec::with_capacity(count.next_multiple_of(8));
        for word in area.iter().take(count.div_ceil(8)) {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes.truncate(count);
        bytes
    };
    let size = fdt::claimed_size(&bytes(40)).map_err(|error| NoTree::Broken(address, error))?;
    Ok(bytes(size))
}

/// The memory of a machine whose plan has been checked.
#[derive(Clone, Debug)]
pub struct Ram<'a> {
    plan: &'a Plan,
}

impl<'a> Ram<'a> {
    /// The plan is the evidence for every range below.
    #[must_use]
    pub const fn new(plan: &'a Plan) -> Self {
        Self { plan }
    }

    /// The pool for tables. For one owner: the plan keeps everybody else out, but two calls give the same memory.
    #[must_use]
    pub fn pool(&self, chips: usize) -> OwnMemory {
        let range = self.plan.pool(chips);
        let ra = Ra(range.start);
        // SAFETY: the plan checked that memory reaches to PARTITION, and the pool is the part of the firmware's block that no
        // object lies in.
        let words = unsafe { words(range) };
        OwnMemory { ra, words }
    }

    /// Part of the firmware's pool that nothing else uses; `None` when `range` is not, or not in doublewords.
    #[must_use]
    pub fn part_of_pool(&self, range: &Range<u64>) -> Option<Loaded> {
        let whole = range.start..range.end.checked_next_multiple_of(8)?;
        let is_inside = POOL <= whole.start && whole.end <= PARTITION && whole.start < whole.end;
        (is_inside && whole.start.is_multiple_of(8)).then(|| Loaded {
            base: whole.start,
            // SAFETY: memory (the plan checked that it reaches to PARTITION) that no object lies in.
            words: unsafe { words(whole) },
        })
    }

    /// Blocks for the threads other than the boot thread, zeroed. For one caller.
    pub fn thread_blocks(&self) -> impl Iterator<Item = &'static ThreadBlock> + use<> {
        THREAD_BLOCKS
            .step_by(BLOCK_SIZE)
            .map(|base| base..base + BLOCK_SIZE as u64)
            .map(|range| {
                // SAFETY: memory in the firmware's block (the plan checked that memory reaches to PARTITION) for this use alone.
                let memory = unsafe { words(range.clone()) };
                memory
                    .iter()
                    .for_each(|word| word.store(0, Ordering::Relaxed));
                let block: *const ThreadBlock =
                    core::ptr::with_exposed_provenance(range.start as usize);
                // SAFETY: as above; the address is a multiple of the block's alignment and its fields are atomics, for which
                // zero is a value.
                unsafe { &*block }
            })
    }

    /// Clears the image where it was loaded, if that was at 0, but for the part that keeps running there. Code there that
    /// branches out of that part by mistake then traps instead of running stale code.
    pub fn clear_loaded_image(&self, loaded_at: u64) {
        unsafe extern "C" {
            static __image_end: u8;
        }
        if loaded_at == 0 {
            let size = (&raw const __image_end).expose_provenance() as u64 - FIRMWARE;
            // SAFETY: memory (the smallest machine has 1 GiB) that no object lies in: the image runs at its link address, the
            // threads that wait in the low copy wait below LOW_SIZE.
            let rest = unsafe { words(LOW_SIZE..size.next_multiple_of(8).max(LOW_SIZE + 8)) };
            rest.iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// The memory of a partition's extent; `None` when the plan does not have it.
    #[must_use]
    pub fn extent(&self, extent: &PartitionExtent) -> Option<Extent> {
        let range = extent.ra.0..extent.ra.0.checked_add(extent.len)?;
        self.contains(&range).then(|| Extent {
            gra: extent.gra,
            ra: extent.ra,
            // SAFETY: `contains` checked that the range is memory and none of ours; extents are multiples of 16 MiB.
            memory: unsafe { words(range) },
        })
    }

    /// Whether `range` is memory without a hole and none of it the firmware's.
    fn contains(&self, range: &Range<u64>) -> bool {
        let ours = [0..LOW_SIZE, FIRMWARE..PARTITION];
        let inside = |base: u64, end: u64| base <= range.start && range.end <= end;
        range.start < range.end
            && ours
                .iter()
                .all(|own| range.end <= own.start || own.end <= range.start)
            && (inside(0, self.plan.contiguous)
                || self
                    .plan
                    .ram
                    .iter()
                    .any(|region| inside(region.base, region.base.saturating_add(region.len))))
    }
}

/// The machine's memory as a kernel sees it that owns the machine.
#[derive(Clone, Debug)]
pub struct OsRam {
    map: OsMap,
}

impl OsRam {
    /// All memory but what the firmware keeps.
    ///
    /// # Errors
    /// More runs of memory than the map has room for.
    pub fn new(plan: &Plan, firmware: &Range<u64>) -> Result<Self, BadRanges> {
        let memory: Vec<(Ra, u64)> = plan
            .ram
            .iter()
            .map(|region| (Ra(region.base), region.len))
            .collect();
        let map =
            OsMap::new(&memory)?.without(Ra(firmware.start), firmware.end - firmware.start)?;
        Ok(Self { map })
    }

    /// The real address of `len` bytes of the kernel's memory.
    ///
    /// # Errors
    /// [`BadPointer`].
    pub fn real_address(&self, addr: OsAddr, len: u64) -> Result<Ra, BadPointer> {
        self.map.check(addr, len)
    }

    fn bytes(&self, addr: OsAddr, len: usize) -> Result<&'static [AtomicU8], BadPointer> {
        let start = self.map.check(addr, len as u64)?;
        let start = core::ptr::with_exposed_provenance(start.0 as usize);
        // SAFETY: the map has only memory, and none of the firmware's: no object lies there. Bytes are atomics, so whoever else
        // writes them makes no undefined behaviour.
        Ok(unsafe { core::slice::from_raw_parts(start, len) })
    }
}

impl OsMemory for OsRam {
    fn check(&self, addr: OsAddr, len: u64) -> Result<(), BadPointer> {
        self.map.check(addr, len).map(drop)
    }

    fn read(&self, addr: OsAddr, into: &mut [u8]) -> Result<(), BadPointer> {
        let bytes = self.bytes(addr, into.len())?;
        for (to, from) in into.iter_mut().zip(bytes) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, addr: OsAddr, from: &[u8]) -> Result<(), BadPointer> {
        let bytes = self.bytes(addr, from.len())?;
        for (to, from) in bytes.iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Memory for Ram<'_> {
    fn loaded(&self, range: Range<u64>) -> Option<Loaded> {
        let whole = range.start..range.end.checked_next_multiple_of(8)?;
        (range.start.is_multiple_of(8) && self.contains(&whole)).then(|| Loaded {
            base: range.start,
            // SAFETY: `contains` checked that the range is memory and none of ours.
            words: unsafe { words(whole) },
        })
    }
}
