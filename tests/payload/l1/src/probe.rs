//! Single instructions that may trap, the machine state register and the time base.
//! Owns the interrupt set-up of L1. The surprising fact: a probed instruction that traps resumes behind itself,
//! because the probe arms the address first (see `asm/vectors.S`).
#![expect(unsafe_code, reason = "instructions that Rust does not have")]

use core::arch::asm;

use isa::msr::Msr;

use crate::{low, mem};

/// What an interrupt left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    /// Vector, for example 0x700.
    pub vector: u64,
    /// SRR0.
    pub srr0: u64,
    /// SRR1.
    pub srr1: u64,
    /// DAR.
    pub dar: u64,
    /// DSISR.
    pub dsisr: u64,
}

/// MSR of the payload.
pub(crate) const MSR: Msr = Msr::SF
    .union(Msr::ME)
    .union(Msr::RI)
    .union(Msr::FP)
    .union(Msr::VEC)
    .union(Msr::VSX)
    .union(Msr::LE);

/// Installs the vectors, little-endian ones (H_SET_MODE comes next), and turns the register files on.
pub(crate) fn init(fatal: extern "C" fn(u64) -> !) {
    mem::install(low::VECTORS, mem::vectors());
    mem::write64(low::COUNT, 0);
    mem::write64(low::RECOVER, 0);
    mem::write64(low::RESUME_MSR, MSR.bits());
    mem::write64(low::FATAL, fatal as *const () as u64);
    mem::write64(low::FATAL_STACK, mem::fatal_top() - 256);
    set_msr(MSR);
}

/// Interrupts taken so far, of any kind.
#[must_use]
pub(crate) fn interrupts() -> u64 {
    mem::read64(low::COUNT)
}

/// The last interrupt.
#[must_use]
pub(crate) fn last() -> Trap {
    Trap {
        vector: mem::read64(low::VECTOR),
        srr0: mem::read64(low::SRR0),
        srr1: mem::read64(low::SRR1),
        dar: mem::read64(low::DAR),
        dsisr: mem::read64(low::DSISR),
    }
}

/// The trap of a probe, given the count before it.
fn since(before: u64) -> Option<Trap> {
    mem::write64(low::RECOVER, 0);
    (interrupts() != before).then(last)
}

/// Runs one instruction with the resume address armed.
macro_rules! armed {
    ($instruction:literal $(, $($operand:tt)*)?) => {{
        let before = interrupts();
        // SAFETY: the instruction either completes with the operands given, or traps and resumes at label 3 with all
        // registers but the temporary unchanged; 0x3038 is `low::RECOVER`.
        unsafe {
            asm!("addpcis {t}, 0", "2: addi {t}, {t}, (3f - 2b)", "std {t}, 0x3038(0)", $instruction, "3:",
                t = out(reg_nonzero) _, out("xer") _, out("lr") _, out("ctr") _, $($($operand)*)?);
        }
        since(before)
    }};
}

/// Loads a doubleword from any address.
pub(crate) fn load(addr: u64) -> Result<u64, Trap> {
    let mut value = 0u64;
    match armed!("ld {v}, 0({a})", v = inout(reg) value, a = in(reg_nonzero) addr) {
        Some(trap) => Err(trap),
        None => Ok(value),
    }
}

/// Loads a halfword from any address.
pub(crate) fn load16(addr: u64) -> Result<u16, Trap> {
    let mut value = 0u64;
    match armed!("lhz {v}, 0({a})", v = inout(reg) value, a = in(reg_nonzero) addr) {
        Some(trap) => Err(trap),
        None => Ok(value as u16),
    }
}

/// Stores a byte to an address outside the payload's memory.
pub(crate) fn store8_outside(addr: u64, value: u8) -> Result<(), Trap> {
    assert!(addr >= 1 << 40, "payload bug: may be memory");
    match armed!("stb {v}, 0({a})", v = in(reg) u64::from(value), a = in(reg_nonzero) addr) {
        Some(trap) => Err(trap),
        None => Ok(()),
    }
}

/// Stores a doubleword to an address outside the payload's memory: to what must not be writable, or to a device.
pub(crate) fn store_outside(addr: u64, value: u64) -> Result<(), Trap> {
    assert!(addr >= 1 << 40, "payload bug: may be memory");
    match armed!("std {v}, 0({a})", v = in(reg) value, a = in(reg_nonzero) addr) {
        Some(trap) => Err(trap),
        None => Ok(()),
    }
}

/// Branches to an address outside the payload's memory.
pub(crate) fn fetch(addr: u64) -> Option<Trap> {
    assert!(addr >= 1 << 40, "payload bug: may be memory");
    armed!("mtctr {a}\n bctrl", a = in(reg) addr)
}

/// Executes an instruction word that must trap.
macro_rules! word_probe {
    ($name:ident, $word:literal, $doc:literal) => {
        #[doc = $doc]
        pub(crate) fn $name() -> Option<Trap> {
            armed!($word)
        }
    };
}

word_probe!(
    illegal,
    ".long 0",
    "The all-zero word, which is no instruction."
);
word_probe!(sc0, "sc 0", "A system call to L1's own kernel.");
word_probe!(hrfid, "hrfid", "Return from a hypervisor interrupt.");

/// `tlbie` of partition scope (RIC = 2, PRS = 0, R = 1) for every entry of partition 0.
pub(crate) fn tlbie_partition() -> Option<Trap> {
    armed!("tlbie {rb}, {rs}, 2, 0, 1", rb = in(reg_nonzero) 0xc00u64, rs = in(reg_nonzero) 0u64)
}

/// `sc 1` from problem state: drops to PR = 1 for that instruction. Problem state is always translated: a process
/// table must map the payload one to one.
pub(crate) fn sc1_in_problem_state() -> Option<Trap> {
    armed!(
        "mfmsr {m}\n ori {m}, {m}, 0x4000\n mtspr 27, {m}\n addpcis {m}, 0\n 4: addi {m}, {m}, (5f - 4b)\n mtspr 26, {m}\n rfid\n 5: sc 1\n b 5b",
        m = out(reg_nonzero) _,
        out("r3") _, out("r4") _, out("r5") _, out("r6") _, out("r7") _, out("r8") _, out("r9") _, out("r10") _,
        out("r11") _, out("r12") _, out("r0") _
    )
}

/// A hypercall with one argument that ends in an interrupt at once.
pub(crate) fn call_expecting_interrupt(number: u64, argument: u64) -> Option<Trap> {
    armed!(
        "sc 1",
        inout("r3") number => _, inout("r4") argument => _, out("r5") _, out("r6") _, out("r7") _, out("r8") _,
        out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r0") _, out("cr0") _, out("cr1") _,
        out("cr5") _, out("cr6") _, out("cr7") _
    )
}

/// Reads a special purpose register that may not be readable.
pub(crate) fn mfspr<const N: u32>() -> Result<u64, Trap> {
    let mut value = 0u64;
    match armed!("mfspr {v}, {n}", v = inout(reg) value, n = const N) {
        Some(trap) => Err(trap),
        None => Ok(value),
    }
}

/// Writes a special purpose register that may not be writable.
pub(crate) fn mtspr<const N: u32>(value: u64) -> Result<(), Trap> {
    match armed!("mtspr {n}, {v}", v = in(reg) value, n = const N) {
        Some(trap) => Err(trap),
        None => Ok(()),
    }
}

/// The time base.
#[must_use]
pub(crate) fn time_base() -> u64 {
    let value: u64;
    // SAFETY: reading the time base has no effect.
    unsafe { asm!("mftb {0}", out(reg) value) };
    value
}

/// A decrementer that does not end while the program runs, however slow its machine: 36 minutes.
pub(crate) const FAR: u64 = 1 << 40;

/// Sets the decrementer.
pub(crate) fn set_decrementer(ticks: u64) {
    // SAFETY: the 0x900 handler of the vectors is installed for the whole run.
    unsafe { asm!("mtdec {0}", in(reg) ticks) };
}

/// Reads the decrementer.
#[must_use]
pub(crate) fn decrementer() -> u64 {
    let value: u64;
    // SAFETY: reading the decrementer has no effect.
    unsafe { asm!("mfdec {0}", out(reg) value) };
    value
}

/// Sets the machine state register; byte order and relocation stay as they are.
pub(crate) fn set_msr(value: Msr) {
    assert!(value.contains(Msr::LE | Msr::SF) && !value.intersects(Msr::IR | Msr::DR | Msr::PR));
    // SAFETY: same byte order, width and relocation as now, so the next instruction is fetched and executed alike.
    unsafe { asm!("mtmsrd {0}, 0", "isync", in(reg) value.bits()) };
}

/// Enables external and decrementer interrupts until one comes, at most `ticks` long. Tells what came.
pub(crate) fn wait_interrupt(ticks: u64) -> Option<Trap> {
    let before = interrupts();
    let start = time_base();
    set_msr(MSR | Msr::EE);
    while interrupts() == before && time_base().wrapping_sub(start) < ticks {}
    set_msr(MSR);
    (interrupts() != before).then(last)
}
