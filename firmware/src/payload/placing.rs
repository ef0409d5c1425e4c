//! Moving what was loaded into a partition's memory: word by word where both sides are aligned.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Gra;
use papr_services::guest_ram::GuestRam;

use super::Loaded;

/// The words of `ram` from `gra`, as far as they are contiguous.
fn words(ram: &GuestRam, gra: Gra) -> Option<&'static [AtomicU64]> {
    let extent = ram
        .extents()
        .iter()
        .find(|e| gra >= e.gra && gra.0 - e.gra.0 < e.len())?;
    extent
        .memory
        .get(usize::try_from((gra.0 - extent.gra.0) / 8).ok()?..)
}

/// Copies `len` bytes at `offset` of `from` to `to`: by words where both are aligned, else through a buffer.
pub(super) fn copy(
    from: Loaded,
    mut offset: u64,
    mut len: u64,
    ram: &GuestRam,
    mut to: Gra,
) -> Option<()> {
    while len > 0 {
        let done = if offset.is_multiple_of(8) && to.is_aligned(8) && len >= 8 {
            let source = from.words.get(usize::try_from(offset / 8).ok()?..)?;
            let source = source.get(..source.len().min(usize::try_from(len / 8).ok()?))?;
            let mut count = 0;
            for (to, from) in words(ram, to)?.iter().zip(source) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                count += 8;
            }
            count
        } else {
            let mut buffer = [0; 256];
            let part = buffer.get_mut(..usize::try_from(len.min(256)).ok()?)?;
            from.read(offset, part)?;
            ram.write(to, part).ok()?;
            part.len() as u64
        };
        if done == 0 {
            return None;
        }
        (offset, len, to) = (offset + done, len - done, to.checked_add(done)?);
    }
    Some(())
}

/// Writes `len` zeroes.
pub(super) fn clear(ram: &GuestRam, mut to: Gra, mut len: u64) -> Option<()> {
    while len > 0 {
        let done = if to.is_aligned(8) && len >= 8 {
            let count = usize::try_from(len / 8).ok()?;
            words(ram, to)?
                .iter()
                .take(count)
                .map(|word| word.store(0, Ordering::Relaxed))
                .count() as u64
                * 8
        } else {
            ram.write(to, &[0]).ok()?;
            1
        };
        if done == 0 {
            return None;
        }
        (len, to) = (len - done, to.checked_add(done)?);
    }
    Some(())
}
