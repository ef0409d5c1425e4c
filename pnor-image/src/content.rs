//! The content of a partition as it comes out of the flash: code bytes checked and taken away, the container's header
//! skipped and its hash compared, xz unpacked; piece by piece, with a bound on everything.
//!
//! The surprise: nothing in the table says how long the content is (the actual size is a hint that many writers do not keep up). A
//! container says it, an ELF file says it, an xz stream ends; of all else the erased flash behind it is cut off.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::container::{self, Hash, PayloadCheck};
use crate::ecc;
use crate::ffs::{Entry, Table};
use crate::flash::Flash;
use crate::xz::{self, Decoder, Limits, Progress};

mod start;

use start::Start;

/// Bytes of data that are read at a time; a multiple of what code bytes come with, and more than a container's header.
const PIECE: usize = 32 << 10;
const _: () = assert!(PIECE.is_multiple_of(ecc::DATA) && PIECE > container::HEADER_SIZE);

/// What an erased byte of flash reads as.
const ERASED: u8 = 0xff;

/// Where a partition lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte in flash.
    pub at: u64,
    /// Its bytes in flash, code bytes included.
    pub length: u64,
    /// Whether every eight bytes have a code byte.
    pub has_ecc: bool,
}

impl Place {
    /// The place of an entry.
    pub fn of(table: &Table, entry: &Entry) -> Self {
        let (at, length) = table.extent(entry);
        Self {
            at,
            length,
            has_ecc: entry.user.has_ecc(),
        }
    }

    /// Bytes of data that it can hold.
    const fn room(&self) -> u64 {
        const CODED: u64 = ecc::CODED as u64;
        const DATA: u64 = ecc::DATA as u64;
        if self.has_ecc {
            (self.length / CODED).saturating_mul(DATA)
        } else {
            self.length
        }
    }
}

/// What happens when a container does not hold what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is told ([`Content::hash`]), and the content is good enough.
    Report,
    /// Secure mode: only the content of a sound container is taken, whose hardware keys have this hash if it is known.
    Enforce(Option<Hash>),
}

/// What content may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bytes that may come out.
    pub room: u64,
    /// Whether xz is unpacked; else it comes out as it is.
    pub unpacks: bool,
    /// Bytes of memory for unpacking.
    pub dictionary: usize,
    /// What a wrong hash means.
    pub trust: Trust,
}

/// What is known of the content's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashState {
    /// There is no container, so nothing says what it has to be.
    Unknown,
    /// It is what the container says.
    Good,
    /// It is not.
    Wrong,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes of it: the first of those that the sink got.
    pub size: u64,
    /// Bytes that were read, without code bytes.
    pub read: u64,
    /// Whether it was packed with xz.
    pub is_packed: bool,
    /// What a container said.
    pub hash: HashState,
    /// How many times eight bytes and their code byte had one wrong bit.
    pub corrected: usize,
}

/// Why there is no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The flash did not do it.
    Flash(E),
    /// The partition is not within the flash.
    Outside,
    /// There is nothing in it.
    Empty,
    /// More than one wrong bit in the nine bytes at this place of the partition.
    Uncorrectable(u64),
    /// Its container is no good.
    Container(container::Error),
    /// Its container says that nobody has signed it, or there is none, and secure mode asks for it.
    Unsigned,
    /// The stream in it is no good.
    Packed(xz::Error),
    /// The file in it ends behind the partition.
    Truncated {
        /// Bytes of the file, by its headers.
        file: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// It has more bytes than there is room for.
    TooLarge(u64),
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "{error}"),
            Self::Outside => write!(f, "the partition reaches past the end of the flash"),
            Self::Empty => write!(f, "the partition is empty"),
            Self::Uncorrectable(at) => {
                write!(f, "more than one wrong bit in the nine bytes at {at:#x}")
            }
            Self::Container(error) => write!(f, "its secure-boot container: {error}"),
            Self::Unsigned => write!(f, "it is not signed, and secure mode is on"),
            Self::Packed(error) => write!(f, "{error}"),
            Self::Truncated { file, found } => {
                write!(
                    f,
                    "the file in it is truncated: only {found} bytes of {file} are there"
                )
            }
            Self::TooLarge(room) => write!(f, "there is only room for {room} bytes"),
        }
    }
}

/// Reads the content of a partition, and gives it to `sink` in order.
///
/// What the sink has got is only worth something when this succeeds: the hash is known at the end.
///
/// # Errors
/// [`Error`].
pub fn read<F: Flash>(
    flash: &mut F,
    place: Place,
    rules: Rules,
    mut sink: impl FnMut(&[u8]),
) -> Result<Content, Error<F::Error>> {
    let end = place.at.checked_add(place.length);
    if end.is_none_or(|end| end > flash.size()) {
        return Err(Error::Outside);
    }
    let mut reader = Reader::new(flash, place);
    reader.next(place.room())?;
    let start = Start::look(&reader.piece, place.room(), rules)?;
    let mut output = if start.is_packed {
        Output::Packed(Decoder::new(Limits {
            output: rules.room,
            dictionary: rules.dictionary,
        }))
    } else {
        Output::Plain
    };
    let mut check = start.check;
    let mut left = start.length;
    let mut skipped = start.header;
    let mut size = Size::default();
    loop {
        let piece = reader.piece.get(skipped..).unwrap_or_default();
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let piece = piece.get(..wanted).unwrap_or(piece);
        skipped = 0;
        left = left.saturating_sub(piece.len() as u64);
        if let Some(check) = &mut check {
            check.update(piece);
        }
        output
            .take(piece, |bytes| {
                size.add(bytes, rules.room)?;
                sink(bytes);
                Ok(())
            })
            .map_err(|why| why.into_error(rules.room))?;
        // Of a container all is hashed, of a bare stream what follows it is not looked at.
        if left == 0 || (check.is_none() && matches!(output, Output::Ended)) {
            break;
        }
        reader.next(left)?;
        if reader.piece.is_empty() {
            // Code bytes are missing from here on: erased.
            break;
        }
    }
    if matches!(output, Output::Packed(_)) {
        return Err(Error::Packed(xz::Error::Truncated));
    }
    let hash = match check.map(PayloadCheck::finish) {
        None => HashState::Unknown,
        Some(Ok(())) => HashState::Good,
        Some(Err(error)) if rules.trust != Trust::Report => return Err(Error::Container(error)),
        Some(Err(_)) => HashState::Wrong,
    };
    let size = if start.is_bounded || start.is_packed {
        size.all
    } else {
        size.used
    };
    if start.is_bounded && !start.is_packed && size < start.length {
        return Err(Error::Truncated {
            file: start.length,
            found: size,
        });
    }
    if size == 0 {
        return Err(Error::Empty);
    }
    Ok(Content {
        size,
        read: reader.read,
        is_packed: start.is_packed,
        hash,
        corrected: reader.corrected,
    })
}

/// Bytes that came out.
#[derive(Default)]
struct Size {
    all: u64,
    /// Up to the last byte that is not as erased flash.
    used: u64,
}

impl Size {
    fn add(&mut self, bytes: &[u8], room: u64) -> Result<(), Full> {
        let before = self.all;
        self.all = before.saturating_add(bytes.len() as u64);
        if let Some(last) = bytes.iter().rposition(|&byte| byte != ERASED) {
            self.used = before.saturating_add(last as u64).saturating_add(1);
        }
        // What is erased needs no room.
        if self.used > room { Err(Full) } else { Ok(()) }
    }
}

/// There is no more room.
struct Full;

/// Why the output does not go on.
enum Stop {
    Full,
    Packed(xz::Error),
}

impl Stop {
    fn into_error<E>(self, room: u64) -> Error<E> {
        match self {
            Self::Full | Self::Packed(xz::Error::TooLarge(_)) => Error::TooLarge(room),
            Self::Packed(error) => Error::Packed(error),
        }
    }
}

/// What happens to the bytes on their way out.
enum Output {
    Plain,
    Packed(Decoder),
    /// The stream is over.
    Ended,
}

impl Output {
    fn take(
        &mut self,
        piece: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Full>,
    ) -> Result<(), Stop> {
        match self {
            Self::Plain => sink(piece).map_err(|Full| Stop::Full),
            Self::Ended => Ok(()),
            Self::Packed(decoder) => {
                let mut full = Ok(());
                let progress = decoder.feed(piece, |bytes| {
                    if full.is_ok() {
                        full = sink(bytes);
                    }
                });
                if let Progress::End(_) = progress.map_err(Stop::Packed)? {
                    *self = Self::Ended;
                }
                full.map_err(|Full| Stop::Full)
            }
        }
    }
}

/// A partition's data, piece by piece.
struct Reader<'a, F> {
    flash: &'a mut F,
    /// The next byte in flash.
    at: u64,
    /// Bytes in flash that are left.
    left: u64,
    has_ecc: bool,
    /// The last piece of data; empty at the end.
    piece: Vec<u8>,
    coded: Vec<u8>,
    /// Bytes in flash before the last piece.
    before: u64,
    read: u64,
    corrected: usize,
}

impl<'a, F: Flash> Reader<'a, F> {
    fn new(flash: &'a mut F, place: Place) -> Self {
        Self {
            flash,
            at: place.at,
            left: place.length,
            has_ecc: place.has_ecc,
            piece: Vec::new(),
            coded: Vec::new(),
            before: 0,
            read: 0,
            corrected: 0,
        }
    }

    /// Reads the next piece, with no more than `wanted` bytes of data and what completes their eight.
    fn next(&mut self, wanted: u64) -> Result<(), Error<F::Error>> {
        let wanted = usize::try_from(wanted).unwrap_or(PIECE).min(PIECE);
        let in_flash = if self.has_ecc {
            ecc::coded_size(wanted).unwrap_or(0)
        } else {
            wanted
        };
        let in_flash = in_flash.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = if self.has_ecc {
            &mut self.coded
        } else {
            &mut self.piece
        };
        if buffer.len() != in_flash {
            *buffer = vec![0; in_flash];
        }
        self.flash.read(self.at, buffer).map_err(Error::Flash)?;
        if self.has_ecc {
            self.decode()?;
        }
        self.at = self.at.saturating_add(in_flash as u64);
        self.before = self.before.saturating_add(in_flash as u64);
        self.left = self.left.saturating_sub(in_flash as u64);
        self.read = self.read.saturating_add(self.piece.len() as u64);
        Ok(())
    }

    /// Takes the code bytes away. Flash that was erased has none: there the data ends.
    fn decode(&mut self) -> Result<(), Error<F::Error>> {
        let decoded = match ecc::decode(&self.coded) {
            Ok(decoded) => decoded,
            Err(wrong) => {
                let (good, rest) = self.coded.split_at_checked(wrong.at).unwrap_or_default();
                let decoded = ecc::decode(good);
                match decoded {
                    Ok(decoded) if rest.iter().all(|&byte| byte == ERASED) => {
                        self.left = 0;
                        decoded
                    }
                    _ => {
                        let at = self.before.saturating_add(wrong.at as u64);
                        return Err(Error::Uncorrectable(at));
                    }
                }
            }
        };
        self.corrected = self.corrected.saturating_add(decoded.corrected);
        self.piece = decoded.data;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
