//! A bare partition (L1) that calls every hypercall, and runs a tiny nested guest (L2) through every exit.
//!
//! One line per case, `cases: N passed, M failed` at the end, then power-off. `group=NAME[,NAME...]` in bootargs
//! chooses groups; without it all but `race` and `bench` run. The surprising fact: it trusts nothing below it, so it brings its
//! own vectors, which save everything at absolute addresses in the first 32 KiB of its memory.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        clippy::cast_possible_truncation,
        reason = "a test program for one 64-bit target"
    )
)]

#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod elements;
#[cfg(target_os = "none")]
mod exploitation;
#[cfg(target_os = "none")]
mod groups;
#[cfg(target_os = "none")]
mod gsb;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod hcall;
#[cfg(target_os = "none")]
mod low;
#[cfg(target_os = "none")]
mod mem;
#[cfg(target_os = "none")]
mod probe;
#[cfg(target_os = "none")]
mod radix;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod rtas;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod threads;

#[cfg(target_os = "none")]
use payload_common::{report, say, tree};

/// On a host there is nothing to run: the program is for the bare target.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("l1-payload runs as a partition: build it for firmware/powerpc64le-nidus.json");
}
