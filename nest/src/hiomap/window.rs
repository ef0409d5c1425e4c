//! The window through which the flash is seen, and the space that it is in.
//!
//! Surprising fact: a window need not begin with what was asked for; the BMC aligns it as it likes.

use super::HiomapError;
use crate::lpc::{FwError, Lpc, Opb, OutOfRange};
use crate::mmio::Mmio;

/// LPC firmware space, where windows are.
pub trait FirmwareSpace {
    /// Reads from `address` on.
    ///
    /// # Errors
    /// [`FwError`]; the buffer means nothing then.
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError>;

    /// Writes from `address` on.
    ///
    /// # Errors
    /// [`FwError`]; part of it may be written.
    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError>;
}

impl<M: Mmio<Opb>> FirmwareSpace for Lpc<M> {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        self.fw_read(address, into)
    }

    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        self.fw_write(address, from)
    }
}

/// The window that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Where it is in firmware space.
    pub(super) address: u64,
    /// The place in flash that it begins with.
    pub(super) flash: u64,
    /// Bytes.
    pub(super) size: u64,
    pub(super) is_writable: bool,
}

impl Window {
    /// Bytes of the window from the place `at` of the flash on; none if that is not in it.
    pub(super) fn left(&self, at: u64) -> u64 {
        match at.checked_sub(self.flash) {
            Some(offset) => self.size.saturating_sub(offset),
            None => 0,
        }
    }

    /// The address of the place `at` of the flash, which is in the window.
    pub(super) fn address_of(&self, at: u64) -> Result<u32, HiomapError> {
        let address = at.wrapping_sub(self.flash).wrapping_add(self.address);
        u32::try_from(address).map_err(|_| OutOfRange.into())
    }
}

/// Where the `count` bytes from the place `place` of the flash on are in a buffer that begins with the place `at`.
pub(super) fn part(at: u64, place: u64, count: u64) -> Option<core::ops::Range<usize>> {
    let start = usize::try_from(place.checked_sub(at)?).ok()?;
    Some(start..start.checked_add(usize::try_from(count).ok()?)?)
}
