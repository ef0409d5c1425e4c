//! The kernel of OPAL mode as it was loaded: which form it has, and where to enter it. It is executed in place.
//!
//! ELF of either byte order, 64 or 32 bits, or a raw image, with or without a secure-boot container before it. The
//! bytes are hostile and may be of any length. Surprising fact: the entry of a big-endian ELF file may be the address
//! of a function descriptor instead of an instruction.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use pnor_image::container;

use crate::payload::{KERNEL_AREA, Loaded, Magic};

/// Where to enter a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Address of the first instruction.
    pub entry: u64,
    /// Whether it starts in 64-bit mode.
    pub is_64_bit: bool,
    /// What it is, for the log.
    pub form: &'static str,
}

/// Why there is nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// Nothing but zeroes.
    NothingThere,
    /// The container's header is not one.
    BadContainer(container::Error),
    /// An ELF file for another processor: its machine number.
    OtherProcessor(u16),
    /// The headers contradict themselves, or the file ends before they say.
    BadHeaders(&'static str),
    /// A file that no processor can execute; it starts so.
    NotExecutable([u8; 8]),
    /// The entry is at this address, and there is nothing.
    EmptyEntry(u64),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = KERNEL_AREA.start;
        let give = "give a vmlinux or a zImage (QEMU: -kernel vmlinux)";
        match self {
            Self::NothingThere => write!(f, "no kernel: nothing but zeroes at {at:#x}; {give}"),
            Self::BadContainer(what) => write!(
                f,
                "the secure-boot container at {at:#x} is malformed: {what}; copy the file again"
            ),
            Self::OtherProcessor(machine) => write!(
                f,
                "no kernel: found an ELF file for another processor (machine {machine}) at {at:#x}; {give}"
            ),
            Self::BadHeaders(what) => write!(
                f,
                "the kernel at {at:#x} is damaged: {what}; copy the file again"
            ),
            Self::NotExecutable(start) => {
                write!(f, "no kernel: found {} at {at:#x}; {give}", Magic(*start))
            }
            Self::EmptyEntry(entry) => write!(
                f,
                "the kernel at {at:#x} is damaged: its entry {entry:#x} holds no instruction; copy the file again"
            ),
        }
    }
}

const PPC: u16 = 20;
const PPC64: u16 = 21;
const LOAD: u32 = 1;
const EXECUTABLE_SECTION: u64 = 4;
const EXECUTABLE_SEGMENT: u64 = 1;
const MAX_HEADERS: u64 = 512;

const TRUNCATED: KernelError = KernelError::BadHeaders("it ends before its headers say");

impl Kernel {
    /// Looks at what lies in the load area.
    ///
    /// # Errors
    /// What was found, so that one line can say what to do.
    pub fn find(loaded: Loaded) -> Result<Self, KernelError> {
        let start: [u8; 8] = loaded.array(0).ok_or(KernelError::NothingThere)?;
        let at = if container::is_container(&start) {
            check_container(loaded)?
        } else {
            0
        };
        let start: [u8; 8] = loaded.array(at).ok_or(KernelError::NothingThere)?;
        if start == [0; 8] {
            return Err(KernelError::NothingThere);
        }
        let kernel = if start.starts_with(b"\x7fELF") {
            Elf::read(loaded, at)?.kernel()?
        } else if is_other_file(&start) || is_text(loaded, at) {
            return Err(KernelError::NotExecutable(start));
        } else {
            Self {
                entry: at,
                is_64_bit: true,
                form: "raw image",
            }
        };
        let first: Option<[u8; 4]> = loaded.array(kernel.entry);
        let entry = kernel.entry.saturating_add(loaded.base);
        match first {
            Some(word) if word != [0; 4] && entry % 4 == 0 => Ok(Self { entry, ..kernel }),
            _ => Err(KernelError::EmptyEntry(entry)),
        }
    }
}

/// How many bytes of the load area a kernel's file takes that [`Kernel::find`] accepted; for one that does not say, a raw
/// image, up to the last byte that is not zero.
#[must_use]
pub fn file_length(loaded: Loaded) -> u64 {
    let all = loaded.words.len() as u64 * 8;
    let start: [u8; 8] = loaded.array(0).unwrap_or_default();
    let said = if container::is_container(&start) {
        let header = container_header(loaded);
        header.and_then(|header| Some(container::Header::parse(&header).ok()?.container_size()))
    } else if start.starts_with(b"\x7fELF") {
        Elf::read(loaded, 0).and_then(|elf| elf.end()).ok()
    } else {
        None
    };
    said.filter(|said| *said <= all).unwrap_or_else(|| {
        let is_used = |word: &AtomicU64| word.load(Ordering::Relaxed) != 0;
        let last = loaded.words.iter().rposition(is_used);
        last.map_or(0, |last| (last as u64 + 1) * 8)
    })
}

/// The header of a container, which is too large for a stack.
fn container_header(loaded: Loaded) -> Option<Vec<u8>> {
    let mut header = vec![0; container::HEADER_SIZE];
    loaded.read(0, &mut header)?;
    Some(header)
}

/// Where the image begins. Neither hash nor signatures are looked at: nobody told the machine whom to trust.
fn check_container(loaded: Loaded) -> Result<u64, KernelError> {
    let header = container_header(loaded).ok_or(TRUNCATED)?;
    let header = container::Header::parse(&header).map_err(KernelError::BadContainer)?;
    let room = KERNEL_AREA.end - KERNEL_AREA.start;
    if header.container_size() > room {
        return Err(KernelError::BadContainer(container::Error::Truncated {
            found: room,
            needed: header.container_size(),
        }));
    }
    Ok(container::HEADER_SIZE as u64)
}

/// Files that people give by mistake. Anything else may be code.
fn is_other_file(start: &[u8; 8]) -> bool {
    const KINDS: [&[u8]; 7] = [
        &container::MAGIC,
        &[0x27, 0x05, 0x19, 0x56],
        &[0x1f, 0x8b],
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"0707",
        &[0xd0, 0x0d, 0xfe, 0xed],
    ];
    KINDS.iter().any(|kind| start.starts_with(kind))
}

/// Whether a text begins here: a long run of what can be printed, which code has not.
fn is_text(loaded: Loaded, at: u64) -> bool {
    let start: Option<[u8; 128]> = loaded.array(at);
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    start.is_some_and(|start| start.iter().all(is_printable))
}

/// An ELF file at `at` in the load area, of either size and byte order.
struct Elf {
    file: Loaded,
    at: u64,
    wide: bool,
    little: bool,
}

impl Elf {
    fn read(file: Loaded, at: u64) -> Result<Self, KernelError> {
        let ident: [u8; 8] = file.array(at).ok_or(TRUNCATED)?;
        let [_, _, _, _, class, data, ..] = ident;
        let (wide, little) = match (class, data) {
            (2, 1) => (true, true),
            (2, 2) => (true, false),
            (1, 2) => (false, false),
            (1, 1) => {
                return Err(KernelError::BadHeaders(
                    "a 32-bit little-endian file, which no kernel is",
                ));
            }
            _ => return Err(KernelError::BadHeaders("neither 32-bit nor 64-bit")),
        };
        let elf = Self {
            file,
            at,
            wide,
            little,
        };
        let machine = u16::try_from(elf.number(18, 2)?).unwrap_or(0);
        if machine != if wide { PPC64 } else { PPC } {
            return Err(KernelError::OtherProcessor(machine));
        }
        Ok(elf)
    }

    /// A number of `size` bytes at `offset` of the file.
    fn number(&self, offset: u64, size: usize) -> Result<u64, KernelError> {
        let at = self.at.checked_add(offset).ok_or(TRUNCATED)?;
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..size).ok_or(TRUNCATED)?;
        self.file.read(at, part).ok_or(TRUNCATED)?;
        if !self.little {
            part.reverse();
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// A field whose offset, and whose size, depend on the class.
    fn field(
        &self,
        base: u64,
        narrow: (u64, usize),
        wide: (u64, usize),
    ) -> Result<u64, KernelError> {
        let (offset, size) = if self.wide { wide } else { narrow };
        self.number(base.checked_add(offset).ok_or(TRUNCATED)?, size)
    }

    fn kernel(&self) -> Result<Kernel, KernelError> {
        let entry = self.field(0, (24, 4), (24, 8))?;
        let (mut offset, segment_executes) = self.file_offset(entry)?;
        if self.wide && !self.little && !self.section_executes(entry)?.unwrap_or(segment_executes) {
            let code = self.number(offset, 8)?;
            (offset, _) = self.file_offset(code)?;
        }
        Ok(Kernel {
            entry: self.at.checked_add(offset).ok_or(TRUNCATED)?,
            is_64_bit: self.wide,
            form: match (self.wide, self.little) {
                (true, true) => "little-endian ELF",
                (true, false) => "big-endian ELF",
                (false, _) => "32-bit ELF",
            },
        })
    }

    /// Where the last part of the file ends that a header speaks of.
    fn end(&self) -> Result<u64, KernelError> {
        /// Of a section that has no bytes in the file.
        const NO_BITS: u64 = 8;
        let bytes = |start: u64, count: u64, size: u64| {
            let size = count.checked_mul(size).ok_or(TRUNCATED)?;
            start.checked_add(size).ok_or(TRUNCATED)
        };
        let segments = self.field(0, (28, 4), (32, 8))?;
        let (size, count) = (
            self.field(0, (42, 2), (54, 2))?,
            self.field(0, (44, 2), (56, 2))?,
        );
        let mut end = bytes(segments, count, size)?;
        for n in 0..count.min(MAX_HEADERS) {
            let at = bytes(segments, n, size)?;
            let offset = self.field(at, (4, 4), (8, 8))?;
            end = end.max(bytes(offset, 1, self.field(at, (16, 4), (32, 8))?)?);
        }
        let sections = self.field(0, (32, 4), (40, 8))?;
        let (size, count) = (
            self.field(0, (46, 2), (58, 2))?,
            self.field(0, (48, 2), (60, 2))?,
        );
        end = end.max(bytes(sections, count, size)?);
        for n in 0..count.min(MAX_HEADERS) {
            let at = bytes(sections, n, size)?;
            if self.number(at.checked_add(4).ok_or(TRUNCATED)?, 4)? != NO_BITS {
                let offset = self.field(at, (16, 4), (24, 8))?;
                end = end.max(bytes(offset, 1, self.field(at, (20, 4), (32, 8))?)?);
            }
        }
        self.at.checked_add(end).ok_or(TRUNCATED)
    }

    /// Where the byte with this virtual address is in the file, and whether it may be executed.
    fn file_offset(&self, address: u64) -> Result<(u64, bool), KernelError> {
        let table = self.field(0, (28, 4), (32, 8))?;
        let size = self.field(0, (42, 2), (54, 2))?;
        let count = self.field(0, (44, 2), (56, 2))?;
        if count > MAX_HEADERS {
            return Err(KernelError::BadHeaders("too many segments"));
        }
        for n in 0..count {
            let at = table.checked_add(n * size).ok_or(TRUNCATED)?;
            if self.number(at, 4)? != u64::from(LOAD) {
                continue;
            }
            let offset = self.field(at, (4, 4), (8, 8))?;
            let virtual_address = self.field(at, (8, 4), (16, 8))?;
            let filled = self.field(at, (16, 4), (32, 8))?;
            let inside = address.checked_sub(virtual_address);
            if let Some(inside) = inside.filter(|inside| *inside < filled) {
                let flags = self.field(at, (24, 4), (4, 4))?;
                let offset = offset.checked_add(inside).ok_or(TRUNCATED)?;
                return Ok((offset, flags & EXECUTABLE_SEGMENT != 0));
            }
        }
        Err(KernelError::BadHeaders("its entry is in no segment"))
    }

    /// Whether the section with this address holds code; `None` when no section has it, as in a stripped file.
    fn section_executes(&self, address: u64) -> Result<Option<bool>, KernelError> {
        let table = self.number(40, 8)?;
        let size = self.number(58, 2)?;
        let count = self.number(60, 2)?;
        for n in 0..count.min(MAX_HEADERS) {
            let at = table.checked_add(n * size).ok_or(TRUNCATED)?;
            let [flags, start, length] = [8, 16, 32].map(|field| {
                at.checked_add(field)
                    .ok_or(TRUNCATED)
                    .and_then(|at| self.number(at, 8))
            });
            let (flags, start, length) = (flags?, start?, length?);
            if address
                .checked_sub(start)
                .is_some_and(|in_it| in_it < length)
                && start != 0
            {
                return Ok(Some(flags & EXECUTABLE_SECTION != 0));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loaded(bytes: &[u8]) -> Loaded {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().max(8192).next_multiple_of(8), 0);
        let words: Vec<AtomicU64> = bytes
            .chunks_exact(8)
            .map(|word| AtomicU64::new(u64::from_ne_bytes(word.try_into().unwrap())))
            .collect();
        Loaded {
            base: KERNEL_AREA.start,
            words: words.leak(),
        }
    }

    /// An ELF file: one segment at 0xc000.. from file offset 0x1000 on, entry 0x20 into it.
    fn elf(wide: bool, little: bool) -> Vec<u8> {
        let mut file = vec![0; 0x2000];
        file[..6].copy_from_slice(&[
            0x7f,
            b'E',
            b'L',
            b'F',
            1 + u8::from(wide),
            2 - u8::from(little),
        ]);
        let mut put = |at: usize, size: usize, value: u64| {
            let mut bytes = value.to_le_bytes()[..size].to_vec();
            if !little {
                bytes.reverse();
            }
            file[at..at + size].copy_from_slice(&bytes);
        };
        let base = if wide {
            0xc000_0000_0000_0000
        } else {
            0x50_0000
        };
        put(18, 2, if wide { 21 } else { 20 });
        if wide {
            for (at, size, value) in [
                (24, 8, base + 0x20),
                (32, 8, 64),
                (54, 2, 56),
                (56, 2, 1),
                (64, 4, 1),
                (72, 8, 0x1000),
                (80, 8, base),
                (96, 8, 0x800),
                // A section table at 0x800 with one section for all of the segment, executable.
                (40, 8, 0x800),
                (58, 2, 64),
                (60, 2, 1),
                (0x808, 8, 4),
                (0x810, 8, base),
                (0x820, 8, 0x800),
            ] {
                put(at, size, value);
            }
        } else {
            for (at, size, value) in [
                (24, 4, base + 0x20),
                (28, 4, 52),
                (42, 2, 32),
                (44, 2, 1),
                (52, 4, 1),
                (56, 4, 0x1000),
                (60, 4, base),
                (68, 4, 0x800),
            ] {
                put(at, size, value);
            }
        }
        file[0x1020] = 0x48;
        file
    }

    #[test]
    fn elf_files_are_entered_in_place() {
        for (wide, little) in [(true, true), (true, false), (false, false)] {
            let kernel = Kernel::find(loaded(&elf(wide, little))).unwrap();
            assert_eq!((kernel.entry, kernel.is_64_bit), (0x2000_1020, wide));
        }
    }

    fn contained(payload: &[u8]) -> Vec<u8> {
        container::unsigned(payload, container::Description::default())
    }

    #[test]
    fn a_container_is_skipped() {
        let file = contained(&elf(true, false));
        assert_eq!(Kernel::find(loaded(&file)).unwrap().entry, 0x2000_2020);
        let raw = contained(&[0x48, 0, 0, 8, 1, 2, 3, 4]);
        assert_eq!(Kernel::find(loaded(&raw)).unwrap().entry, 0x2000_1000);
    }

    #[test]
    fn a_bad_container_is_refused() {
        let good = contained(&elf(true, false));
        // Version of the container, its size in three ways, version of the prefix, its count of keys.
        for (at, byte) in [
            (5, 9),
            (6, 1),
            (12, 0),
            (10, 9),
            (0x1ab, 2),
            (0x1aa + 24, 4),
        ] {
            let mut file = good.clone();
            assert_ne!(file[at], byte);
            file[at] = byte;
            assert!(
                matches!(
                    Kernel::find(loaded(&file)),
                    Err(KernelError::BadContainer(_))
                ),
                "{at}"
            );
        }
        let double = contained(&good);
        assert!(matches!(
            Kernel::find(loaded(&double)),
            Err(KernelError::NotExecutable(_))
        ));
        let empty = contained(&[0; 64]);
        assert_eq!(Kernel::find(loaded(&empty)), Err(KernelError::NothingThere));
    }

    #[test]
    fn a_descriptor_is_followed() {
        let mut file = elf(true, false);
        file[0x80f] = 0; // the section is data
        assert!(matches!(
            Kernel::find(loaded(&file)),
            Err(KernelError::BadHeaders(_))
        ));
        file[0x1020..0x1028].copy_from_slice(&0xc000_0000_0000_0100_u64.to_be_bytes());
        file[0x1100] = 0x48;
        assert_eq!(Kernel::find(loaded(&file)).unwrap().entry, 0x2000_1100);
        // Without sections the segment decides.
        file[61] = 0;
        assert_eq!(Kernel::find(loaded(&file)).unwrap().entry, 0x2000_1100);
        file[71] = 5;
        assert_eq!(Kernel::find(loaded(&file)).unwrap().entry, 0x2000_1020);
    }

    #[test]
    fn raw_images_and_what_is_none() {
        let raw = Kernel::find(loaded(&[0x48, 0, 0, 8, 1, 2, 3, 4])).unwrap();
        assert_eq!((raw.entry, raw.form), (0x2000_0000, "raw image"));
        assert_eq!(Kernel::find(loaded(&[])), Err(KernelError::NothingThere));
        let text = "This is not a kernel.\n".repeat(10);
        for other in [&[0x1f, 0x8b, 8, 0], text.as_bytes()] {
            assert!(matches!(
                Kernel::find(loaded(other)),
                Err(KernelError::NotExecutable(_))
            ));
        }
        let mut other = elf(true, true);
        other[18] = 62;
        assert_eq!(
            Kernel::find(loaded(&other)),
            Err(KernelError::OtherProcessor(62))
        );
        let mut empty = elf(true, true);
        empty[0x1020] = 0;
        assert_eq!(
            Kernel::find(loaded(&empty)),
            Err(KernelError::EmptyEntry(0x2000_1020))
        );
    }

    #[test]
    fn a_file_is_as_long_as_its_headers_say() {
        // The segment ends at 0x1800; the section table's one entry is at 0x800.
        for (wide, little) in [(true, true), (true, false), (false, false)] {
            assert_eq!(file_length(loaded(&elf(wide, little))), 0x1800);
        }
        // The section gets bytes behind the segment, then it has none.
        let mut file = elf(true, true);
        file[0x818..0x820].copy_from_slice(&0x1700_u64.to_le_bytes());
        assert_eq!(file_length(loaded(&file)), 0x1f00);
        file[0x804] = 8;
        assert_eq!(file_length(loaded(&file)), 0x1800);
        assert_eq!(file_length(loaded(&contained(&[0x48; 0x100]))), 0x1100);
        assert_eq!(file_length(loaded(&[0x48, 0, 0, 8, 0, 0, 0, 0, 0, 7])), 16);
        assert_eq!(file_length(loaded(&[])), 0);
        // One that says nonsense is as long as it looks.
        file[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(file_length(loaded(&file)) <= 0x2000);
    }

    proptest! {
        /// Whatever lies there: an answer, and an entry in the load area.
        #[test]
        fn hostile_files_are_survived(
            changes in prop::collection::vec((0..0x840_usize, any::<u8>()), 0..24),
            wide: bool, little: bool,
        ) {
            let mut file = elf(wide, little || !wide);
            for (at, byte) in changes {
                file[at] = byte;
            }
            if let Ok(kernel) = Kernel::find(loaded(&file)) {
                prop_assert!(KERNEL_AREA.contains(&kernel.entry));
            }
            prop_assert!(file_length(loaded(&file)) <= 0x2000);
        }
    }
}
