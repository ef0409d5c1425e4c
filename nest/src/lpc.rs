//! The LPC bus behind the chip's OPB: IO, memory and firmware space, and the host controller.
//!
//! Owns the 4 GiB OPB window of one chip (reference/hardware.md 3). IO and memory space take bytes only; firmware
//! space (the flash) takes 1, 2 or 4 bytes after its segment and access size were set, so those sequences are under a
//! lock of this driver, while single IO bytes need none and stay usable from an emergency console.
//! The surprising fact: an absent device does not fault, it latches "no response" in the controller's status, which
//! later becomes an interrupt; [`IoSpace::probe`] masks, looks and clears.

pub mod serirq;

use core::fmt;

use bitflags::bitflags;
use isa::addr::Ra;

use crate::lock::{Mutex, MutexGuard, rank};
use crate::mmio::{CiMmio, Mmio, Reg};

/// The OPB, as a register window: everything on LPC is an address in it.
#[derive(Debug)]
pub enum Opb {}

/// Size of the OPB window.
pub const WINDOW: u64 = 1 << 32;

/// The window of the machine.
pub type CiLpc = Lpc<CiMmio<Opb>>;

const IO: u64 = 0xd001_0000;
const MEM: u64 = 0xe000_0000;
const FW: u64 = 0xf000_0000;
/// Bytes that the memory window reaches, and the firmware window without its segment register.
const SEGMENT: u32 = 1 << 28;

const fn host_controller(offset: u64) -> Reg<Opb> {
    Reg::new(0xc001_2000 + offset)
}

const fn opb_master(offset: u64) -> Reg<Opb> {
    Reg::new(0xc001_0000 + offset)
}

/// Firmware space segment: the top 4 bits of the address.
const FW_SEG_IDSEL: Reg<Opb> = host_controller(0x24);
/// Size of the next read in firmware space.
const FW_RD_ACC_SIZE: Reg<Opb> = host_controller(0x28);
const FW_RD_1B: u32 = 0;
const FW_RD_4B: u32 = 0x0200_0000;
/// Which of [`Status`] raise the controller's interrupt.
const IRQMASK: Reg<Opb> = host_controller(0x34);
/// [`Status`], write 1 to clear.
const IRQSTAT: Reg<Opb> = host_controller(0x38);
/// Where the last error happened.
const ERROR_ADDRESS: Reg<Opb> = host_controller(0x40);
/// Which PSI line each serial interrupt takes, two bits each.
const ROUTE_0: Reg<Opb> = opb_master(0x8);
const ROUTE_1: Reg<Opb> = opb_master(0xc);

bitflags! {
    /// What the host controller latches, without the serial interrupts.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u32 {
        /// The bus was reset.
        const LRESET = 0x400;
        /// SYNC field not as the specification has it.
        const SYNC_ABNORMAL = 0x80;
        /// Nothing answered.
        const NO_RESPONSE = 0x40;
        /// The device reported an error.
        const SYNC_ERROR = 0x20;
        /// The device held the bus too long.
        const TIMEOUT = 0x10;
        /// The target turned the bus around wrongly.
        const TARGET_TAR = 8;
        /// A bus master turned the bus around wrongly.
        const MASTER_TAR = 4;
    }
}

/// An address outside the space it was used in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("address outside the LPC space")
    }
}

/// Why firmware space was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FwError {
    /// The range leaves the space; nothing was accessed.
    OutOfRange,
    /// The bus reported an error at this address: what was read is not what is there.
    Bus(Status, u32),
}

impl From<OutOfRange> for FwError {
    fn from(_: OutOfRange) -> Self {
        Self::OutOfRange
    }
}

impl fmt::Display for FwError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => OutOfRange.fmt(f),
            Self::Bus(status, address) => write!(f, "LPC error {status:?} at {address:#x}"),
        }
    }
}

/// A space that takes bytes only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteSpace {
    /// 64 KiB of ports.
    Io,
    /// 256 MiB of memory.
    Memory,
}

impl ByteSpace {
    /// Where `bytes` bytes from `address` on begin in the window.
    fn at(self, address: u32, bytes: usize) -> Result<u64, OutOfRange> {
        let (base, size) = match self {
            Self::Io => (IO, 1 << 16),
            Self::Memory => (MEM, SEGMENT.into()),
        };
        check_range(address, bytes, size)?;
        Ok(base + u64::from(address))
    }
}

/// Why bytes that may not be there were not reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// They are outside the space; nothing was accessed.
    OutOfRange,
    /// Nothing answered, or with an error. Some of the bytes may have been written.
    NoAnswer,
}

impl From<OutOfRange> for ProbeError {
    fn from(_: OutOfRange) -> Self {
        Self::OutOfRange
    }
}

/// Byte access to LPC IO ports: the bus of the UART, the clock and the BMC's interfaces.
pub trait IoSpace {
    /// Reads a port.
    fn inb(&self, port: u16) -> u8;
    /// Writes a port.
    fn outb(&self, port: u16, value: u8);
    /// Reads a port of a device that may be absent; `None` when nothing answered.
    fn probe(&self, port: u16) -> Option<u8>;
}

impl<B: IoSpace + ?Sized> IoSpace for &B {
    fn inb(&self, port: u16) -> u8 {
        (**self).inb(port)
    }
    fn outb(&self, port: u16, value: u8) {
        (**self).outb(port, value);
    }
    fn probe(&self, port: u16) -> Option<u8> {
        (**self).probe(port)
    }
}

/// The LPC bus of one chip. Shared by its devices' drivers: all methods take `&self`.
#[derive(Debug)]
pub struct Lpc<M> {
    mmio: M,
    /// Held by whoever does more than one access in a row to the host controller.
    controller: Mutex<Controller, rank::Lpc>,
}

/// What is under the controller's lock.
#[derive(Debug)]
struct Controller {
    /// Errors that were latched when somebody needed to see only his own.
    kept: Option<(Status, u32)>,
}

impl CiLpc {
    /// The LPC bus whose OPB window is at `base`, by cache-inhibited accesses.
    ///
    /// # Safety
    /// As [`CiMmio::new`], for [`WINDOW`] bytes.
    #[must_use]
    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    pub const unsafe fn at(base: Ra) -> Self {
        // SAFETY: the caller vouches for the window.
        Self::new(unsafe { CiMmio::new(base, WINDOW) })
    }
}

impl<M> Lpc<M> {
    /// The bus in this window. Touches nothing, so it can be made before anything else.
    #[must_use]
    pub const fn new(mmio: M) -> Self {
        Self {
            mmio,
            controller: Mutex::new(Controller { kept: None }),
        }
    }
}

impl<M: Mmio<Opb>> Lpc<M> {
    /// Brings the controller to a known state: no interrupts, no latched errors, everything routed to line 0.
    pub fn init(&self) {
        let _controller = self.controller.lock();
        self.mmio.write32(IRQMASK, 0);
        self.mmio.write32(IRQSTAT, Status::all().bits());
        let route = self.mmio.read32(ROUTE_0);
        self.mmio.write32(ROUTE_0, route & 0xff03_ffff);
        let route = self.mmio.read32(ROUTE_1);
        self.mmio.write32(ROUTE_1, route & 0xf000_0000);
    }

    /// The errors latched since the last call, with the address of the last one; clears them.
    pub fn take_errors(&self) -> Option<(Status, u32)> {
        let mut controller = self.controller.lock();
        let kept = controller.kept.take();
        self.latched().or(kept)
    }

    /// The errors that are latched, with the address of the last one; clears them.
    fn latched(&self) -> Option<(Status, u32)> {
        let errors = Status::from_bits_truncate(self.mmio.read32(IRQSTAT));
        if errors.is_empty() {
            return None;
        }
        let address = self.mmio.read32(ERROR_ADDRESS);
        self.mmio.write32(IRQSTAT, errors.bits());
        Some((errors, address))
    }

    /// Writes a port that may be absent; whether something answered. For progress codes at port 0x80.
    pub fn probe_write(&self, port: u16, value: u8) -> bool {
        self.probing(|| self.outb(port, value)).is_some()
    }

    /// Reads bytes from `address` on, in order, where nothing may be.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn probe_bytes(
        &self,
        space: ByteSpace,
        address: u32,
        into: &mut [u8],
    ) -> Result<(), ProbeError> {
        let start = space.at(address, into.len())?;
        let read = || {
            for (byte, at) in into.iter_mut().zip(start..) {
                *byte = self.mmio.read8(Reg::new(at));
            }
        };
        self.probing(read).ok_or(ProbeError::NoAnswer)
    }

    /// Writes bytes from `address` on, in order, where nothing may be.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn probe_write_bytes(
        &self,
        space: ByteSpace,
        address: u32,
        from: &[u8],
    ) -> Result<(), ProbeError> {
        let start = space.at(address, from.len())?;
        let write = || {
            for (byte, at) in from.iter().zip(start..) {
                self.mmio.write8(Reg::new(at), *byte);
            }
        };
        self.probing(write).ok_or(ProbeError::NoAnswer)
    }

    /// Reads firmware space (the flash window) from `address` on.
    ///
    /// # Errors
    /// [`FwError::OutOfRange`] when the range leaves the 4 GiB space; nothing was read. [`FwError::Bus`]: a device that
    /// does not answer reads as ones, so all of it is in doubt.
    pub fn fw_read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        check_range(address, into.len(), WINDOW)?;
        let mut controller = self.controller.lock();
        self.keep_errors(&mut controller);
        let mut space = FirmwareSpace::new(&self.mmio, &controller);
        let mut at = address;
        let (head, words) = into.split_at_mut(to_word(address, into.len()));
        for piece in core::iter::once(head).chain(words.chunks_mut(4)) {
            if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *piece) {
                space.read_size(FW_RD_4B);
                *word = space.select(at, |mmio, reg| mmio.read32(reg)).to_be_bytes();
                at = at.wrapping_add(4);
                continue;
            }
            for byte in piece {
                space.read_size(FW_RD_1B);
                *byte = space.select(at, |mmio, reg| mmio.read8(reg));
                at = at.wrapping_add(1);
            }
        }
        self.own_errors()
    }

    /// Writes firmware space from `address` on. Whether it reaches the flash is up to the window the BMC opened.
    ///
    /// # Errors
    /// [`FwError::OutOfRange`] when the range leaves the 4 GiB space; nothing was written. [`FwError::Bus`]: any part of it may
    /// be written.
    pub fn fw_write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        check_range(address, from.len(), WINDOW)?;
        let mut controller = self.controller.lock();
        self.keep_errors(&mut controller);
        let mut space = FirmwareSpace::new(&self.mmio, &controller);
        let mut at = address;
        let (head, words) = from.split_at(to_word(address, from.len()));
        for piece in core::iter::once(head).chain(words.chunks(4)) {
            if let Ok(word) = <[u8; 4]>::try_from(piece) {
                space.select(at, |mmio, reg| mmio.write32(reg, u32::from_be_bytes(word)));
                at = at.wrapping_add(4);
                continue;
            }
            for byte in piece {
                space.select(at, |mmio, reg| mmio.write8(reg, *byte));
                at = at.wrapping_add(1);
            }
        }
        self.own_errors()
    }

    /// Puts earlier errors aside for [`take_errors`](Self::take_errors), so that those to come are of the accesses to come.
    fn keep_errors(&self, controller: &mut Controller) {
        controller.kept = self.latched().or(controller.kept);
    }

    /// What the bus made of the accesses since [`keep_errors`](Self::keep_errors). Another thread's error on an IO port counts
    /// too: IO takes no lock.
    fn own_errors(&self) -> Result<(), FwError> {
        match self.latched() {
            None => Ok(()),
            Some((status, address)) => Err(FwError::Bus(status, address)),
        }
    }

    /// Runs `access` with "no response" masked; `None` when that is what happened.
    fn probing<T>(&self, access: impl FnOnce() -> T) -> Option<T> {
        let _controller = self.controller.lock();
        let mask = self.mmio.read32(IRQMASK);
        self.mmio
            .write32(IRQMASK, mask & !Status::NO_RESPONSE.bits());
        self.mmio.write32(IRQSTAT, Status::NO_RESPONSE.bits());
        let value = access();
        let errors = Status::from_bits_truncate(self.mmio.read32(IRQSTAT));
        self.mmio.write32(IRQSTAT, errors.bits());
        self.mmio.write32(IRQMASK, mask);
        errors.is_empty().then_some(value)
    }
}

impl<M: Mmio<Opb>> IoSpace for Lpc<M> {
    fn inb(&self, port: u16) -> u8 {
        self.mmio.read8(io(port))
    }

    fn outb(&self, port: u16, value: u8) {
        self.mmio.write8(io(port), value);
    }

    fn probe(&self, port: u16) -> Option<u8> {
        self.probing(|| self.inb(port))
    }
}

/// Firmware space while the controller's lock is held: remembers what was selected.
struct FirmwareSpace<'a, M> {
    mmio: &'a M,
    segment: Option<u32>,
    read_size: Option<u32>,
}

impl<'a, M: Mmio<Opb>> FirmwareSpace<'a, M> {
    fn new(mmio: &'a M, _held: &'a MutexGuard<'_, Controller, rank::Lpc>) -> Self {
        Self {
            mmio,
            segment: None,
            read_size: None,
        }
    }

    fn read_size(&mut self, size: u32) {
        if self.read_size.replace(size) != Some(size) {
            self.mmio.write32(FW_RD_ACC_SIZE, size);
        }
    }

    fn select<T>(&mut self, address: u32, access: impl FnOnce(&M, Reg<Opb>) -> T) -> T {
        let segment = address / SEGMENT;
        if self.segment.replace(segment) != Some(segment) {
            self.mmio.write32(FW_SEG_IDSEL, segment);
        }
        access(self.mmio, Reg::new(FW + u64::from(address % SEGMENT)))
    }
}

fn io(port: u16) -> Reg<Opb> {
    Reg::new(IO + u64::from(port))
}

/// How many of `bytes` bytes from `address` on precede the next word.
fn to_word(address: u32, bytes: usize) -> usize {
    let head = match address % 4 {
        0 => 0,
        1 => 3,
        2 => 2,
        _ => 1,
    };
    head.min(bytes)
}

/// Whether the bytes are in a space of this size.
fn check_range(address: u32, bytes: usize, size: u64) -> Result<(), OutOfRange> {
    let end = u64::try_from(bytes)
        .ok()
        .and_then(|bytes| bytes.checked_add(u64::from(address)));
    match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Expect;
    use crate::fakes::Step::{Get8, Get32, Put8, Put32};

    const MASK: u64 = 0xc001_2034;
    const STAT: u64 = 0xc001_2038;

    #[test]
    fn init_masks_clears_and_routes_to_line_0() {
        Lpc::new(Expect::new([
            Put32(MASK, 0),
            Put32(STAT, 0x4fc),
            Get32(0xc001_0008, !0),
            Put32(0xc001_0008, 0xff03_ffff),
            Get32(0xc001_000c, !0),
            Put32(0xc001_000c, 0xf000_0000),
        ]))
        .init();
    }

    #[test]
    fn io_is_bytes_and_needs_no_controller() {
        let lpc = Lpc::new(Expect::new([
            Get8(0xd001_03fd, 0x60),
            Put8(0xd001_03f8, b'x'),
        ]));
        assert_eq!(lpc.inb(0x3fd), 0x60);
        lpc.outb(0x3f8, b'x');
    }

    #[test]
    fn probing_an_absent_port_leaves_no_error_behind() {
        let lpc = Lpc::new(Expect::new([
            Get32(MASK, 0x4fc),
            Put32(MASK, 0x4bc),
            Put32(STAT, 0x40),
            Get8(0xd001_00e4, 0xff),
            Get32(STAT, 0x8000_0040),
            Put32(STAT, 0x40),
            Put32(MASK, 0x4fc),
        ]));
        assert_eq!(lpc.probe(0xe4), None);
    }

    #[test]
    fn probing_a_device_answers_its_byte() {
        let lpc = Lpc::new(Expect::new([
            Get32(MASK, 0),
            Put32(MASK, 0),
            Put32(STAT, 0x40),
            Put8(0xd001_0080, 0x81),
            Get32(STAT, 0x0800_0000), // a serial interrupt is no error
            Put32(STAT, 0),
            Put32(MASK, 0),
        ]));
        assert!(lpc.probe_write(0x80, 0x81));
    }

    #[test]
    fn errors_are_reported_once_and_cleared() {
        let lpc = Lpc::new(Expect::new([
            Get32(STAT, 0x50),
            Get32(0xc001_2040, 0xd001_0123),
            Put32(STAT, 0x50),
            Get32(STAT, 0),
        ]));
        let errors = lpc.take_errors();
        assert_eq!(
            errors,
            Some((Status::NO_RESPONSE | Status::TIMEOUT, 0xd001_0123))
        );
        assert_eq!(lpc.take_errors(), None);
    }

    #[test]
    fn firmware_space_selects_segment_and_size_only_when_they_change() {
        let lpc = Lpc::new(Expect::new([
            Get32(STAT, 0),
            Put32(0xc001_2028, 0),
            Put32(0xc001_2024, 0),
            Get8(0xffff_ffff, 0xaa),
            Put32(0xc001_2028, 0x0200_0000),
            Put32(0xc001_2024, 1),
            Get32(0xf000_0000, 0x0102_0304),
            Get32(0xf000_0004, 0x0506_0708),
            Put32(0xc001_2028, 0),
            Get8(0xf000_0008, 9),
            Get32(STAT, 0),
        ]));
        let mut bytes = [0; 10];
        assert_eq!(lpc.fw_read(0x0fff_ffff, &mut bytes), Ok(()));
        assert_eq!(bytes, [0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn firmware_writes_keep_byte_order() {
        let lpc = Lpc::new(Expect::new([
            Get32(STAT, 0),
            Put32(0xc001_2024, 0),
            Put8(0xf000_0003, 1),
            Put32(0xf000_0004, 0x0203_0405),
            Get32(STAT, 0),
        ]));
        assert_eq!(lpc.fw_write(3, &[1, 2, 3, 4, 5]), Ok(()));
    }

    #[test]
    fn firmware_space_that_nobody_answers_is_told_and_earlier_errors_are_not_lost() {
        const ADDRESS: u64 = 0xc001_2040;
        let lpc = Lpc::new(Expect::new([
            Get32(STAT, 0x10),
            Get32(ADDRESS, 0xd001_0123),
            Put32(STAT, 0x10),
            Put32(0xc001_2028, 0),
            Put32(0xc001_2024, 0),
            Get8(0xf000_0001, 0xff),
            Get32(STAT, 0x40),
            Get32(ADDRESS, 0xf000_0001),
            Put32(STAT, 0x40),
            // A write, of which nobody complains.
            Get32(STAT, 0),
            Put32(0xc001_2024, 0),
            Put8(0xf000_0001, 7),
            Get32(STAT, 0),
            // What is left is the first.
            Get32(STAT, 0),
        ]));
        assert_eq!(
            lpc.fw_read(1, &mut [0]),
            Err(FwError::Bus(Status::NO_RESPONSE, 0xf000_0001))
        );
        assert_eq!(lpc.fw_write(1, &[7]), Ok(()));
        assert_eq!(lpc.take_errors(), Some((Status::TIMEOUT, 0xd001_0123)));
    }

    #[test]
    fn bytes_that_nobody_answers_are_noticed() {
        let watched = |access: &[crate::fakes::Step], latched| {
            let mut script = vec![Get32(MASK, 0x4fc), Put32(MASK, 0x4bc), Put32(STAT, 0x40)];
            script.extend_from_slice(access);
            script.extend([
                Get32(STAT, latched),
                Put32(STAT, latched),
                Put32(MASK, 0x4fc),
            ]);
            Lpc::new(Expect::new(script))
        };
        let mut bytes = [0; 2];
        let access = [Get8(0xefff_fffe, 0xff), Get8(0xefff_ffff, 0xff)];
        let lpc = watched(&access, 0x40);
        let answer = lpc.probe_bytes(ByteSpace::Memory, 0x0fff_fffe, &mut bytes);
        assert_eq!(answer, Err(ProbeError::NoAnswer));
        let access = [Put8(0xd001_fffe, 7), Put8(0xd001_ffff, 8)];
        let lpc = watched(&access, 0);
        let answer = lpc.probe_write_bytes(ByteSpace::Io, 0xfffe, &[7, 8]);
        assert_eq!(answer, Ok(()));
        let lpc = watched(&[Put8(0xe000_0000, 5)], 0x20);
        let answer = lpc.probe_write_bytes(ByteSpace::Memory, 0, &[5]);
        assert_eq!(answer, Err(ProbeError::NoAnswer));
    }

    #[test]
    fn what_leaves_a_space_is_refused_before_any_access() {
        let lpc = Lpc::new(Expect::new([]));
        for (space, end) in [(ByteSpace::Io, 1 << 16), (ByteSpace::Memory, 1 << 28)] {
            for (bytes, at) in [(1, end), (2, end - 1), (4, end - 3), (4, u32::MAX)] {
                let mut buffer = vec![0; bytes];
                let refused = Err(ProbeError::OutOfRange);
                assert_eq!(lpc.probe_write_bytes(space, at, &buffer), refused);
                assert_eq!(lpc.probe_bytes(space, at, &mut buffer), refused);
            }
        }
        assert_eq!(
            lpc.fw_read(0xffff_fffe, &mut [0; 3]),
            Err(FwError::OutOfRange)
        );
        assert_eq!(lpc.fw_write(0xffff_ffff, &[0; 2]), Err(FwError::OutOfRange));
    }
}
