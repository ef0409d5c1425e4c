//! The machine as the hypervisor's logic sees it: [`Host`] over the devices, the partition table and the clocks.
//!
//! Surprising fact: a thread looks around after a while ([`Services::next_poll`]) although nobody asked it to. That is for
//! output that waits for a slow UART, and for machines where the firmware has no interrupts of its own.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use isa::addr::Ra;
use isa::lock::{Mutex, rank};
use isa::timebase::{Deadline, Ticks};
use log::warn;
use papr_services::host::{DateTime, DeviceError, Flush, Host};
use papr_services::partition::Partition;

use super::interrupts::PartitionInterrupts;
use super::own::OwnInterrupts;
use super::partition_table::PartitionTable;
use super::terminal::{Device, Terminal};
use super::{random, timer, tlb};
use crate::machine::Machine;
use crate::{stack, threads};

/// How long input may wait where it does not interrupt.
const POLL_INTERVAL: Ticks = Ticks::from_ms(10);

/// How long a guest may stay on a thread that has nothing to look after. A kick ends its turn at once, and input
/// interrupts; this is for the case that one of them was lost.
const LONGEST_TURN: Ticks = Ticks::from_s(1);
/// The same where [`kicks_wait_for_ee`].
const LONGEST_TURN_WITHOUT_KICKS: Ticks = Ticks::from_ms(10);
/// How long the console may take for what the partition wrote before it ended: the whole queue at 115200 bits per second.
const LAST_WORDS: Ticks = Ticks::from_ms(400);
/// How long a call of the partition waits for other threads: a kicked thread needs some microseconds to leave its guest.
const PATIENCE: Ticks = Ticks::from_us(500);

/// Without interrupts of the firmware's own a kick is a hypervisor doorbell. One that comes while a guest (HV=0) has
/// MSR[EE]=0 interrupts at once by the architecture; on QEMU it waits for EE as at HV=1 (`p9_next_unmasked_interrupt` in
/// target/ppc/excp_helper.c).
fn kicks_wait_for_ee(is_qemu: bool) -> bool {
    is_qemu
}

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
    /// The firmware's own interrupts, if the controllers work.
    pub(super) own: Option<&'static OwnInterrupts>,
    /// The controllers, in exploitation mode.
    pub(super) interrupts: Option<&'static PartitionInterrupts>,
    /// The page of exit counters.
    pub(super) exit_counters: &'static [AtomicU64],
    pub(super) terminal: Mutex<Terminal, rank::Terminal>,
    /// The partition ends: threads leave their guests for good.
    pub(super) stopping: AtomicBool,
    /// How many have.
    pub(super) home: AtomicUsize,
}

impl Shared {
    /// Whether this thread is to [`Self::come_home`]. It was kicked, too.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The end for a thread when the partition ends.
    pub(super) fn come_home(&self) -> ! {
        self.home.fetch_add(1, Ordering::Release);
        crate::stop::park_for_ever()
    }
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
    /// An interrupt of the partition ended its nested guest's turn.
    presented: AtomicBool,
}

impl Services {
    /// Services for one vCPU. That of vCPU 0 looks after the console.
    pub(super) fn new(shared: &'static Shared, vcpu_id: u32) -> Self {
        Self {
            shared,
            vcpu_id,
            offset: AtomicU64::new(0),
            next_poll: AtomicU64::new(0),
            presented: AtomicBool::new(false),
        }
    }

    /// Notes whether the controllers present an interrupt to the partition, of which a nested guest's exit told.
    pub(super) fn set_presented(&self, presented: bool) {
        self.presented.store(presented, Ordering::Relaxed);
    }

    pub(super) fn set_time_base_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    pub(super) fn next_poll(&self) -> u64 {
        self.next_poll.load(Ordering::Relaxed)
    }

    /// Looks at what no interrupt tells about, when it is time to.
    pub(super) fn poll(&self, now: u64) {
        if now.wrapping_sub(self.next_poll()).cast_signed() < 0 {
            return;
        }
        stack::look(now);
        self.look_again(now, self.longest_turn());
        let looks_after_console = self.vcpu_id == 0;
        if looks_after_console || !self.shared.terminal.lock().is_drained() {
            self.serve_console(now, false);
        }
    }

    /// How long this thread goes without a look around.
    fn longest_turn(&self) -> Ticks {
        let shared = self.shared;
        let input_interrupts = shared.own.is_some_and(OwnInterrupts::console_interrupts);
        if self.vcpu_id == 0 && !input_interrupts {
            POLL_INTERVAL
        } else if shared.own.is_none() && kicks_wait_for_ee(shared.is_qemu) {
            LONGEST_TURN_WITHOUT_KICKS
        } else {
            LONGEST_TURN
        }
    }

    fn look_again(&self, now: u64, after: Ticks) {
        self.next_poll
            .store(now.wrapping_add(after.0), Ordering::Relaxed);
    }

    /// Takes this thread's interrupts that are the firmware's own. Whoever calls this looks afterwards for what another
    /// thread may want.
    pub(super) fn take_interrupts(&self) {
        if let Some(own) = self.shared.own
            && own.take(self.vcpu_id)
        {
            self.serve_console(self.timebase(), true);
        }
    }

    /// Moves input and output of the console, and tells the partition of input. `interrupted`: it is what interrupted.
    fn serve_console(&self, now: u64, interrupted: bool) {
        let (has_input, drained) = {
            let mut terminal = self.shared.terminal.lock();
            let has_input = terminal.pump(self.shared.machine);
            if let Some(own) = self.shared.own.filter(|_| interrupted) {
                if terminal.takes_input() {
                    own.end_of_input();
                } else {
                    own.hold_input();
                }
            }
            (has_input, terminal.is_drained())
        };
        if !drained {
            self.look_again(now, DRAIN_INTERVAL);
        }
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
        let mut terminal = self.shared.terminal.lock();
        let taken = terminal.write(bytes, self.shared.machine);
        if !terminal.is_drained() {
            self.look_again(self.timebase(), DRAIN_INTERVAL);
        }
        taken
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        let mut terminal = self.shared.terminal.lock();
        let count = terminal.read(buffer, self.shared.machine);
        if let Some(own) = self.shared.own.filter(|_| terminal.takes_input()) {
            own.release_input();
        }
        count
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

    fn vcpu(&self) -> u32 {
        self.vcpu_id
    }

    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        wait_until(PATIENCE, done)
    }

    /// An interrupt of the firmware's own; without these a hypervisor doorbell. Either ends the thread's `stop` or its
    /// guest's turn, whatever the guest's MSR[EE] (but see [`kicks_wait_for_ee`]).
    fn kick(&self, vcpu: u32) {
        if self.shared.own.is_some_and(|own| own.kick(vcpu)) {
            return;
        }
        let thread = usize::try_from(vcpu)
            .ok()
            .and_then(|at| self.shared.threads.get(at));
        if let Some(pir) = thread {
            threads::ring(*pir);
        }
    }

    fn interrupt_pending(&self) -> bool {
        self.presented.load(Ordering::Relaxed) || self.shared.partition.is_wanted_back(self.vcpu_id)
    }
}

/// Waits until `done`, at most `patience`; answers whether it is.
fn wait_until(patience: Ticks, done: impl Fn() -> bool) -> bool {
    Deadline::after(patience)
        .wait_for(|| done().then_some(()))
        .is_some()
}

impl Services {
    /// Ends the partition's life on all threads: no vCPU and no nested guest runs when this returns, and the other
    /// threads never leave the firmware again. Nor does the caller if another thread was first.
    pub(super) fn gather(&self) {
        let shared = self.shared;
        if shared.stopping.swap(true, Ordering::SeqCst) {
            shared.come_home();
        }
        let others = (0..)
            .take(shared.threads.len())
            .filter(|id| *id != self.vcpu_id);
        others.clone().for_each(|vcpu| self.kick(vcpu));
        let (all, home) = (others.count(), || shared.home.load(Ordering::Acquire));
        if wait_until(Ticks(2 * LONGEST_TURN.0), || home() == all) {
            // Nobody holds a lock or runs a guest any more, so this neither waits nor fails.
            let _ = shared.partition.nested.reset(&shared.partition.env(self));
        } else {
            warn!(
                "{} threads do not leave their guests",
                all.saturating_sub(home())
            );
        }
        // What the partition said last is in the queue.
        wait_until(LAST_WORDS, || {
            let mut terminal = shared.terminal.lock();
            terminal.pump(shared.machine);
            terminal.is_drained()
        });
    }
}

/// Where the partition table is, for PTCR.
pub(super) fn partition_table_control(table: Ra) -> u64 {
    /// log2 of 64 KiB, less 12.
    const SIZE: u64 = 4;
    table.0 | SIZE
}
