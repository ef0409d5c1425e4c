//! The protocol's messages, and what is agreed on before anything else.
//!
//! Surprising fact: a flash of 65536 blocks says that it has none.

use super::exchange::{COMMAND, Link, NETFN, Stop};
use super::{Hiomap, HiomapError};

/// The newest version that is spoken here.
pub(super) const NEWEST: u8 = 3;
const OLDEST: u8 = 2;
/// Blocks of 4 KiB to 1 MiB.
const SHIFTS: core::ops::RangeInclusive<u8> = 12..=20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    GetInfo = 2,
    GetFlashInfo = 3,
    CreateReadWindow = 4,
    CreateWriteWindow = 6,
    MarkDirty = 7,
    Flush = 8,
    Ack = 9,
    Erase = 10,
}

/// What was agreed on with the BMC.
pub(super) struct Agreed {
    pub(super) version: u8,
    pub(super) shift: u8,
    pub(super) size: u64,
    pub(super) granule: u64,
}

/// Whether a request is one of this protocol: then whoever made it drives the flash, and takes the window.
#[must_use]
pub const fn is_of_protocol(netfn: u8, command: u8) -> bool {
    netfn == NETFN && command == COMMAND
}

impl Hiomap {
    /// Agrees on a version, and asks for the sizes. Nothing is changed before all of it is known to make sense.
    pub(super) fn negotiate(&mut self, bmc: &mut impl Link) -> Result<Agreed, Stop> {
        let (version, shift) = match self.settling.info {
            Some(known) => known,
            None => self.version_and_shift(bmc)?,
        };
        self.settling.info = Some((version, shift));
        let device: &[u8] = if version >= 3 { &[0] } else { &[] };
        let [s0, s1, g0, g1] = self.answer(bmc, Operation::GetFlashInfo, device)?;
        // 16 bits do not hold the size of a flash with 65536 blocks: that one reads as none.
        let blocks = match u16::from_le_bytes([s0, s1]) {
            0 => 1 << 16,
            blocks => u64::from(blocks),
        };
        let size = blocks << shift;
        let granule = u64::from(u16::from_le_bytes([g0, g1])) << shift;
        if granule == 0 || !size.is_multiple_of(granule) {
            return Err(HiomapError::Nonsense("the size of erase blocks").into());
        }
        Ok(Agreed {
            version,
            shift,
            size,
            granule,
        })
    }

    /// The version, and the size of blocks.
    fn version_and_shift(&mut self, bmc: &mut impl Link) -> Result<(u8, u8), Stop> {
        const NO_WISH: u8 = 0; // for the size of blocks
        let info = self.command(bmc, Operation::GetInfo, &[NEWEST, NO_WISH])?;
        let [_, _, version, shift, ..] = *info.data() else {
            return Err(HiomapError::Nonsense("GET_INFO is too short").into());
        };
        if !(OLDEST..=NEWEST).contains(&version) {
            return Err(HiomapError::Version(version).into());
        }
        if !SHIFTS.contains(&shift) {
            return Err(HiomapError::Nonsense("the size of blocks").into());
        }
        Ok((version, shift))
    }

    /// Makes a request whose answer has exactly `N` bytes.
    pub(super) fn answer<const N: usize>(
        &mut self,
        bmc: &mut impl Link,
        operation: Operation,
        arguments: &[u8],
    ) -> Result<[u8; N], Stop> {
        let response = self.command(bmc, operation, arguments)?;
        let parameters = response.data().get(2..).unwrap_or_default();
        parameters
            .try_into()
            .map_err(|_| HiomapError::Nonsense("an answer of another length").into())
    }
}
