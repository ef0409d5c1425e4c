//! Random numbers from the processor (`darn`, Power ISA 3.1 book I 3.3.9).
#![expect(unsafe_code, reason = "executes darn")]

/// How often a failed reading is repeated; the ISA suggests ten.
const ATTEMPTS: u32 = 10;

/// A conditioned 64-bit number, or nothing when the generator does not deliver.
pub(super) fn next() -> Option<u64> {
    (0..ATTEMPTS).find_map(|_| {
        let value: u64;
        // SAFETY: `darn` reads the generator.
        unsafe { core::arch::asm!("darn {v}, 1", v = out(reg) value, options(nomem, nostack, preserves_flags)) };
        (value != u64::MAX).then_some(value)
    })
}
