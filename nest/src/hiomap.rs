//! HIOMAP over IPMI: the flash that the BMC owns, seen through a window in LPC firmware space.
//!
//! Owns the protocol (openbmc/hiomapd Documentation/protocol.md; versions 2 and 3, commands at their names) and the state
//! of the one window that is open. The BMC is another computer, which restarts when it likes and may be wrong: every answer
//! is checked for command, sequence, length and sense, and a window is asked for again when one is lost. The surprising
//! fact: what is written into a write window is in the BMC's memory only, and reaches the flash when it was marked dirty
//! and flushed; the BMC sees none of the accesses. And what is read from a window that the BMC has closed looks like flash:
//! so whether the window was there is asked afterwards, of the bus and of the BMC's events.

mod error;
mod events;
mod protocol;
mod window;

pub use error::HiomapError;
pub use events::{EVENT_COMMAND, News, Told, event};
pub use protocol::is_of_protocol;
pub use window::FirmwareSpace;

use isa::timebase::{Deadline, Ticks};
use protocol::{NEWEST, Operation};
use window::{Window, part};

use crate::ipmi::{Event, IpmiError, Transport, next_event};
use crate::lpc::OutOfRange;

/// How often something is tried again after the BMC lost its state.
const TRIES: u32 = 2;

/// How long an operation may take, and how much longer for each MiB of it: firmware space has about 4 MiB a second, and the
/// BMC about one to write. One request may run over it, since that has a limit of its own.
const PATIENCE: Ticks = Ticks::from_s(10);
const PATIENCE_FOR_MIB: u64 = 4;
/// Most bytes between two looks at what the BMC has told.
const PIECE: u64 = 0x1_0000;
/// Most events that are taken at a time: a broken BMC can claim to have one more for ever.
const EVENTS: u32 = 16;

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
    /// Somebody else has used the protocol since.
    disturbed: bool,
    /// Where events come from; the driver asks the BMC itself while nobody else does.
    told: Option<&'static Told>,
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
            disturbed: false,
            told: None,
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

    /// From now on somebody else asks the BMC for its events, and puts what is for the flash into this box.
    pub const fn listen_to(&mut self, told: &'static Told) {
        self.told = Some(told);
    }

    /// Takes what an event of the BMC says: all bits of [`event`] as they are now.
    pub fn note(&mut self, bits: u8) {
        self.events = events::after(self.events, bits);
        if self.events & (event::PROTOCOL_RESET | event::WINDOW_RESET) != 0 {
            self.window = None;
        }
    }

    /// Forgets the window, so that the next operation gets it from the BMC again: what it reads then owes nothing to what
    /// was read before.
    pub const fn forget_window(&mut self) {
        self.window = None;
    }

    /// Reads from the place `at` on.
    ///
    /// # Errors
    /// As [`HiomapError`] says; the buffer may be filled in part, and what is in it means nothing.
    pub fn read(
        &mut self,
        bmc: &mut impl Transport,
        space: &impl FirmwareSpace,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), HiomapError> {
        let length = into.len() as u64;
        self.in_windows(bmc, at, length, false, |_, _, window, place, count| {
            let piece = part(at, place, count).and_then(|range| into.get_mut(range));
            let piece = piece.ok_or(HiomapError::Outside)?;
            Ok(space.read(window.address_of(place)?, piece)?)
        })
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
        let length = from.len() as u64;
        self.in_windows(bmc, at, length, true, |flash, bmc, window, place, count| {
            let piece = part(at, place, count).and_then(|range| from.get(range));
            let piece = piece.ok_or(HiomapError::Outside)?;
            space.write(window.address_of(place)?, piece)?;
            // Before the BMC makes it last: into a window that is gone, nothing was written.
            flash.hear(bmc)?;
            if flash.window != Some(window) {
                return Ok(());
            }
            let range = flash.range(place - window.flash, count)?;
            flash.finish(bmc, Operation::MarkDirty, range)
        })
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
        self.in_windows(bmc, at, length, true, |flash, bmc, window, place, count| {
            let range = flash.range(place - window.flash, count)?;
            flash.finish(bmc, Operation::Erase, range)
        })
    }

    /// Does `work` with a range, piece by piece, each in a window: with the place of the piece and its length. A piece whose
    /// window was not there until the end is done again.
    fn in_windows<T: Transport>(
        &mut self,
        bmc: &mut T,
        at: u64,
        length: u64,
        is_writable: bool,
        mut work: impl FnMut(&mut Self, &mut T, Window, u64, u64) -> Result<(), HiomapError>,
    ) -> Result<(), HiomapError> {
        self.check(at, length)?;
        let more = Ticks::from_s((length >> 20).saturating_mul(PATIENCE_FOR_MIB));
        let deadline = Deadline::after(Ticks(PATIENCE.0.saturating_add(more.0)));
        let piece = PIECE.max(self.granule);
        let (mut done, mut failures) = (0, 0);
        while done < length {
            let place = at + done;
            let window = self.window_for(bmc, place, length - done, is_writable)?;
            let count = window.left(place).min(length - done).min(piece);
            let worked = work(self, bmc, window, place, count);
            let worked = worked.and_then(|()| self.hear(bmc));
            let failure = match worked {
                Ok(()) if self.window == Some(window) => None,
                Ok(()) => Some(HiomapError::Lost),
                Err(error) if error.may_pass() => Some(error),
                Err(error) => return Err(error),
            };
            match failure {
                None => {
                    done += count;
                    failures = 0;
                }
                Some(error) => {
                    failures += 1;
                    if failures == TRIES {
                        return Err(error);
                    }
                    self.doubt(error);
                }
            }
            if done < length && deadline.has_passed() {
                return Err(HiomapError::TooSlow);
            }
        }
        Ok(())
    }

    /// After this error, what was agreed with the BMC may not hold any more.
    fn doubt(&mut self, error: HiomapError) {
        self.window = None;
        if matches!(error, HiomapError::Bmc(_)) {
            self.events |= event::PROTOCOL_RESET;
        }
    }

    /// Hears what the BMC has told of the flash.
    fn hear(&mut self, bmc: &mut impl Transport) -> Result<(), HiomapError> {
        if let Some(told) = self.told {
            if let Some(News { bits, disturbed }) = told.take() {
                if let Some(bits) = bits {
                    self.note(bits);
                }
                if disturbed {
                    self.disturbed = true;
                    self.window = None;
                }
            }
        } else {
            for _ in 0..EVENTS {
                if !bmc.wants_attention() {
                    break;
                }
                match next_event(bmc)? {
                    None => break,
                    Some(Event::Oem {
                        command: EVENT_COMMAND,
                        data: [bits, ..],
                    }) => self.note(bits),
                    Some(_) => {}
                }
            }
        }
        if self.is_lost() {
            self.window = None;
        }
        Ok(())
    }

    const fn is_lost(&self) -> bool {
        self.events & event::FLASH_LOST != 0 || self.events & event::DAEMON_READY == 0
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
            self.hear(bmc)?;
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
                Err(error @ HiomapError::Bmc(IpmiError::Refused(_))) => {
                    last = error;
                    self.doubt(error);
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
        if self.is_lost() {
            return Err(HiomapError::Lost);
        }
        let told = self.events & (event::PROTOCOL_RESET | event::WINDOW_RESET);
        if told == 0 && !self.disturbed {
            return Ok(());
        }
        self.window = None;
        if told != 0 {
            self.command(bmc, Operation::Ack, &[told])?;
        }
        if told & event::PROTOCOL_RESET != 0 || self.disturbed {
            let agreed = self.negotiate(bmc)?;
            if (agreed.size, agreed.granule) != (self.size, self.granule) {
                // Callers have worked with the old size; another flash is not theirs.
                return Err(HiomapError::Nonsense("another flash than before"));
            }
            self.version = agreed.version;
            self.shift = agreed.shift;
        }
        self.events &= !told;
        self.disturbed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
