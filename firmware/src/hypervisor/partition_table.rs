//! The partition table: for each logical partition, where its translation starts (Power ISA 3.1 book III 6.7.6).
//!
//! One table for the machine, in the image's bss, found by hardware through PTCR.

use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Ra;
use isa::barrier::ptesync;

/// Entries: LPIDs are 12 bits.
pub(super) const ENTRIES: usize = 4096;

#[repr(C, align(65536))]
struct Table([AtomicU64; 2 * ENTRIES]);

static TABLE: Table = Table([const { AtomicU64::new(0) }; 2 * ENTRIES]);

/// The right to change the table.
pub(super) struct PartitionTable(());

impl PartitionTable {
    /// Takes the table. There is one; who calls this twice has two writers for it, which the atomics bear.
    pub(super) fn take() -> Self {
        Self(())
    }

    /// Where it is.
    pub(super) fn ra(&self) -> Ra {
        Ra(core::ptr::from_ref(&TABLE) as u64)
    }

    /// Writes an entry; the caller flushes what hardware remembers of the old one. Entries of LPIDs beyond the table
    /// do not exist and are ignored.
    pub(super) fn set(&self, lpid: u32, [root, process]: [u64; 2]) {
        let at = usize::try_from(lpid).unwrap_or(ENTRIES).saturating_mul(2);
        if let Some([dw0, dw1, ..]) = TABLE.0.get(at..) {
            // The half that makes the entry valid last; off first when it goes.
            if root == 0 {
                dw0.store(0, Ordering::Release);
            }
            dw1.store(process.to_be(), Ordering::Release);
            dw0.store(root.to_be(), Ordering::Release);
            ptesync();
        }
    }
}
