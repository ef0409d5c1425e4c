//! Priorities of hardware threads that share a core (Power ISA 3.1, book II, 3.1): what a waiting loop owes its siblings.
//!
//! The surprising fact: priority is set by an `or` of a register with itself, which is a no-op to everything else.
#![cfg_attr(
    target_arch = "powerpc64",
    expect(unsafe_code, reason = "owns the priority hints")
)]

#[cfg(target_arch = "powerpc64")]
macro_rules! hint {
    ($text:literal) => {
        // SAFETY: the instruction changes the thread's priority and nothing else.
        unsafe { core::arch::asm!($text, options(nomem, nostack, preserves_flags)) }
    };
}

#[cfg(not(target_arch = "powerpc64"))]
macro_rules! hint {
    ($text:literal) => {
        core::hint::spin_loop()
    };
}

/// Very low priority: the thread is waiting.
#[inline(always)]
pub fn very_low() {
    hint!("or 31, 31, 31");
}

/// Low priority.
#[inline(always)]
pub fn low() {
    hint!("or 1, 1, 1");
}

/// Medium priority: the normal one.
#[inline(always)]
pub fn medium() {
    hint!("or 2, 2, 2");
}

/// One turn of a waiting loop: lets the siblings run, then comes back to normal.
#[inline(always)]
pub fn relax() {
    very_low();
    medium();
}
