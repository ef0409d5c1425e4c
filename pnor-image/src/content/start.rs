//! What the first piece of a content says of the whole: its form, and how long it is.
//!
//! Owns the order of the questions. The surprise: nothing else tells a length, so a container or an ELF file that claims more than there is
//! ends the reading before it begins.

use super::{ERASED, Error, Rules, Trust};
use crate::bytes::{array, be16, be32, be64};
use crate::container::{self, Header, PayloadCheck};
use crate::xz;

/// What the first piece says.
pub(super) struct Start {
    /// Bytes of the container's header.
    pub(super) header: usize,
    /// Bytes that follow it: at most what there is.
    pub(super) length: u64,
    /// Whether the content has exactly that length.
    pub(super) is_bounded: bool,
    pub(super) is_packed: bool,
    pub(super) check: Option<PayloadCheck>,
}

impl Start {
    pub(super) fn look<E>(piece: &[u8], room: u64, rules: Rules) -> Result<Self, Error<E>> {
        const LOOKED_AT: usize = 64;
        let first = piece.get(..LOOKED_AT).unwrap_or(piece);
        if first.iter().all(|&byte| byte == ERASED) {
            return Err(Error::Empty);
        }
        let (header, length, check) = if container::is_container(piece) {
            let header = Header::parse(piece).map_err(Error::Container)?;
            if let Trust::Enforce(trusted) = rules.trust {
                header
                    .verify_keys(trusted.as_ref())
                    .map_err(Error::Container)?;
                if !header.is_signed() {
                    return Err(Error::Unsigned);
                }
            }
            let found = room.saturating_sub(container::HEADER_SIZE as u64);
            let needed = header.payload_size();
            if needed > found {
                let truncated = container::Error::Truncated { found, needed };
                return Err(Error::Container(truncated));
            }
            let check = Some(header.payload_check());
            (container::HEADER_SIZE, needed, check)
        } else if rules.trust == Trust::Report {
            (0, room, None)
        } else {
            return Err(Error::Unsigned);
        };
        let is_bounded = check.is_some();
        let content = piece.get(header..).unwrap_or_default();
        let start = Self {
            header,
            length,
            is_bounded,
            is_packed: rules.unpacks && xz::is_xz(content),
            check,
        };
        match elf_size(content) {
            Some(file) if file > length => Err(Error::Truncated {
                file,
                found: length,
            }),
            Some(file) if !is_bounded => Ok(Self {
                length: file,
                is_bounded: true,
                ..start
            }),
            _ => Ok(start),
        }
    }
}

/// Bytes of an ELF file, by its headers; `None` if it is none.
fn elf_size(start: &[u8]) -> Option<u64> {
    if !start.starts_with(b"\x7fELF") {
        return None;
    }
    let [class, data] = array(start, 4)?;
    let (is_wide, is_little) = (class == 2, data == 1);
    let half = |at| be16(start, at).map(|half| if is_little { half.swap_bytes() } else { half });
    let word = |at: usize, offset: usize| {
        if is_wide {
            let word = be64(start, at.checked_add(offset)?)?;
            Some(if is_little { word.swap_bytes() } else { word })
        } else {
            let word = be32(start, at.checked_add(offset)?)?;
            Some(u64::from(if is_little { word.swap_bytes() } else { word }))
        }
    };
    // (program headers, their size and count), (section headers, ...), (offset, filled) of a program header
    let (programs, sections, fields) = if is_wide {
        ((32, 54, 56), (40, 58, 60), (8, 32))
    } else {
        ((28, 42, 44), (32, 46, 48), (4, 16))
    };
    let table = |(at, size, count)| {
        let (size, count) = (half(size)?, half(count)?);
        Some((word(at, 0)?, u64::from(size), u64::from(count)))
    };
    let end_of = |(at, size, count): (u64, u64, u64)| {
        if count == 0 {
            0
        } else {
            at.saturating_add(size.saturating_mul(count))
        }
    };
    let (first, size, count) = table(programs)?;
    let mut end = end_of((first, size, count)).max(end_of(table(sections)?));
    for index in 0..count {
        let at = first.checked_add(index.saturating_mul(size));
        let at = at.and_then(|at| usize::try_from(at).ok())?;
        // A table that is not in the first piece is odd, but nothing that has to be known.
        let (Some(offset), Some(filled)) = (word(at, fields.0), word(at, fields.1)) else {
            break;
        };
        end = end.max(offset.saturating_add(filled));
    }
    Some(end)
}
