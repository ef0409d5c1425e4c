//! Gives the linker script to the bare image and nothing to the host build.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=nidus.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let bare = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare && let Ok(here) = env::var("CARGO_MANIFEST_DIR") {
        println!("cargo:rustc-link-arg-bins=-T{here}/nidus.ld");
        println!("cargo:rustc-link-arg-bins=--gc-sections");
    }
}
