//! The two locks of the services.
//!
//! [`Mutex`] guards what ordinary calls share. A call that may nest ([`crate::table::Flags::reentrant`]) must never
//! wait for one, since the call it interrupted may be the holder; such calls use atomics, or a [`ThreadLock`].
//!
//! The surprising fact: a [`ThreadLock`] owns no data and can be passed by its own thread and taken over from a
//! stuck one. What it orders is atomics throughout, so a takeover can mix up output and never memory.

use core::sync::atomic::{AtomicU64, Ordering};

use isa::timebase::{Deadline, Ticks};

use crate::args::Server;

/// A fair spin lock, the last in the order of locks but for the machine's own.
pub use isa::lock::{Mutex, rank};

/// How long a holder may take before it counts as stopped inside. A console call under load takes microseconds.
const PATIENCE: Ticks = Ticks::from_ms(100);

/// Orders threads, not calls of one thread.
#[derive(Debug)]
pub struct ThreadLock {
    /// 0, or the PIR of the holder + 1.
    holder: AtomicU64,
}

/// How a [`ThreadLock`] was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// It was free.
    Free,
    /// This thread holds it already: this call interrupted the holder.
    Nested,
    /// Its holder did not let go in time.
    TakenOver,
}

/// Holds a [`ThreadLock`] until it is dropped.
#[must_use = "the lock is let go at once"]
#[derive(Debug)]
pub struct ThreadGuard<'a> {
    lock: &'a ThreadLock,
    me: u64,
    /// How it was got.
    pub got: Got,
}

impl ThreadLock {
    /// A free lock.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            holder: AtomicU64::new(0),
        }
    }

    /// Takes the lock for the calling thread; ends after 100 ms whatever the holder does.
    pub fn take(&self, thread: Server) -> ThreadGuard<'_> {
        // PIRs are 15 bits wide; one that is not would only share a lock with another such.
        let me = thread.0.saturating_add(1);
        let guard = |got| ThreadGuard {
            lock: self,
            me,
            got,
        };
        let swap = || {
            self.holder
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        };
        match swap() {
            Ok(_) => guard(Got::Free),
            Err(holder) if holder == me => guard(Got::Nested),
            Err(_) => match Deadline::after(PATIENCE).wait_for(|| swap().ok()) {
                Some(_) => guard(Got::Free),
                None => {
                    self.holder.store(me, Ordering::SeqCst);
                    guard(Got::TakenOver)
                }
            },
        }
    }
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        if self.got != Got::Nested {
            // Fails when another thread took the lock over: it is not ours to free.
            let _ =
                self.lock
                    .holder
                    .compare_exchange(self.me, 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use isa::timebase::{Ticks, fake};

    use super::{Got, ThreadLock};
    use crate::args::Server;

    #[test]
    fn the_holder_passes_and_others_take_over() {
        let lock = ThreadLock::new();
        let outer = lock.take(Server(4));
        assert_eq!(outer.got, Got::Free);
        let nested = lock.take(Server(4));
        assert_eq!(nested.got, Got::Nested);
        drop(nested);
        let other = lock.take(Server(5));
        assert_eq!(
            other.got,
            Got::TakenOver,
            "the nested guard must not free it"
        );
        drop(outer);
        assert_eq!(
            lock.take(Server(5)).got,
            Got::Nested,
            "the old holder must not free it"
        );
        drop(other);
        assert_eq!(lock.take(Server(0)).got, Got::Free);
    }

    #[test]
    fn threads_exclude_each_other() {
        let lock = ThreadLock::new();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for pir in 0..3 {
                let (lock, inside) = (&lock, &inside);
                scope.spawn(move || {
                    // A slow clock: nobody loses patience. One that stands still would end the wait.
                    fake::set_step(Ticks(1));
                    for _ in 0..2000 {
                        let guard = lock.take(Server(pir));
                        assert_eq!(guard.got, Got::Free);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(lock.take(Server(9)).got, Got::Free);
    }
}
