//! The processor's own registers: time base, decrementer, machine state, the thread's number.
#![expect(unsafe_code, reason = "instructions that Rust does not have")]

use core::arch::asm;

use isa::msr::Msr;

/// MSR of the payload.
pub(crate) const MSR: Msr = Msr::SF
    .union(Msr::HV)
    .union(Msr::ME)
    .union(Msr::RI)
    .union(Msr::FP)
    .union(Msr::VEC)
    .union(Msr::VSX)
    .union(Msr::LE);

/// The time base.
#[must_use]
pub(crate) fn time_base() -> u64 {
    let value: u64;
    // SAFETY: reading the time base has no effect.
    unsafe { asm!("mftb {0}", out(reg) value) };
    value
}

/// A decrementer that does not run down soon; it has 32 bits.
pub(crate) const FAR: u64 = 0x7fff_ffff;

/// Sets the decrementer.
pub(crate) fn set_decrementer(ticks: u64) {
    // SAFETY: the 0x900 handler of the vectors is installed for the whole run.
    unsafe { asm!("mtdec {0}", in(reg) ticks) };
}

/// Number of the thread that runs.
#[must_use]
pub(crate) fn pir() -> u64 {
    let value: u64;
    // SAFETY: reading PIR has no effect.
    unsafe { asm!("mfspr {0}, 1023", out(reg) value) };
    value & 0xffff
}

/// Says which [`crate::thread::Thread`] this hardware thread is, for its vectors.
pub(crate) fn set_thread(address: u64) {
    // SAFETY: HSPRG0 is the kernel's, and only the payload's vectors read it.
    unsafe { asm!("mtspr 304, {0}", in(reg) address) };
}

/// Sets the machine state register to [`MSR`].
pub(crate) fn set_msr() {
    // SAFETY: same byte order, width and relocation as now, so the next instruction is fetched and executed alike.
    unsafe { asm!("mtmsrd {0}, 0", "isync", in(reg) MSR.bits()) };
}

/// Waits a little. Without the instruction that gives way to other threads: QEMU leaves its loop for that and comes
/// back through one lock, at which a thread that waits like this starves while others use devices.
pub(crate) fn relax() {
    for _ in 0..64 {
        // SAFETY: does nothing.
        unsafe { asm!("nop", options(nomem, nostack)) };
    }
}
