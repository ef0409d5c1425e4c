//! Debian kernels: the ELF image and the few modules that the guests load.
//!
//! Since 7.2 of forky a kernel is three packages (`linux-image`, `-binary`, `-modules`); before, one. Both are reached
//! from the metapackage by following names that begin with `linux-`. The rest of the modules is thrown away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::packages::{BACKPORTS_FIRST, Fetched, Group, Packages};
use crate::debian::{apt, version};
use crate::modinfo;
use crate::tools::{self, Tools};

/// A kernel that `--kernel` can name.
#[derive(Debug)]
pub struct Spec {
    /// The name on the command line.
    pub name: &'static str,
    /// The metapackage that leads to it.
    pub metapackage: &'static str,
    /// Where it may come from.
    pub groups: &'static [Group],
}

/// The kernels, by the names of the command line contract.
pub const KERNELS: [Spec; 3] = [
    Spec {
        name: "7.2",
        metapackage: "linux-image-powerpc64le",
        groups: &BACKPORTS_FIRST,
    },
    Spec {
        name: "6.12",
        metapackage: "linux-image-powerpc64le",
        groups: &[&["trixie"]],
    },
    Spec {
        name: "7.2-64k",
        metapackage: "linux-image-powerpc64le-64k",
        groups: &BACKPORTS_FIRST,
    },
];

/// Modules that a guest loads; their dependencies come along.
const MODULES: [&str; 2] = ["kvm", "kvm-hv"];
/// The host-wide counters of nested guests as a performance monitoring unit; 6.12 does not have it.
const OPTIONAL_MODULES: [&str; 1] = ["kvm-hv-pmu"];

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF image.
    pub image: PathBuf,
    /// The modules, each after what it depends on; empty for a kernel that a person brought.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// Returns the kernel of this name, or the one in the file of this name.
    pub fn named(tools: &Tools, name: &str) -> Result<Self> {
        if !KERNELS.iter().any(|spec| spec.name == name) {
            let image = PathBuf::from(name);
            image
                .metadata()
                .with_context(|| format!("{name} is neither a known kernel nor a readable file"))?;
            return Ok(Self {
                image,
                modules: Vec::new(),
            });
        }
        let root = tools.path(&item(name));
        let order = fs::read_to_string(root.join("modules.order"))
            .with_context(|| format!("kernel {name} is not set up"))?;
        Ok(Self {
            image: root.join("vmlinux"),
            modules: order.lines().map(|line| root.join(line)).collect(),
        })
    }
}

fn item(name: &str) -> String {
    format!("kernel-{name}")
}

/// Unpacks a kernel unless it is there.
pub fn provide(tools: &Tools, packages: &mut Packages, spec: &Spec) -> Result<()> {
    if tools.has(&item(spec.name)) {
        return Ok(());
    }
    let newer = |candidate: &str| spec.name == "6.12" || version::compare(candidate, "7").is_ge();
    let follow = |name: &str| {
        ["linux-image-", "linux-binary-", "linux-modules-"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let got = packages
        .fetch_and(
            tools,
            &item(spec.name),
            "ppc64el",
            spec.groups,
            &[spec.metapackage],
            follow,
            newer,
            reduce,
        )
        .with_context(|| {
            format!(
                "kernel {} cannot be had; give an ELF image of your own with --kernel FILE",
                spec.name
            )
        })?;
    println!(
        "setup: kernel {}: {}",
        spec.name,
        got.version_of(spec.metapackage)
    );
    Ok(())
}

/// Keeps `vmlinux` and the modules that are needed, decompressed and in the order in which they load.
fn reduce(root: &Path, _: &Fetched) -> Result<()> {
    let image = tools::find_file(root, &|name| {
        name.starts_with("vmlinux") || name.starts_with("vmlinuz")
    })
    .context("the packages hold no vmlinux")?;
    fs::rename(image, root.join("vmlinux"))?;
    let mut order = Vec::new();
    for name in MODULES {
        take_module(root, name, &mut order)?;
    }
    for name in OPTIONAL_MODULES {
        let _ = take_module(root, name, &mut order);
    }
    keep(root, &order)
}

/// Drivers of what the firmware serves in OPAL mode: the BMC, the flash and its parts. The bus driver of I2C is built in.
const DRIVERS: [&str; 4] = ["ipmi-powernv", "ipmi-devintf", "ofpart", "powernv-flash"];
/// What reads I2C devices and sensors, where the kernel has them as modules.
const OPTIONAL_DRIVERS: [&str; 3] = ["i2c-dev", "ibmpowernv", "leds-pca955x"];
/// The item with the drivers of the kernel of that name.
fn drivers_item(name: &str) -> String {
    format!("device-drivers-{name}")
}

/// Unpacks the drivers of a kernel that is there, in the same version, unless they are there.
pub fn provide_drivers(tools: &Tools, packages: &mut Packages, name: &str) -> Result<()> {
    if tools.has(&drivers_item(name)) {
        return Ok(());
    }
    let spec = KERNELS.iter().find(|spec| spec.name == name);
    let spec = spec.with_context(|| format!("no kernel {name}"))?;
    let manifest = tools.manifest(&item(name));
    let same = |candidate: &str| {
        manifest
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .any(|(_, version)| version == candidate)
    };
    let follow = |name: &str| {
        ["linux-image-", "linux-modules-"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let got = packages
        .fetch_and(
            tools,
            &drivers_item(name),
            "ppc64el",
            spec.groups,
            &[spec.metapackage],
            follow,
            same,
            |root, _| {
                let mut order = Vec::new();
                for driver in DRIVERS {
                    take_module(root, driver, &mut order)?;
                }
                for driver in OPTIONAL_DRIVERS {
                    let _ = take_module(root, driver, &mut order);
                }
                keep(root, &order)
            },
        )
        .with_context(|| format!("the drivers of kernel {name} cannot be had"))?;
    println!(
        "setup: drivers of kernel {name}: {}",
        got.version_of(spec.metapackage)
    );
    Ok(())
}

/// The drivers of a kernel, each after what it depends on.
pub fn drivers(tools: &Tools, name: &str) -> Result<Vec<PathBuf>> {
    let root = tools.path(&drivers_item(name));
    let order = fs::read_to_string(root.join("modules.order"))
        .with_context(|| format!("the drivers of kernel {name} are not set up"))?;
    Ok(order.lines().map(|line| root.join(line)).collect())
}

/// Writes the order of the modules and throws the rest of the packages away.
fn keep(root: &Path, order: &[String]) -> Result<()> {
    fs::write(root.join("modules.order"), order.join("\n") + "\n")?;
    for directory in ["boot", "usr", "lib", "etc"] {
        let _ = fs::remove_dir_all(root.join(directory));
    }
    Ok(())
}

fn take_module(root: &Path, name: &str, order: &mut Vec<String>) -> Result<()> {
    let file = format!("{name}.ko");
    if order.contains(&file) {
        return Ok(());
    }
    // In file names `-` and `_` mean the same.
    let plain = |text: &str| text.replace('_', "-");
    let wanted = plain(&file);
    let found = tools::find_file(root, &|candidate| {
        plain(candidate)
            .strip_prefix(&wanted)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
    .with_context(|| format!("the packages hold no module {name}"))?;
    let bytes = apt::cat(&found)?;
    for dependency in modinfo::depends(&bytes) {
        take_module(root, &dependency, order)?;
    }
    fs::write(root.join(&file), bytes)?;
    order.push(file);
    Ok(())
}
