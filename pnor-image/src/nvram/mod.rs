//! NVRAM: partitions with a 16-byte header each, back to back, as CHRP and PAPR define them.
//!
//! The firmware's settings are `name=value` strings in `ibm,skiboot`, the operating system's in `common`. An operating
//! system may write every byte, so whatever is read here is checked each time. The surprise: unlike skiboot, which
//! formats a damaged NVRAM anew, [`repair`] keeps every partition that is still sound.

pub mod journal;
mod repair;
mod settings;

use alloc::vec::Vec;
use core::fmt;

pub use repair::{Outcome, repair, unclaimed};
pub use settings::{NoRoom, Settings};

use crate::bytes::{array, be16, part, put};

/// Bytes of a partition's header; also the unit of lengths.
pub const HEADER_SIZE: usize = 16;
/// The partition with the firmware's settings.
pub const FIRMWARE: Id = Id::new(0x51, *b"ibm,skiboot\0");
/// The partition with the operating system's settings.
pub const COMMON: Id = Id::new(0x70, *b"common\0\0\0\0\0\0");
/// What nobody uses.
pub const FREE: Id = Id::new(0x7f, *b"wwwwwwwwwwww");
/// Bytes of the firmware's partition when NVRAM is formatted, as skiboot does it.
pub const FIRMWARE_SIZE: usize = 0x1000;
/// Bytes of the operating system's partition when NVRAM is formatted.
pub const COMMON_SIZE: usize = 0x10000;
/// The most that a length field can say; larger NVRAM has several free partitions at its end.
const LONGEST: usize = 0xffff * HEADER_SIZE;

/// What tells partitions apart: signature and name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Id {
    /// Who owns it.
    pub signature: u8,
    /// Its name, padded with zeroes.
    pub name: [u8; 12],
}

impl Id {
    const fn new(signature: u8, name: [u8; 12]) -> Self {
        Self { signature, name }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.name.iter().position(|&byte| byte == 0);
        let name = end
            .and_then(|end| self.name.get(..end))
            .unwrap_or(&self.name);
        write!(f, "{} ({:#x})", name.escape_ascii(), self.signature)
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Whose it is.
    pub id: Id,
    /// Where its header is.
    pub at: usize,
    /// Bytes of header and content.
    pub length: usize,
}

impl Partition {
    /// What follows the header.
    pub fn content<'a>(&self, nvram: &'a [u8]) -> Option<&'a [u8]> {
        part(nvram, self.at, self.length)?.get(HEADER_SIZE..)
    }
}

/// Why NVRAM is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing was ever written: only ones or zeroes.
    Empty,
    /// The header at this place has a wrong check sum.
    CheckSum(usize),
    /// The header at this place gives a length of nothing, or one beyond the end.
    Length(usize),
    /// A partition that has to be there is not.
    Missing(Id),
    /// The firmware's settings do not end with a zero.
    NoEnd,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "empty"),
            Self::CheckSum(at) => write!(f, "the header at {at:#x} has a wrong check sum"),
            Self::Length(at) => write!(f, "the header at {at:#x} has an impossible length"),
            Self::Missing(id) => write!(f, "there is no partition {id}"),
            Self::NoEnd => write!(f, "the settings in {FIRMWARE} do not end"),
        }
    }
}

impl core::error::Error for Damage {}

/// Fewer bytes than the partitions that have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = FIRMWARE_SIZE
            .saturating_add(COMMON_SIZE)
            .saturating_add(HEADER_SIZE);
        write!(f, "NVRAM needs {needed:#x} bytes")
    }
}

impl core::error::Error for TooSmall {}

/// The sum of the header's bytes, each overflow added again, with the check sum taken as zero.
fn check_sum(header: &[u8; HEADER_SIZE]) -> u8 {
    let sum = header
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 1)
        .fold(0_u32, |sum, (_, &byte)| sum.saturating_add(u32::from(byte)));
    // 15 bytes: at most two bytes of sum, and folding them twice leaves one.
    let fold = |sum: u32| (sum & 0xff).saturating_add(sum >> 8);
    u8::try_from(fold(fold(sum))).unwrap_or_default()
}

/// The partition whose header is at `at`; for those who have read only a part of an NVRAM of this length.
///
/// # Errors
/// What is not sound about it.
pub fn partition_at(nvram: &[u8], at: usize) -> Result<Partition, Damage> {
    read(nvram, at)
}

/// The partition whose header is at `at`.
fn read(nvram: &[u8], at: usize) -> Result<Partition, Damage> {
    let header: [u8; HEADER_SIZE] = array(nvram, at).ok_or(Damage::Length(at))?;
    let [signature, sum, ..] = header;
    if check_sum(&header) != sum {
        return Err(Damage::CheckSum(at));
    }
    let length = be16(&header, 2)
        .map_or(0, usize::from)
        .saturating_mul(HEADER_SIZE);
    let name = array(&header, 4).ok_or(Damage::Length(at))?;
    if length == 0 || part(nvram, at, length).is_none() {
        return Err(Damage::Length(at));
    }
    Ok(Partition {
        id: Id { signature, name },
        at,
        length,
    })
}

/// Writes a header; the content is left as it is.
fn write(nvram: &mut [u8], partition: &Partition) -> bool {
    let mut header = [0; HEADER_SIZE];
    // Lengths come from LONGEST or from a header that was read, so they fit.
    let units = u16::try_from(partition.length >> 4).unwrap_or(u16::MAX);
    let filled = put(&mut header, 0, &[partition.id.signature])
        && put(&mut header, 2, &units.to_be_bytes())
        && put(&mut header, 4, &partition.id.name);
    let sum = check_sum(&header);
    filled && put(&mut header, 1, &[sum]) && put(nvram, partition.at, &header)
}

/// Walks through the partitions, up to the end of NVRAM.
///
/// # Errors
/// The first thing that is not sound.
pub fn partitions(nvram: &[u8]) -> Result<Vec<Partition>, Damage> {
    let mut found = Vec::new();
    let mut at = 0_usize;
    // What is shorter than a header at the end is nobody's.
    while at.saturating_add(HEADER_SIZE) <= nvram.len() {
        let partition = read(nvram, at).map_err(|damage| {
            let is_blank = |blank| nvram.iter().all(|&byte| byte == blank);
            if is_blank(0xff) || is_blank(0) {
                Damage::Empty
            } else {
                damage
            }
        })?;
        at = at.saturating_add(partition.length);
        found.push(partition);
    }
    Ok(found)
}

/// Walks through the partitions and makes sure that those are there that have to be.
///
/// # Errors
/// The first thing that is not sound; [`repair`] can help then.
pub fn check(nvram: &[u8]) -> Result<Vec<Partition>, Damage> {
    let found = partitions(nvram)?;
    for id in [FIRMWARE, COMMON] {
        if !found.iter().any(|partition| partition.id == id) {
            return Err(Damage::Missing(id));
        }
    }
    let last = found
        .iter()
        .find(|partition| partition.id == FIRMWARE)
        .and_then(|partition| partition.content(nvram)?.last());
    match last {
        Some(0) => Ok(found),
        _ => Err(Damage::NoEnd),
    }
}

/// Sets `name` to `value` in the partition `id`, or takes it away; everything else stays.
///
/// # Errors
/// [`NoRoom`] if it does not fit, or there is no such partition; then nothing is changed.
pub fn set(nvram: &mut [u8], id: Id, name: &str, value: Option<&[u8]>) -> Result<(), NoRoom> {
    settings::set(nvram, id, name, value)
}

/// Makes an empty NVRAM: the two partitions that have to be there, and free space.
///
/// # Errors
/// [`TooSmall`], and then nothing is changed.
pub fn format(nvram: &mut [u8]) -> Result<(), TooSmall> {
    lay_out(nvram, &[(FIRMWARE, FIRMWARE_SIZE), (COMMON, COMMON_SIZE)])
}

/// Clears everything and writes headers for these partitions, and for the free space behind them.
fn lay_out(nvram: &mut [u8], wanted: &[(Id, usize)]) -> Result<(), TooSmall> {
    let total = wanted
        .iter()
        .try_fold(0_usize, |sum, (_, length)| sum.checked_add(*length))
        .ok_or(TooSmall)?;
    let needed = total.checked_add(HEADER_SIZE).ok_or(TooSmall)?;
    if needed > nvram.len() {
        return Err(TooSmall);
    }
    nvram.fill(0);
    let mut at = 0_usize;
    let mut written = true;
    let mut add = |id, length| {
        let partition = Partition { id, at, length };
        written &= write(nvram, &partition);
        at = at.saturating_add(length);
        nvram.len().saturating_sub(at) & !0xf
    };
    let mut left = 0;
    for &(id, length) in wanted {
        left = add(id, length);
    }
    while left > 0 {
        left = add(FREE, left.min(LONGEST));
    }
    debug_assert!(written, "every header lies within");
    Ok(())
}

#[cfg(test)]
mod tests;
