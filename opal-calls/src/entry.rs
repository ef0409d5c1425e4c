//! A hardware thread's way into the firmware and out: nesting, the gate that a quiesce closes, and the clock.
//!
//! Owns [`Entry`], the words of a thread's block that entry code and other threads look at. The entry code counts
//! before it has a stack, so it may do the steps of [`Entry::arrive`] itself with the offsets given here; the rules
//! are these.
//!
//! The surprising fact: a call can be interrupted by a machine check or a system reset whose handler calls the
//! firmware again on the same thread. The second call runs on the emergency stack; a third has none and is refused.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use isa::timebase::Ticks;

use crate::error::OpalError;
use crate::table::Row;

/// Deepest call that has a stack: an ordinary one, and one that interrupted it.
pub const MAX_DEPTH: u32 = 2;

/// No call is running. Tokens of calls are smaller.
const NO_TOKEN: u64 = u64::MAX;

/// What a quiesce makes a thread do at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bar {
    /// Nothing: calls come in.
    Open = 0,
    /// Wait until it opens.
    Hold = 1,
    /// Answer OPAL_BUSY.
    Reject = 2,
}

/// What a thread finds at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It is in; [`Entry::depart`] is owed.
    In(Depth),
    /// It is not: wait at low priority, then arrive again.
    Hold,
    /// It is not, and the answer is this.
    Refused(OpalError),
}

/// How many calls are under way on a thread, this one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth(u32);

impl Depth {
    /// Whether this call interrupted another one of its thread.
    #[must_use]
    pub const fn is_nested(self) -> bool {
        self.0 > 1
    }

    /// As a number, 1 for an ordinary call.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A call under way: what to restore when it ends.
#[must_use = "the call has to end"]
#[derive(Debug, PartialEq, Eq)]
pub struct Visit {
    at: Ticks,
    interrupted: u64,
}

/// The words of one hardware thread. Other threads read them all, and write `bar`.
#[derive(Debug)]
#[repr(C)]
pub struct Entry {
    /// Calls under way.
    depth: AtomicU32,
    /// A [`Bar`].
    bar: AtomicU32,
    /// Token of the innermost call.
    token: AtomicU64,
}

impl Entry {
    /// Offset of the count of calls, 32 bits.
    pub const DEPTH_OFFSET: usize = offset_of!(Self, depth);
    /// Offset of the [`Bar`], 32 bits.
    pub const BAR_OFFSET: usize = offset_of!(Self, bar);

    /// A thread outside the firmware.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            depth: AtomicU32::new(0),
            bar: AtomicU32::new(Bar::Open as u32),
            token: AtomicU64::new(NO_TOKEN),
        }
    }

    /// Comes to the gate. The count goes up before the bar is read: a quiesce sets the bar before it reads the count,
    /// so one of the two sees the other.
    pub fn arrive(&self) -> Gate {
        let depth = self.depth.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        fence(Ordering::SeqCst);
        let bar = self.bar.load(Ordering::SeqCst);
        let refused = if bar == Bar::Hold as u32 {
            Gate::Hold
        } else if bar == Bar::Reject as u32 {
            Gate::Refused(OpalError::OPAL_BUSY)
        } else if depth > MAX_DEPTH {
            Gate::Refused(OpalError::OPAL_INTERNAL_ERROR)
        } else {
            return Gate::In(Depth(depth));
        };
        self.depart();
        refused
    }

    /// The call that entry code let in by the steps of [`Entry::arrive`]: it has counted itself already.
    #[must_use]
    pub fn arrived(&self) -> Depth {
        Depth(self.depth.load(Ordering::SeqCst))
    }

    /// Comes to the gate and waits while it is held.
    pub fn arrive_and_wait(&self) -> Gate {
        loop {
            match self.arrive() {
                Gate::Hold => {
                    while self.bar.load(Ordering::Relaxed) == Bar::Hold as u32 {
                        isa::priority::relax();
                    }
                }
                gate @ (Gate::In(_) | Gate::Refused(_)) => return gate,
            }
        }
    }

    /// Leaves. `false` when no call was counted, which says that another thread forgot it, or a fault of ours.
    pub fn depart(&self) -> bool {
        // All that the call did comes before the count that lets a quiesce go on.
        self.depth
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |depth| {
                depth.checked_sub(1)
            })
            .is_ok()
    }

    /// Whether a call is under way.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.depth.load(Ordering::SeqCst) != 0
    }

    /// Opens or closes the gate.
    pub fn set_bar(&self, bar: Bar) {
        self.bar.store(bar as u32, Ordering::SeqCst);
    }

    /// Forgets calls that will never end: the thread went back to the firmware for good, or starts anew.
    pub fn forget(&self) {
        self.depth.store(0, Ordering::SeqCst);
        self.token.store(NO_TOKEN, Ordering::Relaxed);
    }

    /// Starts a call that the gate let in.
    pub fn begin(&self, token: u64, now: Ticks) -> Visit {
        // Not one exchange: only this thread writes the word, and a call that comes between restores it.
        let interrupted = self.token.load(Ordering::Relaxed);
        self.token.store(token, Ordering::Relaxed);
        Visit {
            at: now,
            interrupted,
        }
    }

    /// Ends a call; answers how long it took.
    pub fn end(&self, visit: &Visit, now: Ticks) -> Ticks {
        self.token.store(visit.interrupted, Ordering::Relaxed);
        now.since(visit.at)
    }

    /// Token of the call that runs on the thread, if any.
    #[must_use]
    pub fn token(&self) -> Option<u64> {
        Some(self.token.load(Ordering::Relaxed)).filter(|token| *token != NO_TOKEN)
    }
}

/// Whether a call may run: an ordinary one always, one that interrupted another only if its row says so. `waived` is
/// for the thread that broke the locks of all others ([`crate::quiesce`]).
///
/// # Errors
/// OPAL_INTERNAL_ERROR.
pub const fn check_nesting(row: &Row, depth: Depth, waived: bool) -> Result<(), OpalError> {
    if !depth.is_nested() || row.flags.reentrant || waived {
        Ok(())
    } else {
        Err(OpalError::OPAL_INTERNAL_ERROR)
    }
}

/// How a call's length is to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it should be.
    Fine,
    /// More than 100 ms: worth a line for developers.
    Long,
    /// A second or more: worth a warning.
    TooLong,
}

/// What no call needs to be judged for.
pub const PROMPT: Ticks = Ticks::from_ms(100);

/// Judges the length of a call.
#[must_use]
pub fn pace(row: &Row, length: Ticks) -> Pace {
    if row.flags.slow || length <= PROMPT {
        Pace::Fine
    } else if length < Ticks::from_s(1) {
        Pace::Long
    } else {
        Pace::TooLong
    }
}

#[cfg(test)]
mod tests {
    use isa::timebase::Ticks;
    use proptest::prelude::*;

    use super::{Bar, Depth, Entry, Gate, Pace, check_nesting, pace};
    use crate::calls::{TABLE, row, token};
    use crate::error::OpalError;

    const BUSY: Gate = Gate::Refused(OpalError::OPAL_BUSY);
    const TOO_DEEP: Gate = Gate::Refused(OpalError::OPAL_INTERNAL_ERROR);

    #[test]
    fn the_third_call_has_no_stack() {
        let entry = Entry::new();
        assert_eq!(entry.arrive(), Gate::In(Depth(1)));
        assert_eq!(entry.arrive(), Gate::In(Depth(2)));
        assert_eq!(entry.arrive(), TOO_DEEP);
        assert_eq!(entry.arrive(), TOO_DEEP, "a refused call does not count");
        assert!(entry.depart() && entry.is_inside());
        assert_eq!(entry.arrive(), Gate::In(Depth(2)));
        assert!(entry.depart() && entry.depart());
        assert!(!entry.is_inside());
        assert!(!entry.depart(), "one more than came in");
        assert_eq!(entry.arrive(), Gate::In(Depth(1)), "and no underflow");
    }

    #[test]
    fn a_closed_gate_keeps_the_thread_out() {
        let entry = Entry::new();
        entry.set_bar(Bar::Reject);
        assert_eq!(entry.arrive(), BUSY);
        entry.set_bar(Bar::Hold);
        assert_eq!(entry.arrive(), Gate::Hold);
        assert!(!entry.is_inside(), "it must not look as if it were in");
        entry.set_bar(Bar::Open);
        assert_eq!(entry.arrive_and_wait(), Gate::In(Depth(1)));
    }

    #[test]
    fn a_held_thread_comes_in_when_the_gate_opens() {
        let entry = Entry::new();
        entry.set_bar(Bar::Hold);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| entry.arrive_and_wait());
            std::thread::sleep(core::time::Duration::from_millis(20));
            assert!(!waiter.is_finished());
            entry.set_bar(Bar::Open);
            assert_eq!(waiter.join().unwrap(), Gate::In(Depth(1)));
        });
    }

    #[test]
    fn only_reentrant_calls_nest() {
        for row in TABLE {
            assert_eq!(check_nesting(row, Depth(1), false), Ok(()));
            let nested = check_nesting(row, Depth(2), false);
            assert_eq!(nested.is_ok(), row.flags.reentrant, "{}", row.name);
            assert_eq!(check_nesting(row, Depth(2), true), Ok(()));
        }
    }

    #[test]
    fn the_interrupted_call_is_the_running_one_again() {
        let entry = Entry::new();
        assert_eq!(entry.token(), None);
        let outer = entry.begin(token::OPAL_GET_MSG, Ticks(100));
        let inner = entry.begin(token::OPAL_TEST, Ticks(110));
        assert_eq!(entry.token(), Some(token::OPAL_TEST));
        assert_eq!(entry.end(&inner, Ticks(111)), Ticks(1));
        assert_eq!(entry.token(), Some(token::OPAL_GET_MSG));
        assert_eq!(entry.end(&outer, Ticks(150)), Ticks(50));
        assert_eq!(entry.token(), None);
    }

    #[test]
    fn long_calls_are_noticed() {
        let call = row(token::OPAL_FLASH_READ).unwrap();
        let judge = |ms| pace(call, Ticks::from_ms(ms));
        assert_eq!(
            [judge(100), judge(101), judge(999), judge(1000)],
            [Pace::Fine, Pace::Long, Pace::Long, Pace::TooLong]
        );
        let resync = row(token::OPAL_RESYNC_TIMEBASE).unwrap();
        assert_eq!(pace(resync, Ticks::from_s(9)), Pace::Fine);
    }

    proptest! {
        /// Whatever comes and goes: the depth is what a plain count says, and never above the limit.
        #[test]
        fn depth_is_a_count(steps in prop::collection::vec(0_u8..5, 0..100)) {
            let entry = Entry::new();
            let (mut count, mut bar) = (0, Bar::Open);
            for step in steps {
                match step {
                    0 => { bar = Bar::Open; entry.set_bar(bar); }
                    1 => { bar = Bar::Reject; entry.set_bar(bar); }
                    2 => {
                        prop_assert_eq!(entry.depart(), count > 0);
                        count = u32::saturating_sub(count, 1);
                    }
                    _ => {
                        let expect = match bar {
                            Bar::Reject => BUSY,
                            _ if count == 2 => TOO_DEEP,
                            _ => { count += 1; Gate::In(Depth(count)) }
                        };
                        prop_assert_eq!(entry.arrive(), expect);
                    }
                }
                prop_assert_eq!(entry.is_inside(), count > 0);
            }
        }
    }
}
