//! The machine state register (Power ISA 3.1, book III, 4.2.1) and the cause bits that share its image in SRR1/HSRR1.

use bitflags::bitflags;

use crate::ppc_bit;

bitflags! {
    /// The machine state register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Msr: u64 {
        /// 64-bit mode.
        const SF = ppc_bit(0);
        /// Hypervisor state.
        const HV = ppc_bit(3);
        /// Vector facility available.
        const VEC = ppc_bit(38);
        /// VSX available.
        const VSX = ppc_bit(40);
        /// Secure state (ultravisor).
        const S = ppc_bit(41);
        /// External interrupts enabled.
        const EE = ppc_bit(48);
        /// Problem state.
        const PR = ppc_bit(49);
        /// Floating point available.
        const FP = ppc_bit(50);
        /// Machine checks enabled.
        const ME = ppc_bit(51);
        /// Instruction relocation.
        const IR = ppc_bit(58);
        /// Data relocation.
        const DR = ppc_bit(59);
        /// Recoverable interrupt.
        const RI = ppc_bit(62);
        /// Little-endian.
        const LE = ppc_bit(63);
        const _ = !0;
    }
}

/// Bits of SRR1/HSRR1 that an interrupt fills with its cause (33:36 and 42:47); never part of the MSR proper.
pub const SRR1_CAUSE: u64 = 0x783f_0000;

/// The transaction-state bits 29:31: no processor here has transactional memory, so a guest's MSR never has them.
pub const TRANSACTION_BITS: u64 = 0x7_0000_0000;

/// SRR1 cause of a program interrupt: illegal instruction.
pub const PROGRAM_ILLEGAL: u64 = 0x8_0000;
/// SRR1 cause of a program interrupt: privileged instruction.
pub const PROGRAM_PRIVILEGED: u64 = 0x4_0000;
/// SRR1: the instruction that caused the interrupt was prefixed (bit 34).
pub const PREFIXED: u64 = 0x2000_0000;
