//! Waiting: what the thread does while its guest has ceded.
//!
//! Surprising fact: the hypervisor decrementer is no alarm clock. The architecture drops its exceptions in power-saving
//! states; but one that is pending already ends every `stop` with EC = 0 at once, and goes on to do so, since nothing
//! delivers it here. So it is far away while a thread waits, and the guest's decrementer is borrowed for the alarm and given
//! back with the guest's own expiry.
#![expect(unsafe_code, reason = "executes stop")]

use isa::lpcr::Lpcr;
use isa::spr::{self, mfspr, mtspr};

use super::timer;

/// Stops the thread until `until` (machine's time base) or until another wake-up event, whichever is first. The
/// decrementer is left at whatever it was set to for the wait, the hypervisor decrementer far away.
///
/// PSSCR requests the shallowest state without loss (stop0 lite: EC = ESL = 0), which goes on with the next
/// instruction although EE is 0.
///
/// With HEIC an interrupt of the guest's ring is none at HV=1, so it would not wake the thread. It is off for the wait; the
/// interrupt cannot be taken here, since EE is 0.
pub(super) fn stop_until(lpcr: Lpcr, until: u64, now: u64) {
    if until.wrapping_sub(now).cast_signed() <= 0 {
        return;
    }
    timer::load_decrementer(lpcr, until, now);
    timer::disarm();
    let guests = mfspr::<spr::Psscr>();
    let control = mfspr::<Lpcr>();
    // SAFETY: EE is 0.
    unsafe { mtspr(control.difference(Lpcr::HEIC)) };
    // SAFETY: levels 0 lose no state; waking needs no interrupt handler because EC = 0.
    unsafe { mtspr(spr::Psscr(0)) };
    isa::barrier::sync();
    isa::barrier::isync();
    // SAFETY: PSSCR is as said above; with EC = 0 every exception ends the wait, whatever LPCR[PECE] says.
    unsafe { core::arch::asm!("stop", options(nostack)) };
    // SAFETY: as before the wait.
    unsafe { mtspr(control) };
    isa::barrier::isync();
    // SAFETY: what was in force while the guest ran.
    unsafe { mtspr(guests) };
}
