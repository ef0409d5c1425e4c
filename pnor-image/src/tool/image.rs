//! An image in memory: its tables, and the contents of its partitions.
//!
//! The surprise: the actual size in the table is often wrong (whole partition, or nothing), so what a container says
//! about its own length goes before it.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::build::{Form, place, prepare, update_tables};
use crate::container::{Header, is_container};
use crate::ecc;
use crate::ffs::{BACKUP_NAME, Entry, Found, OTHER_SIDE_NAME, Search, Table, find};
use crate::xz::{self, Limits};

/// What the tool lets a stream cost.
const LIMITS: Limits = Limits {
    output: 256 << 20,
    dictionary: 128 << 20,
};

/// An image.
#[derive(Debug)]
pub struct Image {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The table to work with.
    pub found: Found,
}

/// A partition's content without its code bytes.
#[derive(Debug)]
pub struct Content {
    /// The data of the whole partition, or of its first part if it has code bytes that are beyond help.
    pub data: Vec<u8>,
    /// The state of the code bytes; `None` without ECC.
    pub ecc: Option<Result<usize, ecc::Uncorrectable>>,
}

/// What of a partition is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All bytes, code bytes included.
    Raw,
    /// The content up to its actual size, without code bytes.
    Content,
    /// What a container and xz hold.
    Payload,
}

impl Image {
    /// Takes the bytes of an image.
    ///
    /// # Errors
    /// When no table can be found: what was wrong at each place.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let found = match find(&mut bytes.as_slice(), Search::Everywhere) {
            Ok(Ok(found)) => found,
            Ok(Err(notes)) => {
                let mut text = String::from("no table of partitions");
                for (at, note) in notes {
                    if let Err(error) = note {
                        text.push_str(&format!("; at {at:#x}: {error}"));
                    }
                }
                bail!("{text}");
            }
            Err(_) => bail!("the image ends within its table"),
        };
        Ok(Self { bytes, found })
    }

    /// Reads an image from a file.
    ///
    /// # Errors
    /// When it cannot be read, or has no table.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::new(bytes).with_context(|| format!("{}", path.display()))
    }

    /// The partition with this name.
    ///
    /// # Errors
    /// When there is none; the message lists those that are there.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        self.found.table.get(name).copied().with_context(|| {
            let names: Vec<&str> = self
                .found
                .table
                .entries
                .iter()
                .map(|entry| entry.name.as_str())
                .collect();
            format!(
                "there is no partition {name}; there are {}",
                names.join(", ")
            )
        })
    }

    /// All bytes of a partition.
    pub fn raw(&self, entry: &Entry) -> &[u8] {
        let (at, length) = self.found.table.extent(entry);
        let range = || {
            let at = usize::try_from(at).ok()?;
            self.bytes
                .get(at..at.checked_add(usize::try_from(length).ok()?)?)
        };
        // The table was checked against the size of the image.
        range().unwrap_or_default()
    }

    /// A partition's data, corrected where that is possible.
    pub fn content(&self, entry: &Entry) -> Content {
        let raw = self.raw(entry);
        if !entry.user.has_ecc() {
            return Content {
                data: raw.to_vec(),
                ecc: None,
            };
        }
        match ecc::decode(raw) {
            Ok(decoded) => Content {
                data: decoded.data,
                ecc: Some(Ok(decoded.corrected)),
            },
            Err(error) => {
                let good = raw.get(..error.at).unwrap_or_default();
                Content {
                    data: ecc::decode(good)
                        .map(|decoded| decoded.data)
                        .unwrap_or_default(),
                    ecc: Some(Err(error)),
                }
            }
        }
    }

    /// The part of a partition that somebody wants to have as a file.
    ///
    /// # Errors
    /// When the content is damaged in a way that matters for it.
    pub fn extract(&self, name: &str, part: Part) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        if part == Part::Raw {
            return Ok(self.raw(&entry).to_vec());
        }
        let content = self.content(&entry);
        if let Some(Err(error)) = content.ecc {
            bail!("{name}: {error}");
        }
        if part == Part::Content {
            let length = actual_data(&entry).min(content.data.len());
            return Ok(content.data.get(..length).unwrap_or_default().to_vec());
        }
        let inner = if is_container(&content.data) {
            let header = Header::parse(&content.data).with_context(|| name.to_owned())?;
            header
                .verify_payload(&content.data)
                .with_context(|| name.to_owned())?;
            header.payload(&content.data)?.to_vec()
        } else {
            let length = actual_data(&entry).min(content.data.len());
            content.data.get(..length).unwrap_or_default().to_vec()
        };
        if xz::is_xz(&inner) {
            return xz::decompress(&inner, LIMITS).with_context(|| name.to_owned());
        }
        Ok(inner)
    }

    /// Puts a file into a partition and its length into all tables.
    ///
    /// # Errors
    /// When it does not fit; then the image is as it was.
    pub fn replace(&mut self, name: &str, file: &[u8], form: Form) -> Result<()> {
        let mut entry = self.entry(name)?;
        if form.is_raw && entry.user.has_ecc() {
            let length = self.raw(&entry).len();
            if file.len() != length {
                bail!("{name} has code bytes: a raw file has to have all {length:#x} bytes");
            }
        }
        let (at, length) = self.found.table.extent(&entry);
        let mut bytes = self.bytes.clone();
        if form.is_raw {
            let mut plain = entry;
            plain.user.integrity = 0;
            place(&mut bytes, &mut plain, at, length, file)?;
            entry.actual = plain.actual;
        } else {
            let content = prepare(&entry, file, form)?;
            place(&mut bytes, &mut entry, at, length, &content)?;
        }
        update_tables(&mut bytes, &self.tables(), &entry)?;
        *self = Self::new(bytes)?;
        Ok(())
    }

    /// The tables that can be written: the one that was found, its copy, and the other side's, without problems each.
    pub fn tables(&self) -> Vec<(u64, Table)> {
        let mut tables = Vec::new();
        let mut places = Vec::from([0]);
        for name in [BACKUP_NAME, OTHER_SIDE_NAME] {
            if let Some(entry) = self.found.table.get(name) {
                places.push(self.found.table.extent(entry).0);
            }
        }
        places.push(match self.found.origin {
            crate::ffs::Origin::First => 0,
            crate::ffs::Origin::Copy(at) | crate::ffs::Origin::OtherSide(at) => at,
        });
        places.sort_unstable();
        places.dedup();
        for at in places {
            let parse = || {
                let from = self.bytes.get(usize::try_from(at).ok()?..)?;
                Table::parse(from, self.bytes.len() as u64).ok()
            };
            if let Some((table, problems)) = parse()
                && problems.is_empty()
            {
                tables.push((at, table));
            }
        }
        tables
    }

    /// What a container at the beginning of a partition's data says of itself; `None` if there is none.
    pub fn header(data: &[u8]) -> Option<Result<Header<'_>, crate::container::Error>> {
        is_container(data).then(|| Header::parse(data))
    }
}

/// Bytes of data that the actual size stands for; all of them if it says nothing.
fn actual_data(entry: &Entry) -> usize {
    let actual = usize::try_from(entry.actual).unwrap_or(usize::MAX);
    match (actual, entry.user.has_ecc()) {
        (0, _) => usize::MAX,
        (actual, true) => ecc::data_size(actual),
        (actual, false) => actual,
    }
}

/// Writes a file so that nobody sees half of it.
///
/// # Errors
/// The file system's.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path
        .file_name()
        .context("a file name is needed")?
        .to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let work = || -> std::io::Result<()> {
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    work().map_err(|error| {
        let _ = fs::remove_file(&partial);
        anyhow::Error::new(error).context(format!("{} cannot be written", path.display()))
    })
}
