//! One entry of the table: where a partition is, and what those who flash it have to know.
//!
//! The surprise: base and size count blocks, the actual size counts bytes, and nobody may rely on the latter.

use core::fmt;

use super::{ENTRY_SIZE, TOP_LEVEL, check_sum, seal};
use crate::bytes::{array, be16, be32, put};

const NAME_SIZE: usize = 16;
const USER: usize = 0x3c;

/// The flags of [`User`], with the letters that pflash shows for them.
pub mod flags {
    /// `integrity`: every eight bytes have a code byte.
    pub const ECC: u16 = 0x8000;
    /// `version`: a hash of the whole partition is its version; a container's header comes first.
    pub const SHA512_VERSION: u8 = 0x80;
    /// `version`: a hash for each level of the chip.
    pub const SHA512_PER_EC: u8 = 0x40;
    /// `misc`: kept when firmware is updated.
    pub const PRESERVED: u8 = 0x80;
    /// `misc`: not to be written by an operating system.
    pub const READ_ONLY: u8 = 0x40;
    /// `misc`: a copy of a table, no content of its own.
    pub const BACKUP: u8 = 0x20;
    /// `misc`: erased when the machine goes back to the factory's state.
    pub const REPROVISION: u8 = 0x10;
    /// `misc`: cleared when the machine loses power.
    pub const VOLATILE: u8 = 0x08;
    /// `misc`: cleared when it has an error that the code cannot correct.
    pub const CLEAR_ON_ECC_ERROR: u8 = 0x04;
    /// `misc`: belongs to a side that is never updated.
    pub const GOLDEN: u8 = 0x01;
}

/// The name of a partition: up to 15 printable characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name([u8; NAME_SIZE]);

impl Name {
    /// Makes a name; `None` if it is empty, too long, or not printable.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; NAME_SIZE];
        put(&mut bytes, 0, text.as_bytes()).then_some(())?;
        Self::read(bytes)
    }

    /// Takes the bytes of an entry.
    pub(super) fn read(bytes: [u8; NAME_SIZE]) -> Option<Self> {
        let length = bytes.iter().position(|&byte| byte == 0)?;
        let (text, rest) = bytes.split_at_checked(length)?;
        (length > 0 && text.iter().all(u8::is_ascii_graphic) && rest.iter().all(|&byte| byte == 0))
            .then_some(Self(bytes))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0);
        end.and_then(|end| self.0.get(..end))
            .and_then(|text| core::str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// What kind of thing an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Data,
    /// A frame around other partitions.
    Logical,
    /// A table of partitions.
    Table,
    /// A number that nobody has given a meaning.
    Other(u32),
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Data => 1,
            Self::Logical => 2,
            Self::Table => 3,
            Self::Other(number) => number,
        }
    }

    const fn of(number: u32) -> Self {
        match number {
            1 => Self::Data,
            2 => Self::Logical,
            3 => Self::Table,
            other => Self::Other(other),
        }
    }
}

/// The part of an entry that FFS leaves to its users, as hostboot uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The flash chip.
    pub chip: u8,
    /// How the content is compressed; 0x80 is xz.
    pub compression: u8,
    /// [`flags::ECC`].
    pub integrity: u16,
    /// How the content tells its version: [`flags::SHA512_VERSION`], [`flags::SHA512_PER_EC`].
    pub version: u8,
    /// [`flags::PRESERVED`] and the others.
    pub misc: u8,
}

impl User {
    /// Says whether every eight bytes have a code byte.
    pub const fn has_ecc(self) -> bool {
        self.integrity & flags::ECC != 0
    }

    /// The ten letters that pflash shows, a dash for each flag that is not set.
    pub fn letters(self) -> [u8; 10] {
        let version = |flag| self.version & flag != 0;
        let misc = |flag| self.misc & flag != 0;
        let all = [
            (b'E', self.has_ecc()),
            (b'L', version(flags::SHA512_VERSION)),
            (b'I', version(flags::SHA512_PER_EC)),
            (b'P', misc(flags::PRESERVED)),
            (b'R', misc(flags::READ_ONLY)),
            (b'B', misc(flags::BACKUP)),
            (b'F', misc(flags::REPROVISION)),
            (b'G', misc(flags::GOLDEN)),
            (b'C', misc(flags::CLEAR_ON_ECC_ERROR)),
            (b'V', misc(flags::VOLATILE)),
        ];
        all.map(|(letter, set)| if set { letter } else { b'-' })
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its first block.
    pub base: u32,
    /// Its length in blocks.
    pub size: u32,
    /// The entry that it lies in, or [`TOP_LEVEL`].
    pub parent: u32,
    /// What it is.
    pub kind: Kind,
    /// 1: protected; 2: environment of a boot loader.
    pub flags: u32,
    /// The length of its content in bytes, code bytes included; a hint, which many writers do not keep up.
    pub actual: u32,
    /// What hostboot has to know.
    pub user: User,
}

impl Entry {
    /// A partition of the top level without content.
    pub const fn new(name: Name, base: u32, size: u32) -> Self {
        Self {
            name,
            base,
            size,
            parent: TOP_LEVEL,
            kind: Kind::Data,
            flags: 0,
            actual: 0,
            user: User {
                chip: 0,
                compression: 0,
                integrity: 0,
                version: 0,
                misc: 0,
            },
        }
    }

    /// The block after the last one; more than 32 bits may hold.
    pub fn end(&self) -> u64 {
        u64::from(self.base).saturating_add(u64::from(self.size))
    }

    pub(super) fn to_bytes(self, id: u32) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        let words = [
            self.base,
            self.size,
            self.parent,
            id,
            self.kind.number(),
            self.flags,
            self.actual,
        ];
        let user = self.user;
        let [integrity_high, integrity_low] = user.integrity.to_be_bytes();
        let user = [
            user.chip,
            user.compression,
            integrity_high,
            integrity_low,
            user.version,
            user.misc,
        ];
        let written = put(&mut bytes, 0, &self.name.0)
            && put(
                &mut bytes,
                NAME_SIZE,
                words.map(u32::to_be_bytes).as_flattened(),
            )
            && put(&mut bytes, USER, &user);
        debug_assert!(written, "the fields of an entry fit");
        seal(&mut bytes);
        bytes
    }

    /// Reads an entry; `None` if the check sum is wrong or the name is none.
    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Option<Self> {
        if check_sum(bytes) != 0 {
            return None;
        }
        let [chip, compression] = array(bytes, USER)?;
        let [version, misc] = array(bytes, USER.checked_add(4)?)?;
        Some(Self {
            name: Name::read(array(bytes, 0)?)?,
            base: be32(bytes, 0x10)?,
            size: be32(bytes, 0x14)?,
            parent: be32(bytes, 0x18)?,
            kind: Kind::of(be32(bytes, 0x20)?),
            flags: be32(bytes, 0x24)?,
            actual: be32(bytes, 0x28)?,
            user: User {
                chip,
                compression,
                integrity: be16(bytes, USER.checked_add(2)?)?,
                version,
                misc,
            },
        })
    }
}
