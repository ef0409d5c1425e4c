//! The lock of this project, with its place in the order of all locks: see [`isa::lock`], which crates that know no
//! device share with this one.

pub use isa::lock::{Mutex, MutexGuard, Rank, rank};

/// Takes a lock, or gives up after `patience`: for code that may have interrupted the holder.
pub fn lock_within<T, R: Rank>(
    lock: &Mutex<T, R>,
    patience: isa::timebase::Ticks,
) -> Option<MutexGuard<'_, T, R>> {
    isa::timebase::Deadline::after(patience).wait_for(|| lock.try_lock())
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa::timebase::{Ticks, fake};

    #[test]
    fn a_lock_that_stays_held_is_given_up() {
        fake::set_step(Ticks::from_ms(1));
        let lock: Mutex<_> = Mutex::new(7);
        let held = lock_within(&lock, Ticks::from_ms(10));
        assert_eq!(held.as_deref(), Some(&7));
        assert!(lock_within(&lock, Ticks::from_ms(10)).is_none());
        drop(held);
        assert!(lock_within(&lock, Ticks::from_ms(10)).is_some());
    }
}
