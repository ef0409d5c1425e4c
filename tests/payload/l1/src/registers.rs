//! The registers of the dump and load areas as data: index in the area, guest state element, bits that hold.
//! Owns patterns. The surprising fact: L1 and L2 run the same dump code, so one comparison serves both.
#![expect(unsafe_code, reason = "calls the dump code")]

use crate::low::{DUMP, LOAD};
use crate::mem;

/// A special purpose register of the areas.
pub(crate) struct Spr {
    /// Doubleword in the SPR part of the areas.
    pub index: u64,
    /// Name.
    pub name: &'static str,
    /// Guest state element.
    pub element: u16,
    /// Bits that a supervisor can freely set and read back.
    pub mask: u64,
    /// Bits that are always set with the pattern.
    pub fixed: u64,
}

const fn spr(index: u64, name: &'static str, element: u16, mask: u64, fixed: u64) -> Spr {
    Spr {
        index,
        name,
        element,
        mask,
        fixed,
    }
}

/// FSCR: SCV, prefix, TAR, EBB, DSCR on.
const FSCR_ON: u64 = 0x3184;

/// The registers with a guest state element, in the order of the areas.
pub(crate) const SPRS: &[Spr] = &[
    spr(0, "LR", 0x1023, !0, 0),
    spr(1, "CTR", 0x1025, !0, 0),
    spr(2, "XER", 0x1024, 0xe00c_007f, 0),
    spr(3, "SRR0", 0x1027, !3, 0),
    spr(4, "SRR1", 0x1028, 0x8000_0000_0000_ffff, 0),
    spr(5, "DAR", 0x1029, !0, 0),
    spr(6, "DSISR", 0x2002, 0xffff_ffff, 0),
    spr(7, "SPRG0", 0x1036, !0, 0),
    spr(8, "SPRG1", 0x1037, !0, 0),
    spr(9, "SPRG2", 0x1038, !0, 0),
    spr(10, "SPRG3", 0x1039, !0, 0),
    spr(11, "DSCR", 0x104c, 0x01ff_ffff, 0),
    spr(12, "TAR", 0x104d, !0, 0),
    spr(13, "FSCR", 0x102e, 0, FSCR_ON),
    spr(14, "AMR", 0x1046, !0, 0),
    spr(15, "IAMR", 0x1047, 0x5555_5555_5555_5555, 0),
    spr(16, "UAMOR", 0x1049, !0, 0),
    spr(17, "BESCR", 0x1043, 1, 0),
    spr(18, "EBBHR", 0x1044, !3, 0),
    spr(19, "EBBRR", 0x1045, !3, 0),
    spr(20, "PSPB", 0x200e, 0xffff_ffff, 0),
    spr(21, "VRSAVE", 0x2004, 0xffff_ffff, 0),
    // 2 or 3: low and medium low, which a supervisor may always set.
    spr(22, "PPR", 0x103a, 1 << 50, 1 << 51),
    // Frozen, or the counters move.
    spr(23, "MMCR0", 0x103b, 0x6000_0000, 0x8000_0000),
    spr(24, "MMCR1", 0x103c, 0xffff_ffff, 0),
    spr(25, "MMCR2", 0x103d, 0xffff_ffff_ffff_fc00, 0),
    spr(26, "MMCR3", 0x103e, 0xffff_ffff_ffff_0000, 0),
    spr(27, "MMCRA", 0x103f, 0xffff_0000, 0x20_0000_0000),
    spr(28, "PMC1", 0x2007, 0x7fff_ffff, 0),
    spr(29, "PMC2", 0x2008, 0x7fff_ffff, 0),
    spr(30, "PMC3", 0x2009, 0x7fff_ffff, 0),
    spr(31, "PMC4", 0x200a, 0x7fff_ffff, 0),
    spr(32, "PMC5", 0x200b, 0x7fff_ffff, 0),
    spr(33, "PMC6", 0x200c, 0x7fff_ffff, 0),
    spr(34, "SIER", 0x1040, !0, 0),
    spr(35, "SIER2", 0x1041, !0, 0),
    spr(36, "SIER3", 0x1042, !0, 0),
    spr(37, "SIAR", 0x104b, !0, 0),
    spr(38, "SDAR", 0x104a, !0, 0),
    spr(39, "DEXCR", 0x104e, 0x9000_0000, 0),
    spr(40, "HASHKEYR", 0x1050, !0, 0),
    spr(42, "PIDR", 0x2001, 0xf_ffff, 0),
    spr(43, "CTRL", 0x1052, 1, 0),
    spr(48, "CR", 0x2000, 0xffff_ffff, 0),
    // Only the rounding and enable bits that raise nothing.
    spr(49, "FPSCR", 0x102f, 3, 0),
];

/// VSCR in the SPR part: a quadword, the register in its low word.
pub(crate) const VSCR: u64 = 60;
/// MSR in the SPR part, dump only.
pub(crate) const MSR: u64 = 51;
/// VTB, PURR, SPURR, IC, DEC, TB in the SPR part, dump only.
pub(crate) const VTB: u64 = 52;

/// A value that differs for every register and seed, without patterns in it.
#[must_use]
pub(crate) const fn pattern(seed: u64, n: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 29)
}

impl Spr {
    /// What of a value that was read belongs to the register: CTRL shows the states of the threads above its latch.
    #[must_use]
    pub(crate) fn seen(&self, value: u64) -> u64 {
        if self.name == "CTRL" {
            value & 1
        } else {
            value
        }
    }

    /// This register's pattern.
    #[must_use]
    pub(crate) fn value(&self, seed: u64) -> u64 {
        pattern(seed, 0x100 + self.index) & self.mask | self.fixed
    }
}

/// Pattern of a general purpose register.
#[must_use]
pub(crate) const fn gpr_value(seed: u64, n: u64) -> u64 {
    pattern(seed, n)
}

/// Pattern of a vector-scalar register: high doubleword, low doubleword.
#[must_use]
pub(crate) const fn vsr_value(seed: u64, n: u64) -> [u64; 2] {
    [pattern(seed, 0x200 + 2 * n), pattern(seed, 0x201 + 2 * n)]
}

/// Reads the GPR part of an area at `base` (an L1 address: of L1's own area, or of L2's in L2's memory).
#[must_use]
pub(crate) fn gpr(base: u64, n: u64) -> u64 {
    mem::read64(base + 8 * n)
}

/// Reads the SPR part.
#[must_use]
pub(crate) fn special(base: u64, index: u64) -> u64 {
    mem::read64(base + 0x100 + 8 * index)
}

/// Reads the VSR part. A little-endian quadword store puts the high doubleword last.
#[must_use]
pub(crate) fn vsr(base: u64, n: u64) -> [u64; 2] {
    let at = base + 0x300 + 16 * n;
    [mem::read64(at + 8), mem::read64(at)]
}

/// Fills a load area with the patterns of `seed`.
pub(crate) fn fill(base: u64, seed: u64) {
    for n in 0..32 {
        mem::write64(base + 8 * n, gpr_value(seed, n));
    }
    for spr in SPRS {
        mem::write64(base + 0x100 + 8 * spr.index, spr.value(seed));
    }
    mem::write64(base + 0x100 + 8 * VSCR, 1);
    mem::write64(base + 0x100 + 8 * (VSCR + 1), 0);
    for n in 0..64 {
        let [high, low] = vsr_value(seed, n);
        mem::write64(base + 0x300 + 16 * n, low);
        mem::write64(base + 0x300 + 16 * n + 8, high);
    }
}

unsafe extern "C" {
    fn registers_call();
    fn registers_round_trip();
    fn registers_dump();
}

/// Dumps this L1's registers to [`DUMP`].
pub(crate) fn dump() {
    // SAFETY: follows the calling convention; writes only the dump area and a word of the low 32 KiB.
    unsafe { registers_dump() }
}

/// Loads everything from [`LOAD`] and dumps it to [`DUMP`].
pub(crate) fn round_trip() {
    // SAFETY: as for `dump`; the loaded values keep facilities on and the PMU frozen (see `SPRS`), Rust code here
    // uses no vector register, and non-volatile registers come back.
    unsafe { registers_round_trip() }
}

/// Like [`round_trip`] with the hypercall of r3..r12 of the load area between.
pub(crate) fn call(number: u64, args: [u64; 9]) {
    mem::write64(LOAD + 8 * 3, number);
    for (n, value) in (4..).zip(args) {
        mem::write64(LOAD + 8 * n, value);
    }
    // SAFETY: as for `round_trip`; what the call itself writes is outside every Rust object.
    unsafe { registers_call() }
}

/// Copies the dump area to the load area: what is in the registers now can be loaded again later.
pub(crate) fn keep() {
    dump();
    for at in (0..0x700).step_by(8) {
        mem::write64(LOAD + at, mem::read64(DUMP + at));
    }
}
