//! The stacks of the firmware, and whether one of them was too small.
//!
//! Owns the guards: the lowest part of each stack stays as memory is that nobody has used, zeros. Surprising fact: that needs
//! no pattern. A function with a frame begins by storing the caller's stack pointer, which is not 0, at the frame's lowest
//! address, and no frame is larger than the guard below it (`scripts/src/check/frames.rs` says which may be large), so
//! whoever leaves a stack leaves a mark in its guard.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use isa::timebase::Ticks;
use log::Level;
use spin::Once;

/// How often [`look`] looks at a stack.
const INTERVAL: Ticks = Ticks::from_ms(20);

/// What a stack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Boot, and the boot thread's vCPU afterwards.
    Boot,
    /// A thread's calls, or its vCPU.
    Normal,
    /// What interrupts those: exceptions of the firmware, calls within calls.
    Emergency,
}

impl Kind {
    /// Bytes at the low end that nobody may write: no frame of who runs there is larger.
    const fn guard(self) -> usize {
        match self {
            Self::Boot => 0x8000,
            Self::Normal | Self::Emergency => 0x1200,
        }
    }
}

/// A stack of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// What it is for.
    pub kind: Kind,
    /// Whose it is.
    pub pir: u32,
    /// All of it, the lowest word first. Nobody has used it yet when it is given to [`watch`], or only its upper end.
    pub words: &'static [AtomicU64],
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Boot => "boot",
            Kind::Normal => "normal",
            Kind::Emergency => "emergency",
        };
        write!(f, "{kind} stack of thread {:#x}", self.pir)
    }
}

impl Stack {
    fn is_whole(&self) -> bool {
        let guard = self.words.iter().take(self.kind.guard() / 8);
        guard.fold(0, |all, word| all | word.load(Ordering::Relaxed)) == 0
    }

    /// The most bytes that were in use at any time.
    fn used(&self) -> usize {
        let is_marked = |word: &AtomicU64| word.load(Ordering::Relaxed) != 0;
        let untouched = self.words.iter().position(is_marked);
        8 * (self.words.len() - untouched.unwrap_or(self.words.len()))
    }
}

/// How much of a stack was used.
struct Use {
    stack: Stack,
    bytes: usize,
}

impl Use {
    /// One that is nearly used up has to become larger, or its users smaller.
    fn level(&self) -> Level {
        let size = 8 * self.stack.words.len();
        if self.bytes > size / 4 * 3 {
            Level::Warn
        } else {
            Level::Debug
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stack, bytes } = self;
        let nearly = match self.level() {
            Level::Warn => ", which is nearly all",
            _ => "",
        };
        write!(
            f,
            "{stack}: {bytes} of {} bytes used{nearly}",
            8 * stack.words.len()
        )
    }
}

/// The stacks of one machine.
#[derive(Debug)]
struct All(Vec<Stack>);

impl All {
    fn overflowed(&self) -> Option<&Stack> {
        self.0.iter().find(|stack| !stack.is_whole())
    }

    /// The one of this kind of which most was used.
    fn fullest(&self, kind: Kind) -> Option<Use> {
        let of_kind = self.0.iter().filter(|stack| stack.kind == kind);
        let uses = of_kind.map(|stack| Use {
            stack: *stack,
            bytes: stack.used(),
        });
        uses.max_by_key(|of| of.bytes)
    }
}

static ALL: Once<All> = Once::new();

/// Tells which stacks there are.
pub fn watch(stacks: impl Iterator<Item = Stack>) {
    ALL.call_once(|| All(stacks.collect()));
}

/// Looks at one stack, in turn, when it is time to.
///
/// # Panics
/// It has overflowed: whatever lies below it may be anything.
#[inline]
pub fn look(now: u64) {
    static DUE: AtomicU64 = AtomicU64::new(0);
    if now.wrapping_sub(DUE.load(Ordering::Relaxed)).cast_signed() >= 0 {
        DUE.store(now.wrapping_add(INTERVAL.0), Ordering::Relaxed);
        look_at_next();
    }
}

#[cold]
fn look_at_next() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let nth = |all: &'static All| all.0.get(turn.checked_rem(all.0.len())?);
    if let Some(stack) = ALL.get().and_then(nth) {
        check(stack);
    }
}

fn check(stack: &Stack) {
    assert!(stack.is_whole(), "the {stack} has overflowed");
}

/// A stack that has overflowed, for whoever reports that something is wrong.
#[must_use]
pub fn overflowed() -> Option<&'static Stack> {
    ALL.get()?.overflowed()
}

/// Looks at the stack of boot, when boot is over, and says how much of it was used.
///
/// # Panics
/// It has overflowed.
pub fn boot_is_over() {
    let boot = ALL.get().and_then(|all| all.fullest(Kind::Boot));
    if let Some(used) = boot {
        check(&used.stack);
        log::log!(used.level(), "{used}");
    }
}

/// Says which of each kind was used most. Waits for nothing.
pub fn report(say: impl Fn(Level, fmt::Arguments<'_>)) {
    for kind in [Kind::Boot, Kind::Normal, Kind::Emergency] {
        if let Some(used) = ALL.get().and_then(|all| all.fullest(kind)) {
            say(used.level(), format_args!("{used}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(kind: Kind, pir: u32, bytes: usize) -> Stack {
        let words: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        Stack {
            kind,
            pir,
            words: words.leak(),
        }
    }

    /// As a function does that has a frame, `bytes` below the top.
    fn use_of(stack: &Stack, bytes: usize) {
        let at = stack.words.len() - bytes / 8;
        stack.words[at].store(0x3000_0000, Ordering::Relaxed);
    }

    #[test]
    fn the_lowest_mark_tells_how_much_was_used() {
        let stack = stack(Kind::Normal, 1, 0x8000);
        assert_eq!(stack.used(), 0);
        use_of(&stack, 64);
        use_of(&stack, 0x1230);
        use_of(&stack, 0x200);
        assert_eq!(stack.used(), 0x1230);
        use_of(&stack, 0x8000);
        assert_eq!(stack.used(), 0x8000);
    }

    #[test]
    fn a_mark_in_the_guard_is_an_overflow() {
        for (kind, guard) in [(Kind::Normal, 0x1200), (Kind::Boot, 0x8000)] {
            for (used, overflows) in [
                (0, false),
                (0x1_0000 - guard, false),
                (0x1_0008 - guard, true),
                (0x1_0000, true),
            ] {
                let stack = stack(kind, 0, 0x1_0000);
                if used > 0 {
                    use_of(&stack, used);
                }
                assert_eq!(stack.is_whole(), !overflows, "{kind:?} {used:#x}");
            }
        }
    }

    #[test]
    fn the_fullest_is_named_and_loud_when_nearly_full() {
        let all = All(vec![
            stack(Kind::Boot, 0, 0x4_0000),
            stack(Kind::Normal, 0, 0x8000),
            stack(Kind::Normal, 5, 0x8000),
        ]);
        use_of(&all.0[1], 0x100);
        use_of(&all.0[2], 0x6000);
        let said = |kind| all.fullest(kind).map(|of| (of.level(), of.to_string()));
        let expected = "normal stack of thread 0x5: 24576 of 32768 bytes used";
        assert_eq!(
            said(Kind::Normal),
            Some((Level::Debug, expected.to_owned()))
        );
        use_of(&all.0[2], 0x6008);
        let expected = "normal stack of thread 0x5: 24584 of 32768 bytes used, which is nearly all";
        assert_eq!(said(Kind::Normal), Some((Level::Warn, expected.to_owned())));
        assert_eq!(said(Kind::Emergency), None);
        assert!(all.overflowed().is_none());
        use_of(&all.0[2], 0x8000);
        let found = all.overflowed().map(ToString::to_string);
        assert_eq!(found.as_deref(), Some("normal stack of thread 0x5"));
    }

    #[test]
    #[should_panic(expected = "the emergency stack of thread 0x7 has overflowed")]
    fn an_overflow_ends_everything() {
        let stack = stack(Kind::Emergency, 7, 0x6000);
        use_of(&stack, 0x6000);
        watch([stack].into_iter());
        look(0);
    }
}
