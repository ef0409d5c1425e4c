//! The time facility management register (TFMR): its state and its errors (reference/hardware.md 7.7).
//!
//! Surprising fact: the register is the core's, but for the errors of a thread, which each thread sees of its own.

use crate::ppc_bit;

/// The hypervisor decrementer's parity.
pub const HDEC_PARITY: u64 = ppc_bit(26);
/// The time base is valid.
pub const VALID: u64 = ppc_bit(41);
/// The decrementer's parity.
pub const DEC_PARITY: u64 = ppc_bit(59);
/// The register itself is not what was written to it.
pub const CORRUPT: u64 = ppc_bit(60);
/// What is wrong with this thread's: PURR, SPURR and decrementer parity, overflows. Written 1 to clear.
pub const THREAD_ERRORS: u64 = ppc_bit(57) | ppc_bit(58) | DEC_PARITY | ppc_bit(61) | ppc_bit(62);
/// No synchronisation or no step came, or the residue is wrong. Written 1 to clear.
pub const MISSED: u64 = ppc_bit(43) | ppc_bit(44) | ppc_bit(45);
/// State machine, control. Written 1 to clear, but only if they are set.
pub const STUCK_ERRORS: u64 = ppc_bit(27) | ppc_bit(46);
/// What is wrong with the core's: transfer, and all of the above that is not a thread's.
pub const CORE_ERRORS: u64 = ppc_bit(25) | STUCK_ERRORS | MISSED | CORRUPT;
