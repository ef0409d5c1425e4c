//! How often each vCPU of a partition left to the firmware, by reason: a page that the partition can read.
//!
//! The page is memory of the firmware that is mapped for reading at [`PLACE`], so that looking costs no exit; the node
//! `exit-counters` of the partition's tree describes it. A vCPU has [`BYTES_PER_VCPU`]: a big-endian doubleword for each
//! of [`REASONS`] while the partition itself ran, then one for each while a nested guest of it ran.
//!
//! The surprising fact: it is for people and tests. Nothing of PAPR describes it, and kernels ignore the node.

use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Gra;

/// Where the partition sees the page.
pub const PLACE: Gra = Gra(0x0006_0303_0000_0000);
/// Bytes of the page.
pub const BYTES: usize = 64 << 10;
/// Bytes of one vCPU's part.
pub const BYTES_PER_VCPU: usize = 256;

/// Reasons, in the order of the counters, each with its interrupt vectors.
pub const REASONS: [(&str, &[u64]); 11] = [
    ("hypercall", &[0xc00]),
    ("timer", &[0x980]),
    ("doorbell", &[0xe80]),
    ("external", &[0x500]),
    ("virtualization", &[0xea0]),
    ("data-storage", &[0xe00]),
    ("instruction-storage", &[0xe20]),
    ("emulation", &[0xe40]),
    ("facility", &[0xf80]),
    ("machine-check", &[0x200, 0x100]),
    ("other", &[]),
];

const _: () = assert!(2 * 8 * REASONS.len() <= BYTES_PER_VCPU);

/// The index of a vector's reason.
#[must_use]
pub fn reason(vector: u64) -> usize {
    let known = REASONS
        .iter()
        .position(|(_, vectors)| vectors.contains(&vector));
    known.unwrap_or(REASONS.len().saturating_sub(1))
}

/// The counters of one vCPU. Only its thread counts.
#[derive(Clone, Copy, Debug)]
pub struct ExitCounters<'a> {
    words: &'a [AtomicU64],
}

impl<'a> ExitCounters<'a> {
    /// The part of vCPU `id` of the page; without counters when the page has no room for it.
    #[must_use]
    pub fn of(page: &'a [AtomicU64], id: u32) -> Self {
        const WORDS: usize = BYTES_PER_VCPU / 8;
        let part = usize::try_from(id).ok().and_then(|id| {
            let first = id.checked_mul(WORDS)?;
            page.get(first..first.checked_add(WORDS)?)
        });
        Self {
            words: part.unwrap_or(&[]),
        }
    }

    /// Counts an exit with that interrupt vector.
    pub fn count(&self, vector: u64, nested: bool) {
        let offset = if nested { REASONS.len() } else { 0 };
        let at = reason(vector).saturating_add(offset);
        if let Some(word) = self.words.get(at) {
            let count = u64::from_be(word.load(Ordering::Relaxed));
            word.store(count.wrapping_add(1).to_be(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn each_vector_has_its_counter() {
        let page: Vec<AtomicU64> = (0..BYTES / 8).map(|_| AtomicU64::new(0)).collect();
        let counters = ExitCounters::of(&page, 2);
        counters.count(0xc00, false);
        counters.count(0xc00, false);
        counters.count(0x100, false);
        counters.count(0x700, true);
        let set: Vec<(usize, u64)> = (0..)
            .zip(&page)
            .map(|(at, word)| (at, u64::from_be(word.load(Ordering::Relaxed))))
            .filter(|(_, count)| *count != 0)
            .collect();
        assert_eq!(set, [(64, 2), (73, 1), (64 + 11 + 10, 1)]);
    }

    #[test]
    fn who_has_no_part_does_not_count() {
        let page: Vec<AtomicU64> = (0..BYTES / 8).map(|_| AtomicU64::new(0)).collect();
        ExitCounters::of(&page, 256).count(0xc00, false);
        ExitCounters::of(&page, u32::MAX).count(0xc00, false);
        assert!(page.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        ExitCounters::of(&page, 255).count(0xc00, false);
        assert!(page.iter().any(|word| word.load(Ordering::Relaxed) != 0));
    }
}
