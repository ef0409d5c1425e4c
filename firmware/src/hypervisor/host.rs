//! The machine as the hypervisor's logic sees it: [`Host`] over the devices, the partition table and the clocks.
//!
//! Surprising fact: console input is polled. Until the interrupt controller is driven, nothing else tells that a
//! character came; [`Services::next_poll`] bounds how long a guest runs or sleeps before somebody looks.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Ra;
use isa::timebase::Ticks;
use papr_services::host::{DateTime, DeviceError, Flush, Host};
use papr_services::partition::Partition;
use spin::mutex::SpinMutex;

use super::partition_table::PartitionTable;
use super::terminal::{Device, Terminal};
use super::{random, timer, tlb};
use crate::machine::Machine;
use crate::threads;

/// How long input may wait.
const POLL_INTERVAL: Ticks = Ticks::from_ms(10);

/// How long a guest may stay on a thread that has nothing to look after: a nested guest that is being deleted, or whose
/// partition wants something of it, ends its run by then at the latest.
const LONGEST_TURN: Ticks = Ticks::from_ms(100);
/// How long output may wait for a UART that was full: 16 characters at 115200 bits per second.
const DRAIN_INTERVAL: Ticks = Ticks::from_us(1400);

impl Device for Machine {
    fn write(&self, bytes: &[u8]) -> usize {
        self.console_write(bytes)
    }
    fn read(&self, buffer: &mut [u8]) -> usize {
        self.console_read(buffer)
    }
}

/// A partition and what its threads share of the machine.
pub(super) struct Shared {
    pub(super) machine: &'static Machine,
    pub(super) partition: Partition,
    pub(super) table: PartitionTable,
    /// The thread (PIR) of each vCPU, for as long as the partition lives.
    pub(super) threads: Vec<u32>,
    /// Whether the machine is an emulated one, with its gaps.
    pub(super) is_qemu: bool,
    pub(super) terminal: SpinMutex<Terminal>,
}

/// Hardware services for a partition, on the thread that runs one of its vCPUs.
pub(super) struct Services {
    pub(super) shared: &'static Shared,
    /// The vCPU of the partition that this thread runs, or whose nested guest it runs.
    pub(super) vcpu_id: u32,
    /// How much the time base of this thread is moved for its nested guest.
    offset: AtomicU64,
    /// When the console is looked at again.
    next_poll: AtomicU64,
}

impl Services {
    /// Services for one vCPU. That of vCPU 0 looks after the console.
    pub(super) fn new(shared: &'static Shared, vcpu_id: u32) -> Self {
        Self {
            shared,
            vcpu_id,
            offset: AtomicU64::new(0),
            next_poll: AtomicU64::new(0),
        }
    }

    pub(super) fn set_time_base_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    pub(super) fn next_poll(&self) -> u64 {
        self.next_poll.load(Ordering::Relaxed)
    }

    /// Looks at the devices that nothing else tells about, when it is time to.
    pub(super) fn poll(&self, now: u64) {
        if now.wrapping_sub(self.next_poll()).cast_signed() < 0 {
            return;
        }
        if self.vcpu_id != 0 {
            self.next_poll
                .store(now.wrapping_add(LONGEST_TURN.0), Ordering::Relaxed);
            return;
        }
        let (has_input, drained) = {
            let mut terminal = self.shared.terminal.lock();
            (terminal.pump(self.shared.machine), terminal.is_drained())
        };
        let interval = if drained {
            POLL_INTERVAL
        } else {
            DRAIN_INTERVAL
        };
        self.next_poll
            .store(now.wrapping_add(interval.0), Ordering::Relaxed);
        if has_input {
            self.shared.partition.console_input_arrived(self);
        }
    }
}

impl Host for Services {
    fn timebase(&self) -> u64 {
        timer::host_now(self.offset.load(Ordering::Relaxed))
    }

    fn flush(&self, flush: Flush) {
        tlb::run(flush, self.shared.is_qemu);
    }

    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]) {
        self.shared.table.set(lpid, pate);
        self.flush(Flush::Partition { lpid });
    }

    fn console_write(&self, bytes: &[u8]) -> usize {
        self.shared
            .terminal
            .lock()
            .write(bytes, self.shared.machine)
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        self.shared
            .terminal
            .lock()
            .read(buffer, self.shared.machine)
    }

    fn read_clock(&self) -> Result<DateTime, DeviceError> {
        self.shared.machine.read_clock()
    }

    fn set_clock(&self, time: DateTime) -> Result<(), DeviceError> {
        self.shared.machine.set_clock(time)
    }

    fn random(&self) -> Option<u64> {
        random::next()
    }

    /// A hypervisor doorbell: it ends the thread's `stop`, or its guest's turn (on QEMU when the guest has external
    /// interrupts enabled, before which it could take none).
    fn kick(&self, vcpu: u32) {
        let thread = usize::try_from(vcpu)
            .ok()
            .and_then(|at| self.shared.threads.get(at));
        if let Some(pir) = thread {
            threads::ring(*pir);
        }
    }

    fn interrupt_pending(&self) -> bool {
        self.shared.partition.interrupt_pending(self.vcpu_id)
    }
}

/// Where the partition table is, for PTCR.
pub(super) fn partition_table_control(table: Ra) -> u64 {
    /// log2 of 64 KiB, less 12.
    const SIZE: u64 = 4;
    table.0 | SIZE
}
