//! Moving the registers that stay with a guest between its exits: out of the hardware when another guest takes the
//! thread, and in again.
//!
//! One table for the registers that are simply copied; what has a rule of its own (decrementer, time base, control
//! registers, performance monitor) follows. Surprising fact: the firmware runs with the guest's LPIDR, PIDR and LPCR,
//! because in hypervisor real mode they have no effect, and writing the first two costs the thread its translations
//! (all of them on QEMU, a serialisation on hardware).
#![expect(unsafe_code, reason = "writes the special purpose registers of guests")]

use isa::barrier::{isync, sync};
use isa::context::{Changed, GuestContext, MMCR0_FC, MMCR0_PMCCEXT};
use isa::lpcr::Lpcr;
use isa::spr::{self, Spr, mfspr};

use super::enter::{load_vector_registers, store_vector_registers};
use super::timer;

/// Writes a register of a guest.
fn load<S: Spr>(value: S) {
    // SAFETY: the registers that this module loads act on code at HV=0 only, or are masked by the callers' rules
    // (LPCR from an allow-list, LPIDR from the partition table, time base by whole steps).
    unsafe { spr::mtspr(value) }
}

/// Writes a register of a guest unless it holds the value: a read is cheap, a write serialises.
fn load_if_new<S: Spr>(value: S) -> bool {
    let new = mfspr::<S>().bits() != value.bits();
    if new {
        load(value);
    }
    new
}

/// Reads a register of a guest. A register that the machine lacks leaves `old`, what its element held, unchanged
/// (`mfspr` of an absent number is a no-operation in hypervisor state), so it behaves as storage and nothing of the
/// firmware's shows in it.
fn store<S: Spr>(old: u64) -> u64 {
    let value;
    // SAFETY: reading a register has no side effect; the registers of this module are readable at HV=1.
    unsafe {
        core::arch::asm!("mfspr {v}, {n}", v = inout(reg) old => value, n = const S::NUMBER, options(nostack, preserves_flags));
    }
    value
}

/// Registers that are copied both ways, with their place in the context.
macro_rules! copied {
    ($( $register:ident => $($field:ident).+ $([$index:literal])? ; )*) => {
        fn store_copied(c: &mut GuestContext) {
            $( c.$($field).+ $([$index])? = store::<spr::$register>(c.$($field).+ $([$index])?); )*
        }
        fn load_copied(c: &GuestContext) {
            $( load(spr::$register(c.$($field).+ $([$index])?)); )*
        }
    };
}

copied! {
    Srr0 => srr0;
    Srr1 => srr1;
    Sprg0 => sprg[0];
    Sprg1 => sprg[1];
    Sprg2 => sprg[2];
    Sprg3 => sprg[3];
    Dar => dar;
    Dsisr => dsisr;
    Vtb => vtb;
    Purr => purr;
    Spurr => spurr;
    Ic => ic;
    Fscr => fscr;
    Amr => amr;
    Iamr => iamr;
    Uamor => uamor;
    Dscr => dscr;
    Tar => tar;
    Bescr => bescr;
    Ebbhr => ebbhr;
    Ebbrr => ebbrr;
    Dexcr => dexcr;
    Hashkeyr => hashkeyr;
    Hashpkeyr => hashpkeyr;
    Pspb => pspb;
    Vrsave => vrsave;
    Dpdes => dpdes;
    Mmcra => mmcra;
    Mmcr1 => mmcr[1];
    Mmcr2 => mmcr[2];
    Mmcr3 => mmcr[3];
    Sier => sier[0];
    Sier2 => sier[1];
    Sier3 => sier[2];
    Siar => siar;
    Sdar => sdar;
    Pmc1 => pmc[0];
    Pmc2 => pmc[1];
    Pmc3 => pmc[2];
    Pmc4 => pmc[3];
    Pmc5 => pmc[4];
    Pmc6 => pmc[5];
}

/// Fields of PSSCR that a guest may set: transition, maximum and requested level. The rest limits its `stop` and stays
/// the firmware's.
const PSSCR_GUEST: u64 = 0x3ff;
/// PSSCR[EC]: makes a guest's `stop` leave to the hypervisor. Without it the thread sleeps, and no hypervisor
/// decrementer ends that.
const PSSCR_EC: u64 = 1 << 20;

/// Takes every register of the resident guest out of the hardware. Afterwards the context is whole.
pub(super) fn store_resident(c: &mut GuestContext, host_now: u64) {
    // Right behind the reading of `host_now`: what lies between makes the expiry early, at every exit again.
    c.dec_expiry = timer::decrementer_expiry(c.lpcr, host_now);
    // What is newer in the context (an interrupt that was delivered when the run ended) must not be read over.
    load_changed(c);
    // The performance monitor first, frozen, so that it counts nothing of ours.
    c.mmcr[0] = mfspr::<spr::Mmcr0>().0;
    load(spr::Mmcr0(MMCR0_FC | MMCR0_PMCCEXT));
    store_copied(c);
    c.ctrl = mfspr::<spr::Ctrl>().0;
    c.pidr = mfspr::<spr::Pidr>().0;
    c.psscr = mfspr::<spr::Psscr>().0 & PSSCR_GUEST;
    store_vector_registers(c);
    c.changed = Changed::empty();
}

/// Puts every register of a guest in the hardware: it becomes the resident one. `lpid` is its logical partition.
pub(super) fn load_resident(c: &mut GuestContext, lpid: u32, thread_offset: &mut u64) {
    timer::set_offset(thread_offset, c.tb_offset);
    load_control(c);
    load_debug(c);
    sync();
    isync();
    load_if_new(spr::Lpidr(u64::from(lpid)));
    load_if_new(c.lpcr);
    load_if_new(spr::Pidr(c.pidr));
    isync();
    clear_leftovers();
    load_copied(c);
    load(spr::CtrlWrite(c.ctrl));
    load(spr::Psscr(
        mfspr::<spr::Psscr>().0 & !PSSCR_GUEST | c.psscr & PSSCR_GUEST | PSSCR_EC,
    ));
    load(spr::Mmcr0(c.mmcr[0]));
    load_vector_registers(c);
    c.changed = Changed::empty();
}

/// Loads what the firmware changed of the resident guest since its exit.
pub(super) fn load_changed(c: &mut GuestContext) {
    if c.changed.is_empty() {
        return;
    }
    if c.changed.contains(Changed::CONTROL) {
        load_control(c);
        if load_if_new(c.lpcr) {
            isync();
        }
    }
    if c.changed.contains(Changed::DEBUG) {
        load_debug(c);
    }
    if c.changed.contains(Changed::SRR) {
        load(spr::Srr0(c.srr0));
        load(spr::Srr1(c.srr1));
    }
    if c.changed.contains(Changed::FAULT) {
        load(spr::Dar(c.dar));
        load(spr::Dsisr(c.dsisr));
    }
    if c.changed.contains(Changed::SPRG0) {
        load(spr::Sprg0(c.sprg[0]));
    }
    c.changed = Changed::empty();
}

fn load_control(c: &GuestContext) {
    load_if_new(isa::lpcr::Hfscr::from_bits_retain(
        c.hfscr.bits() & !isa::lpcr::HFSCR_CAUSE,
    ));
    load_if_new(spr::Pcr(c.pcr));
    load_if_new(spr::Amor(c.amor));
    load_if_new(spr::Hdexcr(c.hdexcr));
}

fn load_debug(c: &GuestContext) {
    load_if_new(spr::Ciabr(c.ciabr));
    load_if_new(spr::Dawr0(c.dawr[0]));
    load_if_new(spr::Dawrx0(c.dawrx[0]));
    load_if_new(spr::Dawr1(c.dawr[1]));
    load_if_new(spr::Dawrx1(c.dawrx[1]));
}

/// Clears what is no register: the four segment entries that a radix guest can plant with bolted-entry instructions,
/// the copy buffer, and the branch history. Nothing of one guest is left for the next.
fn clear_leftovers() {
    // SAFETY: segments mean nothing to radix translation and the firmware translates nothing; `cp_abort` drops the
    // state of a `copy` without its `paste`, `clrbhrb` a record that the firmware does not keep.
    unsafe {
        core::arch::asm!(
            "slbmte {zero}, {zero}",
            "slbmte {zero}, {one}",
            "slbmte {zero}, {two}",
            "slbmte {zero}, {three}",
            ".long 0x7c00068c", // cp_abort
            ".long 0x7c00035c", // clrbhrb
            "isync",
            zero = in(reg_nonzero) 0u64,
            one = in(reg_nonzero) 1u64,
            two = in(reg_nonzero) 2u64,
            three = in(reg_nonzero) 3u64,
            options(nostack)
        );
    }
}

/// Reads the registers that say why the guest left, for the vectors that define them.
pub(super) fn store_cause(c: &mut GuestContext) {
    match c.trap {
        0xe00 => {
            c.hdar = mfspr::<spr::Hdar>().0;
            c.hdsisr = mfspr::<spr::Hdsisr>().0 & 0xffff_ffff;
            c.asdr = mfspr::<spr::Asdr>().0;
        }
        0xe20 => c.asdr = mfspr::<spr::Asdr>().0,
        0xe40 => c.heir = mfspr::<spr::Heir>().0,
        0xf80 => {
            let cause = mfspr::<isa::lpcr::Hfscr>().bits() & isa::lpcr::HFSCR_CAUSE;
            c.hfscr = isa::lpcr::Hfscr::from_bits_retain(
                c.hfscr.bits() & !isa::lpcr::HFSCR_CAUSE | cause,
            );
        }
        _ => {}
    }
}

/// Whether `lpcr` gives the guest a 56-bit decrementer.
pub(super) const fn has_large_decrementer(lpcr: Lpcr) -> bool {
    lpcr.contains(Lpcr::LD)
}
