//! Reading a table: the header says how much there is, then every entry is judged on its own.
//!
//! An entry that is damaged, lies outside the flash, or claims what another one has, is left out and named; the rest is
//! still good for reading. Surprising fact: skiboot throws the whole table away for one wrong entry.

use alloc::vec::Vec;
use core::fmt;

use super::{
    ENTRY_SIZE, ENTRY_SIZE_WORD, Entry, HEADER_SIZE, Kind, LARGEST_TABLE, MAGIC, Name, Table,
    VERSION, check_sum,
};
use crate::bytes::{be32, part};

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Only ones: erased flash, or a flash that does not answer.
    Erased,
    /// No table begins here.
    NoMagic,
    /// A version that nobody knows.
    Version(u32),
    /// The check sum is wrong.
    CheckSum,
    /// Entries of another size: this many bytes.
    EntrySize(u32),
    /// Block size, block count and table size contradict each other or the size of the flash.
    Sizes,
    /// The bytes end before the table does.
    Truncated,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Erased => write!(f, "only ones: erased, or the flash does not answer"),
            Self::NoMagic => write!(f, "no table of partitions"),
            Self::Version(version) => write!(f, "version {version} of the table, only 1 is known"),
            Self::CheckSum => write!(f, "the header's check sum is wrong"),
            Self::EntrySize(size) => write!(f, "entries of {size} bytes instead of {ENTRY_SIZE}"),
            Self::Sizes => write!(
                f,
                "the sizes in the header contradict each other or the flash"
            ),
            Self::Truncated => write!(f, "the table is cut off"),
        }
    }
}

impl core::error::Error for HeaderError {}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The check sum of the entry with this index is wrong, or its name is none.
    Damaged(usize),
    /// The partition reaches beyond the end of the flash.
    Outside(Name),
    /// The second partition claims blocks that the first one has.
    Overlap(Name, Name),
    /// The name was there before.
    Twice(Name),
    /// The content is said to be longer than the partition; it counts as the whole partition.
    ActualSize(Name),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(index) => write!(f, "entry {index} of the table is damaged"),
            Self::Outside(name) => write!(f, "{name} reaches beyond the end of the flash"),
            Self::Overlap(first, second) => write!(f, "{second} overlaps {first}"),
            Self::Twice(name) => write!(f, "{name} is there twice"),
            Self::ActualSize(name) => write!(f, "{name} is said to hold more than its size"),
        }
    }
}

/// The header of a table, checked against the size of the flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Blocks of the table.
    pub table_blocks: u32,
    /// How many entries follow.
    pub entry_count: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the flash.
    pub block_count: u32,
}

impl Header {
    /// Reads the header with which `bytes` begin, of a flash with so many bytes.
    ///
    /// # Errors
    /// Why there is no table.
    pub fn parse(bytes: &[u8], flash_size: u64) -> Result<Self, HeaderError> {
        let header = part(bytes, 0, HEADER_SIZE).ok_or(HeaderError::Truncated)?;
        if header.iter().all(|&byte| byte == 0xff) {
            return Err(HeaderError::Erased);
        }
        if !header.starts_with(&MAGIC) {
            return Err(HeaderError::NoMagic);
        }
        if check_sum(header) != 0 {
            return Err(HeaderError::CheckSum);
        }
        let word = |at| be32(header, at).ok_or(HeaderError::Truncated);
        let version = word(4)?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let entry_size = word(0xc)?;
        if entry_size != ENTRY_SIZE_WORD {
            return Err(HeaderError::EntrySize(entry_size));
        }
        let header = Self {
            table_blocks: word(8)?,
            entry_count: word(0x10)?,
            block_size: word(0x14)?,
            block_count: word(0x18)?,
        };
        if header.is_possible(flash_size) {
            Ok(header)
        } else {
            Err(HeaderError::Sizes)
        }
    }

    fn is_possible(self, flash_size: u64) -> bool {
        let block = u64::from(self.block_size);
        let flash = block.saturating_mul(u64::from(self.block_count));
        // Below 256 bytes not even an entry fits into a block; above 16 MiB nothing was ever built.
        self.block_size.is_power_of_two()
            && (256..=1 << 24).contains(&self.block_size)
            && flash <= flash_size
            && self.used_size() <= self.table_size()
            && self.table_size() <= flash.min(LARGEST_TABLE)
    }

    /// Bytes of header and entries; what follows in the table's blocks means nothing.
    pub const fn used_size(self) -> u64 {
        (self.entry_count as u64)
            .saturating_mul(ENTRY_SIZE as u64)
            .saturating_add(HEADER_SIZE as u64)
    }

    /// Bytes of the whole table.
    pub const fn table_size(self) -> u64 {
        (self.table_blocks as u64).saturating_mul(self.block_size as u64)
    }
}

impl Table {
    /// Reads the table with which `bytes` begin, of a flash with so many bytes; also says what is wrong with it.
    ///
    /// # Errors
    /// Why there is no table. A wrong entry is no error.
    pub fn parse(bytes: &[u8], flash_size: u64) -> Result<(Self, Vec<Problem>), HeaderError> {
        let header = Header::parse(bytes, flash_size)?;
        let count = usize::try_from(header.entry_count).map_err(|_| HeaderError::Sizes)?;
        let length = count.checked_mul(ENTRY_SIZE).ok_or(HeaderError::Sizes)?;
        let entries = part(bytes, HEADER_SIZE, length).ok_or(HeaderError::Truncated)?;
        let mut problems = Vec::new();
        let mut read = Vec::with_capacity(count);
        for (index, bytes) in entries.as_chunks::<ENTRY_SIZE>().0.iter().enumerate() {
            match Entry::read(bytes) {
                None => problems.push(Problem::Damaged(index)),
                Some(entry) if entry.end() > u64::from(header.block_count) => {
                    problems.push(Problem::Outside(entry.name));
                }
                Some(entry) => read.push(entry),
            }
        }
        let mut table = Self {
            block_size: header.block_size,
            block_count: header.block_count,
            table_blocks: header.table_blocks,
            entries: read,
        };
        table.leave_out(&mut problems);
        Ok((table, problems))
    }

    /// Takes out what another entry claims too, and corrects lengths of contents.
    fn leave_out(&mut self, problems: &mut Vec<Problem>) {
        let mut names: Vec<Name> = Vec::with_capacity(self.entries.len());
        self.entries.retain(|entry| {
            let is_new = match names.binary_search(&entry.name) {
                Ok(_) => false,
                Err(at) => {
                    names.insert(at, entry.name);
                    true
                }
            };
            if !is_new {
                problems.push(Problem::Twice(entry.name));
            }
            is_new
        });
        // Sorted by their places, so that each has to be compared with the farthest end so far. Frames overlap by nature.
        let mut order: Vec<(u32, usize)> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.kind != Kind::Logical && entry.size > 0)
            .map(|(index, entry)| (entry.base, index))
            .collect();
        order.sort_unstable();
        let mut farthest: Option<Entry> = None;
        let mut out = Vec::new();
        for (_, index) in order {
            let Some(&entry) = self.entries.get(index) else {
                continue;
            };
            match farthest {
                Some(before) if before.end() > u64::from(entry.base) => {
                    problems.push(Problem::Overlap(before.name, entry.name));
                    out.push(entry.name);
                }
                _ => farthest = Some(entry),
            }
        }
        self.entries.retain(|entry| !out.contains(&entry.name));
        let block_size = u64::from(self.block_size);
        for entry in &mut self.entries {
            let size = u64::from(entry.size).saturating_mul(block_size);
            if u64::from(entry.actual) > size {
                problems.push(Problem::ActualSize(entry.name));
                entry.actual = u32::try_from(size).unwrap_or(u32::MAX);
            }
        }
    }
}
