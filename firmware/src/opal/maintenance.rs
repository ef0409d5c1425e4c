//! The registers behind hypervisor maintenance interrupts: causes and timers of this thread, errors of the cores.
//!
//! Surprising fact: a write of HMER clears what is 0 in it, a write of TFMR clears the errors that are 1 in it.
#![expect(unsafe_code, reason = "writes HMER and TFMR")]

use isa::spr::{Hmer, Tfmr, mfspr, mtspr};
use nest::core_control::{self, Place};
use nest::scom::{Scom as _, ScomAddr};
use opal_calls::hmi::Maintenance;

use super::serve::SharedScom;
use super::threads::AllThreads;

/// What serves the interrupt of the thread that asks.
pub(super) struct Registers<'a> {
    /// The thread's number.
    pub(super) pir: u32,
    pub(super) is_fused: bool,
    pub(super) scom: &'a SharedScom,
    pub(super) threads: &'a AllThreads,
}

impl Maintenance for Registers<'_> {
    fn causes(&self) -> u64 {
        mfspr::<Hmer>().0
    }

    fn clear(&self, causes: u64) {
        // SAFETY: clears causes that have been read; the outcome of an XSCOM, which is in the same register, stays.
        unsafe { mtspr(Hmer(!causes)) }
    }

    fn timers(&self) -> u64 {
        mfspr::<Tfmr>().0
    }

    fn clear_timer_errors(&self, errors: u64) {
        /// How the time base is stepped; the rest is state and errors.
        const CONTROL: u64 = !(u64::MAX >> 15);
        // The register is the core's, and another thread of it may be setting the time base.
        let _setting = self.scom.lock();
        let control = self.timers() & CONTROL;
        // SAFETY: the control bits stay, the errors have been read.
        unsafe { mtspr(Tfmr(control | errors)) }
    }

    fn set_time_base(&self) -> bool {
        crate::time_base::resync(self.scom).is_ok()
    }

    fn is_first_thread(&self) -> bool {
        Place::of_pir(self.pir, self.is_fused).is_none_or(|place| place.thread == 0)
    }

    fn take_malfunctions(&self, found: &mut dyn FnMut(u32, u64)) {
        const ALERTS: ScomAddr = ScomAddr(0x9_0022);
        if let Some(here) = Place::of_pir(self.pir, self.is_fused) {
            let mut scom = self.scom.lock();
            let alerts = scom.read(here.chip, ALERTS).unwrap_or(0);
            // A write clears what is 0 in it.
            if alerts != 0 && scom.write(here.chip, ALERTS, !alerts).is_err() {
                crate::limited!(error, "malfunction alerts {alerts:#x} cannot be cleared");
            }
        }
        for thread in self.threads.each() {
            let place = Place::of_pir(thread.pir, self.is_fused);
            let Some(place) = place.filter(|place| place.thread == 0) else {
                continue;
            };
            let errors = core_control::errors_of(&mut *self.scom.lock(), place);
            if errors != 0 {
                crate::limited!(
                    error,
                    "core of thread {:#x}: errors {errors:#018x}",
                    thread.pir
                );
                found(thread.pir, errors);
            }
        }
    }

    fn lost(&self, event: u64) {
        crate::limited!(
            error,
            "the kernel does not fetch its messages: the maintenance event {event:#018x} is lost"
        );
    }
}
