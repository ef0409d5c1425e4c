//! Special purpose registers as types: one row of a table per register, one instruction per access.
//!
//! Owns `mfspr`, `mtspr` and `mfmsr`. On the host every test thread has a register file of its own ([`fake`]); reading
//! a register that the test did not set fails the test. The surprising fact: QEMU answers `mfspr` of a register that it
//! does not model by leaving the target register unchanged and raising nothing, so presence can never be found by
//! reading (reference/hardware.md 7.4).
//!
//! Numbers are the privileged, writable ones (Power ISA 3.1, book III, 5.4.4). Context synchronisation is the writer's
//! duty: most control registers want [`crate::barrier::isync`] after the write.
#![expect(
    unsafe_code,
    reason = "owns the instructions that move special purpose registers"
)]

use crate::lpcr::{Hfscr, Lpcr};
use crate::msr::Msr;

/// A special purpose register's value.
pub trait Spr: Copy {
    /// The number that the instruction carries.
    const NUMBER: u16;
    /// The value from the register's image.
    fn from_bits(bits: u64) -> Self;
    /// The register's image.
    fn bits(self) -> u64;
}

/// Reads a special purpose register: one `mfspr`.
#[inline(always)]
#[must_use]
pub fn mfspr<S: Spr>() -> S {
    S::from_bits(imp::mfspr::<S>())
}

/// Writes a special purpose register: one `mtspr`, no synchronisation.
///
/// # Safety
/// The value must keep every promise that running code relies on (where memory is, who may interrupt, which
/// translation is in force).
#[inline(always)]
pub unsafe fn mtspr<S: Spr>(value: S) {
    // SAFETY: the caller vouches for the value.
    unsafe { imp::mtspr(value) }
}

/// Reads the machine state register.
#[inline(always)]
#[must_use]
pub fn mfmsr() -> Msr {
    Msr::from_bits_retain(imp::mfmsr())
}

macro_rules! registers {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal;)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Default)]
            #[repr(transparent)]
            pub struct $name(pub u64);

            impl Spr for $name {
                const NUMBER: u16 = $number;
                #[inline(always)]
                fn from_bits(bits: u64) -> Self {
                    Self(bits)
                }
                #[inline(always)]
                fn bits(self) -> u64 {
                    self.0
                }
            }

            impl core::fmt::Debug for $name {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    write!(f, concat!(stringify!($name), "({:#x})"), self.0)
                }
            }
        )+

        /// Every register of the table: number and name. For dumps and for tests.
        pub const NAMES: &[(u16, &str)] = &[
            $(($number, stringify!($name)),)+
            (<Lpcr as Spr>::NUMBER, "Lpcr"),
            (<Hfscr as Spr>::NUMBER, "Hfscr"),
        ];
    };
}

impl Spr for Lpcr {
    const NUMBER: u16 = 318;
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self::from_bits_retain(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        Self::bits(&self)
    }
}

impl Spr for Hfscr {
    const NUMBER: u16 = 190;
    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self::from_bits_retain(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        Self::bits(&self)
    }
}

registers! {
    // Problem state and supervisor, in the order of their numbers.
    /// Fixed-point exception register.
    Xer = 1;
    /// Link register.
    Lr = 8;
    /// Count register.
    Ctr = 9;
    /// Data stream control.
    Dscr = 17;
    /// Data storage interrupt status, 32 bits.
    Dsisr = 18;
    /// Data address.
    Dar = 19;
    /// Decrementer: counts down with the time base, interrupts below zero.
    Dec = 22;
    /// Machine status save/restore 0: where an interrupt came from.
    Srr0 = 26;
    /// Machine status save/restore 1: the MSR of that moment, and cause bits.
    Srr1 = 27;
    /// Come-from address.
    Cfar = 28;
    /// Authority mask.
    Amr = 29;
    /// Process id. In the guest's quadrant 0 it selects the process table entry.
    Pidr = 48;
    /// Instruction authority mask.
    Iamr = 61;
    /// Run latch, as read. Written through [`CtrlWrite`].
    Ctrl = 136;
    /// Run latch, as written.
    CtrlWrite = 152;
    /// Facility status and control.
    Fscr = 153;
    /// User authority mask override.
    Uamor = 157;
    /// Problem state priority boost, 32 bits.
    Pspb = 159;
    /// Directed privileged doorbell state.
    Dpdes = 176;
    /// Data address watchpoint 0.
    Dawr0 = 180;
    /// Data address watchpoint 1.
    Dawr1 = 181;
    /// Relative priority.
    Rpr = 186;
    /// Completed instruction breakpoint.
    Ciabr = 187;
    /// Data address watchpoint 0, extension.
    Dawrx0 = 188;
    /// Data address watchpoint 1, extension.
    Dawrx1 = 189;
    /// Vector save, a convention of compilers.
    Vrsave = 256;
    /// Time base, as read. [`crate::timebase::now`] is the way to read the time.
    Tb = 268;
    /// Software use 0.
    Sprg0 = 272;
    /// Software use 1.
    Sprg1 = 273;
    /// Software use 2.
    Sprg2 = 274;
    /// Software use 3.
    Sprg3 = 275;
    /// Lower word of the time base, as written.
    Tbl = 284;
    /// Upper word of the time base, as written.
    Tbu = 285;
    /// Upper 40 bits of the time base, as written.
    Tbu40 = 286;
    /// Processor version: family in the upper half word.
    Pvr = 287;

    // Hypervisor.
    /// Hypervisor software use 0.
    Hsprg0 = 304;
    /// Hypervisor software use 1.
    Hsprg1 = 305;
    /// Hypervisor data storage interrupt status, 32 bits.
    Hdsisr = 306;
    /// Hypervisor data address.
    Hdar = 307;
    /// Scaled processor utilisation.
    Spurr = 308;
    /// Processor utilisation.
    Purr = 309;
    /// Hypervisor decrementer.
    Hdec = 310;
    /// Hypervisor real mode offset.
    Hrmor = 313;
    /// Hypervisor save/restore 0.
    Hsrr0 = 314;
    /// Hypervisor save/restore 1.
    Hsrr1 = 315;
    /// Time facility management.
    Tfmr = 317;
    /// Logical partition id.
    Lpidr = 319;
    /// Hypervisor maintenance exceptions. A write ANDs: see [`Hmer`]'s use in the XSCOM driver.
    Hmer = 336;
    /// Hypervisor maintenance exception enables.
    Hmeer = 337;
    /// Processor compatibility: which newer facilities problem state must not see.
    Pcr = 338;
    /// Hypervisor emulation instruction.
    Heir = 339;
    /// Authority mask override.
    Amor = 349;
    /// Partition table control: root of the partition table and its size.
    Ptcr = 464;
    /// Hash key of problem state.
    Hashkeyr = 468;
    /// Hash key of privileged state.
    Hashpkeyr = 469;
    /// Hypervisor's dynamic execution control.
    Hdexcr = 471;

    // Performance monitor, privileged numbers.
    /// Sampled instruction event 2.
    Sier2 = 752;
    /// Sampled instruction event 3.
    Sier3 = 753;
    /// Monitor mode control 3.
    Mmcr3 = 754;
    /// Sampled instruction event.
    Sier = 784;
    /// Monitor mode control 2.
    Mmcr2 = 785;
    /// Monitor mode control A.
    Mmcra = 786;
    /// Counter 1, 32 bits.
    Pmc1 = 787;
    /// Counter 2.
    Pmc2 = 788;
    /// Counter 3.
    Pmc3 = 789;
    /// Counter 4.
    Pmc4 = 790;
    /// Counter 5.
    Pmc5 = 791;
    /// Counter 6.
    Pmc6 = 792;
    /// Monitor mode control 0.
    Mmcr0 = 795;
    /// Sampled instruction address.
    Siar = 796;
    /// Sampled data address.
    Sdar = 797;
    /// Monitor mode control 1.
    Mmcr1 = 798;

    // The rest, in the order of their numbers.
    /// Event-based branch handler.
    Ebbhr = 804;
    /// Event-based branch return.
    Ebbrr = 805;
    /// Branch event status and control.
    Bescr = 806;
    /// Target address.
    Tar = 815;
    /// Access segment descriptor: the guest real page of a partition-scoped fault.
    Asdr = 816;
    /// Processor stop status and control, as a partition sees it.
    PsscrGuest = 823;
    /// Dynamic execution control.
    Dexcr = 828;
    /// Instruction counter.
    Ic = 848;
    /// Virtual time base.
    Vtb = 849;
    /// Processor stop status and control.
    Psscr = 855;
    /// Workload optimisation, a relic: the ISA reserves it.
    Wort = 895;
    /// Program priority.
    Ppr = 896;
    /// Thread switch control.
    Tscr = 921;
    /// Hardware implementation 0.
    Hid0 = 1008;
    /// Processor id: the thread's name on the interrupt and SCOM fabric.
    Pir = 1023;
}

impl Pvr {
    /// The processor family, for example 0x80 for POWER10.
    #[must_use]
    pub const fn family(self) -> u32 {
        ((self.0 >> 16) & 0xffff) as u32
    }

    /// Major and minor revision: what "DD2.0" names.
    #[must_use]
    pub const fn revision(self) -> (u8, u8) {
        (((self.0 >> 8) & 0xf) as u8, (self.0 & 0xf) as u8)
    }

    /// Whether this thread belongs to a fused (SMT8) core; on both chips bit 0x1000 means a small core.
    #[must_use]
    pub const fn is_fused_core(self) -> bool {
        self.0 & 0x1000 == 0
    }
}

impl Pir {
    /// Fabric topology index of the chip, which counts 16 TiB steps of its devices' addresses.
    #[must_use]
    pub const fn chip(self) -> u8 {
        ((self.0 >> 8) & 0xf) as u8
    }

    /// Small core on the chip, 0 to 31, when cores are not fused.
    #[must_use]
    pub const fn small_core(self) -> u8 {
        ((self.0 >> 2) & 0x3f) as u8
    }

    /// Thread in the small core, 0 to 3, when cores are not fused.
    #[must_use]
    pub const fn small_core_thread(self) -> u8 {
        (self.0 & 3) as u8
    }
}

#[cfg(target_arch = "powerpc64")]
mod imp {
    use super::Spr;
    use core::arch::asm;

    #[inline(always)]
    pub(super) fn mfspr<S: Spr>() -> u64 {
        let value;
        // SAFETY: reading a register of this crate's table has no effect on memory or control flow.
        unsafe {
            asm!("mfspr {v}, {n}", v = out(reg) value, n = const S::NUMBER,
                 options(nomem, nostack, preserves_flags));
        }
        value
    }

    #[inline(always)]
    pub(super) unsafe fn mtspr<S: Spr>(value: S) {
        // SAFETY: the caller vouches for the value.
        unsafe {
            asm!("mtspr {n}, {v}", v = in(reg) value.bits(), n = const S::NUMBER,
                 options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    pub(super) fn mfmsr() -> u64 {
        let value;
        // SAFETY: the firmware runs in hypervisor state, where the instruction only reads.
        unsafe { asm!("mfmsr {v}", v = out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }
}

#[cfg(not(target_arch = "powerpc64"))]
mod imp {
    use super::{Spr, fake};

    pub(super) fn mfspr<S: Spr>() -> u64 {
        fake::get::<S>().bits()
    }

    pub(super) unsafe fn mtspr<S: Spr>(value: S) {
        fake::set(value);
    }

    pub(super) fn mfmsr() -> u64 {
        fake::MSR.get()
    }
}

/// The register file of the current test thread.
#[cfg(not(target_arch = "powerpc64"))]
pub mod fake {
    use super::{Msr, Spr};
    use core::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    std::thread_local! {
        static FILE: RefCell<BTreeMap<u16, u64>> = const { RefCell::new(BTreeMap::new()) };
        pub(super) static MSR: Cell<u64> = const { Cell::new(Msr::SF.bits() | Msr::HV.bits()) };
    }

    /// The register's value now.
    ///
    /// # Panics
    /// When neither the test nor the code under test has written it.
    #[must_use]
    pub fn get<S: Spr>() -> S {
        let bits = FILE.with_borrow(|file| file.get(&S::NUMBER).copied());
        S::from_bits(bits.unwrap_or_else(|| panic!("SPR {} read before it was set", S::NUMBER)))
    }

    /// Sets a register.
    pub fn set<S: Spr>(value: S) {
        FILE.with_borrow_mut(|file| file.insert(S::NUMBER, value.bits()));
    }

    /// Sets the machine state register.
    pub fn set_msr(msr: Msr) {
        MSR.set(msr.bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_used_once() {
        let mut numbers: Vec<_> = NAMES.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), NAMES.len());
        assert!(numbers.iter().all(|n| *n < 1024));
    }

    #[test]
    fn what_is_written_is_read() {
        // SAFETY: the host's fake register file; nothing depends on it.
        unsafe { mtspr(Lpidr(7)) };
        assert_eq!(mfspr::<Lpidr>(), Lpidr(7));
        fake::set(Lpcr::HR | Lpcr::UPRT);
        assert_eq!(mfspr::<Lpcr>(), Lpcr::HR | Lpcr::UPRT);
        assert!(mfmsr().contains(Msr::HV));
    }

    #[test]
    #[should_panic(expected = "SPR 339 read before it was set")]
    fn reading_what_no_one_set_fails() {
        let _ = mfspr::<Heir>();
    }

    #[test]
    fn processor_version_has_family_revision_and_core_kind() {
        let qemu_p10 = Pvr(0x0080_1200);
        assert_eq!((qemu_p10.family(), qemu_p10.revision()), (0x80, (2, 0)));
        assert!(!qemu_p10.is_fused_core());
        assert!(Pvr(0x0082_0200).is_fused_core());
    }

    #[test]
    fn processor_id_names_chip_core_and_thread() {
        let pir = Pir(0x2 << 8 | 9 << 2 | 3);
        assert_eq!(
            (pir.chip(), pir.small_core(), pir.small_core_thread()),
            (2, 9, 3)
        );
    }
}
