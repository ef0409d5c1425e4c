//! Making an image: a layout, and what goes into its partitions.
//!
//! A file is brought into the form that its partition's flags ask for: xz where that is wanted, a container where the
//! partition has a hash as its version, code bytes where it has ECC. The surprise: a file that already is in a form is not
//! brought into it again, so a signed container from elsewhere keeps its signatures.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use lzma_rust2::{CheckType, XzOptions, XzWriter};

use super::layout::{Content, Layout};
use crate::container::{self, Description, signing};
use crate::ffs::{Entry, Table, flags};
use crate::{ecc, nvram, xz};

/// The largest dictionary that is used: the firmware's heap has to hold one.
const LARGEST_DICTIONARY: usize = 4 << 20;
const SMALLEST_DICTIONARY: usize = 64 << 10;

/// How a file gets into a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Pack it with xz.
    pub is_packed: bool,
    /// Take the bytes as they are, code bytes and container included.
    pub is_raw: bool,
    /// Leave the signatures out.
    pub is_unsigned: bool,
}

/// Makes the image of a layout; `contents` has the files by the name of their partition.
///
/// # Errors
/// A file for a partition that the layout lacks, or one that does not fit.
pub fn image(layout: &Layout, contents: &[(String, Vec<u8>, Form)]) -> Result<Vec<u8>> {
    for (name, ..) in contents {
        if layout.table.get(name).is_none() {
            bail!("the layout has no partition {name}");
        }
    }
    let size = usize::try_from(layout.table.flash_size()).context("too large for this machine")?;
    let mut bytes = vec![0xff; size];
    let mut layout = layout.clone();
    for (name, content, _) in layout.contents.clone() {
        let given = contents.iter().find(|(wanted, ..)| name == **wanted);
        let Some(entry) = layout
            .table
            .entries
            .iter_mut()
            .find(|entry| entry.name == name)
        else {
            continue;
        };
        let made = match (given, content) {
            (Some((_, file, form)), _) => prepare(entry, file, *form)?,
            (None, Content::Nvram) => {
                let block = u64::from(layout.table.block_size);
                let room = u64::from(entry.size) * block;
                let mut empty = vec![0; usize::try_from(room)?];
                nvram::format(&mut empty).with_context(|| format!("{name}"))?;
                empty
            }
            (None, Content::Erased) => Vec::new(),
        };
        let (at, length) = (u64::from(entry.base), u64::from(entry.size));
        let block = u64::from(layout.table.block_size);
        place(&mut bytes, entry, at * block, length * block, &made)?;
    }
    for &at in &layout.tables {
        let table = layout.table_at(at).to_bytes()?;
        let at = usize::try_from(u64::from(at) * u64::from(layout.table.block_size))?;
        bytes
            .get_mut(at..at + table.len())
            .context("the table lies outside the flash")?
            .copy_from_slice(&table);
    }
    Ok(bytes)
}

/// Brings a file into the form that a partition asks for, but for the code bytes.
///
/// # Errors
/// When it claims to be a container and is none.
pub fn prepare(entry: &Entry, file: &[u8], form: Form) -> Result<Vec<u8>> {
    if form.is_raw {
        return Ok(file.to_vec());
    }
    if container::is_container(file) {
        let header = container::Header::parse(file)
            .with_context(|| format!("the file for {}", entry.name))?;
        header
            .verify_payload(file)
            .with_context(|| format!("the container for {}", entry.name))?;
        return Ok(file.to_vec());
    }
    let packed = if form.is_packed && !xz::is_xz(file) {
        pack(file)?
    } else {
        file.to_vec()
    };
    if entry.user.version & flags::SHA512_VERSION == 0 {
        return Ok(packed);
    }
    let description = Description::of(entry.name.as_str());
    if form.is_unsigned {
        return Ok(container::unsigned(&packed, description));
    }
    let keys = signing::Keys::imprint().context("the imprint keys are damaged")?;
    signing::signed(&packed, description, &keys).context("signing failed")
}

/// Packs with xz: CRC32, as hostboot wants it, and a dictionary that is no larger than the content needs.
///
/// # Errors
/// The encoder's.
pub fn pack(data: &[u8]) -> Result<Vec<u8>> {
    let dictionary = data
        .len()
        .next_power_of_two()
        .clamp(SMALLEST_DICTIONARY, LARGEST_DICTIONARY);
    let mut options = XzOptions::with_preset(6);
    options.set_check_sum_type(CheckType::Crc32);
    options.lzma_options.dict_size = u32::try_from(dictionary)?;
    let mut writer = XzWriter::new(Vec::new(), options)?;
    writer.write_all(data)?;
    Ok(writer.finish()?)
}

/// Writes a partition: its content with code bytes if it has ECC, then erased flash; sets the actual size.
pub(super) fn place(
    bytes: &mut [u8],
    entry: &mut Entry,
    at: u64,
    length: u64,
    content: &[u8],
) -> Result<()> {
    let (at, length) = (usize::try_from(at)?, usize::try_from(length)?);
    let region = bytes
        .get_mut(at..at + length)
        .context("the partition lies outside the image")?;
    let coded;
    let (filled, actual) = if entry.user.has_ecc() {
        let mut data = content.to_vec();
        let room = ecc::data_size(length);
        if data.len() > room {
            bail!(
                "{} has room for {room:#x} bytes of data, not {:#x}",
                entry.name,
                data.len()
            );
        }
        let actual = ecc::coded_size(data.len()).context("too large")?;
        data.resize(room, 0xff);
        coded = ecc::encode(&data);
        (coded.as_slice(), actual)
    } else {
        (content, content.len())
    };
    region.fill(0xff);
    region
        .get_mut(..filled.len())
        .with_context(|| {
            format!(
                "{} has room for {length:#x} bytes, not {:#x}",
                entry.name,
                filled.len()
            )
        })?
        .copy_from_slice(filled);
    entry.actual = u32::try_from(actual)?;
    Ok(())
}

/// Writes the entry of one partition into every table of an image.
pub(super) fn update_tables(
    bytes: &mut [u8],
    tables: &[(u64, Table)],
    entry: &Entry,
) -> Result<()> {
    for (at, table) in tables {
        let mut table = table.clone();
        for other in &mut table.entries {
            if other.name == entry.name {
                other.actual = entry.actual;
            }
        }
        let new = table.to_bytes()?;
        let at = usize::try_from(*at)?;
        bytes
            .get_mut(at..at + new.len())
            .context("the table lies outside the image")?
            .copy_from_slice(&new);
    }
    Ok(())
}
