//! Making a damaged NVRAM sound again with everything that is still good.
//!
//! Partitions are found by walking, and behind a damaged header by looking for the next good one. Then NVRAM is laid out
//! anew. The surprise: a partition may hold bytes that look like a header, so the search behind damage only takes headers
//! with a name that somebody would give.

use alloc::vec::Vec;
use core::ops::Range;

use super::{
    COMMON, COMMON_SIZE, FIRMWARE, FIRMWARE_SIZE, FREE, HEADER_SIZE, Id, LONGEST, Partition,
    TooSmall, check, format, lay_out, read,
};
use crate::bytes::put;

/// What became of an NVRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was sound, and is as it was.
    Sound,
    /// It was empty, and is formatted now.
    Formatted,
    /// It was damaged; so many partitions were kept, and so many bytes of them had to be dropped for lack of room.
    Repaired {
        /// Partitions with their content.
        kept: usize,
        /// Partitions that were sound but do not fit any more.
        dropped: usize,
    },
}

/// Makes `nvram` sound, and changes nothing if it is.
///
/// # Errors
/// [`TooSmall`], and then nothing is changed.
pub fn repair(nvram: &mut [u8]) -> Result<Outcome, TooSmall> {
    if check(nvram).is_ok() {
        return Ok(Outcome::Sound);
    }
    let mut kept: Vec<(Id, Vec<u8>)> = Vec::new();
    for partition in sound(nvram) {
        let is_known = kept.iter().any(|(id, _)| *id == partition.id);
        if let Some(content) = partition.content(nvram)
            && partition.id != FREE
            && !is_known
        {
            kept.push((partition.id, content.to_vec()));
        }
    }
    if kept.is_empty() {
        format(nvram)?;
        return Ok(Outcome::Formatted);
    }
    // First those that have to be there, in their order, then the others, as long as there is room.
    let mut wanted: Vec<(Id, usize)> = Vec::new();
    let size_of = |id: Id, otherwise: usize| {
        kept.iter()
            .find(|(found, _)| *found == id)
            .map_or(otherwise, |(_, content)| {
                content.len().saturating_add(HEADER_SIZE)
            })
    };
    let available = nvram.len().saturating_sub(HEADER_SIZE);
    let mut used = 0_usize;
    for (id, usual) in [(FIRMWARE, FIRMWARE_SIZE), (COMMON, COMMON_SIZE)] {
        let length = size_of(id, usual);
        used = used.saturating_add(length);
        wanted.push((id, length));
    }
    if used > available {
        // One of them was found with a length that leaves no room for the other: back to the usual lengths.
        wanted = [(FIRMWARE, FIRMWARE_SIZE), (COMMON, COMMON_SIZE)].into();
        used = FIRMWARE_SIZE.saturating_add(COMMON_SIZE);
    }
    let mut dropped = 0_usize;
    for (id, content) in &kept {
        if wanted.iter().any(|(other, _)| other == id) {
            continue;
        }
        let length = content.len().saturating_add(HEADER_SIZE);
        if used.saturating_add(length) <= available && length <= LONGEST {
            used = used.saturating_add(length);
            wanted.push((*id, length));
        } else {
            dropped = dropped.saturating_add(1);
        }
    }
    lay_out(nvram, &wanted)?;
    let mut at = 0_usize;
    let mut filled = 0_usize;
    for (id, length) in wanted {
        let content = kept.iter().find(|(found, _)| *found == id);
        if let Some((_, content)) = content {
            let room = length.saturating_sub(HEADER_SIZE);
            let mut content = content.get(..room).unwrap_or(content).to_vec();
            if id == FIRMWARE
                && let Some(last) = content.last_mut()
            {
                *last = 0;
            }
            let written = put(nvram, at.saturating_add(HEADER_SIZE), &content);
            debug_assert!(written, "the layout has room for it");
            filled = filled.saturating_add(1);
        }
        at = at.saturating_add(length);
    }
    Ok(Outcome::Repaired {
        kept: filled,
        dropped,
    })
}

/// What of a damaged NVRAM [`repair`] does not keep: everything behind the last partition that is sound and in use.
pub fn unclaimed(nvram: &[u8]) -> Range<usize> {
    let used = sound(nvram)
        .into_iter()
        .filter(|partition| partition.id != FREE)
        .map(|partition| partition.at.saturating_add(partition.length))
        .max();
    used.unwrap_or(0)..nvram.len()
}

/// The partitions that are sound, also behind damage.
fn sound(nvram: &[u8]) -> Vec<Partition> {
    let mut found = Vec::new();
    let mut at = 0_usize;
    let mut is_behind_damage = false;
    while at.saturating_add(HEADER_SIZE) <= nvram.len() {
        match read(nvram, at) {
            Ok(partition) if !is_behind_damage || is_likely(partition.id) => {
                at = at.saturating_add(partition.length);
                found.push(partition);
                is_behind_damage = false;
            }
            _ => {
                at = at.saturating_add(HEADER_SIZE);
                is_behind_damage = true;
            }
        }
    }
    found
}

/// Says whether somebody would give a partition this name: printable, then zeroes.
fn is_likely(id: Id) -> bool {
    let end = id
        .name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(id.name.len());
    let (name, rest) = id.name.split_at_checked(end).unwrap_or((&id.name, &[]));
    id.signature != 0
        && name.len() >= 2
        && name.iter().all(u8::is_ascii_graphic)
        && rest.iter().all(|&byte| byte == 0)
}
