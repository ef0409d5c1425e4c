//! Set-up: what the other verbs need and the repository does not hold.
//!
//! Idempotent, and fast when nothing is missing. The surprise: nothing is installed. QEMU and its libraries are
//! unpacked beside each other and started through their own loader, whatever C library the machine has.

pub mod kernel;
pub mod packages;
pub mod qemu;
pub mod rust_src;

use anyhow::Result;

use crate::tools::Tools;
use packages::Packages;

/// Obtains everything that is missing, and says in one line each what was taken.
pub fn run(tools: &Tools) -> Result<()> {
    let _lock = tools.lock()?;
    let mut packages = Packages::new(tools);
    rust_src::provide(tools, &mut packages)?;
    qemu::provide_host(tools, &mut packages)?;
    for spec in &kernel::KERNELS {
        kernel::provide(tools, &mut packages, spec)?;
    }
    qemu::provide_guest(tools, &mut packages)?;
    provide_busybox(tools, &mut packages)?;
    provide_lscpu(tools, &mut packages)?;
    Ok(())
}

/// The item with `lscpu` for the guests, without its C library, which is the one of QEMU for L1.
pub const LSCPU: &str = "lscpu-ppc64el";

fn provide_lscpu(tools: &Tools, packages: &mut Packages) -> Result<()> {
    if tools.has(LSCPU) {
        return Ok(());
    }
    let got = packages.fetch(
        tools,
        LSCPU,
        "ppc64el",
        &packages::STABLE_FIRST,
        &["util-linux", "libsmartcols1", "librtas2"],
        |_| false,
        |_| true,
    )?;
    println!(
        "setup: lscpu for the guests: {}",
        got.version_of("util-linux")
    );
    Ok(())
}

/// A static busybox is the whole userland of the guests.
fn provide_busybox(tools: &Tools, packages: &mut Packages) -> Result<()> {
    if tools.has("busybox-ppc64el") {
        return Ok(());
    }
    let name = "busybox-static";
    let got = packages.fetch(
        tools,
        "busybox-ppc64el",
        "ppc64el",
        &packages::STABLE_FIRST,
        &[name],
        |_| false,
        |_| true,
    )?;
    println!("setup: busybox for the guests: {}", got.version_of(name));
    Ok(())
}
