//! A bare kernel for OPAL: calls every token of the table with good and bad arguments, from inside of other calls and
//! from several threads at once.
//!
//! One line per case with its answer, `cases: N passed, M failed` at the end, then power-off. `group=NAME[,NAME...]`
//! in bootargs chooses groups. The surprising fact: it also runs on skiboot, so that the answers can be compared;
//! there it leaves out what would overwrite or stop that firmware, and says why.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        clippy::cast_possible_truncation,
        reason = "a test program for one 64-bit target"
    )
)]

#[cfg(target_os = "none")]
mod asm;
#[cfg(target_os = "none")]
mod call;
#[cfg(target_os = "none")]
mod groups;
#[cfg(target_os = "none")]
mod mem;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod thread;

#[cfg(target_os = "none")]
use payload_common::{report, say};

/// On a host there is nothing to run: the program is for the bare target.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("opal-payload runs as a kernel: build it for firmware/powerpc64le-nidus.json");
}
