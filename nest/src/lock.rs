//! The lock of this project: a ticket lock whose waiters let the core's other threads run.
//!
//! The surprising fact: machine checks and system resets arrive while a lock is held, so their paths use `try_lock` only.

/// Lets the sibling threads run while we wait.
pub struct SmtRelax;

impl spin::RelaxStrategy for SmtRelax {
    #[inline(always)]
    fn relax() {
        isa::priority::relax();
    }
}

/// First come, first served.
pub type Mutex<T> = spin::mutex::TicketMutex<T, SmtRelax>;
/// What holds a [`Mutex`].
pub type MutexGuard<'a, T> = spin::mutex::TicketMutexGuard<'a, T, SmtRelax>;

/// Takes a lock, or gives up after `patience`: for code that may have interrupted the holder.
pub fn lock_within<T>(
    lock: &Mutex<T>,
    patience: isa::timebase::Ticks,
) -> Option<MutexGuard<'_, T>> {
    isa::timebase::Deadline::after(patience).wait_for(|| lock.try_lock())
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa::timebase::{Ticks, fake};

    #[test]
    fn a_lock_that_stays_held_is_given_up() {
        fake::set_step(Ticks::from_ms(1));
        let lock = Mutex::new(7);
        let held = lock_within(&lock, Ticks::from_ms(10));
        assert_eq!(held.as_deref(), Some(&7));
        assert!(lock_within(&lock, Ticks::from_ms(10)).is_none());
        drop(held);
        assert!(lock_within(&lock, Ticks::from_ms(10)).is_some());
    }
}
