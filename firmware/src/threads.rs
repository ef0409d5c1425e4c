//! The other threads' way out of the parking place: each gets a block of its own, then something to do.
//!
//! Surprising fact: work is given to all of them at once and for good. Who wants them one by one lets each wait in the
//! work itself, and wakes it with [`ring`].
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "sends and clears doorbells, stops the thread")
)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use spin::Once;

use crate::entry::park::{PARK_SLOTS, PARKED};
use crate::thread::{BLOCK_SIZE, EMERGENCY_STACK_TOP, NORMAL_STACK_TOP, Thread, ThreadBlock};

/// What every thread but the boot thread does. It must not return.
pub type Work = dyn Fn(&'static Thread) + Send + Sync;

static WORK: Once<Box<Work>> = Once::new();

/// The PIRs of the threads that can be started, in the order in which [`start`] gives them blocks.
#[must_use]
pub fn parked() -> Vec<u32> {
    crate::entry::park::parked().collect()
}

/// Starts the parked threads on `work`, as far as there are blocks. Once; a second call starts nothing.
pub fn start(blocks: impl Iterator<Item = &'static ThreadBlock>, work: Box<Work>) {
    if WORK.is_completed() {
        return;
    }
    WORK.call_once(|| work);
    let slots = PARK_SLOTS
        .iter()
        .take(PARKED.load(Ordering::Acquire) as usize);
    let present = slots.filter(|slot| slot.present.load(Ordering::Acquire) == 1);
    let mut started = 0_usize;
    for (slot, block) in present.zip(blocks) {
        let base = core::ptr::from_ref(block).expose_provenance();
        let pir = slot.pir.load(Ordering::Relaxed);
        let thread = &block.thread;
        let top = |offset: usize| base.wrapping_add(offset) as u64;
        thread.pir.store(pir, Ordering::Relaxed);
        thread
            .normal_stack
            .store(top(NORMAL_STACK_TOP), Ordering::Relaxed);
        thread
            .emergency_stack
            .store(top(EMERGENCY_STACK_TOP), Ordering::Relaxed);
        // Release: the thread finds its block complete.
        slot.thread.store(base as u64, Ordering::Release);
        ring(pir);
        started += 1;
    }
    #[cfg(target_os = "none")]
    crate::time_base::wait_for_all(started);
    #[cfg(not(target_os = "none"))]
    let _ = started;
}

/// Does what [`start`] was told, on a thread that has just got its block.
pub fn work(thread: &'static Thread) -> ! {
    #[cfg(target_os = "none")]
    crate::time_base::arrive();
    match WORK.get() {
        Some(work) => work(thread),
        None => log::error!("a thread was woken without work"),
    }
    crate::stop::park_for_ever()
}

/// Message type of a hypervisor doorbell in RB of `msgsnd`.
pub const HYPERVISOR_DOORBELL: u64 = 5 << 27;

/// Sends a hypervisor doorbell to a thread: ends its `stop`, or its guest's turn.
pub fn ring(pir: u32) {
    isa::barrier::sync();
    #[cfg(target_os = "none")]
    {
        let message = HYPERVISOR_DOORBELL | u64::from(pir);
        // SAFETY: a doorbell makes its thread look around; nothing is lost if there is nothing to see.
        unsafe {
            core::arch::asm!(".long 0x7c00019c | ({0} << 11)", in(reg) message, options(nostack));
        }
    }
    #[cfg(not(target_os = "none"))]
    let _ = pir;
}

/// Drops a doorbell that has arrived; what its sender wrote before is visible afterwards.
pub fn clear_doorbell() {
    #[cfg(target_os = "none")]
    // SAFETY: the caller looks at what the doorbell may have been for after this.
    unsafe {
        core::arch::asm!(".long 0x7c0001dc | ({0} << 11)", in(reg) HYPERVISOR_DOORBELL, options(nostack));
    }
    isa::barrier::msgsync();
    isa::barrier::lwsync();
}

const _: () = assert!(NORMAL_STACK_TOP < EMERGENCY_STACK_TOP && EMERGENCY_STACK_TOP < BLOCK_SIZE);
