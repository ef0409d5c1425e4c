//! Formats of the flash and of the firmware image.
//!
//! Parsers and writers only: no device, no file. The surprise: the image that QEMU's `-bios` takes (a "lid") has no
//! format at all, it is memory from the load address on.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod lid;
