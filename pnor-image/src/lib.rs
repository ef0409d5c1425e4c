//! Formats of the flash and of the firmware image.
//!
//! Parsers and writers only: no device, no file. What is parsed is hostile: it comes from a flash that others write.
//! Nothing in it can panic here; the lints below see to that. The surprise: the image that QEMU's `-bios` takes (a
//! "lid") has no format at all, it is memory from the load address on.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::wildcard_enum_match_arm
    )
)]

extern crate alloc;
#[cfg(any(test, feature = "tool"))]
extern crate std;

mod bytes;
pub mod container;
pub mod content;
pub mod ecc;
pub mod ffs;
pub mod flash;
pub mod lid;
pub mod nvram;
#[cfg(feature = "tool")]
pub mod tool;
pub mod xz;
