//! What the BMC tells about the flash by itself, and what others do to the driver's window.
//!
//! Surprising fact: two of the bits are what is so now, the others are what has happened and stay until they are dealt with.

use core::sync::atomic::{AtomicU32, Ordering};

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

/// The bits that are so now.
const STATE: u8 = event::FLASH_LOST | event::DAEMON_READY;

/// What is known after `bits` were told and `before` was known.
pub(super) const fn after(before: u8, bits: u8) -> u8 {
    bits & STATE | (before | bits) & !STATE
}

/// What was told since somebody asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// [`event`] bits, if the BMC told any.
    pub bits: Option<u8>,
    /// Somebody else has used the protocol: nothing that was agreed holds.
    pub disturbed: bool,
}

/// A box for what is told of the flash while another thread may be using it. Takes no lock.
#[derive(Debug, Default)]
pub struct Told(AtomicU32);

const TOLD: u32 = 0x100;
const DISTURBED: u32 = 0x200;

impl Told {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The BMC has told this: all bits of [`event`] as they are now.
    pub fn tell(&self, bits: u8) {
        let with = |old: u32| {
            let [before, ..] = old.to_le_bytes();
            old & DISTURBED | TOLD | u32::from(after(before, bits))
        };
        // Never fails: there is always a next value.
        let _ = (self.0).fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(with(old)));
    }

    /// Somebody else is about to use the protocol with the same BMC, a kernel with a driver of its own for example.
    pub fn disturb(&self) {
        self.0.fetch_or(DISTURBED, Ordering::AcqRel);
    }

    /// What was told since.
    pub fn take(&self) -> Option<News> {
        // The usual answer should not need the cache line for itself.
        if self.0.load(Ordering::Acquire) == 0 {
            return None;
        }
        let word = self.0.swap(0, Ordering::AcqRel);
        let [bits, ..] = word.to_le_bytes();
        Some(News {
            bits: (word & TOLD != 0).then_some(bits),
            disturbed: word & DISTURBED != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_stays_and_what_is_so_changes() {
        let told = Told::new();
        assert_eq!(told.take(), None);
        told.tell(event::FLASH_LOST | event::WINDOW_RESET);
        told.tell(event::DAEMON_READY);
        told.disturb();
        let news = News {
            bits: Some(event::DAEMON_READY | event::WINDOW_RESET),
            disturbed: true,
        };
        assert_eq!(told.take(), Some(news));
        assert_eq!(told.take(), None);
        told.disturb();
        let news = News {
            bits: None,
            disturbed: true,
        };
        assert_eq!(told.take(), Some(news));
        told.tell(0);
        assert_eq!(told.take().and_then(|news| news.bits), Some(0));
    }
}
