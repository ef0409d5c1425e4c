//! The logical partitioning control register (Power ISA 3.1, book III, 2.2) and the hypervisor facility register.

use bitflags::bitflags;

use crate::ppc_bit;

bitflags! {
    /// LPCR. AIL (bits 39:40) and DPFD (9:11) are fields: see [`Lpcr::AIL`] and [`Lpcr::DPFD`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[repr(transparent)]
    pub struct Lpcr: u64 {
        /// Default prefetch depth, three bits.
        const DPFD = 0x0070_0000_0000_0000;
        /// Interrupt little-endian.
        const ILE = ppc_bit(38);
        /// Alternate interrupt location, two bits: only 0 and 3 are used.
        const AIL = 0x0180_0000;
        /// Hypervisor alternate interrupt location.
        const HAIL = ppc_bit(37);
        /// Virtualised privileged state raises emulation assistance.
        const EVIRT = ppc_bit(42);
        /// Use process table.
        const UPRT = ppc_bit(41);
        /// Host radix.
        const HR = ppc_bit(43);
        /// Online: PURR and SPURR count.
        const ONL = ppc_bit(45);
        /// Large decrementer.
        const LD = ppc_bit(46);
        /// Power-saving exit causes, five bits.
        const PECE = 0x0001_f000;
        /// Mediated external exception request.
        const MER = ppc_bit(52);
        /// Guest translation shootdown enable.
        const GTSE = ppc_bit(53);
        /// Translation control.
        const TC = ppc_bit(54);
        /// External interrupts go to the partition's SRR0/1; bits 60:61, both are set for that.
        const LPES = 0xc;
        /// Hypervisor external interrupt control: OS-ring interrupts never interrupt the hypervisor.
        const HEIC = ppc_bit(59);
        /// Hypervisor virtualisation interrupts enabled.
        const HVICE = ppc_bit(62);
        /// Hypervisor decrementer interrupts enabled.
        const HDICE = ppc_bit(63);
        const _ = !0;
    }
}

impl Lpcr {
    /// What every partition and every nested guest runs with, whatever its kernel asks for: radix translation by a
    /// process table, hypervisor decrementer and virtualisation interrupts on.
    pub const GUEST_BASE: Self = Self::UPRT
        .union(Self::HR)
        .union(Self::HDICE)
        .union(Self::HVICE)
        .union(Self::HEIC)
        .union(Self::ONL)
        .union(Self::PECE);
}

bitflags! {
    /// HFSCR: which facilities a guest may use; the top byte holds the cause of a facility-unavailable interrupt.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[repr(transparent)]
    pub struct Hfscr: u64 {
        /// Prefixed instructions.
        const PREFIX = 0x2000;
        /// `msgsndp`, TIR and DPDES.
        const MSGP = 0x400;
        /// Target address register.
        const TAR = 0x100;
        /// Event-based branches.
        const EBB = 0x80;
        /// Branch history rolling buffer.
        const BHRB = 0x10;
        /// Performance monitor.
        const PM = 0x8;
        /// Data stream control register.
        const DSCR = 0x4;
        /// Vector and VSX.
        const VECVSX = 0x2;
        /// Floating point.
        const FP = 0x1;
        const _ = !0;
    }
}

/// The cause byte of HFSCR.
pub const HFSCR_CAUSE: u64 = 0xff << 56;
