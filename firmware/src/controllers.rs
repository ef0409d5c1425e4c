//! The machine's interrupt controllers, brought up: what both modes begin with.
//!
//! Owns the driver of all chips' controllers and each thread's own context. What becomes of their interrupts is the modes'
//! affair (`opal/xive.rs`, `hypervisor/interrupts.rs`). Surprising fact: a thread's context must be made valid by the
//! thread itself, so starting ends on each thread alone.
#![expect(
    unsafe_code,
    reason = "promises about the controllers' windows and memory"
)]

use alloc::boxed::Box;
use core::fmt;

use isa::addr::Ra;
use nest::chip::AddressMap;
use nest::mmio::CiMmio;
use nest::psi::{self, Notify, Psi, Psihb, PsihbEsb};
use nest::scom::{ChipIndex, Scom};
use nest::xive::memory::RealTables;
use nest::xive::registers::{self, CiWindows, NOTIFY_PSI};
use nest::xive::tables::Index;
use nest::xive::tima::Tima;
use nest::xive::{ChipSetup, Pages, REGION, Xive, XiveError, XiveMemory};

use crate::inputs::{Core, Inputs};

/// The controllers of all chips, and the area of the thread that uses it.
pub struct Controllers {
    /// Sources, queues, virtual processors. In the heap: some KiB for every chip that there could be.
    pub xive: Box<Driver>,
    /// Contexts.
    pub tima: Tima<CiMmio<registers::Tima>>,
}

/// Why there are no interrupts.
#[derive(Debug)]
pub enum StartError {
    /// No room for the tables of so many chips.
    NoRoom(usize),
    /// The driver's error.
    Driver(XiveError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(chips) => write!(f, "no room for the tables of {chips} chips"),
            Self::Driver(error) => error.fmt(f),
        }
    }
}

impl From<XiveError> for StartError {
    fn from(error: XiveError) -> Self {
        Self::Driver(error)
    }
}

/// Threads of a core that share one area register; more is two small cores fused.
const SMALL_CORE_THREADS: usize = 4;

/// Whether cores are two small ones fused.
pub fn is_fused(inputs: &Inputs) -> bool {
    let is_large = |core: &Core| core.threads.len() > SMALL_CORE_THREADS;
    inputs.cores.iter().any(is_large)
}

/// A chip as the driver calls it.
pub fn index(chip: u32) -> Option<ChipIndex> {
    u8::try_from(chip).ok().map(ChipIndex)
}

impl Controllers {
    /// Sets all controllers up, with tables from `base` on, [`REGION`] for each chip. For one caller.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Safety
    /// The regions are memory that nothing else uses from now on.
    pub unsafe fn start(
        scom: &mut impl Scom,
        map: &AddressMap,
        inputs: &Inputs,
        base: u64,
    ) -> Result<Self, StartError> {
        let bases = (0..).map(|n| base + n * REGION);
        let indexes = inputs.chips.iter().filter_map(|chip| index(*chip));
        let mut misplaced = false;
        let setups = indexes.zip(bases).map_while(|(chip, base)| {
            let memory = XiveMemory::new(Ra(base));
            misplaced |= memory.is_err();
            Some(ChipSetup {
                chip,
                // SAFETY: the map is the chip's own table, and this is the only driver of these windows.
                windows: unsafe { CiWindows::new(map, chip) },
                memory: memory.ok()?,
                is_fused: is_fused(inputs),
            })
        });
        // SAFETY: the caller vouches for the regions. The firmware runs in real mode.
        let tables = unsafe { RealTables::new() };
        let xive = Box::new(Xive::start(scom, map, setups, tables)?);
        if misplaced {
            return Err(StartError::NoRoom(inputs.chips.len()));
        }
        // SAFETY: the driver has set the area's address; it is the chip's own table that says where.
        let tima = Tima::new(unsafe { registers::tima(map) });
        let controllers = Self { xive, tima };
        for core in &inputs.cores {
            controllers.add_core(scom, core)?;
        }
        Ok(controllers)
    }

    fn add_core(&self, scom: &mut impl Scom, core: &Core) -> Result<(), XiveError> {
        let chip = index(core.chip).ok_or(XiveError::NoBlock)?;
        for pir in &core.threads {
            let local = pir & 0xff;
            // Small cores have four threads each; fused ones take turns in the PIR.
            let small = if core.threads.len() > SMALL_CORE_THREADS {
                (local >> 3) * 2 + (local & 1)
            } else {
                local >> 2
            };
            let small = u8::try_from(small).map_err(|_| XiveError::NoVp)?;
            self.xive.add_core(scom, chip, small)?;
            self.xive.add_thread(*pir)?;
        }
        Ok(())
    }
}

/// The driver as the machine has it.
pub type Driver = Xive<CiWindows, RealTables>;

/// The PSI host bridge of a chip, as the machine has it.
pub type Bridge = Psi<CiMmio<Psihb>, CiMmio<PsihbEsb>>;

/// Connects the PSI host bridge of a chip to the controllers, all sources off; answers it and its first source. For one
/// caller, once.
///
/// # Errors
/// [`XiveError`].
pub fn connect_bridge(
    scom: &mut impl Scom,
    map: &AddressMap,
    chip: ChipIndex,
    xive: &Driver,
) -> Result<(Bridge, Index), XiveError> {
    let block = xive.block_of(chip).ok_or(XiveError::NoBlock)?;
    let port = xive.notify_port(block, NOTIFY_PSI);
    let port = port.ok_or(XiveError::NoBlock)?;
    psi::enable_window(scom, map, chip)?;
    // SAFETY: the map is the chip's own table, the tree names the chip, and this is the only driver of these windows.
    let bridge = unsafe { Psi::at(map, chip) };
    let store_eoi = xive.capabilities(block).is_some_and(|can| can.store_eoi);
    let pages = Pages::Device {
        base: bridge.pages_at(),
        level: true,
        store_eoi,
    };
    let first = xive.reserve_sources(block, psi::SOURCES, pages)?;
    bridge.start(Notify {
        port,
        base: Driver::notify_base(first),
        store_eoi,
    });
    Ok((bridge, first))
}

/// Makes the calling thread's own context valid, closed.
///
/// # Errors
/// The chip did not take it: the thread gets no interrupts.
pub fn push_thread(
    xive: &Driver,
    tima: &Tima<CiMmio<registers::Tima>>,
    pir: u32,
) -> Result<(), XiveError> {
    xive.enable_thread(pir)?;
    tima.push_physical()
}
