//! What the agreement between threads about guests is made of: atomics that a model checker can step through.
//!
//! With the feature `model`, these and [`isa::lock::Mutex`] are loom's, and `nested::model` runs the real code under every
//! order of its threads. The surprising fact: the words of tables and of partitions' memory stay the core's own. Those are
//! changed under locks, or by one compare-exchange; where it matters that another thread comes in between, [`point`]
//! lets it.

#[cfg(not(feature = "model"))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, fence};
#[cfg(feature = "model")]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, fence};

/// Before memory that the partition changes is looked at or changed: in a model, others may come first.
#[cfg(not(feature = "model"))]
#[inline(always)]
pub(crate) const fn point() {}

/// Before memory that the partition changes is looked at or changed: in a model, others may come first.
#[cfg(feature = "model")]
pub(crate) fn point() {
    loom::lazy_static! {
        static ref TURN: AtomicU32 = AtomicU32::new(0);
    }
    // A write, because loom takes reads for independent of each other.
    TURN.fetch_add(1, core::sync::atomic::Ordering::SeqCst);
}
