//! What a parser needs of a flash: its size, and bytes at a place.
//!
//! The firmware gives windows behind a BMC, the tool a file in memory. Surprising fact: reading can fail half way even
//! with a perfect image, because the BMC may reboot; so every error of the medium comes through unchanged.

use core::fmt;

use crate::bytes::part;

/// A medium that can be read at any place.
pub trait Flash {
    /// What can go wrong in reading.
    type Error;

    /// Bytes of the whole flash.
    fn size(&self) -> u64;

    /// Fills `buffer` from the place `at`.
    ///
    /// # Errors
    /// The medium's; also when the range is not within [`Self::size`].
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

/// A range that is not within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not within the image")
    }
}

impl core::error::Error for OutOfRange {}

impl Flash for &[u8] {
    type Error = OutOfRange;

    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let at = usize::try_from(at).map_err(|_| OutOfRange)?;
        let from = part(self, at, buffer.len()).ok_or(OutOfRange)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}
