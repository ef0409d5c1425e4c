//! SCOM: the registers of the chip's pervasive network, by chip and address.
//!
//! The surprising fact: a 64-bit address with its top bit set is "indirect" and takes several accesses; nothing that this
//! firmware drives so far has one, so an address here is 32 bits.

use core::fmt;

/// A chip's place on the fabric (its topology index): the `n` of 16 TiB steps between the chips' device addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(transparent)]
pub struct ChipIndex(pub u8);

/// A direct SCOM (PCB) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ScomAddr(pub u32);

impl ScomAddr {
    /// The register `offset` after this one.
    #[must_use]
    pub const fn plus(self, offset: u32) -> Self {
        Self(self.0 + offset)
    }
}

impl fmt::Debug for ScomAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScomAddr({:#x})", self.0)
    }
}

/// Why an access failed. The first group is what the engine reports (HMER 21:23).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScomError {
    /// Still blocked after all retries.
    Busy,
    /// The chiplet is offline or asleep.
    Offline,
    /// The chiplet is marked bad in part.
    PartialGood,
    /// Nothing answers at this address.
    Address,
    /// Clocks of the target are stopped.
    Clock,
    /// Parity error on the network.
    Parity,
    /// The target did not answer in time.
    Timeout,

    /// The engine never said that it was done.
    NoAnswer,
    /// No such chip in this machine; nothing was accessed.
    NoChip,
    /// The address is not 31 bits; nothing was accessed.
    BadAddress,
}

impl fmt::Display for ScomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "engine stayed busy",
            Self::Offline => "chiplet offline",
            Self::PartialGood => "chiplet partial good",
            Self::Address => "no such register",
            Self::Clock => "clock error",
            Self::Parity => "parity error",
            Self::Timeout => "target timed out",
            Self::NoAnswer => "engine did not answer",
            Self::NoChip => "no such chip",
            Self::BadAddress => "address too large",
        })
    }
}

/// Access to SCOM registers. `&mut` because one access may be outstanding in the whole machine.
pub trait Scom {
    /// Reads a register.
    ///
    /// # Errors
    /// As [`ScomError`] says; the engine is usable again.
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError>;

    /// Writes a register.
    ///
    /// # Errors
    /// As [`ScomError`] says; the engine is usable again.
    fn write(&mut self, chip: ChipIndex, address: ScomAddr, value: u64) -> Result<(), ScomError>;

    /// Sets the bits of `set` after clearing those of `clear`; returns the old value.
    ///
    /// # Errors
    /// Of the read or of the write.
    fn modify(
        &mut self,
        chip: ChipIndex,
        address: ScomAddr,
        clear: u64,
        set: u64,
    ) -> Result<u64, ScomError> {
        let old = self.read(chip, address)?;
        self.write(chip, address, old & !clear | set)?;
        Ok(old)
    }
}

impl<S: Scom + ?Sized> Scom for &mut S {
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
        (**self).read(chip, address)
    }
    fn write(&mut self, chip: ChipIndex, address: ScomAddr, value: u64) -> Result<(), ScomError> {
        (**self).write(chip, address, value)
    }
}
