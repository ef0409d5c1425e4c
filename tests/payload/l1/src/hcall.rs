//! The caller's side of hypercalls: `sc 1` with r3..r12 in and out. Owns the record of which numbers were called.
#![expect(unsafe_code, reason = "sc 1")]

use core::sync::atomic::{AtomicU64, Ordering};

/// r3..r12 after the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ret(pub [u64; 10]);

impl Ret {
    /// The code in r3.
    #[must_use]
    pub(crate) fn code(&self) -> i64 {
        self.0[0].cast_signed()
    }

    /// Output `n`: 4 is r4.
    #[must_use]
    pub(crate) fn r(&self, n: usize) -> u64 {
        self.0[n - 3]
    }
}

/// Makes a hypercall; missing arguments are zero.
pub(crate) fn hcall<const N: usize>(number: u64, args: [u64; N]) -> Ret {
    let mut regs = [0u64; 9];
    for (slot, value) in regs.iter_mut().zip(args) {
        *slot = value;
    }
    raw(number, regs)
}

/// Makes a hypercall with every argument register.
pub(crate) fn raw(number: u64, regs: [u64; 9]) -> Ret {
    mark(number);
    let [
        mut r4,
        mut r5,
        mut r6,
        mut r7,
        mut r8,
        mut r9,
        mut r10,
        mut r11,
        mut r12,
    ] = regs;
    let mut r3 = number;
    // SAFETY: a hypercall changes r3..r12 and the volatile registers declared here; memory it writes is given by
    // address, outside every Rust object (see `mem`).
    unsafe {
        core::arch::asm!("sc 1",
            inout("r3") r3, inout("r4") r4, inout("r5") r5, inout("r6") r6, inout("r7") r7,
            inout("r8") r8, inout("r9") r9, inout("r10") r10, inout("r11") r11, inout("r12") r12,
            out("r0") _, out("ctr") _, out("xer") _, out("lr") _, out("cr0") _, out("cr1") _,
            out("cr5") _, out("cr6") _, out("cr7") _);
    }
    Ret([r3, r4, r5, r6, r7, r8, r9, r10, r11, r12])
}

/// A bit per number / 4 below 0x500, and a bit per vendor number (0xf000 to 0xffff).
static CALLED: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static CALLED_VENDOR: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static NOWHERE: AtomicU64 = AtomicU64::new(0);

fn slot(number: u64) -> (&'static AtomicU64, u64) {
    let (words, index) = match number {
        0xf000..=0xffff => (&CALLED_VENDOR[..], number - 0xf000),
        _ => (&CALLED[..], number / 4),
    };
    let word = usize::try_from(index / 64).unwrap_or(usize::MAX);
    (words.get(word).unwrap_or(&NOWHERE), 1 << (index % 64))
}

fn mark(number: u64) {
    let (word, bit) = slot(number);
    word.fetch_or(bit, Ordering::Relaxed);
}

/// Whether this number was called by any case so far.
#[must_use]
pub(crate) fn called(number: u64) -> bool {
    let (word, bit) = slot(number);
    word.load(Ordering::Relaxed) & bit != 0
}
