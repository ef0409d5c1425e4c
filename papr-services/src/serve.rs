//! Serves hypercalls: one exhaustive match over the table, and the one wrapper around it that moves registers.
//!
//! The surprising fact: an hcall that gives the processor away ([`After::Cede`]) has its answer in r3 before the
//! vCPU sleeps, so that whoever wakes it has nothing left to write.

use isa::addr::Gra;
use isa::context::{Changed, GuestContext};
use isa::lpcr::Lpcr;
use isa::msr::{Msr, PROGRAM_PRIVILEGED};

use crate::error::{Answer, HCode, Outputs};
use crate::host::Host;
use crate::interrupt::{Risen, Xics, Xirr};
use crate::memory_calls::{cache_load, cache_store, page_init};
use crate::nested::invalidate::RptArgs;
use crate::nested::run::{Running, Start};
use crate::partition::{Partition, RunState, Stop, Vcpu};
use crate::rtas;
use crate::set_mode::set_mode;
use crate::table::Hcall;
use crate::term::Term;
use crate::xive::Exploitation;

/// What an hcall leads to.
pub enum Next {
    /// A code in r3 and outputs from r4.
    Return(Answer),
    /// H_SUCCESS, but first the vCPU waits for an interrupt.
    Cede,
    /// A vCPU of a nested guest runs first; the answer comes when it leaves.
    Enter(Running),
    /// The vCPU stopped itself.
    Stopped,
    /// The partition ends.
    Stop(Stop),
}

impl From<Answer> for Next {
    fn from(answer: Answer) -> Self {
        Self::Return(answer)
    }
}

/// What the thread does after [`hypercall`].
pub enum After {
    /// Enters the same vCPU again: its registers hold the answer.
    Resume,
    /// Waits until an interrupt, the decrementer, a doorbell or [`Vcpu::is_wanted`] wakes the vCPU, then enters it.
    /// After H_CEDE external interrupts are enabled in its MSR; after H_CONFER to itself they may not be, and the
    /// vCPU then wakes from them without taking them.
    ///
    /// [`Vcpu::is_wanted`]: crate::partition::Vcpu::is_wanted
    Cede,
    /// Enters a vCPU of a nested guest; when it leaves, [`Running::finish`] has the answer for r3 and r4.
    Enter(Running),
    /// Waits until [`Partition::take_start`] has new registers for the vCPU.
    Stopped,
    /// Ends the partition.
    Stop(Stop),
}

/// Serves the `sc 1` that vCPU `id` executed: arguments and answer are in `vcpu`, whose next instruction is the one
/// after the `sc`.
pub fn hypercall<H: Host>(
    vcpu: &mut GuestContext,
    id: u32,
    partition: &Partition,
    host: &H,
) -> After {
    if vcpu.machine_state().contains(Msr::PR) {
        // Problem state has no hypercalls. The privileged instruction is the `sc` itself.
        vcpu.nia = vcpu.nia.wrapping_sub(4);
        vcpu.interrupt(0x700, PROGRAM_PRIVILEGED);
        return After::Resume;
    }
    let [_, _, _, number, r4, r5, r6, r7, r8, r9, r10, r11, r12, ..] = vcpu.gpr;
    let next = match Hcall::decode(number, [r4, r5, r6, r7, r8, r9, r10, r11, r12]) {
        Some(call) => serve(call, vcpu, id, partition, host),
        None => Next::Return(Err(HCode::H_FUNCTION.into())),
    };
    match next {
        Next::Return(answer) => {
            write_answer(vcpu, answer);
            After::Resume
        }
        Next::Cede => {
            write_answer(vcpu, Ok(Outputs::NONE));
            After::Cede
        }
        Next::Enter(running) => After::Enter(running),
        Next::Stopped => After::Stopped,
        Next::Stop(stop) => After::Stop(stop),
    }
}

/// Writes an answer to r3 and, as far as there are outputs, r4 up.
pub fn write_answer(vcpu: &mut GuestContext, answer: Answer) {
    let (code, outputs) = match answer {
        Ok(outputs) => (0, outputs),
        Err(refusal) => (refusal.code.code(), refusal.outputs),
    };
    let values = core::iter::once(code.cast_unsigned()).chain(outputs.as_slice().iter().copied());
    for (register, value) in vcpu.gpr.iter_mut().skip(3).zip(values) {
        *register = value;
    }
}

/// Serves one hcall of vCPU `id`. A row of the table without an arm here does not compile.
#[rustfmt::skip]
pub fn serve<H: Host>(call: Hcall, vcpu: &mut GuestContext, id: u32, partition: &Partition, host: &H) -> Next {
    let (ram, nested) = (&partition.ram, &partition.nested);
    let env = &partition.env(host);
    let kick = |risen: Risen| partition.kick(risen, id, host);
    Next::Return(match call {
        Hcall::H_SET_SPRG0 { value } => set_sprg0(vcpu, value),
        Hcall::H_PAGE_INIT { flags, destination, source } => page_init(ram, flags, destination, source),
        Hcall::H_LOGICAL_CACHE_LOAD { size, addr } => cache_load(ram, size, addr),
        Hcall::H_LOGICAL_CACHE_STORE { size, addr, value } => cache_store(ram, size, addr, value),

        Hcall::H_GET_TERM_CHAR { unit } => partition.term.get(host, unit),
        Hcall::H_PUT_TERM_CHAR { unit, len, high, low } => Term::put(host, unit, len, high, low),

        Hcall::H_EOI { xirr } => with_xics(partition, |xics| done(xics.end(id, low_word(xirr)).map(kick))),
        Hcall::H_CPPR { cppr } => with_xics(partition, |xics| done(xics.set_cppr(id, low_byte(cppr)))),
        Hcall::H_IPI { server, mfrr } => ipi(partition, host, server, mfrr).map(|risen| { kick(risen); Outputs::NONE }),
        Hcall::H_IPOLL { server } => poll(partition, server),
        Hcall::H_XIRR {} => with_xics(partition, |xics| {
            accepted(xics.accept(id)).map(|got| [got.xirr.into()].into())
        }),
        // Its argument, the priority to return to, is what H_EOI gets; nothing is needed before.
        Hcall::H_XIRR_X { cppr: _ } => with_xics(partition, |xics| {
            accepted(xics.accept(id)).map(|got| [got.xirr.into(), got.since].into())
        }),

        Hcall::H_INT_GET_SOURCE_INFO { flags, lisn } => with_xive(partition, |xive| xive.source_info(flags, lisn)),
        Hcall::H_INT_SET_SOURCE_CONFIG { flags, lisn, target, priority, eisn } => {
            with_xive(partition, |xive| xive.set_source(flags, lisn, target, priority, eisn))
        }
        Hcall::H_INT_GET_SOURCE_CONFIG { flags, lisn } => with_xive(partition, |xive| xive.source_config(flags, lisn)),
        Hcall::H_INT_GET_QUEUE_INFO { flags, target, priority } => {
            with_xive(partition, |xive| xive.queue_info(flags, target, priority))
        }
        Hcall::H_INT_SET_QUEUE_CONFIG { flags, target, priority, page, size } => {
            with_xive(partition, |xive| xive.set_queue(ram, flags, target, priority, page, size))
        }
        Hcall::H_INT_GET_QUEUE_CONFIG { flags, target, priority } => {
            with_xive(partition, |xive| xive.queue_config(flags, target, priority))
        }
        Hcall::H_INT_SET_OS_REPORTING_LINE { flags, lines } => {
            with_xive(partition, |xive| xive.set_report(ram, id, flags, lines))
        }
        Hcall::H_INT_GET_OS_REPORTING_LINE { flags, target } => with_xive(partition, |xive| xive.report(flags, target)),
        Hcall::H_INT_ESB { flags, lisn, offset, data } => with_xive(partition, |xive| xive.esb(flags, lisn, offset, data)),
        Hcall::H_INT_SYNC { flags, lisn } => with_xive(partition, |xive| xive.sync(flags, lisn)),
        Hcall::H_INT_RESET { flags } => with_xive(partition, |xive| {
            // A kernel that begins anew is told of input that the last one was told of.
            partition.term.forget();
            xive.reset(flags)
        }),

        Hcall::H_REGISTER_VPA { flags, vcpu, area } => with_vcpu(partition, vcpu, |target| {
            target.registrations.lock().register(ram, flags, area)
        }),
        Hcall::H_CEDE {} => return cede(vcpu, id, partition),
        Hcall::H_CONFER { vcpu, dispatch_count: _ } => return confer(vcpu, id, partition),
        Hcall::H_PROD { vcpu } => with_vcpu(partition, vcpu, |target| {
            target.prod();
            kick(u32::try_from(vcpu).ok());
            Ok(Outputs::NONE)
        }),
        Hcall::H_POLL_PENDING {} => match partition.interrupt_waits(id) {
            true => Err(HCode::H_PENDING.into()),
            false => Ok(Outputs::NONE),
        },
        Hcall::H_SIGNAL_SYS_RESET { target } => system_reset(partition, host, id, target),

        Hcall::H_GET_CPU_CHARACTERISTICS {} => {
            let says = partition.policy.characteristics;
            Ok([says.character, says.behaviour].into())
        }
        Hcall::H_RANDOM {} => random(partition, host),
        Hcall::H_SET_MODE { flags, resource, value1, value2 } => {
            set_mode(vcpu, partition, flags, resource, value1, value2)
        }
        Hcall::H_REGISTER_PROC_TBL { flags, base, page_size, size } => {
            register_process_table(partition, host, flags, base, page_size, size)
        }
        Hcall::H_RPT_INVALIDATE { id, target, kind, page_sizes, start, end } => {
            nested.rpt_invalidate(env, &RptArgs { id, target, kind, page_sizes, start, end })
        }

        Hcall::H_GUEST_GET_CAPABILITIES { flags } => nested.get_capabilities(flags),
        Hcall::H_GUEST_SET_CAPABILITIES { flags, capabilities } => nested.set_capabilities(env, flags, capabilities),
        Hcall::H_GUEST_CREATE { flags, token } => nested.create(env, flags, token),
        Hcall::H_GUEST_CREATE_VCPU { flags, guest, vcpu } => nested.create_vcpu(flags, guest, vcpu),
        Hcall::H_GUEST_GET_STATE { flags, guest, vcpu, buffer, size } => {
            nested.get_state(env, flags, guest, vcpu, buffer, size)
        }
        Hcall::H_GUEST_SET_STATE { flags, guest, vcpu, buffer, size } => {
            nested.set_state(env, flags, guest, vcpu, buffer, size)
        }
        Hcall::H_GUEST_RUN_VCPU { flags, guest, vcpu } => match nested.run(env, flags, guest, vcpu) {
            Ok(Start::Enter(running)) => return Next::Enter(running),
            Ok(Start::Done(exit)) => Ok([exit as u64].into()),
            Err(refusal) => Err(refusal),
        },
        Hcall::H_GUEST_DELETE { flags, guest } => nested.delete(env, flags, guest),

        Hcall::H_RTAS { args } => return rtas::call(args, id, partition, host),
    })
}

/// The low word of a register: XIRR has 32 bits.
fn low_word(register: u64) -> u32 {
    u32::try_from(register & u64::from(u32::MAX)).unwrap_or(0)
}

/// The low byte of a register: priorities have 8 bits.
fn low_byte(register: u64) -> u8 {
    let [.., byte] = register.to_be_bytes();
    byte
}

fn done<E: Into<HCode>>(result: Result<(), E>) -> Answer {
    match result {
        Ok(()) => Ok(Outputs::NONE),
        Err(error) => Err(error.into().into()),
    }
}

fn accepted(
    result: Result<Xirr, crate::interrupt::Unknown>,
) -> Result<Xirr, crate::error::Refusal> {
    result.map_err(|unknown| HCode::from(unknown).into())
}

/// Runs a service of the partition that gets its interrupts by hypercalls.
fn with_xics(partition: &Partition, service: impl FnOnce(&Xics) -> Answer) -> Answer {
    service(partition.interrupts.xics()?)
}

/// Runs a service of the partition in exploitation mode.
fn with_xive(partition: &Partition, service: impl FnOnce(&Exploitation) -> Answer) -> Answer {
    service(partition.interrupts.xive()?)
}

/// Runs a service on the vCPU that the caller named.
fn with_vcpu(partition: &Partition, vcpu: u64, service: impl FnOnce(&Vcpu) -> Answer) -> Answer {
    service(partition.vcpu(vcpu).ok_or(HCode::H_PARAMETER)?)
}

fn server(number: u64) -> Result<u32, HCode> {
    u32::try_from(number).map_err(|_| HCode::H_PARAMETER)
}

fn ipi<H: Host>(
    partition: &Partition,
    host: &H,
    target: u64,
    mfrr: u64,
) -> Result<Risen, crate::error::Refusal> {
    let xics = partition.interrupts.xics()?;
    let risen = xics
        .set_mfrr(server(target)?, low_byte(mfrr), host.timebase())
        .map_err(HCode::from)?;
    Ok(risen)
}

fn poll(partition: &Partition, target: u64) -> Answer {
    let xics = partition.interrupts.xics()?;
    let got = xics.poll(server(target)?).map_err(HCode::from)?;
    Ok([got.xirr.into(), got.mfrr.into()].into())
}

fn set_sprg0(vcpu: &mut GuestContext, value: u64) -> Answer {
    let [sprg0, ..] = &mut vcpu.sprg;
    *sprg0 = value;
    vcpu.changed |= Changed::SPRG0;
    Ok(Outputs::NONE)
}

/// H_CEDE: enables external interrupts, then waits, unless there is a reason not to.
fn cede(vcpu: &mut GuestContext, id: u32, partition: &Partition) -> Next {
    vcpu.msr |= Msr::EE.bits();
    wait(id, partition)
}

/// The vCPU gives its processor away; it has it back at once when an interrupt or a prod is there already.
fn wait(id: u32, partition: &Partition) -> Next {
    let Some(shared) = partition.vcpu(id.into()) else {
        return Next::Cede;
    };
    // The yield count moves even when there is nothing to wait for.
    shared.cede();
    shared.registrations.lock().ceded(&partition.ram);
    if shared.is_wanted() || partition.interrupt_waits(id) {
        return Next::Return(Ok(Outputs::NONE));
    }
    Next::Cede
}

/// H_CONFER. Every vCPU has a thread of its own, so there is no processor to give to another one: the call succeeds
/// and the caller goes on. To itself, it waits for a prod.
fn confer(target: u64, id: u32, partition: &Partition) -> Next {
    const ALL: u64 = u64::MAX;
    if target == u64::from(id) {
        return wait(id, partition);
    }
    match target {
        ALL => Next::Return(Ok(Outputs::NONE)),
        _ => Next::Return(with_vcpu(partition, target, |_| Ok(Outputs::NONE))),
    }
}

/// H_SIGNAL_SYS_RESET: all (-1), all others (-2), or one.
fn system_reset<H: Host>(partition: &Partition, host: &H, id: u32, target: u64) -> Answer {
    const ALL: u64 = u64::MAX;
    const OTHERS: u64 = u64::MAX - 1;
    let running = |vcpu: &Vcpu| vcpu.run_state() == RunState::Running;
    if !matches!(target, ALL | OTHERS) && !partition.vcpu(target).is_some_and(running) {
        return Err(HCode::H_PARAMETER.into());
    }
    for (number, vcpu) in (0..).zip(partition.vcpus()) {
        let hit = match target {
            ALL => true,
            OTHERS => number != id,
            one => u64::from(number) == one,
        };
        if hit && running(vcpu) {
            vcpu.reset();
            partition.kick(Some(number), id, host);
        }
    }
    Ok(Outputs::NONE)
}

fn random<H: Host>(partition: &Partition, host: &H) -> Answer {
    if !partition.policy.random {
        return Err(HCode::H_FUNCTION.into());
    }
    Ok([host.random().ok_or(HCode::H_HARDWARE)?].into())
}

/// H_REGISTER_PROC_TBL flags (LoPAR 14.5.4.9.3).
mod table_flags {
    /// The table changes: [`REGISTER`] says to what.
    pub(super) const MODIFY: u64 = 0x10;
    /// A new table; without it the old one goes.
    pub(super) const REGISTER: u64 = 0x08;
    /// Radix.
    pub(super) const RADIX: u64 = 0x04;
    /// The partition executes `tlbie` itself.
    pub(super) const GTSE: u64 = 0x01;
    /// All but hash with a process table (0x02): there is no hash translation here.
    pub(super) const ALL: u64 = MODIFY | REGISTER | RADIX | GTSE;
}

/// H_REGISTER_PROC_TBL. A kernel registers one table in its life, so where one is already, the kernel is another one, which
/// kexec started: the nested guests of the last one go. H_LONG_BUSY until their runs have ended.
fn register_process_table<H: Host>(
    partition: &Partition,
    host: &H,
    flags: u64,
    base: u64,
    page_size: u64,
    size: u64,
) -> Answer {
    use table_flags as f;
    let has = |flag| flags & flag != 0;
    if flags & !f::ALL != 0 {
        return Err(HCode::H_PARAMETER.into());
    }
    let new = match (has(f::MODIFY), has(f::REGISTER)) {
        (false, _) => None,
        (true, false) => Some(0),
        (true, true) if !has(f::RADIX) => return Err(HCode::H_PARAMETER.into()),
        (true, true) => {
            if base & 0xfff != 0 {
                return Err(HCode::H_P2.into());
            }
            if page_size != 0 {
                return Err(HCode::H_P3.into());
            }
            let bytes = match size {
                0..=24 => 0x1000_u64 << size,
                _ => return Err(HCode::H_P4.into()),
            };
            if !partition.ram.contains(Gra(base), bytes) {
                return Err(HCode::H_P2.into());
            }
            Some(base | size)
        }
    };
    if new.is_some_and(|entry| entry != 0) && *partition.process_table.lock() != 0 {
        let gone = partition.nested.reset(&partition.env(host));
        gone.map_err(|_| HCode::H_LONG_BUSY_ORDER_1_MSEC)?;
    }
    let gtse = if has(f::GTSE) {
        Lpcr::GTSE
    } else {
        Lpcr::empty()
    };
    partition.choose(Lpcr::GTSE, gtse);
    if let Some(entry) = new {
        *partition.process_table.lock() = entry;
        host.set_partition_table_entry(partition.lpid, [partition.radix_root, entry]);
    }
    Ok(Outputs::NONE)
}

#[cfg(test)]
pub(crate) mod tests;
