//! What one partition may use up for its guests, and what the machine has for all: heap, vCPUs, LPIDs.
//!
//! The surprising fact: nobody gives anything back by hand. A [`Charge`] or a [`Lease`] is a field of what it pays
//! for, and returns when that is dropped.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use isa::lock::{Mutex, rank};

/// What a partition may use up for its guests. The firmware chooses them so that all partitions together fit in its
/// heap: an allocation within the quotas does not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Guests at the same time, at most [`Self::MAX_GUESTS`].
    pub guests: u16,
    /// vCPUs of all guests together.
    pub vcpus: u32,
    /// Bytes of the firmware's heap.
    pub heap_bytes: u64,
}

impl Quotas {
    /// What ids have room for.
    pub const MAX_GUESTS: u16 = 4095;
}

/// What a partition uses, against its quotas.
pub struct Account {
    pub(super) quotas: Quotas,
    heap: AtomicU64,
    vcpus: AtomicU32,
}

impl Account {
    pub(super) fn new(quotas: Quotas) -> Arc<Self> {
        Arc::new(Self {
            quotas,
            heap: AtomicU64::new(0),
            vcpus: AtomicU32::new(0),
        })
    }

    /// Bytes of heap in use.
    #[must_use]
    pub fn heap(&self) -> u64 {
        self.heap.load(Ordering::Relaxed)
    }

    /// Most bytes of heap.
    #[must_use]
    pub fn heap_max(&self) -> u64 {
        self.quotas.heap_bytes
    }
}

/// Part of a quota; it goes back when this is dropped.
pub struct Charge {
    pub(super) account: Arc<Account>,
    heap: u64,
    vcpus: u32,
}

impl Charge {
    /// Takes a part, if that much is left.
    pub(super) fn new(account: &Arc<Account>, heap: u64, vcpus: u32) -> Option<Self> {
        let quotas = account.quotas;
        account
            .heap
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(heap)
                    .filter(|sum| *sum <= quotas.heap_bytes)
            })
            .ok()?;
        let counted = account
            .vcpus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(vcpus).filter(|sum| *sum <= quotas.vcpus)
            });
        if counted.is_err() {
            account.heap.fetch_sub(heap, Ordering::Relaxed);
            return None;
        }
        Some(Self {
            account: account.clone(),
            heap,
            vcpus,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.heap.fetch_sub(self.heap, Ordering::Relaxed);
        self.account.vcpus.fetch_sub(self.vcpus, Ordering::Relaxed);
    }
}

/// Hardware logical partition ids for guests. One machine has one of these.
pub struct Lpids {
    range: Range<u32>,
    used: Mutex<Vec<u64>, rank::Lpids>,
}

impl Lpids {
    /// Ids that no partition uses.
    #[must_use]
    pub fn new(range: Range<u32>) -> Self {
        Self {
            range,
            used: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut used = self.used.lock();
        let lpid = self.range.clone().find(|lpid| {
            let (word, bit) = Self::place(*lpid);
            used.get(word).is_none_or(|bits| bits & bit == 0)
        })?;
        let (word, bit) = Self::place(lpid);
        if used.len() <= word {
            let more = word.saturating_sub(used.len()).saturating_add(1);
            used.try_reserve(more).ok()?;
            used.resize(word.saturating_add(1), 0);
        }
        *used.get_mut(word)? |= bit;
        Some(Lease {
            lpids: self.clone(),
            lpid,
        })
    }

    fn place(lpid: u32) -> (usize, u64) {
        (
            usize::try_from(lpid / 64).unwrap_or(usize::MAX),
            1 << (lpid % 64),
        )
    }
}

/// An LPID in use.
pub(super) struct Lease {
    lpids: Arc<Lpids>,
    pub(super) lpid: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (word, bit) = Lpids::place(self.lpid);
        if let Some(bits) = self.lpids.used.lock().get_mut(word) {
            *bits &= !bit;
        }
    }
}
