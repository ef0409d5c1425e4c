//! The first 32 KiB of L1 real memory: vectors, what they save, and the areas that assembly reaches without a base
//! register. Owns nothing else; the surprising fact is that addresses below 0x8000 fit in a displacement, which is
//! how registers are captured without changing one.

/// Where the vectors go.
pub(crate) const VECTORS: u64 = 0x100;
/// Vector of the last interrupt.
pub(crate) const VECTOR: u64 = 0x3010;
/// SRR0 of the last interrupt.
pub(crate) const SRR0: u64 = 0x3018;
/// SRR1 of the last interrupt.
pub(crate) const SRR1: u64 = 0x3020;
/// DAR of the last interrupt.
pub(crate) const DAR: u64 = 0x3028;
/// DSISR of the last interrupt.
pub(crate) const DSISR: u64 = 0x3030;
/// Where a synchronous interrupt resumes; 0: nowhere, it is fatal. Used once.
pub(crate) const RECOVER: u64 = 0x3038;
/// Interrupts so far.
pub(crate) const COUNT: u64 = 0x3040;
/// MSR after a recovered interrupt.
pub(crate) const RESUME_MSR: u64 = 0x3048;
/// Function for unexpected interrupts.
pub(crate) const FATAL: u64 = 0x3050;
/// Its stack.
pub(crate) const FATAL_STACK: u64 = 0x3058;

/// Registers at entry: r31, r30, SRR0, SRR1, MSR, LR, then 1 when entered big-endian (these seven are in the byte
/// order of the entry), CR, CTR, XER.
pub(crate) const ENTRY: u64 = 0x3100;
/// r0..r29 at entry.
pub(crate) const ENTRY_GPR: u64 = 0x3200;

/// Address and MSR for the way back from RTAS, both big-endian; its code is at 0x2000 (`asm/vectors.S`).
pub(crate) const RTAS_RETURN: u64 = 0x4010;

/// Registers as the dump code stores them; the same address in L1 and in L2.
pub(crate) const DUMP: u64 = 0x5000;
/// Registers as the load code reads them; the same layout.
pub(crate) const LOAD: u64 = 0x6000;
/// First byte that is not part of this.
pub(crate) const END: u64 = 0x8000;
