//! Every register that a guest can see: one structure for partitions (L1) and for nested guests (L2).
//!
//! The surprising fact: most of it is stale while the guest's registers are in the hardware. A thread keeps the
//! special purpose and vector registers of the context it ran last ("resident") and moves them only when another
//! context takes the thread. The first part, up to [`GuestContext::trap`], is exact after every exit.
//! Who changes a field of a resident context says so in [`GuestContext::changed`], and the next entry loads it.

use bitflags::bitflags;

use crate::lpcr::{Hfscr, Lpcr};
use crate::msr::Msr;

bitflags! {
    /// Registers of a resident context that the firmware changed since the last exit. Only registers that a guest
    /// cannot change itself, or whose hardware value is meant to be replaced, have a class.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[repr(transparent)]
    pub struct Changed: u32 {
        /// LPCR, HFSCR, PCR, AMOR, HDEXCR.
        const CONTROL = 1;
        /// CIABR, DAWR0/1, DAWRX0/1.
        const DEBUG = 2;
        /// SRR0, SRR1.
        const SRR = 4;
        /// SPRG0.
        const SPRG0 = 8;
        /// DAR, DSISR.
        const FAULT = 16;
    }
}

/// A guest's registers. Layout is shared with the assembly that enters and leaves guests.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub struct GuestContext {
    // Exact after every exit.
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Next instruction.
    pub nia: u64,
    /// MSR; after a storage interrupt the raw (H)SRR1 image, cause bits included.
    pub msr: u64,
    /// Condition register, low word.
    pub cr: u64,
    /// Link register.
    pub lr: u64,
    /// Count register.
    pub ctr: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Come-from address.
    pub cfar: u64,
    /// Program priority.
    pub ppr: u64,
    /// Vector of the last exit, for example 0xc00.
    pub trap: u64,

    // Cause of the last exit, read when the vector defines them.
    /// Effective address of a hypervisor data storage interrupt.
    pub hdar: u64,
    /// Its cause; low word.
    pub hdsisr: u64,
    /// Access-segment descriptor: the guest real address of a hypervisor storage interrupt.
    pub asdr: u64,
    /// The instruction of a hypervisor emulation assistance interrupt; a prefix is in the high word.
    pub heir: u64,

    /// Registers whose values here are newer than the hardware's, when this context is resident.
    pub changed: Changed,

    // Resident: exact only when another context holds the thread.
    /// LPCR as the guest runs with it.
    pub lpcr: Lpcr,
    /// HFSCR without its cause byte; the cause of the last facility interrupt is in the top byte.
    pub hfscr: Hfscr,
    /// Processor compatibility register.
    pub pcr: u64,
    /// Authority mask override register.
    pub amor: u64,
    /// Hypervisor dynamic execution control register.
    pub hdexcr: u64,
    /// Process id.
    pub pidr: u64,

    /// The thread (PIR) that had these registers last, or [`NO_THREAD`]. A guest invalidates its translations with `tlbiel` on the
    /// thread where it runs, so those that it left on another one are not to be trusted.
    pub last_thread: u32,

    /// Added to the time base of the machine while the guest runs; a multiple of 2^24.
    pub tb_offset: u64,
    /// When the guest's decrementer goes negative, in the machine's time base.
    pub dec_expiry: u64,

    /// CIABR.
    pub ciabr: u64,
    /// DAWR0, DAWR1.
    pub dawr: [u64; 2],
    /// DAWRX0, DAWRX1.
    pub dawrx: [u64; 2],

    /// SRR0.
    pub srr0: u64,
    /// SRR1.
    pub srr1: u64,
    /// SPRG0..3.
    pub sprg: [u64; 4],
    /// DAR.
    pub dar: u64,
    /// DSISR, low word.
    pub dsisr: u64,
    /// Virtual time base.
    pub vtb: u64,
    /// PURR.
    pub purr: u64,
    /// SPURR.
    pub spurr: u64,
    /// Instruction count.
    pub ic: u64,
    /// FSCR.
    pub fscr: u64,
    /// AMR.
    pub amr: u64,
    /// IAMR.
    pub iamr: u64,
    /// UAMOR.
    pub uamor: u64,
    /// DSCR.
    pub dscr: u64,
    /// TAR.
    pub tar: u64,
    /// BESCR.
    pub bescr: u64,
    /// EBBHR.
    pub ebbhr: u64,
    /// EBBRR.
    pub ebbrr: u64,
    /// DEXCR.
    pub dexcr: u64,
    /// HASHKEYR.
    pub hashkeyr: u64,
    /// HASHPKEYR.
    pub hashpkeyr: u64,
    /// CTRL; bit 63 is the run latch.
    pub ctrl: u64,
    /// Pending directed privileged doorbells.
    pub dpdes: u64,
    /// PSPB.
    pub pspb: u64,
    /// WORT: no register on these processors, kept for its element.
    pub wort: u64,
    /// PSSCR, the part that a guest may see.
    pub psscr: u64,

    /// MMCR0..3.
    pub mmcr: [u64; 4],
    /// MMCRA.
    pub mmcra: u64,
    /// PMC1..6.
    pub pmc: [u64; 6],
    /// SIER, SIER2, SIER3.
    pub sier: [u64; 3],
    /// SIAR.
    pub siar: u64,
    /// SDAR.
    pub sdar: u64,

    /// FPSCR.
    pub fpscr: u64,
    /// VSCR, low word.
    pub vscr: u64,
    /// VRSAVE, low word.
    pub vrsave: u64,
    /// Vector-scalar registers: 0..31 over the floating-point registers, 32..63 the vector registers.
    /// First doubleword of each is the high (floating-point) half.
    pub vsr: [[u64; 2]; 64],
}

/// No thread's PIR.
pub const NO_THREAD: u32 = u32::MAX;

/// MMCR0: counters frozen.
pub const MMCR0_FC: u64 = 0x8000_0000;
/// MMCR0: the guest controls the PMCs' extension bits.
pub const MMCR0_PMCCEXT: u64 = 0x200;
/// MMCRA: branch history recording off.
pub const MMCRA_BHRB_DISABLE: u64 = 0x20_0000_0000;
/// PPR of a program at medium-low priority, what Linux starts with.
pub const PPR_RESET: u64 = 3 << 50;

impl GuestContext {
    /// The registers after a system reset of the guest: everything zero but what reference values exist for
    /// (guest state elements' reset column). No register of the firmware shows through.
    #[must_use]
    pub fn reset() -> Self {
        Self {
            gpr: [0; 32],
            nia: 0x100,
            msr: (Msr::SF | Msr::ME).bits(),
            cr: 0,
            lr: 0,
            ctr: 0,
            xer: 0,
            cfar: 0,
            ppr: PPR_RESET,
            trap: 0,
            hdar: 0,
            hdsisr: 0,
            asdr: 0,
            heir: 0,
            changed: Changed::empty(),
            lpcr: Lpcr::GUEST_BASE,
            hfscr: Hfscr::empty(),
            pcr: 0,
            amor: 0,
            hdexcr: 0,
            pidr: 0,
            last_thread: NO_THREAD,
            tb_offset: 0,
            dec_expiry: i64::MAX.cast_unsigned(),
            ciabr: 0,
            dawr: [0; 2],
            dawrx: [0; 2],
            srr0: 0,
            srr1: 0,
            sprg: [0; 4],
            dar: 0,
            dsisr: 0,
            vtb: 0,
            purr: 0,
            spurr: 0,
            ic: 0,
            fscr: 0,
            amr: 0,
            iamr: 0,
            uamor: 0,
            dscr: 0,
            tar: 0,
            bescr: 0,
            ebbhr: 0,
            ebbrr: 0,
            dexcr: 0,
            hashkeyr: 0,
            hashpkeyr: 0,
            ctrl: 1,
            dpdes: 0,
            pspb: 0,
            wort: 0,
            psscr: 0,
            mmcr: [MMCR0_FC | MMCR0_PMCCEXT, 0, 0, 0],
            mmcra: MMCRA_BHRB_DISABLE,
            pmc: [0; 6],
            sier: [0; 3],
            siar: 0,
            sdar: 0,
            fpscr: 0,
            vscr: 0,
            vrsave: 0,
            vsr: [[0; 2]; 64],
        }
    }

    /// The MSR without the cause bits that an interrupt left in it.
    #[must_use]
    pub const fn machine_state(&self) -> Msr {
        Msr::from_bits_retain(self.msr & !crate::msr::SRR1_CAUSE)
    }

    /// Delivers an interrupt at `vector` to the guest (ISA 3.1 book III 7.5): SRR0/1 take the interrupted state with
    /// `cause` in SRR1, ILE and AIL choose byte order and place. 0x100 and 0x200 are never relocated.
    ///
    /// The caller makes sure that SRR0/1 here are (or become) the hardware's: they are marked changed.
    pub fn interrupt(&mut self, vector: u64, cause: u64) {
        let old = self.machine_state();
        self.srr0 = self.nia;
        self.srr1 = old.bits() | cause;
        let mut new = Msr::SF | Msr::ME;
        if self.lpcr.contains(Lpcr::ILE) {
            new |= Msr::LE;
        }
        self.nia = vector;
        let relocated = self.lpcr.contains(Lpcr::AIL)
            && old.contains(Msr::IR | Msr::DR)
            && !matches!(vector, 0x100 | 0x200);
        if relocated {
            new |= Msr::IR | Msr::DR;
            self.nia = 0xc000_0000_0000_4000 + vector;
        }
        self.msr = new.bits();
        self.changed |= Changed::SRR;
    }
}

impl Default for GuestContext {
    fn default() -> Self {
        Self::reset()
    }
}

#[cfg(test)]
mod tests {
    use super::{Changed, GuestContext};
    use crate::lpcr::Lpcr;
    use crate::msr::{Msr, PROGRAM_PRIVILEGED};

    #[test]
    fn interrupt_with_ail_goes_to_the_relocated_vector() {
        let mut context = GuestContext::reset();
        context.lpcr |= Lpcr::ILE | Lpcr::AIL;
        context.msr = (Msr::SF | Msr::ME | Msr::EE | Msr::IR | Msr::DR | Msr::LE).bits();
        context.nia = 0x1234;
        context.interrupt(0x700, PROGRAM_PRIVILEGED);
        assert_eq!(context.nia, 0xc000_0000_0000_4700);
        assert_eq!(
            context.msr,
            (Msr::SF | Msr::ME | Msr::IR | Msr::DR | Msr::LE).bits()
        );
        assert_eq!(context.srr0, 0x1234);
        assert!(context.srr1 & PROGRAM_PRIVILEGED != 0);
        assert!(context.changed.contains(Changed::SRR));
    }

    #[test]
    fn interrupt_in_real_mode_is_not_relocated() {
        let mut context = GuestContext::reset();
        context.lpcr |= Lpcr::AIL;
        context.interrupt(0x500, 0);
        assert_eq!(
            (context.nia, context.msr),
            (0x500, (Msr::SF | Msr::ME).bits())
        );
    }
}
