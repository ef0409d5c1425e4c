//! The thread's own context in the thread management area (reference/hardware.md 5.5).
//!
//! Owns the operations of the hypervisor's ring, on page 1. Each thread sees its own registers at the same address. The
//! surprising fact: raising a ring's priority before it is pushed ends the emulator, and a pull answers with a word in
//! the wrong byte order there, so the order is push, then priority, and what a pull answers is not looked at.

use isa::barrier::eieio;

use super::XiveError;
use super::registers::{PAGE, Tima as TimaWindow, TimaBus};
use super::tables::low8;
use crate::mmio::Reg;

/// From a ring: whether it is valid, with the virtual processor (word 2).
pub(super) const WORD2: u64 = 8;
/// The operating system's ring.
pub(super) const OS: u64 = 0x10;
/// The pool's ring.
pub(super) const POOL: u64 = 0x20;
const PHYSICAL: u64 = 0x30;
/// Where a byte store of [`VALID`] pushes the physical context.
pub(super) const PHYSICAL_VALID: u64 = PHYSICAL + WORD2;
/// The context is valid.
pub(super) const VALID: u8 = 0x80;
/// From a ring: priority from which on interrupts are held back.
const CPPR: u64 = 1;
/// In the first word of the operating system's ring: an event is presented.
const OS_EVENT: u32 = 0x8000_0000;
/// Acknowledges the hypervisor's interrupt; halfword.
const ACK_HV: u64 = 0x830;
const PULL_OS: u64 = 0x818;
const PULL_POOL: u64 = 0x828;
/// From a ring: a load pulls its context.
pub(super) const PULL: u64 = PULL_OS - OS;
const _: () = assert!(POOL + PULL == PULL_POOL);

/// A word 2 that pushes a context.
pub(super) const WORD2_VALID: u32 = 0x8000_0000;
/// In word 2: the chip saves and restores the context.
pub const WORD2_HARDWARE: u32 = 0x4000_0000;

/// All interrupts come through.
pub const CPPR_OPEN: u8 = 0xff;

/// What presents itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presented {
    /// Nothing.
    Nothing,
    /// An event of the pool's virtual processor.
    Pool,
    /// An event of the thread's own virtual processor.
    Physical,
    /// A level interrupt of the chip.
    Level,
}

/// The answer of an acknowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// What it was.
    pub presented: Presented,
    /// Its priority, which is the ring's CPPR from now on; without an interrupt the CPPR as it was.
    pub priority: u8,
}

/// The area of the thread that uses it. One value serves all threads: each sees its own.
#[derive(Debug)]
pub struct Tima<M> {
    bus: M,
}

const fn hv(offset: u64) -> Reg<TimaWindow> {
    Reg::new(PAGE + offset)
}

impl<M: TimaBus> Tima<M> {
    /// The area in this window.
    #[must_use]
    pub const fn new(bus: M) -> Self {
        Self { bus }
    }

    /// Makes the thread's own context valid, nothing let through. The chip must have enabled the thread
    /// ([`enable_thread`](super::Xive::enable_thread)).
    ///
    /// # Errors
    /// [`XiveError::NotPushed`].
    pub fn push_physical(&self) -> Result<(), XiveError> {
        // A thread that was the kernel's comes with the context that it had, and the emulator does not take another push.
        if self.bus.read8(hv(PHYSICAL_VALID)) & VALID == 0 {
            self.bus.write8(hv(PHYSICAL_VALID), VALID);
        }
        if self.bus.read8(hv(PHYSICAL_VALID)) & VALID == 0 {
            return Err(XiveError::NotPushed);
        }
        self.bus.write8(hv(PHYSICAL + CPPR), 0);
        Ok(())
    }

    /// Sets from which priority on the hypervisor's interrupts are held back: 0 all, 0xff none. The ring must be valid.
    pub fn set_priority(&self, cppr: u8) {
        self.bus.write8(hv(PHYSICAL + CPPR), cppr);
    }

    /// Takes the pending interrupt of the hypervisor's ring.
    pub fn acknowledge(&self) -> Acknowledged {
        let answer = u64::from(self.bus.read16(hv(ACK_HV)));
        // What the event announces was written before it.
        eieio();
        let presented = match answer >> 14 {
            0 => Presented::Nothing,
            1 => Presented::Pool,
            2 => Presented::Physical,
            _ => Presented::Level,
        };
        Acknowledged {
            presented,
            priority: low8(answer),
        }
    }

    /// The thread's own context as it is: state and priorities.
    pub fn physical(&self) -> u64 {
        self.bus.read64(hv(PHYSICAL))
    }

    /// Pushes a virtual processor into the pool ring. Interrupts of the guest's ring are presented only while one is
    /// there. The first store says that no group has a backlog, so that the chip need not look.
    pub fn push_pool(&self, cam: u32) {
        eieio();
        self.bus.write32(hv(POOL), 0xff);
        self.bus.write32(hv(POOL + WORD2), WORD2_VALID | cam);
        eieio();
    }

    /// Pulls the pool's virtual processor, if one is there.
    pub fn pull_pool(&self) {
        eieio();
        if self.bus.read32(hv(POOL + WORD2)) & WORD2_VALID != 0 {
            let _ = self.bus.read32(hv(PULL_POOL));
        }
        eieio();
    }

    /// Pushes a guest's virtual processor: with [`WORD2_HARDWARE`] in `cam` the chip restores its context.
    pub fn push_os(&self, cam: u32) {
        eieio();
        self.bus.write32(hv(OS + WORD2), WORD2_VALID | cam);
        eieio();
    }

    /// Pulls the guest's virtual processor: from now on its events stay pending in memory, or escalate.
    pub fn pull_os(&self) {
        eieio();
        let _ = self.bus.read32(hv(PULL_OS));
        eieio();
    }

    /// Whether an event of the guest's virtual processor is presented: one that its priority lets through.
    pub fn os_presents(&self) -> bool {
        // By words: the emulator refuses less.
        self.bus.read32(hv(OS)) & OS_EVENT != 0
    }

    /// Pulls the guest's virtual processor, if one is there.
    pub fn drop_os(&self) {
        if self.bus.read32(hv(OS + WORD2)) & WORD2_VALID != 0 {
            self.pull_os();
        }
    }

    /// Before another kernel starts: nothing gets through, the pool is empty.
    pub fn quiet(&self) {
        if self.bus.read8(hv(PHYSICAL_VALID)) & VALID != 0 {
            self.set_priority(0);
        }
        self.pull_pool();
    }
}
