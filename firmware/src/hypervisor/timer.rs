//! Clocks of guests: the decrementer that is theirs, the hypervisor decrementer that is ours, and the time base that a
//! nested guest sees moved.
//!
//! Expiries are kept in the machine's time base. Surprising fact: while a nested guest is resident the thread's time
//! base is moved, so the firmware must ask [`host_now`] for the time, not the register.
#![expect(unsafe_code, reason = "writes DEC, HDEC and TBU40")]

use isa::lpcr::Lpcr;
use isa::spr::{self, mfspr, mtspr};
use isa::timebase;

use super::registers::has_large_decrementer;

/// The largest interval of the 56-bit decrementers: far away.
const FAR: i64 = (1 << 55) - 1;

/// The machine's time base, given by how much this thread's is moved.
pub(super) fn host_now(offset: u64) -> u64 {
    timebase::now().0.wrapping_sub(offset)
}

/// Moves the thread's time base from one offset to another.
///
/// Only the upper 40 bits can be written while the lower 24 run on; if these wrapped between reading and writing, the
/// carry was lost and is added again (ISA 3.1 book III 8.4).
pub(super) fn set_offset(current: &mut u64, wanted: u64) {
    if *current == wanted {
        return;
    }
    const LOW: u64 = (1 << 24) - 1;
    let target = timebase::now()
        .0
        .wrapping_add(wanted.wrapping_sub(*current));
    // SAFETY: the guest's time base; the firmware's own time is computed from it by the offset kept in `current`.
    unsafe { mtspr(spr::Tbu40(target)) };
    if timebase::now().0 & LOW < target & LOW {
        // SAFETY: as above.
        unsafe { mtspr(spr::Tbu40(target.wrapping_add(LOW + 1))) };
    }
    *current = wanted;
}

/// When the resident guest's decrementer goes (or went) negative, in the machine's time base.
pub(super) fn decrementer_expiry(lpcr: Lpcr, host_now: u64) -> u64 {
    let raw = mfspr::<spr::Dec>().0;
    let left = if has_large_decrementer(lpcr) {
        raw.cast_signed() << 8 >> 8
    } else {
        raw.cast_signed() << 32 >> 32
    };
    host_now.wrapping_add_signed(left)
}

/// Sets the resident guest's decrementer to go negative at `expiry`, in the machine's time base.
pub(super) fn load_decrementer(lpcr: Lpcr, expiry: u64, host_now: u64) {
    let far = if has_large_decrementer(lpcr) {
        FAR
    } else {
        i64::from(i32::MAX)
    };
    // Half way down at most: at the lowest value the register wraps with the next tick, and the exception is gone.
    let left = expiry
        .wrapping_sub(host_now)
        .cast_signed()
        .clamp(-far / 2, far);
    // SAFETY: the decrementer interrupts guests only: the firmware runs with EE=0.
    unsafe { mtspr(spr::Dec(left.cast_unsigned())) };
}

/// Arms the hypervisor decrementer: the guest leaves with 0x980 at `deadline` at the latest.
pub(super) fn arm(deadline: u64, host_now: u64) {
    let left = deadline.wrapping_sub(host_now).cast_signed().clamp(1, FAR);
    // SAFETY: it ends a guest's run; with EE=0 and HV=1 it waits.
    unsafe { mtspr(spr::Hdec(left.cast_unsigned())) };
}

/// Takes back what [`arm`] did, and an exception that is pending.
pub(super) fn disarm() {
    // SAFETY: as there.
    unsafe { mtspr(spr::Hdec(FAR.cast_unsigned())) };
}
