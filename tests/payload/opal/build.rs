//! Hands the linker script to the linker, for the bare target only.

fn main() {
    println!("cargo:rerun-if-changed=payload.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-T{dir}/payload.ld");
        println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
    }
}
