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
