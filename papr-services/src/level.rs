//! The levels of the processor: what a partition (L1) or a nested guest (L2) may take the machine for. One table, and
//! everything that depends on a level comes from it: the tree, the control registers, the capability bits of the
//! nested API, and which logical processor versions a guest can have (reference "papr-partition", 2.9; "nested", 6.4).
//!
//! The surprising fact: POWER10 and Power11 differ in nothing but names and numbers. Still a partition at Power11
//! needs the Power11 bit even for a guest at POWER10, because Linux maps architecture 3.1 to Power11 there; so every
//! level up to the partition's own is offered.

use isa::lpcr::Hfscr;

/// A level, from low to high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Architecture 3.00.
    Power9,
    /// Architecture 3.1 on POWER10.
    Power10,
    /// Architecture 3.1 on Power11.
    Power11,
}

/// What a level is.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub level: Level,
    /// Its name on the command line, `nidus.compat=`; kernels give it to programs as their platform.
    pub word: &'static str,
    /// Name of the processor, as its nodes in the tree have it.
    pub processor: &'static str,
    /// Logical processor version: `cpu-version` in the tree, and the LOGICAL_PVR element.
    pub logical_pvr: u32,
    /// Bit in the bitmaps of H_GUEST_GET_CAPABILITIES and H_GUEST_SET_CAPABILITIES.
    pub capability: u64,
    /// Processor compatibility register.
    pub pcr: u64,
    /// Facilities of HFSCR that the level does not have; FSCR has the same bits.
    pub absent: Hfscr,
    /// `ibm,pa-features` without its header.
    pub features: &'static [u8],
}

/// Reserved bits of PCR, which are ones in every value (ISA 3.1 book III 3.1.4): all but the facility disable bits 0
/// to 3 and the version bits.
const PCR_RESERVED: u64 = !(0xf000_0000_0000_0000 | 0x1e);
/// PCR bit that takes away everything after architecture 3.00, from problem state.
const PCR_V3_00: u64 = 0x10;

/// The attributes of ISA 3.1 (LoPAR B.6.2.1.1). Those that kernels read: byte 0 bits 0, 1, 3, 6 MMU, FPU, run latch,
/// no-execute; byte 5 bit 0 little-endian; byte 22 bit 0 transactional memory, absent; byte 40 bit 0 radix with GTSE;
/// byte 64 bit 0 DAWR1; byte 68 bit 5 DEXCR.
#[rustfmt::skip]
const FEATURES_3_1: &[u8; 74] = &[
    0xf6, 0x3f, 0xc7, 0xc0, 0x00, 0xf0, 0x80, 0x00, //  0
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8
    0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x00, 0x00, // 16
    0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x00, 0x00, // 24
    0x80, 0x00, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, // 32
    0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x80, 0x00, // 40
    0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x80, 0x00, // 48
    0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x80, 0x00, // 56
    0x80, 0x00, 0x00, 0x00, 0xce, 0x00, 0x00, 0x00, // 64
    0x80, 0x00,                                     // 72
];

/// Those of ISA 3.00: everything before byte 64.
const FEATURES_3_00: &[u8] = FEATURES_3_1.split_at(64).0;

static POWER9: Row = Row {
    level: Level::Power9,
    word: "power9",
    processor: "POWER9",
    logical_pvr: 0x0f00_0005,
    capability: 0x4000_0000_0000_0000,
    pcr: PCR_RESERVED | PCR_V3_00,
    absent: Hfscr::PREFIX,
    features: FEATURES_3_00,
};

static POWER10: Row = Row {
    level: Level::Power10,
    word: "power10",
    processor: "POWER10",
    logical_pvr: 0x0f00_0006,
    capability: 0x2000_0000_0000_0000,
    pcr: PCR_RESERVED,
    absent: Hfscr::empty(),
    features: FEATURES_3_1,
};

static POWER11: Row = Row {
    level: Level::Power11,
    word: "power11",
    processor: "POWER11",
    logical_pvr: 0x0f00_0007,
    capability: 0x1000_0000_0000_0000,
    pcr: PCR_RESERVED,
    absent: Hfscr::empty(),
    features: FEATURES_3_1,
};

/// All levels, from low to high.
pub static TABLE: [&Row; 3] = [&POWER9, &POWER10, &POWER11];

/// Processor versions that are no level here, which a kernel or a person may name all the same: none is ever accepted.
/// Logical ones before architecture 3.00 and after the last, physical ones of every chip that Linux knows, and what
/// stands for "none" and "all".
pub static NO_LEVELS: [u32; 20] = [
    0,
    0x0f00_0001,
    0x0f00_0002,
    0x0f00_0003,
    0x0f10_0003,
    0x0f00_0004,
    0x0f00_0008,
    0x0f10_0006,
    0x003a_0000,
    0x003e_0000,
    0x003f_0201,
    0x004b_0200,
    0x004c_0200,
    0x004d_0200,
    0x004e_1202,
    0x0080_0200,
    0x0080_1200,
    0x0082_0000,
    0x0082_0200,
    0xffff_ffff,
];

impl Level {
    /// All, low to high.
    pub const ALL: [Self; 3] = [Self::Power9, Self::Power10, Self::Power11];

    /// Everything about the level.
    #[must_use]
    pub fn row(self) -> &'static Row {
        match self {
            Self::Power9 => &POWER9,
            Self::Power10 => &POWER10,
            Self::Power11 => &POWER11,
        }
    }

    /// The level with this name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let row = TABLE.into_iter().find(|row| row.word == word)?;
        Some(row.level)
    }

    /// The level with this logical processor version. Older levels, physical versions and 0 have none.
    #[must_use]
    pub fn from_logical_pvr(pvr: u64) -> Option<Self> {
        let row = TABLE
            .into_iter()
            .find(|row| u64::from(row.logical_pvr) == pvr)?;
        Some(row.level)
    }

    /// Logical processor version.
    #[must_use]
    pub fn logical_pvr(self) -> u32 {
        self.row().logical_pvr
    }

    /// Its bit in the bitmaps of capabilities.
    #[must_use]
    pub fn capability(self) -> u64 {
        self.row().capability
    }

    /// The bitmap that is offered to a partition of this level: itself and everything lower.
    #[must_use]
    pub fn offered(self) -> u64 {
        let below = TABLE.into_iter().filter(|row| row.level <= self);
        below.fold(0, |bits, row| bits | row.capability)
    }

    /// The level that a new guest has when its partition chose the levels of this bitmap: the highest.
    #[must_use]
    pub fn highest(chosen: u64) -> Option<Self> {
        let row = TABLE
            .into_iter()
            .rev()
            .find(|row| row.capability & chosen != 0)?;
        Some(row.level)
    }

    /// The level that a guest gets by LOGICAL_PVR when its partition chose the levels of this bitmap.
    #[must_use]
    pub fn accepted(logical_pvr: u64, chosen: u64) -> Option<Self> {
        Self::from_logical_pvr(logical_pvr).filter(|level| level.capability() & chosen != 0)
    }

    /// The level of a partition for which `asked` was asked, on a processor of level `chip`: never a higher one than
    /// the processor's.
    ///
    /// # Errors
    /// What was asked for, when the processor does not reach it.
    pub fn granted(asked: Option<Self>, chip: Self) -> Result<Self, Self> {
        match asked {
            None => Ok(chip),
            Some(level) if level <= chip => Ok(level),
            Some(level) => Err(level),
        }
    }
}

impl core::fmt::Display for Level {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.row().word)
    }
}

#[cfg(test)]
mod tests;
