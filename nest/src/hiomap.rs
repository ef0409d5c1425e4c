//! HIOMAP over IPMI: the flash that the BMC owns, seen through a window in LPC firmware space.
//!
//! Owns the protocol (openbmc/hiomapd Documentation/protocol.md; versions 2 and 3, commands at their names) and the state
//! of the one window that is open. The BMC is another computer, which restarts when it likes and may be wrong: every answer
//! is checked for command, sequence, length and sense, and a window is asked for again when one is lost. The surprising
//! fact: what is written into a write window is in the BMC's memory only, and reaches the flash when it was marked dirty
//! and flushed; the BMC sees none of the accesses. And what is read from a window that the BMC has closed looks like flash:
//! so whether the window was there is asked afterwards, of the bus and of the BMC's events.
//!
//! Who can wait reads, writes and erases in one call; who cannot comes back with a [`Job`] until it is done.

mod error;
mod events;
mod exchange;
mod job;
mod protocol;
mod window;

pub use error::HiomapError;
pub use events::{EVENT_COMMAND, News, Told, event};
pub use exchange::Link;
pub use job::{Data, Job, Progress};
pub use protocol::is_of_protocol;
pub use window::FirmwareSpace;

use exchange::{Exchange, Stop, Waited};
use protocol::{NEWEST, Operation};
use window::Window;

use crate::ipmi::{Event, Transport};
use crate::lpc::OutOfRange;

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
    /// What the BMC asked of the machine when the driver asked for events.
    wish: Option<Event>,
    /// The request that has no answer yet.
    exchange: Option<Exchange>,
    /// How far events are dealt with, or a negotiation is.
    settling: Settling,
    /// Changes with each [`Job`] that is worked on: who comes back after another one begins his piece anew.
    turn: u64,
}

/// What the BMC has answered since an event was dealt with, or nobody has dealt with it yet.
#[derive(Clone, Copy, Debug, Default)]
struct Settling {
    is_acknowledged: bool,
    /// Version, and how far to shift for blocks.
    info: Option<(u8, u8)>,
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
            wish: None,
            exchange: None,
            settling: Settling::default(),
            turn: 0,
        };
        let agreed = flash.negotiate(&mut Waited::new(bmc))?;
        Ok(Self {
            version: agreed.version,
            shift: agreed.shift,
            size: agreed.size,
            granule: agreed.granule,
            settling: Settling::default(),
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

    /// The last that the BMC asked of the machine while the driver took its events, which nobody else hears then: to switch
    /// off, or to restart.
    pub const fn take_wish(&mut self) -> Option<Event> {
        self.wish.take()
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
        let job = Job::new(at, into.len() as u64);
        self.finish(bmc, job, Data::Read(space, into))
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
        let job = Job::new(at, from.len() as u64);
        self.finish(bmc, job, Data::Write(space, from))
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
        self.finish(bmc, Job::new(at, length), Data::Erase)
    }

    /// Hears what the BMC has told of the flash.
    fn hear(&mut self, bmc: &mut impl Link) -> Result<(), HiomapError> {
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
                match bmc.event()? {
                    None => break,
                    Some(Event::Oem {
                        command: EVENT_COMMAND,
                        data: [bits, ..],
                    }) => self.note(bits),
                    Some(wish @ (Event::SoftPowerOff | Event::SoftReboot)) => {
                        self.wish = Some(wish);
                    }
                    Some(Event::Oem { .. } | Event::Other) => {}
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

    /// A window with the place `at` in it; if a new one is needed, of `length` bytes if the BMC wants to.
    fn window_for(
        &mut self,
        bmc: &mut impl Link,
        at: u64,
        length: u64,
        is_writable: bool,
    ) -> Result<Window, Stop> {
        // A request that is under way was made with what was known then.
        if self.exchange.is_none() {
            self.hear(bmc)?;
        }
        self.settle_events(bmc)?;
        if let Some(window) = self.window
            && window.left(at) > 0
            && (window.is_writable || !is_writable)
        {
            return Ok(window);
        }
        self.open(bmc, at, length, is_writable)
    }

    fn open(
        &mut self,
        bmc: &mut impl Link,
        at: u64,
        length: u64,
        is_writable: bool,
    ) -> Result<Window, Stop> {
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
            return Err(HiomapError::Nonsense("a window without what was asked for").into());
        }
        self.window = Some(window);
        Ok(window)
    }

    /// Deals with what the BMC has told since.
    fn settle_events(&mut self, bmc: &mut impl Link) -> Result<(), Stop> {
        if self.is_lost() {
            return Err(HiomapError::Lost.into());
        }
        let told = self.events & (event::PROTOCOL_RESET | event::WINDOW_RESET);
        if told == 0 && !self.disturbed {
            return Ok(());
        }
        self.window = None;
        if told != 0 && !self.settling.is_acknowledged {
            self.command(bmc, Operation::Ack, &[told])?;
            self.settling.is_acknowledged = true;
        }
        if told & event::PROTOCOL_RESET != 0 || self.disturbed {
            let agreed = self.negotiate(bmc)?;
            if (agreed.size, agreed.granule) != (self.size, self.granule) {
                // Callers have worked with the old size; another flash is not theirs.
                return Err(HiomapError::Nonsense("another flash than before").into());
            }
            self.version = agreed.version;
            self.shift = agreed.shift;
        }
        self.events &= !told;
        self.disturbed = false;
        self.settling = Settling::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
