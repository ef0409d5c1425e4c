//! The machine as the hypervisor's logic sees it: [`Host`] over the devices, the partition table and the clocks.
//!
//! Surprising fact: console input is polled. Until the interrupt controller is driven, nothing else tells that a
//! character came; [`Services::next_poll`] bounds how long a guest runs or sleeps before somebody looks.

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

/// How long input may wait.
const POLL_INTERVAL: Ticks = Ticks::from_ms(10);

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

/// Hardware services for one partition, on the thread that runs its vCPU.
pub(super) struct Services<'p> {
    machine: &'static Machine,
    partition: &'p Partition,
    /// The vCPU of the partition that this thread runs, or whose nested guest it runs.
    vcpu_id: u32,
    terminal: SpinMutex<Terminal>,
    table: PartitionTable,
    is_qemu: bool,
    /// How much the time base of this thread is moved for its nested guest.
    offset: AtomicU64,
    /// When the console is looked at again.
    next_poll: AtomicU64,
}

impl<'p> Services<'p> {
    pub(super) fn new(
        machine: &'static Machine,
        partition: &'p Partition,
        vcpu_id: u32,
        table: PartitionTable,
        is_qemu: bool,
    ) -> Self {
        Self {
            machine,
            partition,
            vcpu_id,
            terminal: SpinMutex::default(),
            table,
            is_qemu,
            offset: AtomicU64::new(0),
            next_poll: AtomicU64::new(0),
        }
    }

    /// Whether the machine is an emulated one, with its gaps.
    pub(super) fn is_qemu(&self) -> bool {
        self.is_qemu
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
        let (has_input, drained) = {
            let mut terminal = self.terminal.lock();
            (terminal.pump(self.machine), terminal.is_drained())
        };
        let interval = if drained {
            POLL_INTERVAL
        } else {
            DRAIN_INTERVAL
        };
        self.next_poll
            .store(now.wrapping_add(interval.0), Ordering::Relaxed);
        if has_input {
            self.partition.console_input_arrived(self);
        }
    }
}

impl Host for Services<'_> {
    fn timebase(&self) -> u64 {
        timer::host_now(self.offset.load(Ordering::Relaxed))
    }

    fn flush(&self, flush: Flush) {
        tlb::run(flush, self.is_qemu);
    }

    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]) {
        self.table.set(lpid, pate);
        self.flush(Flush::Partition { lpid });
    }

    fn console_write(&self, bytes: &[u8]) -> usize {
        self.terminal.lock().write(bytes, self.machine)
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        self.terminal.lock().read(buffer, self.machine)
    }

    fn read_clock(&self) -> Result<DateTime, DeviceError> {
        self.machine.read_clock()
    }

    fn set_clock(&self, time: DateTime) -> Result<(), DeviceError> {
        self.machine.set_clock(time)
    }

    fn random(&self) -> Option<u64> {
        random::next()
    }

    /// There is one thread: whoever calls this is that thread, and looks before it enters or sleeps.
    fn kick(&self, _vcpu: u32) {}

    fn interrupt_pending(&self) -> bool {
        self.partition.interrupt_pending(self.vcpu_id)
    }
}

/// Where the partition table is, for PTCR.
pub(super) fn partition_table_control(table: Ra) -> u64 {
    /// log2 of 64 KiB, less 12.
    const SIZE: u64 = 4;
    table.0 | SIZE
}
