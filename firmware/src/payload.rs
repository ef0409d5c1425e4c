//! The kernel and initrd as loaded: checked, then placed in the partition's memory.
//!
//! Whoever started us put the kernel raw at 0x20000000 (a loader's limit is 128 MiB) and, maybe, an initrd elsewhere; both
//! are hostile bytes that nothing changes any more. Surprising fact: the length of the kernel is told by nobody, so a
//! truncated file shows only in the section table at its end.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::Gra;
use papr_services::guest_ram::GuestRam;

use crate::memory::PartitionExtent;

mod placing;

use placing::{clear, copy};

/// Where the kernel is loaded.
pub const KERNEL_AREA: Range<u64> = 0x2000_0000..0x2800_0000;
/// Where the lowest segment goes in the partition. Not 0: a kernel that copies itself down must not overlap the copy.
pub const KERNEL_AT: u64 = 0x40_0000;
/// Kept free of kernel and initrd: the caller puts the device tree and the RTAS page here.
pub const TREE_AREA: Range<u64> = 0x0e00_0000..0x1000_0000;

const PAGE: u64 = 0x1_0000;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: u64 = 64;
const MAX_SEGMENTS: u16 = 64;
const PPC64: u16 = 21;
const LOAD: u32 = 1;
const STRING_TABLE: u32 = 3;

/// Memory that holds what a loader put there. Read by copying out.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Address of the first word.
    pub base: u64,
    /// The memory.
    pub words: &'static [AtomicU64],
}

impl Loaded {
    /// Bytes.
    fn len(&self) -> u64 {
        (self.words.len() as u64).saturating_mul(8)
    }

    /// The first `size` bytes, in whole words; what follows them in the last word is cleared.
    pub(crate) fn cut(self, size: u64) -> Self {
        let words = usize::try_from(size.div_ceil(8)).unwrap_or(usize::MAX);
        let words = self.words.get(..words).unwrap_or(self.words);
        if let (Some(last), rest @ 1..) = (words.last(), size % 8) {
            let mut bytes = last.load(Ordering::Relaxed).to_ne_bytes();
            for byte in bytes.iter_mut().skip(usize::try_from(rest).unwrap_or(8)) {
                *byte = 0;
            }
            last.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        Self { words, ..self }
    }

    /// Copies out from `offset`; `None` when that leaves the memory.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(buffer.len() as u64)?;
        if end > self.len() {
            return None;
        }
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            let word = self.words.get(usize::try_from(at >> 3).ok()?)?;
            *byte = *word
                .load(Ordering::Relaxed)
                .to_ne_bytes()
                .get(usize::try_from(at & 7).ok()?)?;
        }
        Some(())
    }

    pub(crate) fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes)?;
        Some(bytes)
    }
}

/// Why there is nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// Nothing but zeroes.
    NothingThere,
    /// Not an ELF file; it starts so.
    NotElf([u8; 8]),
    /// An ELF file for 32-bit processors.
    Not64Bit,
    /// A big-endian ELF file.
    BigEndian,
    /// An ELF file for another processor: its machine number.
    OtherProcessor(u16),
    /// An ELF file, but no program: its type.
    NotExecutable(u16),
    /// The file ends before its headers say.
    Truncated,
    /// The headers contradict themselves.
    BadHeaders(&'static str),
    /// The kernel needs memory up to here in the partition.
    KernelTooLarge(u64),
    /// The initrd lies in memory that is not there, or that is the firmware's.
    InitrdMisplaced(u64, u64),
    /// Kernel file and initrd overlap: the end of the kernel, the start of the initrd.
    Overlap(u64, u64),
    /// The initrd does not fit into the partition: its size, and how much room there is.
    InitrdTooLarge(u64, u64),
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = KERNEL_AREA.start;
        let give = "give a 64-bit little-endian vmlinux (QEMU: -kernel vmlinux)";
        match self {
            Self::NothingThere => write!(f, "no kernel: nothing but zeroes at {at:#x}; {give}"),
            Self::NotElf(start) => {
                write!(f, "no kernel: found {} at {at:#x}; {give}", Magic(*start))
            }
            Self::Not64Bit => write!(f, "no kernel: found a 32-bit ELF file at {at:#x}; {give}"),
            Self::BigEndian => write!(
                f,
                "no kernel: found a big-endian ELF file at {at:#x}, which is not supported; {give}"
            ),
            Self::OtherProcessor(machine) => {
                write!(
                    f,
                    "no kernel: found an ELF file for another processor (machine {machine}) at {at:#x}; {give}"
                )
            }
            Self::NotExecutable(kind) => {
                write!(
                    f,
                    "no kernel: found an ELF file of type {kind} at {at:#x}, which is no program; {give}"
                )
            }
            Self::Truncated => write!(f, "the kernel at {at:#x} is truncated: copy the whole file"),
            Self::BadHeaders(what) => write!(
                f,
                "the kernel at {at:#x} is damaged: {what}; copy the file again"
            ),
            Self::KernelTooLarge(end) => write!(
                f,
                "the kernel needs memory up to {end:#x} of the partition, {:#x} is the limit: use a smaller one",
                TREE_AREA.start
            ),
            Self::InitrdMisplaced(start, end) => write!(
                f,
                "the initrd at {start:#x}..{end:#x} is not in memory that is free for it: load it elsewhere below 0x30000000"
            ),
            Self::Overlap(kernel_end, initrd) => write!(
                f,
                "the kernel ends at {kernel_end:#x}, the initrd starts at {initrd:#x}: they overlap, load the initrd higher"
            ),
            Self::InitrdTooLarge(size, room) => write!(
                f,
                "the initrd of {} KiB does not fit, there is room for {} KiB: use a smaller one or give more memory",
                size >> 10,
                room >> 10
            ),
        }
    }
}

/// The first bytes of a file, with its kind when we know it.
pub(crate) struct Magic(pub(crate) [u8; 8]);

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            [0x1f, 0x8b, ..] => "a gzip file",
            [0xfd, b'7', b'z', b'X', b'Z', ..] => "an xz file",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd file",
            [b'0', b'7', b'0', b'7', ..] => "a cpio archive",
            [0xd0, 0x0d, 0xfe, 0xed, ..] => "a device tree",
            [0x27, 0x05, 0x19, 0x56, ..] => "a U-Boot image",
            [0x17, 0x08, 0x20, 0x11, ..] => "a secure-boot container",
            _ => "bytes that are no ELF file",
        };
        write!(f, "{kind} (")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// One part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Offset in the file.
    offset: u64,
    /// Bytes in the file.
    filled: u64,
    /// Bytes in memory; the rest is zero.
    size: u64,
    /// Where it goes.
    gra: Gra,
}

/// Where the initrd is and goes.
///
/// It stays where it is when the partition sees that memory anyway: copying 100 MB costs more than all else in boot.
#[derive(Clone, Copy, Debug)]
struct Initrd {
    /// What to copy, `None` when it stays.
    copied: Option<Loaded>,
    /// Bytes; `copied` may be up to 7 longer.
    len: u64,
    gra: Gra,
}

/// A kernel and maybe an initrd that have been found good. [`Payload::place`] moves them into a partition.
#[derive(Clone, Debug)]
pub struct Payload {
    kernel: Loaded,
    segments: Vec<Segment>,
    /// Where to enter the kernel.
    pub entry: Gra,
    /// First byte after the kernel.
    pub kernel_end: Gra,
    initrd: Option<Initrd>,
}

/// Where `range` of the machine's memory, `None` when it is not there.
pub trait Memory {
    /// The words from `range.start`, which is a multiple of 8, to `range.end` rounded up.
    fn loaded(&self, range: Range<u64>) -> Option<Loaded>;
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u16::from_le_bytes(*b))
}
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u32::from_le_bytes(*b))
}
fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u64::from_le_bytes(*b))
}

impl Payload {
    /// Checks what was loaded against a partition with this memory, whose first extent starts at guest address 0.
    ///
    /// # Errors
    /// What was found, so that one line can say what to do.
    pub fn read(
        memory: &impl Memory,
        kernel: Loaded,
        initrd: Option<Range<u64>>,
        extents: &[PartitionExtent],
    ) -> Result<Self, PayloadError> {
        let mut payload = Self::kernel(kernel)?;
        let room = extents.first().map_or(0, |extent| extent.len);
        if payload.kernel_end.0 > TREE_AREA.start.min(room) {
            return Err(PayloadError::KernelTooLarge(payload.kernel_end.0));
        }
        if let Some(range) = initrd {
            payload.initrd = Some(payload.check_initrd(memory, &range, extents)?);
        }
        Ok(payload)
    }

    fn kernel(kernel: Loaded) -> Result<Self, PayloadError> {
        let header: [u8; HEADER] = kernel.array(0).ok_or(PayloadError::Truncated)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(PayloadError::NothingThere);
        }
        let [m0, m1, m2, m3, class, data, _, version, ..] = header;
        if [m0, m1, m2, m3] != *b"\x7fELF" {
            return Err(PayloadError::NotElf([
                m0, m1, m2, m3, class, data, header[6], version,
            ]));
        }
        match (class, data) {
            (2, 1) => {}
            (2, 2) => return Err(PayloadError::BigEndian),
            (1, _) => return Err(PayloadError::Not64Bit),
            _ => return Err(PayloadError::BadHeaders("neither 32-bit nor 64-bit")),
        }
        if le16(&header, 18) != PPC64 {
            return Err(PayloadError::OtherProcessor(le16(&header, 18)));
        }
        let kind = le16(&header, 16);
        if !(2..=3).contains(&kind) {
            return Err(PayloadError::NotExecutable(kind));
        }
        Self::check_end_of_file(kernel, &header)?;
        let (entry, table, count) = (le64(&header, 24), le64(&header, 32), le16(&header, 56));
        if usize::from(le16(&header, 54)) != PROGRAM_HEADER || count == 0 || count > MAX_SEGMENTS {
            return Err(PayloadError::BadHeaders("no usable program headers"));
        }

        let mut parts = Vec::new(); // (segment with physical address, virtual address)
        for n in 0..u64::from(count) {
            let at = table
                .checked_add(n * PROGRAM_HEADER as u64)
                .ok_or(PayloadError::Truncated)?;
            let raw: [u8; PROGRAM_HEADER] = kernel.array(at).ok_or(PayloadError::Truncated)?;
            if le32(&raw, 0) != LOAD || le64(&raw, 40) == 0 {
                continue;
            }
            let [offset, address, physical, filled, size] =
                [8, 16, 24, 32, 40].map(|at| le64(&raw, at));
            if offset
                .checked_add(filled)
                .is_none_or(|end| end > kernel.len())
            {
                return Err(PayloadError::Truncated);
            }
            if filled > size || physical.checked_add(size).is_none() {
                return Err(PayloadError::BadHeaders(
                    "a segment is larger in the file than in memory",
                ));
            }
            parts.push((
                Segment {
                    offset,
                    filled,
                    size,
                    gra: Gra(physical),
                },
                address,
            ));
        }
        parts.sort_unstable_by_key(|(segment, _)| segment.gra);
        let lowest = parts
            .first()
            .map(|(segment, _)| segment.gra.0)
            .ok_or(PayloadError::BadHeaders("nothing to load"))?;

        let mut end = 0;
        let mut entry_at = None;
        let mut segments = Vec::new();
        for (mut segment, address) in parts {
            let gra = (segment.gra.0 - lowest).checked_add(KERNEL_AT);
            let (Some(gra), true) = (gra, segment.gra.0 >= end) else {
                return Err(PayloadError::BadHeaders("segments overlap"));
            };
            end = segment.gra.0.saturating_add(segment.size);
            segment.gra = Gra(gra);
            if let Some(offset) = entry
                .checked_sub(address)
                .filter(|offset| *offset < segment.filled)
            {
                entry_at = gra.checked_add(offset);
            }
            segments.push(segment);
        }
        let entry = entry_at.map(Gra).filter(|entry| entry.is_aligned(4));
        let entry = entry.ok_or(PayloadError::BadHeaders("its entry is in no segment"))?;
        let kernel_end = (end - lowest)
            .checked_add(KERNEL_AT)
            .map(Gra)
            .ok_or(PayloadError::KernelTooLarge(u64::MAX))?;
        Ok(Self {
            kernel,
            segments,
            entry,
            kernel_end,
            initrd: None,
        })
    }

    /// The table of sections is written last: if it is there, all is.
    fn check_end_of_file(kernel: Loaded, header: &[u8; HEADER]) -> Result<(), PayloadError> {
        let (table, count, names) = (le64(header, 40), le16(header, 60), le16(header, 62));
        if count == 0 || names >= count {
            return Ok(()); // stripped of it
        }
        let at = table
            .checked_add(u64::from(names) * SECTION_HEADER)
            .and_then(|at| at.checked_add(4));
        let kind: [u8; 4] = at
            .and_then(|at| kernel.array(at))
            .ok_or(PayloadError::Truncated)?;
        if le32(&kind, 0) == STRING_TABLE {
            Ok(())
        } else {
            Err(PayloadError::Truncated)
        }
    }

    fn check_initrd(
        &self,
        memory: &impl Memory,
        range: &Range<u64>,
        extents: &[PartitionExtent],
    ) -> Result<Initrd, PayloadError> {
        let misplaced = PayloadError::InitrdMisplaced(range.start, range.end);
        let file_ends = self.segments.iter().map(|s| s.offset + s.filled);
        let file_end = file_ends.max().unwrap_or(0) + self.kernel.base;
        if range.start < file_end && range.end > self.kernel.base {
            return Err(PayloadError::Overlap(file_end, range.start));
        }
        if !range.start.is_multiple_of(8) {
            return Err(misplaced);
        }
        let loaded = memory.loaded(range.clone()).ok_or(misplaced)?;
        let len = range.end - range.start;
        let low_end = TREE_AREA.end.max(self.kernel_end.0.next_multiple_of(PAGE));
        let seen = extents.iter().find_map(|extent| extent.sees(range));
        if let Some(gra) = seen
            && gra.0 >= low_end
            && gra.is_aligned(PAGE)
        {
            let copied = None;
            return Ok(Initrd { copied, len, gra });
        }
        let room = extents.first().map_or(0, |extent| extent.len);
        let left = room.saturating_sub(low_end);
        if len > left {
            return Err(PayloadError::InitrdTooLarge(len, left));
        }
        // A copy must not overwrite what it copies.
        let target = low_end..low_end.saturating_add(len);
        if seen.is_some_and(|gra| gra.0 < target.end) {
            return Err(misplaced);
        }
        Ok(Initrd {
            copied: Some(loaded),
            len,
            gra: Gra(low_end),
        })
    }

    /// Where the initrd goes, for `/chosen`: first byte and one past the last.
    #[must_use]
    pub fn initrd(&self) -> Option<Range<u64>> {
        self.initrd
            .map(|initrd| initrd.gra.0..initrd.gra.0 + initrd.len)
    }

    /// Copies kernel and initrd into the partition's memory, as far as they are not there already.
    ///
    /// # Errors
    /// [`PayloadError::KernelTooLarge`] or [`PayloadError::InitrdTooLarge`] when `ram` is not what `read` was told.
    pub fn place(&self, ram: &GuestRam) -> Result<(), PayloadError> {
        for segment in &self.segments {
            let too_large = PayloadError::KernelTooLarge(self.kernel_end.0);
            copy(
                self.kernel,
                segment.offset,
                segment.filled,
                ram,
                segment.gra,
            )
            .ok_or(too_large)?;
            let rest = segment.gra.0.saturating_add(segment.filled);
            clear(ram, Gra(rest), segment.size - segment.filled).ok_or(too_large)?;
        }
        if let Some(Initrd {
            copied: Some(loaded),
            len,
            gra,
        }) = self.initrd
        {
            copy(loaded, 0, len, ram, gra).ok_or(PayloadError::InitrdTooLarge(len, 0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
