//! Locks, and the one order in which they are taken.
//!
//! [`Mutex`] is a spin lock whose waiters let the core's other threads run. It goes to whoever comes when it is free: a queue
//! would be fairer, but a processor of an emulator does not always run, and then all wait for the one whose turn it is
//! (2000 runs of one vCPU by four threads on two busy processors: 0.03 s, and 28 s with tickets). Each lock has a rank, a line of the list in
//! [`rank`]; who holds one may wait only for those further down. Builds with debug assertions, so all tests, check that
//! at every `lock`: what counts is what the thread holds, not whether another thread is in the way, so a wrong order is
//! found the first time that it is executed.
//!
//! The surprising fact: machine checks and system resets arrive while a lock is held, so their paths use `try_lock` only;
//! that cannot wait, and is not checked.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use self::imp::{Lock, LockGuard};

/// A place in the order.
pub trait Rank {
    /// The line of the list, from 0.
    const PLACE: u32;
}

macro_rules! ranks {
    ($( $(#[doc = $doc:literal])* $Name:ident; )*) => {
        /// The order: a lock is taken before those below it. No two of one rank are held at a time.
        pub mod rank {
            use super::Rank;

            /// Lines of the list.
            enum Place { $( $Name ),* }

            $(
                $(#[doc = $doc])*
                #[derive(Debug)]
                pub enum $Name {}
                impl Rank for $Name {
                    const PLACE: u32 = Place::$Name as u32;
                }
            )*

            /// What the ranks are called.
            pub(super) const NAMES: &[&str] = &[ $( stringify!($Name) ),* ];
        }
    };
}

ranks! {
    // A partition.
    /// Whether a vCPU of a partition runs.
    RunState;
    /// Areas that a vCPU of a partition registered.
    Registrations;
    /// The process table that a partition registered.
    ProcessTable;
    // Its nested guests.
    /// The guests of a partition: what holds their ids.
    Guests;
    /// The vCPUs of a guest.
    GuestVcpus;
    /// An idle vCPU of a guest.
    VcpuSlot;
    /// What a partition set for a guest; held while the hardware is told.
    GuestSettings;
    /// Changes of a guest's shadow tables; held over the flush.
    Shadow;
    /// Tables that a guest has in reserve.
    ShadowReserve;
    /// Free tables of the machine.
    TablePool;
    /// Free logical partition ids of the machine.
    Lpids;
    // Services of the firmware.
    /// The interrupt controller of a partition; held while the hardware is told.
    Interrupts;
    /// The partition's terminal; held while the UART is served.
    Terminal;
    // The machine.
    /// Blocks of interrupt presentation: virtual processors.
    XiveProcessors;
    /// An interrupt controller's tables and registers.
    XiveController;
    // The kernel's operations in OPAL mode.
    /// Operations on buses and controllers that take a while; their tokens and messages are taken under it.
    Operations;
    /// What they use: an engine of I2C, an on-chip controller; reached by way of XSCOM.
    Operated;
    /// All locks without a rank of their own: nothing above and none of themselves is taken under them.
    Leaf;
    /// The flash; its window moves by way of the BMC.
    Flash;
    /// The clock on the LPC bus.
    Clock;
    /// The interface of the BMC.
    Bmc;
    /// The console; log lines come under every lock above.
    Uart;
    /// The LPC bus.
    Lpc;
    /// The heap; memory is allocated under every lock above.
    Heap;
}

const _: () = assert!(rank::NAMES.len() <= 64, "one bit each");

/// A spin lock with a place in the order.
pub struct Mutex<T, R = rank::Leaf> {
    lock: Lock<T>,
    rank: PhantomData<fn() -> R>,
}

/// What holds a [`Mutex`].
pub struct MutexGuard<'a, T, R: Rank = rank::Leaf> {
    guard: LockGuard<'a, T>,
    _held: held::Held<R>,
}

#[cfg(not(feature = "model"))]
impl<T, R> Mutex<T, R> {
    /// A lock around a value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self {
            lock: Lock::new(value),
            rank: PhantomData,
        }
    }
}

#[cfg(feature = "model")]
impl<T, R> Mutex<T, R> {
    /// A lock around a value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            lock: Lock::new(value),
            rank: PhantomData,
        }
    }
}

impl<T, R: Rank> Mutex<T, R> {
    /// Takes the lock, waiting for whoever has it.
    ///
    /// # Panics
    /// With debug assertions, when this thread holds a lock of this rank or of one further down.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T, R> {
        let held = held::Held::in_order();
        MutexGuard {
            guard: imp::lock(&self.lock),
            _held: held,
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, R>> {
        let guard = imp::try_lock(&self.lock)?;
        Some(MutexGuard {
            guard,
            _held: held::Held::out_of_order(),
        })
    }

    /// The value, when nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        imp::get_mut(&mut self.lock)
    }
}

impl<T: Default, R> Default for Mutex<T, R> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug, R: Rank> fmt::Debug for Mutex<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => f.debug_tuple("Mutex").field(&*value).finish(),
            None => f.write_str("Mutex(held)"),
        }
    }
}

impl<T, R: Rank> Deref for MutexGuard<'_, T, R> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, R: Rank> DerefMut for MutexGuard<'_, T, R> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// The lock itself.
#[cfg(not(feature = "model"))]
mod imp {
    /// Lets others run while we wait: the sibling threads, or on a host any.
    pub(super) struct Relax;

    impl spin::RelaxStrategy for Relax {
        #[inline(always)]
        fn relax() {
            #[cfg(target_os = "none")]
            crate::priority::relax();
            #[cfg(not(target_os = "none"))]
            std::thread::yield_now();
        }
    }

    pub(super) type Lock<T> = spin::mutex::SpinMutex<T, Relax>;
    pub(super) type LockGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T, Relax>;

    #[inline(always)]
    pub(super) fn lock<T>(lock: &Lock<T>) -> LockGuard<'_, T> {
        lock.lock()
    }

    #[inline(always)]
    pub(super) fn try_lock<T>(lock: &Lock<T>) -> Option<LockGuard<'_, T>> {
        lock.try_lock()
    }

    pub(super) fn get_mut<T>(lock: &mut Lock<T>) -> &mut T {
        lock.get_mut()
    }
}

/// The lock as a model checker sees it, which tries all orders of threads.
#[cfg(feature = "model")]
mod imp {
    pub(super) type Lock<T> = loom::sync::Mutex<T>;
    pub(super) type LockGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

    pub(super) fn lock<T>(lock: &Lock<T>) -> LockGuard<'_, T> {
        lock.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn try_lock<T>(lock: &Lock<T>) -> Option<LockGuard<'_, T>> {
        lock.try_lock().ok()
    }

    pub(super) fn get_mut<T>(lock: &mut Lock<T>) -> &mut T {
        lock.get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a thread holds: one bit for each rank.
#[cfg(all(debug_assertions, not(feature = "model")))]
mod held {
    use core::marker::PhantomData;
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::{Rank, rank};

    /// A lock of this rank is held.
    pub(super) struct Held<R: Rank>(PhantomData<R>);

    impl<R: Rank> Held<R> {
        const BIT: u64 = 1 << R::PLACE;

        /// For a lock that is waited for.
        pub(super) fn in_order() -> Self {
            let below = !(Self::BIT - 1);
            let wrong = with(|held| held.load(Ordering::Relaxed) & below).unwrap_or(0);
            assert!(
                wrong == 0,
                "lock {} is taken while {} is held",
                name(R::PLACE),
                name(wrong.trailing_zeros())
            );
            Self::out_of_order()
        }

        /// For a lock that was free.
        pub(super) fn out_of_order() -> Self {
            with(|held| held.fetch_or(Self::BIT, Ordering::Relaxed));
            Self(PhantomData)
        }
    }

    impl<R: Rank> Drop for Held<R> {
        fn drop(&mut self) {
            with(|held| held.fetch_and(!Self::BIT, Ordering::Relaxed));
        }
    }

    fn name(place: u32) -> &'static str {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        rank::NAMES.get(place).copied().unwrap_or("?")
    }

    /// Works on this thread's word; `None` as long as nobody said where that is.
    #[cfg(target_os = "none")]
    fn with<T>(work: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        super::WORD.get().map(|word| work(word()))
    }

    #[cfg(not(target_os = "none"))]
    fn with<T>(work: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        std::thread_local! {
            static WORD: AtomicU64 = const { AtomicU64::new(0) };
        }
        // A thread that ends has none any more.
        WORD.try_with(work).ok()
    }
}

/// Where a thread's word is, once somebody said so.
#[cfg(all(debug_assertions, target_os = "none"))]
static WORD: spin::Once<fn() -> &'static core::sync::atomic::AtomicU64> = spin::Once::new();

/// Says where each thread keeps the word with what it holds. From then on the order is checked.
#[cfg(all(debug_assertions, target_os = "none"))]
pub fn check_order(word: fn() -> &'static core::sync::atomic::AtomicU64) {
    WORD.call_once(|| word);
}

#[cfg(not(all(debug_assertions, not(feature = "model"))))]
mod held {
    use core::marker::PhantomData;

    use super::Rank;

    /// Nothing is kept.
    pub(super) struct Held<R: Rank>(PhantomData<R>);

    impl<R: Rank> Held<R> {
        #[inline(always)]
        pub(super) const fn in_order() -> Self {
            Self(PhantomData)
        }

        #[inline(always)]
        pub(super) const fn out_of_order() -> Self {
            Self(PhantomData)
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::{Mutex, rank};

    type Outer = Mutex<u32, rank::Guests>;
    type Inner = Mutex<u32, rank::TablePool>;

    #[test]
    fn locks_in_their_order_are_taken() {
        let (outer, inner) = (Outer::new(1), Inner::new(2));
        for _ in 0..2 {
            let first = outer.lock();
            let second = inner.lock();
            assert_eq!(*first + *second, 3);
            // The outer one goes first: that is no order of taking.
            drop(first);
            drop(second);
        }
        drop(inner.lock());
        drop(outer.lock());
    }

    #[test]
    #[cfg_attr(
        debug_assertions,
        should_panic = "lock Guests is taken while TablePool is held"
    )]
    fn a_wrong_order_is_noticed_without_any_contention() {
        let (outer, inner) = (Outer::new(1), Inner::new(2));
        let _second = inner.lock();
        let _first = outer.lock();
    }

    #[test]
    #[cfg_attr(
        debug_assertions,
        should_panic = "lock Guests is taken while Guests is held"
    )]
    fn two_of_one_rank_have_no_order() {
        let (one, other) = (Outer::new(1), Outer::new(2));
        let _first = one.lock();
        let _second = other.lock();
    }

    #[test]
    fn what_cannot_wait_has_no_order() {
        let (outer, inner) = (Outer::new(1), Inner::new(2));
        let second = inner.lock();
        let first = outer.try_lock();
        assert!(first.is_some() && outer.try_lock().is_none());
        drop(first);
        drop(second);
        drop(outer.lock());
    }

    #[test]
    #[cfg_attr(
        debug_assertions,
        should_panic = "lock Guests is taken while TablePool is held"
    )]
    fn a_lock_that_was_only_tried_counts_as_held() {
        let (outer, inner) = (Outer::new(1), Inner::new(2));
        let _second = inner.try_lock();
        let _first = outer.lock();
    }

    #[test]
    fn each_thread_has_its_own() {
        let (outer, inner) = (Outer::new(1), Inner::new(2));
        let second = inner.lock();
        std::thread::scope(|scope| scope.spawn(|| *outer.lock()).join()).expect("no panic");
        drop(second);
    }
}
