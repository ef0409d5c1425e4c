//! Ordering instructions (Power ISA 3.1, book II, 4.6.3; book III, 12.3).
//!
//! The surprising fact: ordinary atomics with acquire and release order cacheable memory only. Between memory and a
//! device, or between a device and an interrupt controller, one of these is needed as well; [`crate::cix`] has its own.
//! On the host they are compiler fences.
#![cfg_attr(
    target_arch = "powerpc64",
    expect(unsafe_code, reason = "owns the barrier instructions")
)]

#[cfg(target_arch = "powerpc64")]
macro_rules! instruction {
    ($text:literal) => {
        // SAFETY: the instruction only orders what other instructions do.
        unsafe { core::arch::asm!($text, options(nostack, preserves_flags)) }
    };
}

#[cfg(not(target_arch = "powerpc64"))]
macro_rules! instruction {
    ($text:literal) => {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst)
    };
}

/// `sync`: everything before is performed, for all threads and devices, before anything after.
#[inline(always)]
pub fn sync() {
    instruction!("sync");
}

/// `lwsync`: orders all but a store followed by a load, in cacheable memory.
#[inline(always)]
pub fn lwsync() {
    instruction!("lwsync");
}

/// `eieio`: orders stores to devices among each other.
#[inline(always)]
pub fn eieio() {
    instruction!("eieio");
}

/// `isync`: everything before has completed, everything after is fetched anew in the context now in force.
#[inline(always)]
pub fn isync() {
    instruction!("isync");
}

/// `ptesync`: `sync` that also waits for updates to translation tables and for table walks.
#[inline(always)]
pub fn ptesync() {
    instruction!("ptesync");
}

/// `msgsync`: on the receiver of a doorbell, before it reads what the sender wrote; wants [`lwsync`] after it.
#[inline(always)]
pub fn msgsync() {
    instruction!("msgsync");
}
