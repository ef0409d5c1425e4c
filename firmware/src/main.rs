//! The image: everything is in the library, the linker script's entry symbol pulls it in.
//!
//! On the host this is an empty program, so that `cargo check --workspace` needs no flags.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use firmware as _;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("nidus is firmware: build it for firmware/powerpc64le-nidus.json (see scripts/image)");
}
