//! The run loop: enters the guest that holds the thread, finds out why it left, and decides who runs next.
//!
//! Everything that a guest can cause comes back here as a value; nothing calls back. There is one loop for the
//! partition and for its nested guests: H_GUEST_RUN_VCPU changes whose context is entered next.
#![expect(unsafe_code, reason = "enters guests")]

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use isa::context::{GuestContext, NO_THREAD};
use isa::msr::Msr;
use isa::spr::{self, mfspr, mtspr};
use log::error;
use papr_services::exit_counters::ExitCounters;
use papr_services::nested::Env;
use papr_services::nested::run::{Exit, Running, Verdict};
use papr_services::partition::{Partition, Stop, Vcpu};
use papr_services::serve::{After, hypercall};

use super::exits::{PartitionExit, partition_exit};
use super::host::Services;
use super::window::ExternalWindow;
use super::{enter, idle, registers, timer, tlb};
use crate::thread::Thread;
use crate::threads;

/// A deadline that no run has.
const NEVER: u64 = u64::MAX;

/// A vCPU of a nested guest in its run.
struct NestedTurn {
    running: Running,
    /// When the partition called, and when the guest's registers were in place.
    called: u64,
    started: u64,
}

/// Why a vCPU's loop ends.
pub(super) enum End {
    /// The vCPU stopped itself; it can be started again.
    Stopped,
    /// Another vCPU ended the partition.
    Stopping,
    /// The partition ends.
    Partition(Stop),
}

/// Who holds the thread: whose special purpose registers are in the hardware.
enum Resident {
    /// The partition's vCPU.
    Partition,
    /// A vCPU of one of its nested guests.
    Nested(NestedTurn),
}

/// One hardware thread and what runs on it.
pub(super) struct RunLoop<'m> {
    thread: &'m Thread,
    host: &'m Services,
    partition: &'m Partition,
    /// The vCPU of the partition that this thread runs.
    vcpu_id: u32,
    /// Its registers.
    vcpu: Box<GuestContext>,
    resident: Resident,
    window: ExternalWindow,
    exits: ExitCounters<'m>,
    /// What the hypervisor decrementer is set for.
    armed: u64,
    /// How much the thread's time base is moved.
    offset: u64,
}

impl<'m> RunLoop<'m> {
    /// A loop that starts with `vcpu`.
    pub(super) fn new(thread: &'m Thread, host: &'m Services, vcpu: GuestContext) -> Self {
        Self {
            thread,
            host,
            partition: &host.shared.partition,
            vcpu_id: host.vcpu_id,
            vcpu: Box::new(vcpu),
            resident: Resident::Partition,
            window: ExternalWindow::new(host.shared.is_qemu, thread.pir.load(Ordering::Relaxed)),
            exits: ExitCounters::of(host.shared.exit_counters, host.vcpu_id),
            armed: 0,
            offset: 0,
        }
    }

    fn now(&self) -> u64 {
        timer::host_now(self.offset)
    }

    /// Runs until the vCPU stops itself or the partition ends.
    pub(super) fn run(mut self) -> End {
        self.partition
            .prepare_entry(&mut self.vcpu, self.vcpu_id, self.host);
        self.make_partition_resident();
        loop {
            if self.host.shared.is_stopping() {
                // A nested guest that nobody runs can be deleted.
                self.leave_nested(Exit::Interrupted);
                return End::Stopping;
            }
            let end = match self.resident {
                Resident::Partition => self.run_partition(),
                Resident::Nested(_) => self.run_nested(),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// One turn with the partition on the thread.
    fn run_partition(&mut self) -> Option<End> {
        let now = self.now();
        self.host.poll(now);
        if !self.partition.interrupt_pending(self.vcpu_id) {
            // Taking the request back may drop another thread's kick as well: its reason is looked for afterwards.
            self.window.set(&mut self.vcpu, false);
        }
        self.partition
            .prepare_entry(&mut self.vcpu, self.vcpu_id, self.host);
        let mut waits = self.partition.interrupt_pending(self.vcpu_id);
        if waits && self.vcpu.machine_state().contains(Msr::EE) {
            self.vcpu.interrupt(0x500, 0);
            waits = false;
        }
        self.window.set(&mut self.vcpu, waits);
        self.arm(self.host.next_poll(), now);
        registers::load_changed(&mut self.vcpu);
        self.host.set_presented(false);
        // SAFETY: the partition's registers are resident; `Partition` gives MSR with HV=0, and its tables map its own
        // memory only.
        unsafe { enter::enter(&mut self.vcpu, self.thread) };
        registers::store_cause(&mut self.vcpu);
        self.exits.count(self.vcpu.trap, false);

        if self.vcpu.trap == 0xe80 {
            self.window.delivered();
        }
        match self.vcpu.trap {
            0x980 => self.armed = 0,
            0xea0 => self.host.take_interrupts(),
            _ => {}
        }
        match partition_exit(&mut self.vcpu) {
            PartitionExit::Hypercall => {
                match hypercall(&mut self.vcpu, self.vcpu_id, self.partition, self.host) {
                    After::Resume => {}
                    After::Cede => self.cede(),
                    After::Enter(running) => self.make_nested_resident(running),
                    After::Stopped => return Some(End::Stopped),
                    After::Stop(stop) => return Some(End::Partition(stop)),
                }
            }
            PartitionExit::Ours => {}
            PartitionExit::Reflected => self.tell_reflected(),
            PartitionExit::Maintenance => clear_maintenance(),
            PartitionExit::Unexpected => {
                error!(
                    "partition left with vector {:#x} at {:#x}",
                    self.vcpu.trap, self.vcpu.nia
                );
                return Some(End::Partition(Stop::PowerOff));
            }
        }
        None
    }

    /// A kernel that gets a machine check may not be able to tell any more: what led to it is in the firmware's log.
    fn tell_reflected(&self) {
        let c = &self.vcpu;
        match c.trap {
            0xe00 => crate::limited!(
                warn,
                "vCPU {} gets a machine check for an access at {:#x}, SRR1 {:#x}: HDAR {:#x}, HDSISR {:#x}, ASDR {:#x}",
                self.vcpu_id,
                c.srr0,
                c.srr1,
                c.hdar,
                c.hdsisr,
                c.asdr
            ),
            // HDAR and HDSISR are still those of an earlier exit.
            0x100 | 0x200 | 0xe20 => crate::limited!(
                warn,
                "vCPU {} gets interrupt {:#x} for {:#x} at {:#x}, SRR1 {:#x}",
                self.vcpu_id,
                c.nia,
                c.trap,
                c.srr0,
                c.srr1
            ),
            _ => {}
        }
    }

    /// One turn with a nested guest on the thread.
    fn run_nested(&mut self) -> Option<End> {
        let now = self.now();
        self.host.poll(now);
        let Resident::Nested(NestedTurn { running, .. }) = &mut self.resident else {
            return None;
        };
        let wanted = running.wants_external_window();
        let deadline = running.deadline();
        self.window.set(&mut running.vcpu.context, wanted);
        // Behind the window, which may have dropped a kick.
        if running.is_wanted_back(self.host) {
            self.leave_nested(Exit::Interrupted);
            return None;
        }
        let poll = self.host.next_poll();
        let until = match deadline.wrapping_sub(poll).cast_signed() {
            ..0 if deadline != NEVER => deadline,
            _ => poll,
        };
        if self.armed != until {
            timer::arm(until, now);
            self.armed = until;
        }
        registers::load_changed(&mut running.vcpu.context);
        // SAFETY: the nested guest's registers are resident; its MSR and LPCR are composed from allow-lists and its
        // shadow tables map memory of its partition only.
        unsafe { enter::enter(&mut running.vcpu.context, self.thread) };
        let context = &mut running.vcpu.context;
        registers::store_cause(context);
        self.exits.count(context.trap, true);
        match context.trap {
            // The partition's interrupt, or the window's on a machine that has mediated interrupts.
            0x500 => self
                .host
                .set_presented(self.partition.interrupt_waits(self.vcpu_id)),
            0xe80 => self.window.delivered(),
            0x980 => self.armed = 0,
            0xea0 => self.host.take_interrupts(),
            0xe60 => clear_maintenance(),
            _ => {}
        }
        let env = Env {
            ram: &self.partition.ram,
            host: self.host,
            lpid: self.partition.lpid,
        };
        match running.after_exit(&env) {
            Verdict::Resume => {}
            Verdict::Leave(exit) => self.leave_nested(exit),
        }
        None
    }

    /// Puts a nested guest on the thread, in place of the partition.
    fn make_nested_resident(&mut self, mut running: Running) {
        let called = self.now();
        self.window.set(&mut self.vcpu, false);
        registers::store_resident(&mut self.vcpu, called);
        let lpid = running.guest.lpid();
        let context = &mut running.vcpu.context;
        let thread = self.thread.pir.load(Ordering::Relaxed);
        let last = core::mem::replace(&mut context.last_thread, thread);
        if last != thread && last != NO_THREAD {
            tlb::guest_moved(lpid, self.host.shared.is_qemu);
        }
        registers::load_resident(context, lpid, &mut self.offset);
        self.publish_offset();
        let started = self.now();
        timer::load_decrementer(context.lpcr, context.dec_expiry, started);
        self.resident = Resident::Nested(NestedTurn {
            running,
            called,
            started,
        });
    }

    /// Gives the thread back to the partition, whose H_GUEST_RUN_VCPU returns.
    fn leave_nested(&mut self, exit: Exit) {
        let Resident::Nested(turn) = core::mem::replace(&mut self.resident, Resident::Partition)
        else {
            return;
        };
        let mut running = turn.running;
        let context = &mut running.vcpu.context;
        self.window.set(context, false);
        let (purr, spurr, ic) = (context.purr, context.spurr, context.ic);
        let left = timer::host_now(self.offset);
        registers::store_resident(context, left);
        tlb::finish_guests_own();
        // What the nested guest used counts as used by the partition, too.
        self.vcpu.purr = self.vcpu.purr.wrapping_add(context.purr.wrapping_sub(purr));
        self.vcpu.spurr = self
            .vcpu
            .spurr
            .wrapping_add(context.spurr.wrapping_sub(spurr));
        self.vcpu.ic = self.vcpu.ic.wrapping_add(context.ic.wrapping_sub(ic));
        self.make_partition_resident();
        let env = Env {
            ram: &self.partition.ram,
            host: self.host,
            lpid: self.partition.lpid,
        };
        let (r3, r4) = running.finish(exit, &env);
        let [_, _, _, code, reason, ..] = &mut self.vcpu.gpr;
        (*code, *reason) = (r3, r4);
        self.partition.count_nested_run(
            self.vcpu_id,
            turn.started.wrapping_sub(turn.called),
            self.now().wrapping_sub(left),
            left.wrapping_sub(turn.started),
        );
    }

    fn make_partition_resident(&mut self) {
        registers::load_resident(&mut self.vcpu, self.partition.lpid, &mut self.offset);
        self.publish_offset();
        let now = self.now();
        timer::load_decrementer(self.vcpu.lpcr, self.vcpu.dec_expiry, now);
    }

    /// Lets the rest of the firmware read the time while the register is moved.
    fn publish_offset(&self) {
        self.host.set_time_base_offset(self.offset);
    }

    fn arm(&mut self, deadline: u64, now: u64) {
        if self.armed != deadline {
            timer::arm(deadline, now);
            self.armed = deadline;
        }
    }

    /// Waits for a reason to go on: an interrupt for the vCPU, its decrementer, or a prod.
    fn cede(&mut self) {
        self.window.set(&mut self.vcpu, false);
        let expiry = timer::decrementer_expiry(self.vcpu.lpcr, self.now());
        loop {
            let now = self.now();
            self.host.poll(now);
            let wanted = self
                .partition
                .vcpu(self.vcpu_id.into())
                .is_some_and(Vcpu::is_wanted);
            if wanted
                || self.host.shared.is_stopping()
                || self.partition.interrupt_waits(self.vcpu_id)
                || expiry.wrapping_sub(now).cast_signed() < 0
            {
                break;
            }
            let poll = self.host.next_poll();
            let until = if poll.wrapping_sub(expiry).cast_signed() < 0 {
                poll
            } else {
                expiry
            };
            idle::stop_until(self.vcpu.lpcr, until, now);
            threads::clear_doorbell();
            self.armed = 0;
            self.host.take_interrupts();
        }
        timer::load_decrementer(self.vcpu.lpcr, expiry, self.now());
    }
}

/// Clears what the hypervisor maintenance interrupt reports. Causes that need repair (time base, core) are a matter of
/// the chip's own recovery; what is left here is to say so.
fn clear_maintenance() {
    let causes = mfspr::<spr::Hmer>().0;
    crate::limited!(warn, "hypervisor maintenance interrupt, HMER {causes:#x}");
    // SAFETY: HMER only reports; writing zeroes clears (writes AND).
    unsafe { mtspr(spr::Hmer(0)) };
}
