//! A lid: the firmware as it lies in memory when the machine starts it.
//!
//! Made from the linked ELF file by laying its loadable segments out from the lowest physical address. The
//! surprise: zeros at the end (`.bss`) are not part of it, so the firmware has to clear them itself.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use elf::ElfBytes;
use elf::abi::{ELFCLASS64, EM_PPC64, ET_EXEC, PT_LOAD};
use elf::endian::AnyEndian;
use elf::file::Class;

/// QEMU refuses a larger firmware file (`FW_MAX_SIZE` in hw/ppc/pnv.c).
pub const LARGEST: usize = 16 << 20;
/// Where the machine starts the image, in bytes from its beginning.
pub const ENTRY_OFFSET: u64 = 0x10;

/// Why an ELF file cannot become a lid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not an ELF file, or one whose headers do not hold together.
    NotElf,
    /// An ELF file that is not a 64-bit POWER executable with fixed addresses.
    WrongKind,
    /// No loadable segment has content.
    Empty,
    /// A segment lies partly outside the file.
    Truncated,
    /// Two segments claim the same memory, from this physical address on.
    Overlap(u64),
    /// From the lowest to the highest address there are this many bytes.
    TooLarge(u64),
    /// The bytes where the machine starts are not the content of any segment.
    NoEntry,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "not a valid ELF file"),
            Self::WrongKind => write!(f, "not a 64-bit POWER executable"),
            Self::Empty => write!(f, "no loadable segment has content"),
            Self::Truncated => write!(f, "a segment lies outside the file"),
            Self::Overlap(address) => write!(f, "segments overlap at {address:#x}"),
            Self::TooLarge(size) => write!(
                f,
                "the image would have {size:#x} bytes, more than {LARGEST:#x}"
            ),
            Self::NoEntry => write!(
                f,
                "nothing is linked at the entry, {ENTRY_OFFSET:#x} bytes into the image"
            ),
        }
    }
}

impl core::error::Error for Error {}

/// Lays the loadable segments of `file` out as they lie in memory.
pub fn from_elf(file: &[u8]) -> Result<Vec<u8>, Error> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(file).map_err(|_| Error::NotElf)?;
    // The class is in the identification bytes, which the parser has accepted.
    let is_64_bit = elf.ehdr.class == Class::ELF64 && file.get(4) == Some(&ELFCLASS64);
    if !is_64_bit || elf.ehdr.e_machine != EM_PPC64 || elf.ehdr.e_type != ET_EXEC {
        return Err(Error::WrongKind);
    }
    let mut segments = Vec::new();
    for header in elf.segments().ok_or(Error::Empty)? {
        if header.p_type == PT_LOAD && header.p_filesz > 0 {
            let content = elf.segment_data(&header).map_err(|_| Error::Truncated)?;
            segments.push((header.p_paddr, content));
        }
    }
    lay_out(segments)
}

fn lay_out(mut segments: Vec<(u64, &[u8])>) -> Result<Vec<u8>, Error> {
    segments.sort_by_key(|&(address, _)| address);
    let base = segments.first().ok_or(Error::Empty)?.0;
    let mut image: Vec<u8> = vec![];
    let mut holds_entry = false;
    for (address, content) in segments {
        // Sorted, so no address is below the base.
        let start = address.wrapping_sub(base);
        let end = start.saturating_add(content.len() as u64);
        let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
            return Err(Error::TooLarge(end));
        };
        if to > LARGEST {
            return Err(Error::TooLarge(end));
        }
        if from < image.len() {
            return Err(Error::Overlap(address));
        }
        holds_entry |= (start..end).contains(&ENTRY_OFFSET);
        image.resize(from, 0);
        image.extend_from_slice(content);
    }
    if holds_entry {
        Ok(image)
    } else {
        Err(Error::NoEntry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one program header per segment: physical address, content, size in memory.
    fn file(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([2, 0]); // ET_EXEC
        bytes.extend([21, 0]); // EM_PPC64
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(0x10u64.to_le_bytes()); // entry
        bytes.extend(64u64.to_le_bytes()); // program headers
        bytes.extend(0u64.to_le_bytes()); // section headers
        bytes.extend(2u32.to_le_bytes()); // flags: ELFv2
        let count = u16::try_from(segments.len()).expect("few");
        for half in [64, 56, count, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, content, memory) in segments {
            bytes.extend(PT_LOAD.to_le_bytes());
            bytes.extend(5u32.to_le_bytes());
            for value in [
                offset,
                *address,
                *address,
                content.len() as u64,
                *memory,
                0x1000,
            ] {
                bytes.extend(value.to_le_bytes());
            }
            offset += content.len() as u64;
        }
        for (_, content, _) in segments {
            bytes.extend(*content);
        }
        bytes
    }

    #[test]
    fn segments_lie_at_their_distance_from_the_lowest() {
        let image = from_elf(&file(&[
            (0x3000_0100, b"data", 0x1000),
            (0x3000_0000, &[7; 0x20], 0x20),
        ]));
        let image = image.expect("fits");
        assert_eq!(image.len(), 0x104);
        assert_eq!(image[..0x20], [7; 0x20]);
        assert!(image[0x20..0x100].iter().all(|&byte| byte == 0));
        assert_eq!(&image[0x100..], b"data");
    }

    #[test]
    fn segments_without_content_do_not_count() {
        let image = from_elf(&file(&[(0x100, &[1; 0x20], 0x20), (0, b"", 0x100)])).expect("fits");
        assert_eq!(image.len(), 0x20);
        assert_eq!(from_elf(&file(&[(0, b"", 8)])), Err(Error::Empty));
        assert_eq!(from_elf(&file(&[])), Err(Error::Empty));
    }

    #[test]
    fn overlap_size_and_entry_are_checked() {
        assert_eq!(
            from_elf(&file(&[(0, &[1; 0x20], 0x20), (0x1f, b"x", 1)])),
            Err(Error::Overlap(0x1f))
        );
        let far = LARGEST as u64;
        assert_eq!(
            from_elf(&file(&[(0, &[1; 0x20], 0x20), (far, b"x", 1)])),
            Err(Error::TooLarge(far + 1))
        );
        let last = from_elf(&file(&[(0, &[1; 0x20], 0x20), (u64::MAX, b"xy", 2)]));
        assert_eq!(last, Err(Error::TooLarge(u64::MAX)));
        assert_eq!(
            from_elf(&file(&[(0, &[1; 0x10], 0x10)])),
            Err(Error::NoEntry)
        );
    }

    #[test]
    fn what_is_not_a_power_executable_is_refused() {
        let good = file(&[(0, &[1; 0x20], 0x20)]);
        assert!(from_elf(&good).is_ok());
        for (position, value) in [(18, 62), (16, 3)] {
            let mut bad = good.clone();
            bad[position] = value;
            assert_eq!(from_elf(&bad), Err(Error::WrongKind), "byte {position}");
        }
        assert_eq!(from_elf(b"hello"), Err(Error::NotElf));
        assert_eq!(from_elf(&[]), Err(Error::NotElf));
        assert_eq!(from_elf(&good[..good.len() - 1]), Err(Error::Truncated));
    }

    #[test]
    fn no_single_broken_byte_panics() {
        let good = file(&[(0, &[1; 0x20], 0x20), (0x40, b"more", 0x100)]);
        for position in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[position] = value;
                let _ = from_elf(&bad);
            }
        }
    }
}
