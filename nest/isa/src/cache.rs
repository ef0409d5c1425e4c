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

/// Zeroes `[start, start + bytes)` a block at a time.
///
/// # Safety
/// The range must be ordinary memory that nothing else uses, `start` and `bytes` multiples of [`BLOCK`].
pub unsafe fn zero(start: u64, bytes: u64) {
    for block in (start..start.saturating_add(bytes)).step_by(BLOCK) {
        // SAFETY: the caller vouches for the range, and a block is in it.
        unsafe { dcbz(block) };
    }
}

/// Zeroes a block.
///
/// # Safety
/// As [`zero`]. On the host the address must be one of the process.
#[inline(always)]
unsafe fn dcbz(address: u64) {
    #[cfg(target_arch = "powerpc64")]
    // SAFETY: the caller vouches that the block is ordinary memory.
    unsafe {
        core::arch::asm!("dcbz 0, {a}", a = in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "powerpc64"))]
    {
        #[expect(clippy::cast_possible_truncation, reason = "hosts have 64 bits")]
        let pointer = core::ptr::with_exposed_provenance_mut::<[u8; BLOCK]>(address as usize);
        // SAFETY: the caller vouches that the block is memory of the process.
        unsafe { pointer.write([0; BLOCK]) };
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_is_zeroed() {
        #[repr(align(128))]
        struct Blocks([u8; 4 * BLOCK]);
        let mut memory = Blocks([0xa5; 4 * BLOCK]);
        let start = memory.0.as_mut_ptr().expose_provenance() + BLOCK;
        // SAFETY: the two blocks in the middle of this array.
        unsafe { zero(start as u64, 2 * BLOCK as u64) };
        let is_zero = |n: usize| memory.0[n * BLOCK..][..BLOCK].iter().all(|byte| *byte == 0);
        assert_eq!([0, 1, 2, 3].map(is_zero), [false, true, true, false]);
    }
}
