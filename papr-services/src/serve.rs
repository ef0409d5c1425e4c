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
use crate::partition::{Partition, Stop};
use crate::set_mode::set_mode;
use crate::table::Hcall;
use crate::term::Term;

/// What an hcall leads to.
#[derive(Debug)]
pub enum Next {
    /// A code in r3 and outputs from r4.
    Return(Answer),
    /// H_SUCCESS, but first the vCPU waits for an interrupt.
    Cede,
    /// The partition ends.
    Stop(Stop),
}

impl From<Answer> for Next {
    fn from(answer: Answer) -> Self {
        Self::Return(answer)
    }
}

/// What the thread does after [`hypercall`].
#[derive(Debug)]
pub enum After {
    /// Enters the same vCPU again: its registers hold the answer.
    Resume,
    /// Waits until an interrupt, the decrementer, a doorbell or [`Vcpu::is_wanted`] wakes the vCPU, then enters it.
    /// External interrupts are enabled in its MSR.
    ///
    /// [`Vcpu::is_wanted`]: crate::partition::Vcpu::is_wanted
    Cede,
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
pub fn serve<H: Host>(
    call: Hcall,
    vcpu: &mut GuestContext,
    id: u32,
    partition: &Partition,
    host: &H,
) -> Next {
    let _ = id;
    match call {
        Hcall::H_SET_SPRG0 { value } => set_sprg0(vcpu, value).into(),
        Hcall::H_GET_TERM_CHAR { unit } => partition.term.get(host, unit).into(),
        Hcall::H_PUT_TERM_CHAR {
            unit,
            len,
            high,
            low,
        } => Term::put(host, unit, len, high, low).into(),
        Hcall::H_CEDE {} => cede(vcpu, id, partition),
        Hcall::H_GET_CPU_CHARACTERISTICS {} => {
            let says = partition.policy.characteristics;
            Next::Return(Ok([says.character, says.behaviour].into()))
        }
        Hcall::H_RANDOM {} => random(partition, host).into(),
        Hcall::H_SET_MODE {
            flags,
            resource,
            value1,
            value2,
        } => set_mode(vcpu, partition, flags, resource, value1, value2).into(),
        Hcall::H_REGISTER_PROC_TBL {
            flags,
            base,
            page_size,
            size,
        } => register_process_table(partition, host, flags, base, page_size, size).into(),
        // Not written yet: these rows come next.
        _ => Next::Return(Err(HCode::H_FUNCTION.into())),
    }
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
    let prodded = partition.vcpu(id.into()).is_some_and(|v| v.take_prod());
    if prodded || partition.interrupt_pending(id) {
        return Next::Return(Ok(Outputs::NONE));
    }
    Next::Cede
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
    /// Hash with a process table.
    pub(super) const HASH: u64 = 0x02;
    /// The partition executes `tlbie` itself.
    pub(super) const GTSE: u64 = 0x01;
    pub(super) const ALL: u64 = MODIFY | REGISTER | RADIX | HASH | GTSE;
}

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
    // There is no hash translation here.
    if flags & !f::ALL != 0 || has(f::HASH) {
        return Err(HCode::H_PARAMETER.into());
    }
    let new = match (has(f::MODIFY), has(f::REGISTER)) {
        (false, _) => None,
        (true, false) => Some(0),
        (true, true) if !has(f::RADIX) => return Err(HCode::H_PARAMETER.into()),
        (true, true) => {
            if base & 0xfff != 0 || base >> 60 != 0 {
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
