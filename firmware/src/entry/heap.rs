//! The firmware's heap: 10 MiB in its reserved block, first fit, one lock.
//!
//! Surprising fact: running out of it is fatal by Rust's rules, so nothing whose size a guest chooses may live here: that
//! comes from the table pool.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use nest::lock::{Mutex, rank};

use crate::memory::HEAP;

struct FirmwareHeap(Mutex<Heap, rank::Heap>);

#[global_allocator]
static ALLOCATOR: FirmwareHeap = FirmwareHeap(Mutex::new(Heap::empty()));

/// Gives the heap its memory. Called once, before anything allocates.
pub(super) fn start() {
    let mut heap = ALLOCATOR.0.lock();
    if heap.size() == 0 {
        let start = core::ptr::with_exposed_provenance_mut(HEAP.start as usize);
        let size = (HEAP.end - HEAP.start) as usize;
        // SAFETY: the range is memory (the smallest machine has 1 GiB), it is the heap's alone (`crate::memory`), and this
        // runs once.
        unsafe { heap.init(start, size) };
    }
}

/// Bytes in use and bytes free.
#[must_use]
pub fn usage() -> (usize, usize) {
    let heap = ALLOCATOR.0.lock();
    (heap.used(), heap.free())
}

// SAFETY: the heap gives out disjoint blocks of its own memory that fit the layout, under its lock; a block stays given out
// until `dealloc`.
unsafe impl GlobalAlloc for FirmwareHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .allocate_first_fit(layout)
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}
