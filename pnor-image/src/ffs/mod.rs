//! FFS, the flash's table of partitions: a header and entries of 128 bytes, all big-endian, each with a check sum.
//!
//! Layout: skiboot libflash/ffs.h; sides and backup tables: hostboot buildpnor.pl. A table is 48 bytes of header and its
//! entries, in whole blocks. The surprise: the table has an entry for itself (`part`), one for its copy (`BACKUP_PART`)
//! and, where there are two sides, one for the other side's table (`OTHER_SIDE`); each of the copies points back.

mod entry;
mod find;
mod parse;

use alloc::vec::Vec;
use core::fmt;

pub use entry::{Entry, Kind, Name, User, flags};
pub use find::{Found, Notes, Origin, Search, find, other_side};
pub use parse::{Header, HeaderError, Problem};

use crate::bytes::put;

/// The first bytes of a table.
pub const MAGIC: [u8; 4] = *b"PART";
/// Bytes of the header.
pub const HEADER_SIZE: usize = 48;
/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 128;
/// [`ENTRY_SIZE`] as the header has it.
const ENTRY_SIZE_WORD: u32 = 128;
/// The parent of a partition that has none.
pub const TOP_LEVEL: u32 = u32::MAX;
/// The entry for the table itself.
pub const OWN_NAME: &str = "part";
/// The entry for the table's copy.
pub const BACKUP_NAME: &str = "BACKUP_PART";
/// The entry for the table of the other side.
pub const OTHER_SIDE_NAME: &str = "OTHER_SIDE";
/// No table is larger than this; a header that says otherwise is damaged.
pub const LARGEST_TABLE: u64 = 1 << 20;

const VERSION: u32 = 1;

/// A table of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Bytes of a block; partitions begin and end at blocks.
    pub block_size: u32,
    /// Blocks of the whole flash.
    pub block_count: u32,
    /// Blocks of the table.
    pub table_blocks: u32,
    /// The partitions in the order of the table.
    pub entries: Vec<Entry>,
}

/// Why a table cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyEntries;

impl fmt::Display for TooManyEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the table of partitions has no room for all entries")
    }
}

impl core::error::Error for TooManyEntries {}

impl Table {
    /// The partition with this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == *name)
    }

    /// Bytes of the flash that the table speaks of.
    pub const fn flash_size(&self) -> u64 {
        (self.block_size as u64).saturating_mul(self.block_count as u64)
    }

    /// Where a partition begins and how long it is, in bytes.
    pub fn extent(&self, entry: &Entry) -> (u64, u64) {
        let bytes = |blocks: u32| u64::from(blocks).saturating_mul(u64::from(self.block_size));
        (bytes(entry.base), bytes(entry.size))
    }

    /// Writes header and entries with their check sums; the rest of the table's blocks is zeroes. Entries are numbered
    /// as they come.
    ///
    /// # Errors
    /// [`TooManyEntries`] if they do not fit into [`Self::table_blocks`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, TooManyEntries> {
        let size = usize::try_from(
            u64::from(self.table_blocks).saturating_mul(u64::from(self.block_size)),
        )
        .map_err(|_| TooManyEntries)?;
        let count = u32::try_from(self.entries.len()).map_err(|_| TooManyEntries)?;
        let mut header = [0; HEADER_SIZE];
        let words = [
            u32::from_be_bytes(MAGIC),
            VERSION,
            self.table_blocks,
            ENTRY_SIZE_WORD,
            count,
            self.block_size,
            self.block_count,
        ];
        for (place, word) in header.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
        }
        seal(&mut header);
        let mut bytes = Vec::with_capacity(size.min(1 << 20));
        bytes.extend_from_slice(&header);
        for (index, entry) in (1..).zip(&self.entries) {
            bytes.extend_from_slice(&entry.to_bytes(index));
        }
        if bytes.len() > size {
            return Err(TooManyEntries);
        }
        bytes.resize(size, 0);
        Ok(bytes)
    }
}

/// The exclusive or of all words: zero when header or entry are as they were written.
fn check_sum(bytes: &[u8]) -> u32 {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .fold(0, |sum, word| sum ^ u32::from_be_bytes(*word))
}

/// Sets the last word so that the check sum becomes zero.
fn seal(bytes: &mut [u8]) {
    let Some(at) = bytes.len().checked_sub(4) else {
        return;
    };
    let sealed = put(bytes, at, &[0; 4]) && {
        let sum = check_sum(bytes);
        put(bytes, at, &sum.to_be_bytes())
    };
    debug_assert!(sealed, "the last word is within");
}

#[cfg(test)]
mod tests;
