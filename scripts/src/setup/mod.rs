//! Set-up: what the other verbs need and the repository does not hold.
//!
//! Idempotent, and fast when nothing is missing. The surprise: nothing is installed. QEMU and its libraries are
//! unpacked beside each other and started through their own loader, whatever C library the machine has.

pub mod kernel;
pub mod packages;
pub mod pflash;
pub mod qemu;
pub mod rust_src;
pub mod script;

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
    kernel::provide_drivers(tools, &mut packages, "7.2")?;
    qemu::provide_guest(tools, &mut packages)?;
    for part in &USERLAND {
        provide(tools, &mut packages, part)?;
    }
    pflash::provide(tools, &mut packages)?;
    Ok(())
}

/// The item with the static busybox, which is the whole userland of the guests.
pub const BUSYBOX: &str = "busybox-ppc64el";
/// The item with `lscpu` for the guests, without its C library, which is the one of QEMU for L1.
pub const LSCPU: &str = "lscpu-ppc64el";
/// The item with `kexec` for the kernel of OPAL mode, also without its C library.
pub const KEXEC: &str = "kexec-ppc64el";

/// The item with `nvram` for the guests, also without its C library.
pub const NVRAM: &str = "nvram-ppc64el";

/// Programs for the guests from a few packages.
struct Part {
    /// The item of the cache.
    item: &'static str,
    /// What it is, for a person.
    name: &'static str,
    /// The package of the program, then those of its libraries.
    packages: &'static [&'static str],
}

const USERLAND: [Part; 4] = [
    Part {
        item: BUSYBOX,
        name: "busybox",
        packages: &["busybox-static"],
    },
    Part {
        item: LSCPU,
        name: "lscpu",
        packages: &["util-linux", "libsmartcols1", "librtas2"],
    },
    Part {
        item: KEXEC,
        name: "kexec",
        packages: &["kexec-tools", "liblzma5", "zlib1g"],
    },
    Part {
        item: NVRAM,
        name: "nvram",
        packages: &["powerpc-ibm-utils", "zlib1g"],
    },
];

fn provide(tools: &Tools, packages: &mut Packages, part: &Part) -> Result<()> {
    if tools.has(part.item) {
        return Ok(());
    }
    let got = packages.fetch(
        tools,
        part.item,
        "ppc64el",
        &packages::STABLE_FIRST,
        part.packages,
        |_| false,
        |_| true,
    )?;
    let first = part.packages.first().copied().unwrap_or_default();
    println!(
        "setup: {} for the guests: {}",
        part.name,
        got.version_of(first)
    );
    Ok(())
}
