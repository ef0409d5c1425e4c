//! Cache management (Power ISA 3.1, book II, 4.3): what must happen before new instructions may run.
//!
//! The surprising fact: POWER10's data cache is coherent with devices, so nothing here is ever needed for DMA.
#![expect(unsafe_code, reason = "owns the cache instructions")]

use crate::barrier::{isync, sync};

/// Bytes of a cache block on POWER10 and Power11.
pub const BLOCK: usize = 128;

/// Makes the instructions written to `[start, start + bytes)` the ones that will be fetched.
///
/// # Safety
/// The range must be ordinary memory that this thread may access: `dcbst` of anything else is an access to it.
pub unsafe fn make_executable(start: u64, bytes: u64) {
    let first = start & !(BLOCK as u64 - 1);
    let last = start.saturating_add(bytes);
    let blocks = || (first..last).step_by(BLOCK);
    for block in blocks() {
        // SAFETY: the caller vouches for the range, and a block is in it.
        unsafe { dcbst(block) };
    }
    sync();
    for block in blocks() {
        // SAFETY: the caller vouches for the range, and a block is in it.
        unsafe { icbi(block) };
    }
    sync();
    isync();
}

/// Writes a modified block back to memory.
///
/// # Safety
/// As [`make_executable`].
#[inline(always)]
#[cfg_attr(
    not(target_arch = "powerpc64"),
    expect(unused_variables, reason = "a host's caches are coherent")
)]
unsafe fn dcbst(address: u64) {
    #[cfg(target_arch = "powerpc64")]
    // SAFETY: the caller vouches that the block is ordinary memory.
    unsafe {
        core::arch::asm!("dcbst 0, {a}", a = in(reg) address, options(nostack, preserves_flags));
    }
}

/// Drops a block from the instruction cache.
///
/// # Safety
/// As [`make_executable`].
#[inline(always)]
#[cfg_attr(
    not(target_arch = "powerpc64"),
    expect(unused_variables, reason = "a host's caches are coherent")
)]
unsafe fn icbi(address: u64) {
    #[cfg(target_arch = "powerpc64")]
    // SAFETY: the caller vouches that the block is ordinary memory.
    unsafe {
        core::arch::asm!("icbi 0, {a}", a = in(reg) address, options(nostack, preserves_flags));
    }
}
