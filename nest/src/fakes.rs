//! Buses for tests: a script that the driver must follow, and a plain memory of registers.
//!
//! The script documents the hardware sequence. An access out of order fails the test, and so does stopping early.

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use isa::timebase::{self, Ticks};

use crate::lpc::IoSpace;
use crate::mmio::{Mmio, Reg};
use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};
use crate::xscom::XscomBus;

/// One step of a script. For reads the last value is what the device answers, for writes what it must be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// 1-byte load at an offset.
    Get8(u64, u8),
    /// 1-byte store.
    Put8(u64, u8),
    /// 4-byte load.
    Get32(u64, u32),
    /// 4-byte store.
    Put32(u64, u32),
    /// 8-byte load.
    Get64(u64, u64),
    /// 8-byte store.
    Put64(u64, u64),
    /// Byte from an LPC IO port.
    In(u16, u8),
    /// Byte to an LPC IO port.
    Out(u16, u8),
    /// Read of a port that may be absent; `None` for no response.
    Probe(u16, Option<u8>),
    /// SCOM load on a chip.
    ScomGet(u8, u32, u64),
    /// SCOM store on a chip.
    ScomPut(u8, u32, u64),
    /// Read of HMER.
    Hmer(u64),
    /// Write of HMER, which ANDs.
    AndHmer(u64),
    /// Time passes before the next access. Not an access.
    Pass(Ticks),
}

/// A bus that expects exactly the steps of a script.
#[derive(Debug)]
pub struct Expect {
    script: RefCell<VecDeque<Step>>,
    done: Cell<usize>,
}

impl Expect {
    /// A bus with this script.
    pub fn new(script: impl IntoIterator<Item = Step>) -> Self {
        Self {
            script: RefCell::new(script.into_iter().collect()),
            done: Cell::new(0),
        }
    }

    /// A further part of the script; for scripts that are made piece by piece.
    pub fn then(&self, script: impl IntoIterator<Item = Step>) {
        self.script.borrow_mut().extend(script);
    }

    /// The next access of the script.
    fn next(&self, asked: &dyn core::fmt::Debug) -> Step {
        loop {
            let step = self.script.borrow_mut().pop_front();
            let Some(step) = step else {
                panic!(
                    "step {}: the script has ended, the driver does {asked:?}",
                    self.done.get()
                )
            };
            self.done.set(self.done.get() + 1);
            match step {
                Step::Pass(length) => timebase::fake::advance(length),
                access => return access,
            }
        }
    }

    fn put(&self, does: Step) {
        let expected = self.next(&does);
        assert_eq!(
            does,
            expected,
            "step {}: left is what the driver does",
            self.done.get()
        );
    }

    #[track_caller]
    fn refuse(&self, does: &dyn core::fmt::Debug, expected: Step) -> ! {
        panic!(
            "step {}: the driver does {does:?}, expected {expected:?}",
            self.done.get()
        )
    }
}

impl Drop for Expect {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let left = self.script.borrow();
            assert!(left.is_empty(), "the driver stopped early, left: {left:?}");
        }
    }
}

macro_rules! get {
    ($self:ident, $variant:ident ($($key:expr),*)) => {{
        let does = (stringify!($variant), $($key),*);
        let step = $self.next(&does);
        match step {
            Step::$variant(.., value) if step == Step::$variant($($key,)* value) => value,
            other => $self.refuse(&does, other),
        }
    }};
}

impl<D> Mmio<D> for Expect {
    fn read8(&self, reg: Reg<D>) -> u8 {
        get!(self, Get8(reg.offset()))
    }
    fn read32(&self, reg: Reg<D>) -> u32 {
        get!(self, Get32(reg.offset()))
    }
    fn read64(&self, reg: Reg<D>) -> u64 {
        get!(self, Get64(reg.offset()))
    }
    fn write8(&self, reg: Reg<D>, value: u8) {
        self.put(Step::Put8(reg.offset(), value));
    }
    fn write32(&self, reg: Reg<D>, value: u32) {
        self.put(Step::Put32(reg.offset(), value));
    }
    fn write64(&self, reg: Reg<D>, value: u64) {
        self.put(Step::Put64(reg.offset(), value));
    }
}

impl IoSpace for Expect {
    fn inb(&self, port: u16) -> u8 {
        get!(self, In(port))
    }
    fn outb(&self, port: u16, value: u8) {
        self.put(Step::Out(port, value));
    }
    fn probe(&self, port: u16) -> Option<u8> {
        get!(self, Probe(port))
    }
}

impl Scom for Expect {
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
        Ok(get!(self, ScomGet(chip.0, address.0)))
    }
    fn write(&mut self, chip: ChipIndex, address: ScomAddr, value: u64) -> Result<(), ScomError> {
        self.put(Step::ScomPut(chip.0, address.0, value));
        Ok(())
    }
}

impl XscomBus for Expect {
    fn load(&self, chip: ChipIndex, address: ScomAddr) -> u64 {
        get!(self, ScomGet(chip.0, address.0))
    }
    fn store(&self, chip: ChipIndex, address: ScomAddr, value: u64) {
        self.put(Step::ScomPut(chip.0, address.0, value));
    }
    fn hmer(&self) -> u64 {
        get!(self, Hmer())
    }
    fn and_hmer(&self, value: u64) {
        self.put(Step::AndHmer(value));
    }
    fn this_chip(&self) -> ChipIndex {
        ChipIndex(0)
    }
}

/// A window of registers that keep what was written; zero before.
#[derive(Debug, Default)]
pub struct Registers {
    bytes: RefCell<BTreeMap<u64, u8>>,
}

impl Registers {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn load<const N: usize>(&self, offset: u64) -> [u8; N] {
        let bytes = self.bytes.borrow();
        core::array::from_fn(|i| bytes.get(&(offset + i as u64)).copied().unwrap_or(0))
    }

    fn store<const N: usize>(&self, offset: u64, value: [u8; N]) {
        self.bytes.borrow_mut().extend((offset..).zip(value));
    }

    /// Every byte that was written, by offset.
    #[must_use]
    pub fn written(&self) -> Vec<(u64, u8)> {
        self.bytes
            .borrow()
            .iter()
            .map(|(offset, byte)| (*offset, *byte))
            .collect()
    }
}

impl<D> Mmio<D> for Registers {
    fn read8(&self, reg: Reg<D>) -> u8 {
        u8::from_be_bytes(self.load(reg.offset()))
    }
    fn read32(&self, reg: Reg<D>) -> u32 {
        u32::from_be_bytes(self.load(reg.offset()))
    }
    fn read64(&self, reg: Reg<D>) -> u64 {
        u64::from_be_bytes(self.load(reg.offset()))
    }
    fn write8(&self, reg: Reg<D>, value: u8) {
        self.store(reg.offset(), value.to_be_bytes());
    }
    fn write32(&self, reg: Reg<D>, value: u32) {
        self.store(reg.offset(), value.to_be_bytes());
    }
    fn write64(&self, reg: Reg<D>, value: u64) {
        self.store(reg.offset(), value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Device {}

    #[test]
    #[should_panic(expected = "left is what the driver does")]
    fn another_value_than_the_script_s_fails() {
        let bus = Expect::new([Step::Put32(8, 1)]);
        Mmio::<Device>::write32(&bus, Reg::new(8), 2);
    }

    #[test]
    #[should_panic(expected = "expected Get8(0, 5)")]
    fn another_width_than_the_script_s_fails() {
        let bus = Expect::new([Step::Get8(0, 5)]);
        Mmio::<Device>::read32(&bus, Reg::new(0));
    }

    #[test]
    #[should_panic(expected = "stopped early")]
    fn stopping_early_fails() {
        drop(Expect::new([Step::In(1, 2)]));
    }

    #[test]
    #[should_panic(expected = "the script has ended")]
    fn going_on_too_long_fails() {
        Expect::new([]).inb(7);
    }

    #[test]
    fn registers_keep_big_endian_bytes() {
        let window = Registers::new();
        Mmio::<Device>::write32(&window, Reg::new(4), 0xa0b0_c0d0);
        assert_eq!(Mmio::<Device>::read8(&window, Reg::new(7)), 0xd0);
        assert_eq!(Mmio::<Device>::read64(&window, Reg::new(0)), 0xa0b0_c0d0);
    }
}
