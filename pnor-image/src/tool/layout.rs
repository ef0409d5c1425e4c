//! A layout: which partitions an image has, read from TOML.
//!
//! Two are built in, `p10` and `qemu`. The surprise: a partition without an offset begins where the one before it ends,
//! so the order in the file is the order in the flash unless an offset says otherwise.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::ffs::{self, Entry, Kind, Name, Table, User, flags};

/// The layouts that need no file, with what each is for.
pub const BUILT_IN: [(&str, &str, &str); 3] = [
    (
        "p10",
        "POWER10 boards with OpenPOWER firmware, 64 MiB",
        include_str!("../../layouts/p10.toml"),
    ),
    (
        "qemu",
        "QEMU's powernv machines, 32 MiB",
        include_str!("../../layouts/qemu.toml"),
    ),
    (
        "qemu64",
        "QEMU's powernv machines, 64 MiB: room for a kernel that is not packed",
        include_str!("../../layouts/qemu64.toml"),
    ),
];

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    size: Size,
    block: Size,
    table: Size,
    #[serde(default)]
    backup: Backup,
    #[serde(default)]
    partition: Vec<Section>,
}

/// Where the table's copy is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Backup {
    /// Nowhere.
    #[default]
    None,
    /// In the last blocks.
    End,
    /// Behind the table.
    Next,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    name: String,
    offset: Option<Size>,
    size: Size,
    #[serde(default)]
    flags: Vec<Flag>,
    #[serde(default)]
    content: Content,
    file: Option<String>,
}

/// A number of bytes: `0x1000`, `4096`, `"4K"`, `"1M"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(u64),
    Text(String),
}

/// What an image holds in a partition for which no file is given.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Nothing: erased.
    #[default]
    Erased,
    /// An empty NVRAM.
    Nvram,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Flag {
    Ecc,
    Sha512Version,
    Sha512PerEc,
    Preserved,
    ReadOnly,
    Reprovision,
    Volatile,
    ClearOnEccError,
    Golden,
}

/// A layout that holds together.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The table, with the entries for itself and its copy.
    pub table: Table,
    /// Where tables are, in blocks.
    pub tables: Vec<u32>,
    /// For each partition its name, what it holds by itself, and the file that the layout names.
    pub contents: Vec<(Name, Content, Option<String>)>,
}

impl Layout {
    /// Reads a layout.
    ///
    /// # Errors
    /// What is wrong, with the place in the text or the name of the partition.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let size = file.size.bytes()?;
        let block = file.block.bytes()?;
        let table_size = file.table.bytes()?;
        let blocks = |bytes: u64, what: &str| -> Result<u32> {
            if block == 0 || !bytes.is_multiple_of(block) {
                bail!(
                    "{what} is {bytes:#x}, which is not a multiple of the block of {block:#x} bytes"
                );
            }
            u32::try_from(bytes / block).with_context(|| format!("{what} is too large"))
        };
        let block_count = blocks(size, "the size")?;
        let table_blocks = blocks(table_size, "the table")?;
        let table_bytes = u32::try_from(table_size).context("the table is too large")?;
        let mut tables = Vec::from([0]);
        match file.backup {
            Backup::None => {}
            Backup::Next => tables.push(table_blocks),
            Backup::End => tables.push(
                block_count
                    .checked_sub(table_blocks)
                    .context("the table is larger than the flash")?,
            ),
        }
        let mut entries = Vec::from([table_entry(ffs::OWN_NAME, 0, table_blocks, table_bytes)?]);
        let mut contents = Vec::new();
        let mut next = u64::from(table_blocks);
        if file.backup == Backup::Next {
            next += u64::from(table_blocks);
        }
        for section in file.partition {
            let what = &section.name;
            let name = Name::new(what).with_context(|| {
                format!("{what:?} is no name: 1 to 15 printable characters without spaces")
            })?;
            let base = match &section.offset {
                Some(offset) => blocks(offset.bytes()?, &format!("the offset of {what}"))?,
                None => u32::try_from(next).context("the partitions are larger than any flash")?,
            };
            let size = blocks(section.size.bytes()?, &format!("the size of {what}"))?;
            let mut entry = Entry::new(name, base, size);
            for flag in section.flags {
                flag.set(&mut entry.user);
            }
            next = entry.end();
            entries.push(entry);
            contents.push((name, section.content, section.file));
        }
        if let Some(&place) = tables.get(1) {
            let mut copy = table_entry(ffs::BACKUP_NAME, place, table_blocks, table_bytes)?;
            copy.user.misc = flags::BACKUP;
            copy.kind = Kind::Data;
            entries.push(copy);
        }
        let table = Table {
            block_size: u32::try_from(block).context("the block is too large")?,
            block_count,
            table_blocks,
            entries,
        };
        // The reader's judgement is the one that counts.
        let bytes = table.to_bytes()?;
        let (_, problems) = Table::parse(&bytes, size).context("the layout is impossible")?;
        if let Some(problem) = problems.first() {
            bail!("{problem}");
        }
        Ok(Self {
            table,
            tables,
            contents,
        })
    }

    /// The table for the place `at` (in blocks): each table names itself and the other.
    pub fn table_at(&self, at: u32) -> Table {
        let mut table = self.table.clone();
        let other = self.tables.iter().copied().find(|&place| place != at);
        for entry in &mut table.entries {
            if entry.name == *ffs::OWN_NAME {
                entry.base = at;
            } else if entry.name == *ffs::BACKUP_NAME {
                entry.base = other.unwrap_or(at);
            }
        }
        table
    }
}

/// An entry for a table.
fn table_entry(name: &str, base: u32, size: u32, actual: u32) -> Result<Entry> {
    let mut entry = Entry::new(Name::new(name).context("a name")?, base, size);
    entry.kind = Kind::Table;
    entry.actual = actual;
    Ok(entry)
}

impl Size {
    fn bytes(&self) -> Result<u64> {
        let text = match self {
            Self::Number(number) => return Ok(*number),
            Self::Text(text) => text,
        };
        let (digits, unit) = match text.strip_suffix(['K', 'M']) {
            Some(digits) if text.ends_with('K') => (digits, 1 << 10),
            Some(digits) => (digits, 1 << 20),
            None => (text.as_str(), 1),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .with_context(|| format!("{text:?} is no size: a number, or one with K or M"))
    }
}

impl Flag {
    fn set(self, user: &mut User) {
        match self {
            Self::Ecc => user.integrity |= flags::ECC,
            Self::Sha512Version => user.version |= flags::SHA512_VERSION,
            Self::Sha512PerEc => user.version |= flags::SHA512_PER_EC,
            Self::Preserved => user.misc |= flags::PRESERVED,
            Self::ReadOnly => user.misc |= flags::READ_ONLY,
            Self::Reprovision => user.misc |= flags::REPROVISION,
            Self::Volatile => user.misc |= flags::VOLATILE,
            Self::ClearOnEccError => user.misc |= flags::CLEAR_ON_ECC_ERROR,
            Self::Golden => user.misc |= flags::GOLDEN,
        }
    }
}

/// The text of a built-in layout, or of a file.
///
/// # Errors
/// When there is neither; the message lists what is built in.
pub fn text_of(layout: &str) -> Result<String> {
    if let Some((_, _, text)) = BUILT_IN.iter().find(|(name, ..)| *name == layout) {
        return Ok((*text).to_owned());
    }
    std::fs::read_to_string(layout).with_context(|| {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, ..)| *name).collect();
        format!(
            "{layout} cannot be read, and no built-in layout has this name ({})",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in(name: &str) -> Layout {
        Layout::parse(&text_of(name).expect("there")).expect("holds together")
    }

    #[test]
    fn the_built_in_layouts_hold_together() {
        let p10 = built_in("p10");
        assert_eq!(p10.table.flash_size(), 64 << 20);
        assert_eq!(p10.table.entries.len(), 33);
        let extent =
            |layout: &Layout, name| layout.table.extent(layout.table.get(name).expect("there"));
        // Places in the middle and at the end, computed from the public layout.
        assert_eq!(extent(&p10, "EECACHE"), (0x2c000, 0x2c_0000));
        assert_eq!(extent(&p10, "NVRAM"), (0x2f_1000, 0x9_0000));
        assert_eq!(extent(&p10, "BACKUP_PART"), (0x3ff_8000, 0x8000));
        let qemu = built_in("qemu");
        assert_eq!(qemu.table.flash_size(), 32 << 20);
        assert_eq!(extent(&qemu, "NVRAM"), (0x8000, 0x9_0000));
        let table = qemu.table_at(0x1ff8);
        assert_eq!(
            extent(
                &Layout {
                    table,
                    ..qemu.clone()
                },
                "part"
            ),
            (0x1ff_8000, 0x8000)
        );
        let table = qemu.table_at(0x1ff8);
        assert_eq!(
            extent(
                &Layout {
                    table,
                    ..qemu.clone()
                },
                "BACKUP_PART"
            ),
            (0, 0x8000)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "size = \"1M\"\nblock = 0x1000\ntable = 0x1000\n";
        let with = |section: &str| {
            let error = Layout::parse(&format!("{head}{section}")).expect_err("wrong");
            format!("{error:#}")
        };
        for (section, message) in [
            (
                "[[partition]]\nname = \"A\"\nsize = 100",
                "the size of A is 0x64",
            ),
            (
                "[[partition]]\nname = \"A\"\nsize = \"2M\"",
                "A reaches beyond the end",
            ),
            (
                "[[partition]]\nname = \"A B\"\nsize = \"4K\"",
                "\"A B\" is no name",
            ),
            (
                "[[partition]]\nname = \"A\"\nsize = \"4Q\"",
                "\"4Q\" is no size",
            ),
            (
                "[[partition]]\nname = \"A\"\nsize = \"4K\"\noffset = 0",
                "A overlaps part",
            ),
            (
                "[[partition]]\nname = \"A\"\nsize = \"4K\"\nflags = [\"fast\"]",
                "unknown variant",
            ),
            (
                "[[partition]]\nname = \"A\"\nlength = 4096",
                "unknown field `length`",
            ),
        ] {
            let text = with(section);
            assert!(text.contains(message), "{text}");
        }
        assert!(text_of("no-such-layout").is_err());
    }
}
