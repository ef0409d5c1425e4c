//! Telling when a guest enables external interrupts: how an interrupt waits for a guest that has MSR[EE]=0.
//!
//! The architecture's way is LPCR[MER]: a mediated external interrupt reaches the hypervisor (0x500) as soon as the
//! guest sets EE. QEMU stores MER and does nothing with it, but there a hypervisor doorbell waits for EE as well, even
//! at HV=0 (on hardware it would interrupt at once), so a doorbell to ourselves does the same job.
use isa::context::{Changed, GuestContext};
use isa::lpcr::Lpcr;

use crate::threads;

/// QEMU has no mediated external interrupt: LPCR[MER] has no effect (target/ppc/excp_helper.c).
fn mediated_interrupts_are_missing(is_qemu: bool) -> bool {
    is_qemu
}

/// The request that is out on this thread.
pub(super) struct ExternalWindow {
    is_qemu: bool,
    /// This thread.
    pir: u32,
    doorbell: bool,
}

impl ExternalWindow {
    pub(super) const fn new(is_qemu: bool, pir: u32) -> Self {
        Self {
            is_qemu,
            pir,
            doorbell: false,
        }
    }

    /// Requests an exit when the resident guest enables external interrupts, or takes the request back.
    pub(super) fn set(&mut self, context: &mut GuestContext, wanted: bool) {
        if mediated_interrupts_are_missing(self.is_qemu) {
            if self.doorbell != wanted {
                if wanted {
                    threads::ring(self.pir);
                } else {
                    threads::clear_doorbell();
                }
                self.doorbell = wanted;
            }
        } else if context.lpcr.contains(Lpcr::MER) != wanted {
            context.lpcr.set(Lpcr::MER, wanted);
            context.changed |= Changed::CONTROL;
        }
    }

    /// The guest left because of a doorbell (0xe80): the request has been delivered.
    pub(super) fn delivered(&mut self) {
        self.doorbell = false;
        // It may have been another thread's kick: what that wrote before is visible afterwards.
        isa::barrier::msgsync();
        isa::barrier::lwsync();
    }
}
