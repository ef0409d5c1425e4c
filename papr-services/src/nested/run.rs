//! H_GUEST_RUN_VCPU: checks at entry, what an exit leads to, and what the partition is told (reference "nested", 3).
//!
//! A run is a value. [`Nested::run`] makes a [`Running`] out of an idle vCPU; the firmware puts
//! `running.vcpu.context` on the thread and asks [`Running::after_exit`] after every exit; when that says
//! [`Verdict::Leave`], the firmware saves all registers into the context, puts the partition's back, and
//! [`Running::finish`] writes the output buffer and answers r3 and r4.
//!
//! The surprising fact: a partition's own interrupt is never delivered to it in here. The run ends with reason 0, the
//! interrupt stays where it was, and the partition takes it when it enables interrupts.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem;

use isa::addr::{Ea, Nra};
use isa::lpcr::{HFSCR_CAUSE, Hfscr, Lpcr};
use isa::msr::{Msr, PREFIXED, PROGRAM_PRIVILEGED, SRR1_CAUSE};

use super::buffer::{self, Output, Purpose};
use super::element::{self, Own, RUN_OUTPUT_MIN_SIZE};
use super::guest::{Guest, Settings, Stage};
use super::invalidate::{RptArgs, Scope, rpt_invalidate};
use super::shadow::{Outcome, PageFault, cause};
use super::vcpu::{Cause, SCRATCH_BYTES, Slot, Vcpu};
use super::{Env, Nested};
use crate::error::{HCode, Refusal};
use crate::host::Host;
use crate::serve::write_answer;
use crate::table::number::H_RPT_INVALIDATE;

/// Flags of H_GUEST_RUN_VCPU.
mod flag {
    /// An external interrupt is pending for this run.
    pub(super) const EXTERNAL: u64 = 1 << 63;
    /// A privileged doorbell is pending.
    pub(super) const DOORBELL: u64 = 1 << 62;
    /// The guest takes a system reset at once.
    pub(super) const SYSTEM_RESET: u64 = 1 << 61;
    /// All.
    pub(super) const ALL: u64 = EXTERNAL | DOORBELL | SYSTEM_RESET;
}

/// Why a run ends: r4 of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Exit {
    /// The partition has an interrupt, or the thread is wanted, or the guest is being deleted.
    Interrupted = 0,
    /// A machine check that the guest caused or suffered.
    MachineCheck = 0x200,
    /// HDEC_EXPIRY_TB was reached.
    Timer = 0x980,
    /// `sc 1` of the guest's kernel.
    Hypercall = 0xc00,
    /// A data access to what the partition does not map.
    DataStorage = 0xe00,
    /// An instruction fetch from what the partition does not map.
    InstructionStorage = 0xe20,
    /// An instruction that needs emulation.
    EmulationAssist = 0xe40,
    /// A facility that HFSCR does not grant.
    FacilityUnavailable = 0xf80,
}

/// What happens after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The same vCPU goes on: enter it again, LPIDR and PIDR untouched.
    Resume,
    /// The run ends: save everything, put the partition back, then [`Running::finish`].
    Leave(Exit),
}

/// What [`Nested::run`] leads to.
pub enum Start {
    /// The thread enters this vCPU.
    Enter(Running),
    /// The call is over: H_SUCCESS, and this in r4.
    Done(Exit),
}

/// A vCPU in a run. It must end in [`Running::finish`], or the vCPU stays in use.
#[must_use = "a vCPU that is not given back by `finish` stays in use"]
pub struct Running {
    /// Its guest; LPIDR is [`Guest::lpid`].
    pub guest: Arc<Guest>,
    /// Its registers. Composed for the hardware: LPCR, HFSCR, PCR, AMOR, HDEXCR, time base offset and decrementer
    /// are exact when the run starts.
    pub vcpu: Box<Vcpu>,
    slot: Arc<Slot>,
    /// When the run ends, in the machine's time base.
    deadline: u64,
    /// An external interrupt for this run only was asked for.
    external_once: bool,
}

/// The partition's time base minus the machine's. Partitions run on the machine's time base; one that arrived by
/// migration would not.
const PARTITION_TB_OFFSET: u64 = 0;

/// A time of the partition in the machine's time base. All ones, for never, stays.
const fn machine_time(partition_time: u64) -> u64 {
    match partition_time {
        u64::MAX => u64::MAX,
        time => time.wrapping_sub(PARTITION_TB_OFFSET),
    }
}

/// A time of the machine in the partition's time base.
const fn partition_time(machine_time: u64) -> u64 {
    machine_time.wrapping_add(PARTITION_TB_OFFSET)
}

impl Running {
    /// When the run ends at the latest, in the machine's time base; all ones for never. The hypervisor decrementer
    /// is set to this or to something earlier of the firmware's own.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Whether the run is to end with [`Exit::Interrupted`]: the partition's vCPU is wanted, or the guest is being
    /// deleted. Ask before each entry, after everything that can take a kick back: a kick says no more than "look".
    #[must_use]
    pub fn is_wanted_back<H: Host>(&self, host: &H) -> bool {
        self.guest.is_dying() || host.interrupt_pending()
    }

    /// Whether the guest must leave as soon as it enables external interrupts: one is waiting for it. On silicon the
    /// firmware sets LPCR[MER] then; QEMU has no mediated interrupts and needs a substitute. Ask before each entry.
    #[must_use]
    pub fn wants_external_window(&self) -> bool {
        self.external_requested() && !self.vcpu.context.machine_state().contains(Msr::EE)
    }

    fn external_requested(&self) -> bool {
        self.external_once || self.vcpu.lpcr & Lpcr::MER.bits() != 0
    }

    fn is_due<H: Host>(&self, env: &Env<'_, H>) -> bool {
        let left = self
            .deadline
            .wrapping_sub(env.host.timebase())
            .cast_signed();
        self.deadline != u64::MAX && left <= 0
    }

    /// Delivers a waiting external interrupt when the guest can take it. The partition's request is a level: it
    /// stays up until the partition takes it back.
    fn deliver_external(&mut self) {
        if self.external_requested() && self.vcpu.context.machine_state().contains(Msr::EE) {
            self.vcpu.context.interrupt(0x500, 0);
            self.external_once = false;
        }
    }

    /// Sets what the hardware gets from the settings of guest and vCPU: allow-lists only, see the value rules.
    fn compose(&mut self, settings: &Settings, own: &Own) {
        let level = settings.level.row();
        let vcpu = &mut *self.vcpu;
        let context = &mut vcpu.context;
        // MER stays out: see `wants_external_window`.
        let chosen = vcpu.lpcr & element::LPCR_SETTABLE & !Lpcr::MER.bits();
        context.lpcr = Lpcr::GUEST_BASE | Lpcr::from_bits_retain(chosen);
        let facilities = vcpu.hfscr & own.hfscr & !level.absent.bits();
        context.hfscr = Hfscr::from_bits_retain(facilities);
        context.pcr = level.pcr | own.pcr;
        context.fscr &= !level.absent.bits();
        context.amor &= own.amor;
        context.hdexcr |= own.hdexcr;
        context.msr = context.msr & element::MSR_SETTABLE | Msr::ME.bits();
        context.tb_offset = PARTITION_TB_OFFSET.wrapping_add(settings.tb_offset);
        context.dec_expiry = machine_time(vcpu.dec_expiry);
    }
}

impl Nested {
    /// H_GUEST_RUN_VCPU.
    ///
    /// # Errors
    /// H_P2, H_P3 for unknown ids; H_IN_USE while the vCPU runs; the codes of missing and broken buffers;
    /// H_NOT_ENOUGH_RESOURCES when there is no memory for the tables of a guest that never ran: nothing was read or
    /// changed, and the same call may succeed later; a refused element with its offset in r4.
    pub fn run<H: Host>(
        &self,
        env: &Env<'_, H>,
        flags: u64,
        guest: u64,
        vcpu: u64,
    ) -> Result<Start, Refusal> {
        super::only_flags(flags, flag::ALL)?;
        let guest = self.registry.get(guest).ok_or(HCode::H_P2)?;
        let slot = guest.vcpu(vcpu).ok_or(HCode::H_P3)?;
        if !guest.begin_run() {
            return Err(HCode::H_P2.into());
        }
        let Some(vcpu) = slot.take(env.host.vcpu()) else {
            guest.end_run();
            return Err(HCode::H_IN_USE.into());
        };
        let mut running = Running {
            guest,
            vcpu,
            slot,
            deadline: u64::MAX,
            external_once: flags & flag::EXTERNAL != 0,
        };
        if let Err(refusal) = self.prepare(env, &mut running, flags) {
            running.give_back();
            return Err(refusal);
        }
        let early = if running.is_due(env) {
            Some(Exit::Timer)
        } else if env.host.interrupt_pending() {
            Some(Exit::Interrupted)
        } else {
            None
        };
        match early {
            Some(exit) => match running.finish(exit, env) {
                (0, _) => Ok(Start::Done(exit)),
                _ => Err(HCode::H_OUTPUT_BUFFER_NOT_DEFINED.into()),
            },
            None => {
                running.deliver_external();
                Ok(Start::Enter(running))
            }
        }
    }

    /// The checks of 3.1 in their order, then the input, then the registers.
    fn prepare<H: Host>(
        &self,
        env: &Env<'_, H>,
        running: &mut Running,
        flags: u64,
    ) -> Result<(), Refusal> {
        let vcpu = &mut *running.vcpu;
        let input = vcpu.input.ok_or(HCode::H_INPUT_BUFFER_NOT_DEFINED)?;
        let output = vcpu.output.ok_or(HCode::H_OUTPUT_BUFFER_NOT_DEFINED)?;
        if !env.ram.contains(output.gra, output.len) {
            return Err(HCode::H_OUTPUT_BUFFER_NOT_DEFINED.into());
        }
        if output.len < RUN_OUTPUT_MIN_SIZE {
            return Err(HCode::H_OUTPUT_BUFFER_TOO_SMALL.into());
        }
        let settings = *running.guest.settings.lock();
        if settings.table.is_none() {
            return Err(HCode::H_PARTITION_PAGE_TABLE_NOT_DEFINED.into());
        }
        if settings.stage == Stage::New {
            self.registry.furnish(env, &running.guest)?;
        }
        let mut bytes = mem::take(&mut vcpu.scratch);
        let limits = self.limits(env);
        let applied = buffer::copy_used(env.ram, input, &mut bytes)
            .map_err(Refusal::from)
            .and_then(|()| {
                buffer::set_vcpu(vcpu, &bytes, Purpose::RunInput, &limits)
                    .map_err(buffer::Bad::by_offset)
            });
        if bytes.capacity() <= SCRATCH_BYTES {
            vcpu.scratch = bytes;
        }
        applied?;
        running.deadline = machine_time(vcpu.hdec_expiry);
        running.compose(&settings, &self.own);
        let context = &mut running.vcpu.context;
        if flags & flag::DOORBELL != 0 {
            context.dpdes |= 1;
        }
        if flags & flag::SYSTEM_RESET != 0 {
            context.interrupt(0x100, 0);
        }
        // What the partition has mapped because the guest asked for it, the guest shall not ask for again.
        if let Some(fault) = running.vcpu.expected.take() {
            running.guest.shadow.prefault(env.ram, &fault, env.host);
        }
        Ok(())
    }
}

impl Running {
    /// Ends a run: writes the output buffer, gives the vCPU back, and answers r3 and r4. The context holds all
    /// registers of the guest.
    ///
    /// Counters in the partition's VPA (ticks of switches and of guests, offsets 0x1a0 to 0x1b7, when byte 0xbc is
    /// set) are to be added by the caller, who knows when the switches began.
    #[must_use]
    pub fn finish<H: Host>(mut self, exit: Exit, env: &Env<'_, H>) -> (u64, u64) {
        let vcpu = &mut *self.vcpu;
        vcpu.dec_expiry = partition_time(vcpu.context.dec_expiry);
        if exit == Exit::FacilityUnavailable {
            let cause = vcpu.context.hfscr.bits() & HFSCR_CAUSE;
            vcpu.hfscr = vcpu.hfscr & !HFSCR_CAUSE | cause;
        }
        let full = match exit {
            Exit::DataStorage => self.guest.reflects(fault_address(vcpu.cause)),
            Exit::FacilityUnavailable => vcpu.hfscr >> 56 == FACILITY_MSGP,
            Exit::Interrupted
            | Exit::MachineCheck
            | Exit::Timer
            | Exit::Hypercall
            | Exit::InstructionStorage
            | Exit::EmulationAssist => false,
        };
        if full {
            // A device: nothing will be mapped.
            vcpu.expected = None;
        }
        let mut output = Output::new();
        report(&mut output, vcpu, exit, full);
        let written = vcpu
            .output
            .is_some_and(|area| env.ram.write(area.gra, output.finish()).is_ok());
        self.give_back();
        if written {
            (0, exit as u64)
        } else {
            (HCode::H_OUTPUT_BUFFER_NOT_DEFINED.code().cast_unsigned(), 0)
        }
    }

    /// Decides about an exit of the guest. The context's first part and the cause registers of the vector are exact.
    pub fn after_exit<H: Host>(&mut self, env: &Env<'_, H>) -> Verdict {
        let verdict = match self.vcpu.context.trap {
            0xc00 => hypercall(self, env),
            0xe00 => storage(self, env, Exit::DataStorage),
            0xe20 => storage(self, env, Exit::InstructionStorage),
            0xe40 => {
                self.vcpu.cause.heir = self.vcpu.context.heir;
                Verdict::Leave(Exit::EmulationAssist)
            }
            0xf80 => Verdict::Leave(Exit::FacilityUnavailable),
            0x200 => Verdict::Leave(Exit::MachineCheck),
            // Timers, doorbells and interrupts of any kind: the firmware served its own before it asked. The rest
            // (maintenance, performance monitor) is the firmware's alone.
            _ => interrupt(self, env),
        };
        if verdict == Verdict::Resume {
            // The cause was for us: neither the guest nor the partition sees it.
            let context = &mut self.vcpu.context;
            context.msr = context.machine_state().bits();
            if self.is_wanted_back(env.host) {
                return Verdict::Leave(Exit::Interrupted);
            }
            self.deliver_external();
        }
        verdict
    }
}

/// Cause in HFSCR of `msgsndp` and of access to DPDES or TIR.
const FACILITY_MSGP: u64 = 0xa;

/// Something interrupted the thread, perhaps the run's own timer. An interrupt of the partition is looked for after
/// every exit, and has precedence.
fn interrupt<H: Host>(running: &Running, env: &Env<'_, H>) -> Verdict {
    if running.is_due(env) && !env.host.interrupt_pending() {
        Verdict::Leave(Exit::Timer)
    } else {
        Verdict::Resume
    }
}

/// `sc 1` of the guest.
fn hypercall<H: Host>(running: &mut Running, env: &Env<'_, H>) -> Verdict {
    let context = &mut running.vcpu.context;
    if context.machine_state().contains(Msr::PR) {
        // Problem state has no hypercalls, and the partition trusts that none reach it. The privileged instruction
        // is the `sc` itself.
        context.nia = context.nia.wrapping_sub(4);
        context.interrupt(0x700, PROGRAM_PRIVILEGED);
        return Verdict::Resume;
    }
    let [_, _, _, number, r4, r5, r6, r7, r8, r9, ..] = context.gpr;
    let args = RptArgs::from_regs([r4, r5, r6, r7, r8, r9]);
    if number == H_RPT_INVALIDATE && !args.is_nested() {
        // About a process of the guest. The partition's kernel would execute the `tlbie` for its own LPID.
        let lpid = running.guest.shadow.lpid();
        let answer = rpt_invalidate(&args, &Scope::Process { lpid }, env.host);
        write_answer(context, answer);
        return Verdict::Resume;
    }
    Verdict::Leave(Exit::Hypercall)
}

/// A hypervisor storage interrupt: solved in the shadow tables, or the partition's business.
fn storage<H: Host>(running: &mut Running, env: &Env<'_, H>, exit: Exit) -> Verdict {
    let vcpu = &mut *running.vcpu;
    let context = &mut vcpu.context;
    let (fault, address) = if exit == Exit::InstructionStorage {
        let address = Ea(context.nia);
        (
            PageFault::fetch(context.asdr, address, context.msr),
            address,
        )
    } else {
        let hdsisr = u32::try_from(context.hdsisr & 0xffff_ffff).unwrap_or(0);
        let address = Ea(context.hdar);
        (PageFault::data(context.asdr, address, hdsisr), address)
    };
    let (bits, asdr) = match running.guest.shadow.fault(env.ram, &fault, env.host) {
        Outcome::Resolved | Outcome::Retry => return Verdict::Resume,
        Outcome::Reflect { cause, asdr } => (cause, asdr.unwrap_or(context.asdr)),
    };
    vcpu.expected = Some(fault);
    vcpu.cause = Cause {
        hdar: address.0,
        hdsisr: bits.into(),
        asdr,
        heir: vcpu.cause.heir,
    };
    if exit == Exit::InstructionStorage {
        // The partition reads the cause in the MSR, where "store" is another bit than in HDSISR.
        let update = if bits & cause::STORE != 0 {
            cause::HSRR1_UPDATE
        } else {
            0
        };
        let kept = context.msr & PREFIXED;
        let told = u64::from(bits | update) & SRR1_CAUSE;
        context.msr = context.machine_state().bits() | kept | told;
    }
    Verdict::Leave(exit)
}

/// The guest real address of a fault that goes to the partition.
fn fault_address(cause: Cause) -> Nra {
    Nra(cause.asdr & 0x0fff_ffff_ffff_f000)
}

/// The output of an exit: what the document demands, and what Linux would ask for one by one (reference 3.4).
fn report(out: &mut Output, vcpu: &Vcpu, exit: Exit, full: bool) {
    use element as e;
    let (registers, gprs): (&[&'static e::Element], _) = match exit {
        Exit::Interrupted | Exit::Timer => (&[], 0..0),
        Exit::MachineCheck => (&[&e::NIA, &e::MSR], 0..0),
        Exit::Hypercall => (&[&e::MSR], 3..13),
        Exit::DataStorage => (
            &[&e::HDAR, &e::HDSISR, &e::ASDR, &e::NIA, &e::MSR, &e::PIDR],
            0..0,
        ),
        Exit::InstructionStorage => (&[&e::HDAR, &e::ASDR, &e::NIA, &e::MSR], 0..0),
        Exit::EmulationAssist => (&[&e::HEIR, &e::NIA, &e::MSR], 0..0),
        Exit::FacilityUnavailable => (&[&e::HFSCR, &e::NIA, &e::MSR, &e::PIDR], 0..0),
    };
    let gprs = if full { 0..32 } else { gprs };
    for number in gprs {
        out.put(&e::GPR, number, vcpu);
    }
    for register in registers {
        out.put(register, 0, vcpu);
    }
    out.put(&e::DEC_EXPIRY_TB, 0, vcpu);
}

impl Running {
    /// The vCPU is idle again. The last one to leave a dying guest has nothing to do: the partition repeats its
    /// H_GUEST_DELETE until it succeeds.
    fn give_back(self) {
        self.slot.put(self.vcpu);
        self.guest.end_run();
    }

    /// The registers, as an exit leaves them.
    #[cfg(test)]
    pub(crate) fn context(&mut self) -> &mut isa::context::GuestContext {
        &mut self.vcpu.context
    }
}
