//! Memory-mapped registers: the bus trait, typed register offsets, and the real bus.
//!
//! Owns the one place of this crate that turns an address into a device access ([`CiMmio`]). Width, byte order
//! (big-endian) and barriers are fixed by the implementation, so a driver cannot forget them. The surprising fact:
//! a read can change the device; drivers say at the register what reading does.
#![expect(unsafe_code, reason = "owns the windows of device registers")]

use core::fmt;
use core::marker::PhantomData;

use isa::addr::Ra;
use isa::cix;

/// A register of device kind `D`: its offset in the device's window. One device's register cannot be given to another.
pub struct Reg<D: ?Sized> {
    offset: u64,
    device: PhantomData<fn() -> *const D>,
}

impl<D: ?Sized> Reg<D> {
    /// The register at `offset` bytes.
    #[must_use]
    pub const fn new(offset: u64) -> Self {
        Self {
            offset,
            device: PhantomData,
        }
    }

    /// Its offset in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }
}

impl<D: ?Sized> Clone for Reg<D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: ?Sized> Copy for Reg<D> {}

impl<D: ?Sized> fmt::Debug for Reg<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reg({:#x})", self.offset)
    }
}

/// The register window of a device of kind `D`. Values are plain numbers: the bus swaps bytes where the device is
/// big-endian and this processor is not.
pub trait Mmio<D> {
    /// Loads 1 byte.
    fn read8(&self, reg: Reg<D>) -> u8;
    /// Loads 4 bytes.
    fn read32(&self, reg: Reg<D>) -> u32;
    /// Loads 8 bytes.
    fn read64(&self, reg: Reg<D>) -> u64;
    /// Stores 1 byte.
    fn write8(&self, reg: Reg<D>, value: u8);
    /// Stores 4 bytes.
    fn write32(&self, reg: Reg<D>, value: u32);
    /// Stores 8 bytes.
    fn write64(&self, reg: Reg<D>, value: u64);
}

impl<D, M: Mmio<D> + ?Sized> Mmio<D> for &M {
    fn read8(&self, reg: Reg<D>) -> u8 {
        (**self).read8(reg)
    }
    fn read32(&self, reg: Reg<D>) -> u32 {
        (**self).read32(reg)
    }
    fn read64(&self, reg: Reg<D>) -> u64 {
        (**self).read64(reg)
    }
    fn write8(&self, reg: Reg<D>, value: u8) {
        (**self).write8(reg, value);
    }
    fn write32(&self, reg: Reg<D>, value: u32) {
        (**self).write32(reg, value);
    }
    fn write64(&self, reg: Reg<D>, value: u64) {
        (**self).write64(reg, value);
    }
}

/// A window that can also be loaded from by halfwords; few devices have such registers.
pub trait Mmio16<D> {
    /// Loads 2 bytes.
    fn read16(&self, reg: Reg<D>) -> u16;
}

impl<D, M: Mmio16<D> + ?Sized> Mmio16<D> for &M {
    fn read16(&self, reg: Reg<D>) -> u16 {
        (**self).read16(reg)
    }
}

/// Registers reached by cache-inhibited accesses in hypervisor real mode.
pub struct CiMmio<D> {
    base: Ra,
    bytes: u64,
    device: PhantomData<fn() -> *const D>,
}

impl<D> CiMmio<D> {
    /// The window `[base, base + bytes)`.
    ///
    /// # Safety
    /// The window must belong to a device of kind `D` and to nothing else, for as long as this value is used, and its
    /// users must run in hypervisor real mode. What the driver asks of the device is the driver's promise.
    #[must_use]
    pub const unsafe fn new(base: Ra, bytes: u64) -> Self {
        Self {
            base,
            bytes,
            device: PhantomData,
        }
    }

    /// Where the window starts.
    #[must_use]
    pub const fn base(&self) -> Ra {
        self.base
    }

    /// The real address of `reg`.
    ///
    /// # Panics
    /// When the access would leave the window, which is a wrong constant in a driver.
    #[inline]
    fn at(&self, reg: Reg<D>, width: u64) -> u64 {
        let inside = reg
            .offset
            .checked_add(width)
            .is_some_and(|end| end <= self.bytes);
        assert!(inside, "device register outside its window");
        self.base.0 + reg.offset
    }
}

impl<D> Mmio<D> for CiMmio<D> {
    fn read8(&self, reg: Reg<D>) -> u8 {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::load8(self.at(reg, 1)) }
    }
    fn read32(&self, reg: Reg<D>) -> u32 {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::load32(self.at(reg, 4)) }
    }
    fn read64(&self, reg: Reg<D>) -> u64 {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::load64(self.at(reg, 8)) }
    }
    fn write8(&self, reg: Reg<D>, value: u8) {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::store8(self.at(reg, 1), value) }
    }
    fn write32(&self, reg: Reg<D>, value: u32) {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::store32(self.at(reg, 4), value) }
    }
    fn write64(&self, reg: Reg<D>, value: u64) {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::store64(self.at(reg, 8), value) }
    }
}

impl<D> Mmio16<D> for CiMmio<D> {
    fn read16(&self, reg: Reg<D>) -> u16 {
        // SAFETY: `at` keeps the access in the window, which is the device's by the promise of `new`.
        unsafe { cix::load16(self.at(reg, 2)) }
    }
}

impl<D> fmt::Debug for CiMmio<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CiMmio({} + {:#x})", self.base, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Device {}

    fn window() -> CiMmio<Device> {
        // SAFETY: the host's fake device space has no owner.
        unsafe { CiMmio::new(Ra(0x1000), 0x10) }
    }

    #[test]
    fn registers_are_big_endian_and_relative_to_the_window() {
        window().write32(Reg::new(8), 0x0102_0304);
        assert_eq!(cix::fake::load(0x1008), [1, 2, 3, 4]);
        assert_eq!(window().read8(Reg::new(0xb)), 4);
    }

    #[test]
    #[should_panic(expected = "outside its window")]
    fn a_register_that_straddles_the_end_is_refused() {
        window().read64(Reg::new(9));
    }
}
