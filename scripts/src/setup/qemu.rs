//! QEMU: one for this machine, which emulates POWER10 and Power11, and one that runs inside L1 as its VMM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::packages::{BACKPORTS_FIRST, Packages, at_least};
use super::script;
use crate::command;
use crate::debian::{apt, version};
use crate::tools::Tools;

/// The first QEMU with `powernv11`.
pub const OLDEST: &str = "10.2";
const PROGRAM: &str = "qemu-system-ppc64";
const PACKAGE: &str = "qemu-system-ppc";
/// Items of the cache.
const HOST: &str = "qemu-host";
/// The unpacked QEMU for L1.
pub const GUEST: &str = "qemu-ppc64el";

/// Returns the script that starts QEMU.
pub fn program(tools: &Tools) -> PathBuf {
    tools.path("bin").join(PROGRAM)
}

/// Makes `bin/qemu-system-ppc64` in the cache: a script that starts the QEMU of the PATH, or an unpacked one.
pub fn provide_host(tools: &Tools, packages: &mut Packages) -> Result<()> {
    let program = program(tools);
    if version_of(&program).is_some_and(|version| is_new_enough(&version)) {
        return Ok(());
    }
    if let Some(found) = command::find(PROGRAM)
        && let Some(version) = version_of(&found)
        && is_new_enough(&version)
    {
        script::write(&program, &format!("exec '{}' \"$@\"\n", found.display()))?;
        println!("setup: QEMU {version} from the PATH");
        return Ok(());
    }
    let by_hand = || format!("install QEMU >= {OLDEST} ({PROGRAM}) so that it is on the PATH");
    if !tools.has(HOST) {
        let arch = apt::host_arch().with_context(by_hand)?;
        let started = |root: &Path, _: &super::packages::Fetched| {
            let script = root.join("started");
            script::write(&script, &start(root, root)?)?;
            version_of(&script).with_context(|| format!("{PROGRAM} does not start"))?;
            Ok(fs::remove_file(script)?)
        };
        let roots = [PACKAGE, "qemu-system-data"];
        let got = packages
            .fetch_and(
                tools,
                HOST,
                &arch,
                &BACKPORTS_FIRST,
                &roots,
                |_| true,
                host_version,
                started,
            )
            .with_context(by_hand)?;
        println!("setup: QEMU for this machine: {}", got.version_of(PACKAGE));
    }
    let root = tools.path(HOST);
    script::write(&program, &start(&root, &root)?)?;
    match version_of(&program) {
        Some(version) if is_new_enough(&version) => Ok(()),
        _ => bail!(
            "{} does not start: remove {} and try again, or {}",
            program.display(),
            root.display(),
            by_hand()
        ),
    }
}

/// Unpacks the QEMU that runs inside L1.
pub fn provide_guest(tools: &Tools, packages: &mut Packages) -> Result<()> {
    if tools.has(GUEST) {
        return Ok(());
    }
    let roots = [PACKAGE, "qemu-system-data"];
    let got = packages.fetch(
        tools,
        GUEST,
        "ppc64el",
        &BACKPORTS_FIRST,
        &roots,
        |_| true,
        host_version,
    )?;
    println!("setup: QEMU for L1: {}", got.version_of(PACKAGE));
    Ok(())
}

fn host_version(candidate: &str) -> bool {
    at_least(OLDEST)(candidate)
}

/// The body of a script that starts the program under `root` with the loader and the libraries that lie beside it.
fn start(root: &Path, data: &Path) -> Result<String> {
    let (words, triplet) = script::words(root, &format!("usr/bin/{PROGRAM}"))?;
    Ok(format!(
        "export QEMU_MODULE_DIR='{}/usr/lib/{triplet}/qemu'\n\
         exec {words} \\\n    \
         -L '{data}/usr/share/qemu' -L '{data}/usr/lib/ipxe/qemu' \"$@\"\n",
        root.display(),
        data = data.display(),
    ))
}

fn version_of(program: &Path) -> Option<String> {
    let bytes = command::output(Command::new(program).arg("--version")).ok()?;
    parse_version(&String::from_utf8_lossy(&bytes)).map(str::to_owned)
}

fn is_new_enough(candidate: &str) -> bool {
    version::compare(candidate, OLDEST).is_ge()
}

fn parse_version(text: &str) -> Option<&str> {
    text.strip_prefix("QEMU emulator version ")?
        .split([' ', '\n'])
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_and_compared() {
        let text = "QEMU emulator version 11.1.2 (Debian 1:11.1.2+ds-3)\nCopyright";
        assert_eq!(parse_version(text), Some("11.1.2"));
        assert_eq!(parse_version("something else"), None);
        assert!(is_new_enough("10.2.0") && is_new_enough("11.0.50"));
        assert!(!is_new_enough("10.0.13") && !is_new_enough("9.2.1"));
    }

    #[test]
    fn package_versions_are_judged_by_their_upstream_part() {
        assert!(host_version("1:11.1.2+ds-3~bpo13+4"));
        assert!(!host_version("1:10.0.13+ds-0+deb13u1"));
    }
}
