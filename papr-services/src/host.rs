//! What the hypervisor's logic needs from the machine. `firmware` implements it; tests have a model.

use isa::addr::Nra;
use isa::pte::PageSize;

#[cfg(test)]
pub(crate) mod fakes;

/// A translation flush that is owed after a change of tables. It does nothing until [`Host::flush`] ran it.
#[must_use = "stale translations stay in use until the flush ran"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Nothing is cached.
    Nothing,
    /// Everything of a logical partition: partition- and process-scoped translations, walk and table caches
    /// (`tlbie` RIC=2 IS=2, both PRS).
    Partition {
        /// Logical partition.
        lpid: u32,
    },
    /// Partition-scoped translations of `[start, end)`.
    Range {
        /// Logical partition.
        lpid: u32,
        /// First byte.
        start: Nra,
        /// One past the last byte.
        end: Nra,
        /// Size of the leaves that were removed.
        size: PageSize,
    },
    /// Process-scoped translations of one process id in a partition.
    Process {
        /// Logical partition.
        lpid: u32,
        /// Process id.
        pid: u32,
        /// What else: page-walk cache (RIC=1), or everything including process-table entries (RIC=2).
        what: ProcessFlush,
    },
    /// Process-scoped translations of `[start, end)` of one process id, pages of one size.
    ProcessRange {
        /// Logical partition.
        lpid: u32,
        /// Process id.
        pid: u32,
        /// First effective address.
        start: u64,
        /// One past the last.
        end: u64,
        /// Size of the pages.
        size: PageSize,
    },
}

/// Which process-scoped caches a [`Flush::Process`] drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessFlush {
    /// Translations (RIC=0).
    Tlb,
    /// The page-walk cache (RIC=1).
    WalkCache,
    /// Both and process-table entries (RIC=2).
    All,
}

/// A calendar time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Full year, for example 2026.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// The device did not answer, or answered nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceError;

/// The machine, as the hypervisor's logic sees it. All methods take `&self`: a machine has many threads, and each
/// device has its own lock.
pub trait Host {
    /// The time base of the machine, ticks of 512 MHz.
    fn timebase(&self) -> u64;

    /// Runs a flush and waits for its end on all threads.
    fn flush(&self, flush: Flush);

    /// Writes the two doublewords of the partition-table entry of `lpid`, then makes sure that no thread uses the
    /// old one.
    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]);

    /// Queues console output; answers how many bytes were taken, none or all.
    fn console_write(&self, bytes: &[u8]) -> usize;

    /// Takes console input; answers how many bytes were stored in `buffer`.
    fn console_read(&self, buffer: &mut [u8]) -> usize;

    /// Reads the real-time clock.
    ///
    /// # Errors
    /// The clock is absent or does not answer.
    fn read_clock(&self) -> Result<DateTime, DeviceError>;

    /// Sets the real-time clock.
    ///
    /// # Errors
    /// The clock is absent or does not answer.
    fn set_clock(&self, time: DateTime) -> Result<(), DeviceError>;

    /// A random number from the machine's generator, if it has one.
    fn random(&self) -> Option<u64>;

    /// The vCPU of the partition on whose thread this runs.
    fn vcpu(&self) -> u32;

    /// Makes a thread that is idle in, or runs, vCPU `vcpu` of the partition or a nested guest in its place, look at
    /// what is owed to it: an external interrupt, a prod, a system reset, a start, the end of the nested guest.
    fn kick(&self, vcpu: u32);

    /// Waits until `done` holds, at most for as long as a call may take; answers whether it does. What is waited for
    /// is another thread's doing, so the caller holds no lock.
    fn wait_until(&self, done: impl Fn() -> bool) -> bool;

    /// Whether this thread's vCPU of the partition is wanted while a nested guest runs in its place: an interrupt or a
    /// system reset waits for it.
    fn interrupt_pending(&self) -> bool;
}
