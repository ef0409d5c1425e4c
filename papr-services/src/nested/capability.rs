//! Architecture levels: the capability bits of H_GUEST_GET/SET_CAPABILITIES and the logical PVRs of guests.
//!
//! The surprising fact: a partition at a POWER11 level needs the POWER11 bit even for a POWER10 guest, because Linux
//! maps architecture 3.1 to POWER11 there. So every level up to the partition's own is offered.

/// An architecture level that a guest can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Architecture 3.00.
    Power9,
    /// Architecture 3.1 on POWER10.
    Power10,
    /// Architecture 3.1 on POWER11.
    Power11,
}

/// PCR bit that takes away everything after architecture 3.00.
const PCR_V3_00: u64 = 0x10;
/// Reserved bits of PCR, which are ones in every value (ISA 3.1 book III 3.1.4): all but the facility disable bits 0
/// to 3 and the version bits.
const PCR_RESERVED: u64 = !(0xf000_0000_0000_0000 | 0x1e);

impl Level {
    /// All, low to high.
    pub const ALL: [Self; 3] = [Self::Power9, Self::Power10, Self::Power11];

    /// Bit in the capability bitmap.
    #[must_use]
    pub const fn capability(self) -> u64 {
        match self {
            Self::Power9 => 0x4000_0000_0000_0000,
            Self::Power10 => 0x2000_0000_0000_0000,
            Self::Power11 => 0x1000_0000_0000_0000,
        }
    }

    /// Logical PVR.
    #[must_use]
    pub const fn logical_pvr(self) -> u32 {
        match self {
            Self::Power9 => 0x0f00_0005,
            Self::Power10 => 0x0f00_0006,
            Self::Power11 => 0x0f00_0007,
        }
    }

    /// The level with this logical PVR. Older levels, physical PVRs and 0 have none.
    #[must_use]
    pub fn from_logical_pvr(pvr: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|level| u64::from(level.logical_pvr()) == pvr)
    }

    /// The bitmap that is offered to a partition of this level.
    #[must_use]
    pub fn offered(self) -> u64 {
        Self::ALL
            .into_iter()
            .filter(|level| *level <= self)
            .fold(0, |bits, level| bits | level.capability())
    }

    /// PCR of a guest of this level.
    #[must_use]
    pub const fn pcr(self) -> u64 {
        match self {
            Self::Power9 => PCR_RESERVED | PCR_V3_00,
            Self::Power10 | Self::Power11 => PCR_RESERVED,
        }
    }

    /// Facilities of HFSCR that the level does not have.
    #[must_use]
    pub const fn absent_facilities(self) -> u64 {
        match self {
            Self::Power9 => isa::lpcr::Hfscr::PREFIX.bits(),
            Self::Power10 | Self::Power11 => 0,
        }
    }
}
