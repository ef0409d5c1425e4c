//! The assembly seam: how control comes into the firmware, and the few things that Rust cannot express safely.
//!
//! Owns the image's fixed first page, the vectors, the boot thread's block, the table of parked threads, the heap's memory
//! and the views of memory by real address. Surprising fact: the vectors run at physical 0, the rest at 0x30000000, and both
//! are one image (see nidus.ld).

#[cfg(target_os = "none")]
#[path = ""]
mod image {
    #![expect(unsafe_code, reason = "the assembly seam")]
    #![expect(
        clippy::cast_possible_truncation,
        reason = "real addresses and sizes of memory fit a usize on the one target"
    )]

    mod bare;
    pub use bare::boot_stacks;
    pub mod heap;
    pub mod ram;
}
#[cfg(target_os = "none")]
pub use image::{boot_stacks, heap, ram};

pub mod park;
