//! HIOMAP over IPMI: the flash that the BMC owns, seen through a window in LPC firmware space.
//!
//! Owns the protocol (openbmc/hiomapd Documentation/protocol.md; versions 2 and 3, commands at their names) and the state
//! of the one window that is open. The BMC is another computer, which restarts when it likes and may be wrong: every answer
//! is checked for command, sequence, length and sense, and a window is asked for again when one is lost. The surprising
//! fact: what is written into a write window is in the BMC's memory only, and reaches the flash when it was marked dirty
//! and flushed; the BMC sees none of the accesses.

use core::fmt;

use crate::ipmi::{IpmiError, Request, Response, Transport};
use crate::lpc::{Lpc, Opb, OutOfRange};
use crate::mmio::Mmio;

/// Where the protocol's messages go: the vendor's function, and the command for it on all boards that are known.
const NETFN: u8 = 0x3a;
const COMMAND: u8 = 0x5a;

/// The newest version that is spoken here.
const NEWEST: u8 = 3;
const OLDEST: u8 = 2;
/// Blocks of 4 KiB to 1 MiB.
const SHIFTS: core::ops::RangeInclusive<u8> = 12..=20;

/// How often something is tried again after the BMC lost its state.
const TRIES: u32 = 2;

/// Bits of the BMC's events.
pub mod event {
    /// The version has to be negotiated again.
    pub const PROTOCOL_RESET: u8 = 0x01;
    /// The window is gone.
    pub const WINDOW_RESET: u8 = 0x02;
    /// The BMC has the flash for itself.
    pub const FLASH_LOST: u8 = 0x40;
    /// The BMC takes requests.
    pub const DAEMON_READY: u8 = 0x80;
}

/// The vendor's command in an event record that carries [`event`] bits in its first byte.
pub const EVENT_COMMAND: u8 = 0x0f;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Reset = 1,
    GetInfo = 2,
    GetFlashInfo = 3,
    CreateReadWindow = 4,
    CreateWriteWindow = 6,
    MarkDirty = 7,
    Flush = 8,
    Ack = 9,
    Erase = 10,
}

/// Why the flash cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiomapError {
    /// The BMC did not answer, or refused.
    Bmc(IpmiError),
    /// It speaks a version that is not known.
    Version(u8),
    /// Its answer makes no sense: what of it.
    Nonsense(&'static str),
    /// The range is not within the flash.
    Outside,
    /// An erase that does not begin and end at an erase block.
    Misaligned,
    /// The BMC keeps the flash for itself, or its daemon is down: try again later.
    Lost,
}

impl From<IpmiError> for HiomapError {
    fn from(error: IpmiError) -> Self {
        Self::Bmc(error)
    }
}

impl From<OutOfRange> for HiomapError {
    fn from(_: OutOfRange) -> Self {
        Self::Nonsense("a window outside the LPC space")
    }
}

impl fmt::Display for HiomapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bmc(error) => write!(f, "the BMC: {error}"),
            Self::Version(version) => write!(f, "the BMC speaks version {version} of HIOMAP"),
            Self::Nonsense(what) => write!(f, "the BMC answers nonsense: {what}"),
            Self::Outside => f.write_str("outside the flash"),
            Self::Misaligned => f.write_str("not whole erase blocks"),
            Self::Lost => f.write_str("the BMC has taken the flash for itself"),
        }
    }
}

/// LPC firmware space, where windows are.
pub trait FirmwareSpace {
    /// Reads from `address` on.
    ///
    /// # Errors
    /// [`OutOfRange`] when the range leaves the space; nothing was read.
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), OutOfRange>;

    /// Writes from `address` on.
    ///
    /// # Errors
    /// [`OutOfRange`] when the range leaves the space; nothing was written.
    fn write(&self, address: u32, from: &[u8]) -> Result<(), OutOfRange>;
}

impl<M: Mmio<Opb>> FirmwareSpace for Lpc<M> {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.fw_read(address, into)
    }

    fn write(&self, address: u32, from: &[u8]) -> Result<(), OutOfRange> {
        self.fw_write(address, from)
    }
}

/// The window that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// Where it is in firmware space.
    address: u64,
    /// The place in flash that it begins with.
    flash: u64,
    /// Bytes.
    size: u64,
    is_writable: bool,
}

impl Window {
    /// Bytes of the window from the place `at` of the flash on; none if that is not in it.
    fn left(&self, at: u64) -> u64 {
        match at.checked_sub(self.flash) {
            Some(offset) => self.size.saturating_sub(offset),
            None => 0,
        }
    }

    /// The address of the place `at` of the flash, which is in the window.
    fn address_of(&self, at: u64) -> Result<u32, HiomapError> {
        let address = at.wrapping_sub(self.flash).wrapping_add(self.address);
        u32::try_from(address).map_err(|_| OutOfRange.into())
    }
}

/// What was agreed on with the BMC.
struct Agreed {
    version: u8,
    shift: u8,
    size: u64,
    granule: u64,
}

/// The flash behind the BMC.
#[derive(Debug)]
pub struct Hiomap {
    sequence: u8,
    version: u8,
    shift: u8,
    size: u64,
    granule: u64,
    window: Option<Window>,
    /// Events that were not dealt with yet.
    events: u8,
}

impl Hiomap {
    /// Negotiates the version with the BMC and asks for the flash's size.
    ///
    /// # Errors
    /// There is no such BMC, or it makes no sense.
    pub fn start(bmc: &mut impl Transport) -> Result<Self, HiomapError> {
        let mut flash = Self {
            sequence: 0,
            version: NEWEST,
            shift: 12,
            size: 0,
            granule: 0,
            window: None,
            events: event::DAEMON_READY,
        };
        let agreed = flash.negotiate(bmc)?;
        Ok(Self {
            version: agreed.version,
            shift: agreed.shift,
            size: agreed.size,
            granule: agreed.granule,
            ..flash
        })
    }

    /// Bytes of the flash.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of an erase block.
    #[must_use]
    pub const fn erase_size(&self) -> u64 {
        self.granule
    }

    /// The version of the protocol that was agreed on.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// Takes what an event of the BMC says: all bits of [`event`] as they are now.
    pub fn note(&mut self, bits: u8) {
        let state = event::FLASH_LOST | event::DAEMON_READY;
        self.events = bits & state | (self.events | bits) & !state;
        if self.events & (event::PROTOCOL_RESET | event::WINDOW_RESET) != 0 {
            self.window = None;
        }
    }

    /// Reads from the place `at` on.
    ///
    /// # Errors
    /// As [`HiomapError`] says; the buffer may be filled in part.
    pub fn read(
        &mut self,
        bmc: &mut impl Transport,
        space: &impl FirmwareSpace,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), HiomapError> {
        self.check(at, into.len() as u64)?;
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let window = self.window_for(bmc, at, rest.len() as u64, false)?;
            let count = usize::try_from(window.left(at)).unwrap_or(usize::MAX);
            let (piece, after) = rest.split_at_mut(count.min(rest.len()));
            space.read(window.address_of(at)?, piece)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Writes from the place `at` on, and returns when the flash has it. The BMC erases by itself.
    ///
    /// # Errors
    /// As [`HiomapError`] says; part of it may be written.
    pub fn write(
        &mut self,
        bmc: &mut impl Transport,
        space: &impl FirmwareSpace,
        at: u64,
        from: &[u8],
    ) -> Result<(), HiomapError> {
        self.check(at, from.len() as u64)?;
        let (mut at, mut rest) = (at, from);
        while !rest.is_empty() {
            let window = self.window_for(bmc, at, rest.len() as u64, true)?;
            let count = usize::try_from(window.left(at)).unwrap_or(usize::MAX);
            let (piece, after) = rest.split_at(count.min(rest.len()));
            space.write(window.address_of(at)?, piece)?;
            let range = self.range(at - window.flash, piece.len() as u64)?;
            self.finish(bmc, Operation::MarkDirty, range)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Erases whole erase blocks, and returns when the flash is erased.
    ///
    /// # Errors
    /// As [`HiomapError`] says; part of it may be erased.
    pub fn erase(
        &mut self,
        bmc: &mut impl Transport,
        at: u64,
        length: u64,
    ) -> Result<(), HiomapError> {
        self.check(at, length)?;
        if !at.is_multiple_of(self.granule) || !length.is_multiple_of(self.granule) {
            return Err(HiomapError::Misaligned);
        }
        let (mut at, mut left) = (at, length);
        while left > 0 {
            let window = self.window_for(bmc, at, left, true)?;
            let count = window.left(at).min(left);
            let range = self.range(at - window.flash, count)?;
            self.finish(bmc, Operation::Erase, range)?;
            at += count;
            left -= count;
        }
        Ok(())
    }

    /// Gives the window back, before somebody else uses the protocol: the next firmware, or a kernel's own driver.
    ///
    /// # Errors
    /// As [`HiomapError`] says.
    pub fn reset(&mut self, bmc: &mut impl Transport) -> Result<(), HiomapError> {
        self.window = None;
        self.command(bmc, Operation::Reset, &[]).map(drop)
    }

    fn check(&self, at: u64, length: u64) -> Result<(), HiomapError> {
        match at.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(HiomapError::Outside),
        }
    }

    /// Offset and length within a window, in blocks that cover the bytes.
    fn range(&self, offset: u64, length: u64) -> Result<[u8; 4], HiomapError> {
        let block = 1_u64 << self.shift;
        let first = offset >> self.shift;
        let end = (offset + length).div_ceil(block);
        let blocks = |count| u16::try_from(count).map_err(|_| HiomapError::Outside);
        let [a, b] = blocks(first)?.to_le_bytes();
        let [c, d] = blocks(end - first)?.to_le_bytes();
        Ok([a, b, c, d])
    }

    /// Marks or erases a range of the write window, and flushes it.
    fn finish(
        &mut self,
        bmc: &mut impl Transport,
        operation: Operation,
        range: [u8; 4],
    ) -> Result<(), HiomapError> {
        let [a, b, c, d] = range;
        // Version 3 has flags for MARK_DIRTY: none, so the BMC erases before it writes.
        let with_flags = [a, b, c, d, 0];
        let has_flags = self.version >= 3 && operation == Operation::MarkDirty;
        let arguments = if has_flags { &with_flags[..] } else { &range };
        let done = self
            .command(bmc, operation, arguments)
            .and_then(|_| self.command(bmc, Operation::Flush, &[]));
        if done.is_err() {
            // Who knows what the BMC has done with it.
            self.window = None;
        }
        done.map(drop)
    }

    /// A window with the place `at` in it; if a new one is needed, of `length` bytes if the BMC wants to.
    fn window_for(
        &mut self,
        bmc: &mut impl Transport,
        at: u64,
        length: u64,
        is_writable: bool,
    ) -> Result<Window, HiomapError> {
        let mut last = HiomapError::Lost;
        for _ in 0..TRIES {
            self.settle_events(bmc)?;
            if let Some(window) = self.window
                && window.left(at) > 0
                && (window.is_writable || !is_writable)
            {
                return Ok(window);
            }
            match self.open(bmc, at, length, is_writable) {
                Ok(window) => return Ok(window),
                // A BMC that restarted has forgotten what was agreed; one that is not there has not.
                Err(HiomapError::Bmc(IpmiError::Refused(code))) => {
                    last = HiomapError::Bmc(IpmiError::Refused(code));
                    self.events |= event::PROTOCOL_RESET;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn open(
        &mut self,
        bmc: &mut impl Transport,
        at: u64,
        length: u64,
        is_writable: bool,
    ) -> Result<Window, HiomapError> {
        self.window = None;
        let operation = if is_writable {
            Operation::CreateWriteWindow
        } else {
            Operation::CreateReadWindow
        };
        // The length is a hint; more than 16 bits of blocks cannot be asked for.
        let most = u64::from(u16::MAX) << self.shift;
        let [a, b, c, d] = self.range(at, length.min(most - (1 << self.shift)))?;
        let with_device = [a, b, c, d, 0];
        let arguments = if self.version >= 3 {
            &with_device[..]
        } else {
            &with_device[..4]
        };
        let [l0, l1, s0, s1, f0, f1] = self.answer(bmc, operation, arguments)?;
        let bytes = |low, high| u64::from(u16::from_le_bytes([low, high])) << self.shift;
        let window = Window {
            address: bytes(l0, l1),
            flash: bytes(f0, f1),
            size: bytes(s0, s1),
            is_writable,
        };
        if window.address + window.size > 1 << 32 {
            return Err(OutOfRange.into());
        }
        if window.left(at) == 0 {
            return Err(HiomapError::Nonsense("a window without what was asked for"));
        }
        self.window = Some(window);
        Ok(window)
    }

    /// Deals with what the BMC has told since.
    fn settle_events(&mut self, bmc: &mut impl Transport) -> Result<(), HiomapError> {
        if self.events & event::FLASH_LOST != 0 || self.events & event::DAEMON_READY == 0 {
            return Err(HiomapError::Lost);
        }
        let told = self.events & (event::PROTOCOL_RESET | event::WINDOW_RESET);
        if told == 0 {
            return Ok(());
        }
        self.window = None;
        self.command(bmc, Operation::Ack, &[told])?;
        if told & event::PROTOCOL_RESET != 0 {
            let agreed = self.negotiate(bmc)?;
            if (agreed.size, agreed.granule) != (self.size, self.granule) {
                // Callers have worked with the old size; another flash is not theirs.
                return Err(HiomapError::Nonsense("another flash than before"));
            }
            self.version = agreed.version;
            self.shift = agreed.shift;
        }
        self.events &= !told;
        Ok(())
    }

    /// Agrees on a version, and asks for the sizes. Nothing is changed before all of it is known to make sense.
    fn negotiate(&mut self, bmc: &mut impl Transport) -> Result<Agreed, HiomapError> {
        const NO_WISH: u8 = 0; // for the size of blocks
        let info = self.command(bmc, Operation::GetInfo, &[NEWEST, NO_WISH])?;
        let [_, _, version, shift, ..] = *info.data() else {
            return Err(HiomapError::Nonsense("GET_INFO is too short"));
        };
        if !(OLDEST..=NEWEST).contains(&version) {
            return Err(HiomapError::Version(version));
        }
        if !SHIFTS.contains(&shift) {
            return Err(HiomapError::Nonsense("the size of blocks"));
        }
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
            return Err(HiomapError::Nonsense("the size of erase blocks"));
        }
        Ok(Agreed {
            version,
            shift,
            size,
            granule,
        })
    }

    /// Makes a request whose answer has exactly `N` bytes.
    fn answer<const N: usize>(
        &mut self,
        bmc: &mut impl Transport,
        operation: Operation,
        arguments: &[u8],
    ) -> Result<[u8; N], HiomapError> {
        let response = self.command(bmc, operation, arguments)?;
        let parameters = response.data().get(2..).unwrap_or_default();
        parameters
            .try_into()
            .map_err(|_| HiomapError::Nonsense("an answer of another length"))
    }

    /// Makes a request; the answer repeats operation and sequence.
    fn command(
        &mut self,
        bmc: &mut impl Transport,
        operation: Operation,
        arguments: &[u8],
    ) -> Result<Response, HiomapError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut data = [0; 2 + 5];
        let (head, tail) = data.split_at_mut(2);
        head.copy_from_slice(&[operation as u8, self.sequence]);
        let length = arguments.len();
        tail.get_mut(..length)
            .ok_or(HiomapError::Outside)?
            .copy_from_slice(arguments);
        let response = bmc.transact(&Request {
            netfn: NETFN,
            lun: 0,
            command: COMMAND,
            data: data.get(..2 + length).unwrap_or_default(),
        })?;
        if response.completion != 0 {
            return Err(IpmiError::Refused(response.completion).into());
        }
        if response.data().first_chunk() != Some(&[operation as u8, self.sequence]) {
            return Err(HiomapError::Nonsense("the answer to another request"));
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
