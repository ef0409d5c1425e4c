//! The time base: the clock of everything that waits.
//!
//! 512 MHz on POWER10 and Power11, the same on all threads of the machine once chip TODs are synchronised. It is a
//! count, not a date. On the host each test thread has a clock of its own ([`fake`]) that moves a little at each
//! reading, so every bounded wait ends. The surprising fact: the resident hypervisor moves a thread's time base while
//! it runs a nested guest, by what the partition asks for, so it may wrap at any time: differences are taken, never
//! moments compared.
#![cfg_attr(target_arch = "powerpc64", expect(unsafe_code, reason = "owns mftb"))]

use core::time::Duration;

/// Ticks per second.
pub const FREQUENCY: u64 = 512_000_000;

/// A moment, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Ticks(pub u64);

impl Ticks {
    /// The length of `n` microseconds.
    #[must_use]
    pub const fn from_us(n: u64) -> Self {
        Self(n.saturating_mul(FREQUENCY / 1_000_000))
    }

    /// The length of `n` milliseconds.
    #[must_use]
    pub const fn from_ms(n: u64) -> Self {
        Self(n.saturating_mul(FREQUENCY / 1_000))
    }

    /// The length of `n` seconds.
    #[must_use]
    pub const fn from_s(n: u64) -> Self {
        Self(n.saturating_mul(FREQUENCY))
    }

    /// Whole nanoseconds; saturates after 584 years.
    #[must_use]
    pub const fn to_ns(self) -> u64 {
        // 1e9 / 512e6 = 125 / 64, split so that it does not overflow before it must.
        (self.0 / 64)
            .saturating_mul(125)
            .saturating_add(self.0 % 64 * 125 / 64)
    }

    /// Whole microseconds.
    #[must_use]
    pub const fn to_us(self) -> u64 {
        self.0 / (FREQUENCY / 1_000_000)
    }

    /// Whole milliseconds.
    #[must_use]
    pub const fn to_ms(self) -> u64 {
        self.0 / (FREQUENCY / 1_000)
    }

    /// As a duration.
    #[must_use]
    pub const fn to_duration(self) -> Duration {
        Duration::from_nanos(self.to_ns())
    }

    /// Time since `earlier`, zero if that is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// Reads the time base.
#[inline(always)]
#[must_use]
pub fn now() -> Ticks {
    Ticks(imp::mftb())
}

/// A time base that reads the same this often in a row stands still: it is being set, or has failed. One that runs has moved
/// at nearly every reading. Reading it this often takes some milliseconds.
const STILL: u32 = 1 << 18;

/// The clock of one wait.
struct Wait {
    deadline: Deadline,
    last: Ticks,
    same: u32,
}

impl Wait {
    fn until(deadline: Deadline) -> Self {
        Self {
            deadline,
            last: deadline.start,
            same: 0,
        }
    }

    /// Whether there is nothing more to wait for: the moment has come, or never will.
    fn is_over(&mut self) -> bool {
        let now = now();
        self.same = if now == self.last { self.same + 1 } else { 0 };
        self.last = now;
        self.deadline.is_before(now) || self.same >= STILL
    }
}

/// A moment after which something has taken too long. Every wait for hardware has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    start: Ticks,
    length: Ticks,
}

impl Deadline {
    /// `length` from now.
    #[must_use]
    pub fn after(length: Ticks) -> Self {
        Self {
            start: now(),
            length,
        }
    }

    /// `n` microseconds from now.
    #[must_use]
    pub fn after_us(n: u64) -> Self {
        Self::after(Ticks::from_us(n))
    }

    /// `n` milliseconds from now.
    #[must_use]
    pub fn after_ms(n: u64) -> Self {
        Self::after(Ticks::from_ms(n))
    }

    /// Whether the moment has come.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.is_before(now())
    }

    const fn is_before(self, moment: Ticks) -> bool {
        moment.0.wrapping_sub(self.start.0) >= self.length.0
    }

    /// Calls `poll` until it answers something, at least once and once more after the moment came. `None` is a
    /// time-out. The last call is what makes the wait right when this thread was held up between two polls. It ends too when
    /// the time base stands still.
    pub fn wait_for<T>(self, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
        let mut wait = Wait::until(self);
        loop {
            let late = wait.is_over();
            let found = poll();
            if found.is_some() || late {
                return found;
            }
            crate::priority::relax();
        }
    }
}

/// Waits `length`, or some milliseconds when the time base stands still.
pub fn delay(length: Ticks) {
    let mut wait = Wait::until(Deadline::after(length));
    while !wait.is_over() {
        crate::priority::relax();
    }
}

#[cfg(target_arch = "powerpc64")]
mod imp {
    #[inline(always)]
    pub(super) fn mftb() -> u64 {
        let ticks: u64;
        // SAFETY: reading the time base has no side effect.
        unsafe {
            core::arch::asm!("mftb {t}", t = out(reg) ticks, options(nomem, nostack, preserves_flags));
        }
        ticks
    }
}

#[cfg(not(target_arch = "powerpc64"))]
mod imp {
    pub(super) fn mftb() -> u64 {
        super::fake::tick()
    }
}

/// The clock of the current test thread.
#[cfg(not(target_arch = "powerpc64"))]
pub mod fake {
    use super::Ticks;
    use core::cell::Cell;

    std::thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
        static STEP: Cell<u64> = const { Cell::new(512) };
    }

    pub(super) fn tick() -> u64 {
        let now = NOW.get();
        NOW.set(now.wrapping_add(STEP.get()));
        now
    }

    /// Sets the clock.
    pub fn set(now: Ticks) {
        NOW.set(now.0);
    }

    /// What the clock shows, without moving it.
    #[must_use]
    pub fn peek() -> Ticks {
        Ticks(NOW.get())
    }

    /// Moves the clock on.
    pub fn advance(length: Ticks) {
        NOW.set(NOW.get().saturating_add(length.0));
    }

    /// Sets how far each reading moves the clock; one microsecond unless a test says otherwise.
    pub fn set_step(length: Ticks) {
        STEP.set(length.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_convert_without_loss_at_512_mhz() {
        assert_eq!(Ticks::from_us(1), Ticks(512));
        assert_eq!(Ticks::from_s(3).to_ms(), 3_000);
        assert_eq!(Ticks(64).to_ns(), 125);
        assert_eq!(Ticks(u64::MAX).to_ns(), u64::MAX);
        assert_eq!(Ticks::from_ms(7).to_duration(), Duration::from_millis(7));
        assert_eq!(Ticks::from_s(u64::MAX), Ticks(u64::MAX));
    }

    #[test]
    fn a_wait_ends_in_time_and_polls_once_more_at_the_end() {
        let deadline = Deadline::after_us(10);
        let mut polls = 0;
        let answer = deadline.wait_for(|| {
            polls += 1;
            None::<()>
        });
        assert_eq!(answer, None);
        assert_eq!(polls, 10);
        let mut asked = false;
        assert_eq!(
            deadline.wait_for(|| {
                asked = true;
                Some(5)
            }),
            Some(5),
            "a late first poll still counts"
        );
        assert!(asked);
    }

    #[test]
    fn a_wait_ends_although_the_time_base_wraps() {
        fake::set(Ticks(u64::MAX - 1024));
        let mut polls = 0;
        let answer = Deadline::after_us(10).wait_for(|| {
            polls += 1;
            (polls > 100).then_some(())
        });
        assert_eq!((answer, polls), (None, 10));
    }

    #[test]
    fn a_wait_ends_although_the_time_base_stands_still() {
        fake::set_step(Ticks(0));
        let deadline = Deadline::after_ms(100);
        assert_eq!(deadline.wait_for(|| None::<()>), None);
        delay(Ticks::from_s(1));
        // One that stands for a moment, as while another thread of the core sets it, loses nothing.
        let mut polls = 0;
        let answer = deadline.wait_for(|| {
            polls += 1;
            fake::set_step(Ticks((polls % 1000 == 0).into()));
            (polls > 2 * STILL).then_some(())
        });
        assert_eq!(answer, Some(()));
    }

    #[test]
    fn a_delay_takes_at_least_its_length() {
        let start = fake::peek();
        delay(Ticks::from_ms(1));
        assert!(fake::peek().since(start) >= Ticks::from_ms(1));
    }
}
