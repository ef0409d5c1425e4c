//! The trace of calls: a ring per hardware thread of what was called, with what, when and how it ended.
//!
//! Only its own thread writes a ring, at the one wrapper around all calls; anyone may read it at any time, also while
//! it is written. Writing takes no lock, and a call that interrupts another one writes its own slot.
//!
//! The surprising fact: a slot is written when the call comes in, and completed when it ends, so that the ring of a
//! thread that hangs shows the call it hangs in.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use isa::timebase::Ticks;

use crate::calls::{MAX_ARGS, row};

/// A slot is being written.
const WRITING: u64 = 1;
/// The call is under way.
const UNDER_WAY: u64 = 2;
/// The call has ended.
const ENDED: u64 = 3;

/// One call of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// How many calls the thread made before.
    pub number: u64,
    /// When it came in.
    pub at: Ticks,
    /// Calls under way on the thread, this one included.
    pub depth: u32,
    /// Token, which may be no call's.
    pub token: u64,
    /// r3 to r10 at entry.
    pub regs: [u64; MAX_ARGS],
    /// When it ended and with what r3; `None` while it is under way.
    pub end: Option<(Ticks, u64)>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.at.to_us())?;
        for _ in 1..self.depth {
            f.write_str("+")?;
        }
        match row(self.token) {
            Some(row) => {
                write!(f, "{}(", row.name)?;
                for (i, (arg, value)) in row.args.iter().zip(self.regs).enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}={value:#x}", arg.name)?;
                }
                f.write_str(")")?;
            }
            None => write!(f, "token {:#x}", self.token)?,
        }
        match self.end {
            Some((end, r3)) => {
                let us = end.since(self.at).to_us();
                let signed = r3.cast_signed();
                if signed < 0 {
                    write!(f, " = {signed}, {us} us")
                } else {
                    write!(f, " = {r3:#x}, {us} us")
                }
            }
            None => f.write_str(" under way"),
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// Number of the call << 2 | state; 0 when never written.
    state: AtomicU64,
    at: AtomicU64,
    depth: AtomicU64,
    token: AtomicU64,
    regs: [AtomicU64; MAX_ARGS],
    end: AtomicU64,
    r3: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            at: AtomicU64::new(0),
            depth: AtomicU64::new(0),
            token: AtomicU64::new(0),
            regs: [const { AtomicU64::new(0) }; MAX_ARGS],
            end: AtomicU64::new(0),
            r3: AtomicU64::new(0),
        }
    }

    /// Writes fields between two changes of state, so that a reader can tell whether it saw one call.
    fn write(&self, number: u64, state: u64, fields: impl FnOnce(&Self)) {
        self.state.store(number << 2 | WRITING, Ordering::Relaxed);
        fence(Ordering::Release);
        fields(self);
        self.state.store(number << 2 | state, Ordering::Release);
    }

    /// What it holds of call `number`, unless that is being written or has been overwritten.
    fn read(&self, number: u64) -> Option<Event> {
        let state = self.state.load(Ordering::Acquire);
        let ended = match state ^ number << 2 {
            UNDER_WAY => false,
            ENDED => true,
            _ => return None,
        };
        let load = |field: &AtomicU64| field.load(Ordering::Relaxed);
        let event = Event {
            number,
            at: Ticks(load(&self.at)),
            depth: u32::try_from(load(&self.depth)).unwrap_or(u32::MAX),
            token: load(&self.token),
            regs: self.regs.each_ref().map(load),
            end: ended.then(|| (Ticks(load(&self.end)), load(&self.r3))),
        };
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some(event)
    }
}

/// A call in the ring that has not ended.
#[must_use = "the trace shows it as under way"]
#[derive(Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// The last `N` calls of one thread; `N` is a power of two.
#[derive(Debug)]
pub struct Trace<const N: usize> {
    /// Number of the next call.
    next: AtomicU64,
    slots: [Slot; N],
}

impl<const N: usize> Trace<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N.is_power_of_two()) };
        Self {
            next: AtomicU64::new(0),
            slots: [const { Slot::new() }; N],
        }
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        let mask = (N as u64).wrapping_sub(1);
        self.slots.get(usize::try_from(number & mask).ok()?)
    }

    /// Notes a call that comes in. A call that is interrupted inside this function by at least `N` others may end up
    /// mixed with the last of them; any other event is whole.
    pub fn enter(&self, at: Ticks, depth: u32, token: u64, regs: &[u64; MAX_ARGS]) -> Mark {
        // A call that interrupts this one after here takes the next number.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.slot(number) {
            slot.write(number, UNDER_WAY, |slot| {
                slot.at.store(at.0, Ordering::Relaxed);
                slot.depth.store(u64::from(depth), Ordering::Relaxed);
                slot.token.store(token, Ordering::Relaxed);
                for (field, value) in slot.regs.iter().zip(regs) {
                    field.store(*value, Ordering::Relaxed);
                }
            });
        }
        Mark(number)
    }

    /// Notes its end, unless its slot was used again by calls that interrupted it.
    pub fn leave(&self, mark: &Mark, at: Ticks, r3: u64) {
        let number = mark.0;
        if let Some(slot) = self.slot(number) {
            if slot.state.load(Ordering::Relaxed) == number << 2 | UNDER_WAY {
                slot.write(number, ENDED, |slot| {
                    slot.end.store(at.0, Ordering::Relaxed);
                    slot.r3.store(r3, Ordering::Relaxed);
                });
            }
        }
    }

    /// The calls that can be read, oldest first.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        let next = self.next.load(Ordering::Acquire);
        (next.saturating_sub(N as u64)..next).filter_map(|number| self.slot(number)?.read(number))
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::vec::Vec;

    use isa::timebase::Ticks;

    use super::Trace;
    use crate::calls::token;
    use crate::error::{OpalError, to_r3};

    #[test]
    fn the_ring_keeps_the_last_calls_in_order() {
        let trace = Trace::<4>::new();
        assert_eq!(trace.events().count(), 0);
        for n in 0..7 {
            let mark = trace.enter(Ticks(n), 1, n, &[n; 8]);
            trace.leave(&mark, Ticks(n + 1), n * 10);
        }
        let events: Vec<_> = trace.events().collect();
        let tokens: Vec<_> = events.iter().map(|e| e.token).collect();
        assert_eq!(tokens, [3, 4, 5, 6]);
        assert_eq!(events[3].end, Some((Ticks(7), 60)));
        assert_eq!(events[3].regs, [6; 8]);
    }

    #[test]
    fn a_call_under_way_shows_and_its_late_end_spoils_nothing() {
        let trace = Trace::<2>::new();
        let outer = trace.enter(Ticks(0), 1, token::OPAL_GET_MSG, &[0; 8]);
        let inner = trace.enter(Ticks(1), 2, token::OPAL_TEST, &[0; 8]);
        assert!(trace.events().all(|event| event.end.is_none()));
        trace.leave(&inner, Ticks(2), 0);
        let third = trace.enter(Ticks(3), 2, token::OPAL_TEST, &[0; 8]);
        // The outer call's slot is the third call's by now.
        trace.leave(&outer, Ticks(4), 77);
        let ends: Vec<_> = trace.events().map(|event| event.end).collect();
        assert_eq!(ends, [Some((Ticks(2), 0)), None]);
        trace.leave(&third, Ticks(5), 1);
        let ends: Vec<_> = trace.events().map(|event| event.end).collect();
        assert_eq!(ends, [Some((Ticks(2), 0)), Some((Ticks(5), 1))]);
    }

    #[test]
    fn calls_read_as_calls() {
        let trace = Trace::<4>::new();
        let mark = trace.enter(
            Ticks::from_us(5),
            1,
            token::OPAL_START_CPU,
            &[8, 0x4000, 9, 9, 9, 9, 9, 9],
        );
        trace.leave(
            &mark,
            Ticks::from_us(7),
            to_r3(Err(OpalError::OPAL_WRONG_STATE)),
        );
        let _hangs = trace.enter(Ticks::from_us(9), 2, 4711, &[0; 8]);
        let lines: Vec<_> = trace.events().map(|event| event.to_string()).collect();
        assert_eq!(
            lines,
            [
                "5 OPAL_START_CPU(server=0x8, addr=0x4000) = -14, 2 us",
                "9 +token 0x1267 under way",
            ]
        );
    }

    #[test]
    fn a_reader_sees_whole_calls_or_none() {
        let trace = Trace::<4>::new();
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                loop {
                    let last = stop.load(Ordering::Relaxed);
                    for event in trace.events() {
                        seen += 1;
                        assert_eq!(event.token, event.number);
                        assert_eq!(event.regs, [event.number; 8]);
                        if let Some((end, r3)) = event.end {
                            assert_eq!((end.0, r3), (event.number, event.number));
                        }
                    }
                    if last {
                        return seen;
                    }
                }
            });
            for n in 0..100_000 {
                let mark = trace.enter(Ticks(n), 1, n, &[n; 8]);
                trace.leave(&mark, Ticks(n), n);
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(seen >= 4);
    }
}
