//! The threads that lost the election: where they wait, and how they are woken.
//!
//! Owns the table of parked threads. Surprising fact: a slot's number means nothing; threads take slots in the order they
//! arrive and are known by their PIR.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Threads that can be parked: more than the largest machine has (16 chips of 32 small cores with 4 threads).
pub const MAX_THREADS: usize = 2048;

/// One parked thread.
#[derive(Debug)]
#[repr(C)]
pub struct ParkSlot {
    /// Address of its Thread, once it has work to do.
    pub thread: AtomicU64,
    /// Its processor id.
    pub pir: AtomicU32,
    /// 1 when `pir` is written.
    pub present: AtomicU32,
}

impl ParkSlot {
    const fn new() -> Self {
        Self {
            thread: AtomicU64::new(0),
            pir: AtomicU32::new(0),
            present: AtomicU32::new(0),
        }
    }
}

/// The table.
pub static PARK_SLOTS: [ParkSlot; MAX_THREADS] = [const { ParkSlot::new() }; MAX_THREADS];
/// How many slots have been taken.
pub static PARKED: AtomicU32 = AtomicU32::new(0);

/// The PIRs of the parked threads, in the order they arrived.
pub fn parked() -> impl Iterator<Item = u32> {
    PARK_SLOTS
        .iter()
        .take(PARKED.load(Ordering::Acquire) as usize)
        .filter(|slot| slot.present.load(Ordering::Acquire) == 1)
        .map(|slot| slot.pir.load(Ordering::Relaxed))
}
