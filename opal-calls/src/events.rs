//! Events: the 64 bits that OPAL_POLL_EVENTS and OPAL_HANDLE_INTERRUPT hand to the kernel.
//!
//! A bit is a level: it stays set while its condition holds, and whoever owns the condition clears it under the
//! same lock that guards the condition. All of this is atomics, so calls that nest may use it.
//!
//! The surprising fact: setting a bit tells the kernel nothing. It looks only after an interrupt, or at its next
//! heartbeat; [`Raised`] is the interrupt that is owed.

use core::ops::{BitAnd, BitOr};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::table::Row;

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSet(pub u64);

macro_rules! events {
    ($( $(#[doc = $doc:literal])* $name:ident = $bit:literal; )*) => {
        impl EventSet {
            $( $(#[doc = $doc])* pub const $name: Self = Self($bit); )*

            /// Names and bits of the events whose meaning is fixed.
            pub const FIXED: &[(&str, u64)] = &[ $( (stringify!($name), $bit) ),* ];
        }
    };
}

events! {
    /// Something inside the firmware; the kernel only polls.
    INTERNAL = 0x1;
    /// NVRAM.
    NVRAM = 0x2;
    /// The clock.
    RTC = 0x4;
    /// A terminal takes output again.
    CONSOLE_OUTPUT = 0x8;
    /// A terminal has input.
    CONSOLE_INPUT = 0x10;
    /// An error log can be fetched.
    ERROR_LOG_AVAIL = 0x20;
    /// An error log can be written.
    ERROR_LOG = 0x40;
    /// Power or environment.
    EPOW = 0x80;
    /// LEDs.
    LED_STATUS = 0x100;
    /// A PCI host bridge has an error.
    PCI_ERROR = 0x200;
    /// A dump can be fetched.
    DUMP_AVAIL = 0x400;
    /// A message can be fetched.
    MSG_PENDING = 0x800;
}

impl EventSet {
    /// No event.
    pub const NONE: Self = Self(0);

    /// Bits that are given out at run time.
    const DYNAMIC: u64 = 0xffff_ffff_0000_0000;

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for EventSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for EventSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Events that were not pending before. The kernel does not know of them yet.
#[must_use = "the kernel looks only after an interrupt"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised(pub EventSet);

impl Raised {
    /// Whether an interrupt is owed, when the call `inside` (if any) is what raised them: a call that reports events
    /// itself makes the kernel look anyway.
    #[must_use]
    pub fn needs_interrupt(self, inside: Option<&Row>) -> bool {
        !self.0.is_empty() && !inside.is_some_and(|row| row.flags.reports_events)
    }

    /// These and others.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The pending events of the machine.
#[derive(Debug, Default)]
pub struct Events {
    pending: AtomicU64,
    given_out: AtomicU64,
}

impl Events {
    /// Nothing pending.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: AtomicU64::new(0),
            given_out: AtomicU64::new(0),
        }
    }

    /// What is pending.
    #[must_use]
    pub fn pending(&self) -> EventSet {
        EventSet(self.pending.load(Ordering::SeqCst))
    }

    /// Makes events pending.
    pub fn raise(&self, events: EventSet) -> Raised {
        let before = self.pending.fetch_or(events.0, Ordering::SeqCst);
        Raised(EventSet(events.0 & !before))
    }

    /// Ends events.
    pub fn clear(&self, events: EventSet) {
        self.pending.fetch_and(!events.0, Ordering::SeqCst);
    }

    /// Makes events follow a condition.
    pub fn follow(&self, events: EventSet, condition: bool) -> Raised {
        if condition {
            self.raise(events)
        } else {
            self.clear(events);
            Raised::default()
        }
    }

    /// Gives out an event without a fixed meaning, highest bit first; `None` when there are no more.
    #[must_use]
    pub fn allocate(&self) -> Option<EventSet> {
        let mut given = self.given_out.load(Ordering::Relaxed);
        loop {
            let free = !given & EventSet::DYNAMIC;
            // The highest bit of what is free.
            let bit = isa::ppc_bit(free.leading_zeros().min(63)) & free;
            if bit == 0 {
                return None;
            }
            match self.given_out.compare_exchange_weak(
                given,
                given | bit,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(EventSet(bit)),
                Err(now) => given = now,
            }
        }
    }

    /// Takes back an event that [`Events::allocate`] gave out, and ends it.
    pub fn free(&self, event: EventSet) {
        self.clear(EventSet(event.0 & EventSet::DYNAMIC));
        self.given_out.fetch_and(!event.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::{EventSet, Events, Raised};
    use crate::calls::{row, token};

    #[test]
    fn fixed_events_are_the_low_twelve_bits_in_order() {
        let bits: std::vec::Vec<u64> = EventSet::FIXED.iter().map(|(_, bit)| *bit).collect();
        assert_eq!(
            bits,
            (0..12).map(|n| 1 << n).collect::<std::vec::Vec<u64>>()
        );
    }

    #[test]
    fn only_new_events_are_raised() {
        let events = Events::new();
        let both = EventSet::CONSOLE_INPUT | EventSet::MSG_PENDING;
        assert_eq!(
            events.raise(EventSet::CONSOLE_INPUT),
            Raised(EventSet::CONSOLE_INPUT)
        );
        assert_eq!(events.raise(both), Raised(EventSet::MSG_PENDING));
        assert_eq!(events.raise(both), Raised(EventSet::NONE));
        events.clear(EventSet::CONSOLE_INPUT);
        assert_eq!(events.pending(), EventSet::MSG_PENDING);
        assert_eq!(
            events.follow(EventSet::MSG_PENDING, false),
            Raised::default()
        );
        assert!(events.pending().is_empty());
    }

    #[test]
    fn an_interrupt_is_owed_unless_the_call_reports_events() {
        let raised = Events::new().raise(EventSet::RTC);
        assert!(raised.needs_interrupt(None));
        assert!(raised.needs_interrupt(row(token::OPAL_CONSOLE_WRITE)));
        for token in [
            token::OPAL_HANDLE_INTERRUPT,
            token::OPAL_HANDLE_HMI,
            token::OPAL_HANDLE_HMI2,
        ] {
            assert!(!raised.needs_interrupt(row(token)));
        }
        assert!(!Raised::default().needs_interrupt(None));
    }

    #[test]
    fn dynamic_events_are_given_out_once_from_the_top() {
        let events = Events::new();
        assert_eq!(events.allocate(), Some(EventSet(1 << 63)));
        let seen = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(event) = events.allocate() {
                        assert!(seen.lock().unwrap().insert(event.0));
                    }
                });
            }
        });
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen, (32..63).map(|n| 1 << n).collect());
        assert!(!events.raise(EventSet(1 << 40)).0.is_empty());
        events.free(EventSet(1 << 40));
        assert!(events.pending().is_empty());
        assert_eq!(events.allocate(), Some(EventSet(1 << 40)));
    }
}
