//! The source of `core` and `alloc`, which are compiled for our own target.
//!
//! The surprise: cargo looks for it only inside the toolchain, so a copy from elsewhere is linked to that place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::packages::{Group, Packages};
use crate::command;
use crate::debian::version;
use crate::tools::Tools;

const ITEM: &str = "rust-src";
const GROUPS: [Group; 4] = [&["trixie-backports"], &["forky"], &["sid"], &["trixie"]];
/// rustup may wait for a server that cannot be reached.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);

/// Finds or obtains the source.
pub fn provide(tools: &Tools, packages: &mut Packages) -> Result<()> {
    let place = place()?;
    if is_source(&place) {
        return Ok(());
    }
    if command::exists("rustup") && std::env::var_os("NIDUS_NO_RUSTUP").is_none() {
        println!("setup: asking rustup for rust-src");
        let limit = RUSTUP_LIMIT.as_secs().to_string();
        let result = command::output(Command::new("timeout").args([
            &limit,
            "rustup",
            "component",
            "add",
            "rust-src",
        ]));
        if result.is_ok() && is_source(&place) {
            return Ok(());
        }
    }
    let release = release()?;
    let by_hand =
        || format!("install the source of Rust {release} by hand: rustup component add rust-src");
    if !tools.has(ITEM) {
        let arch = crate::debian::apt::host_arch().with_context(by_hand)?;
        let same = |candidate: &str| is_release(candidate, &release);
        let got = packages
            .fetch(tools, ITEM, &arch, &GROUPS, &[ITEM], |_| false, same)
            .with_context(by_hand)?;
        println!("setup: source of core: {}", got.version_of(ITEM));
    }
    let unpacked = tools
        .path(ITEM)
        .join("usr/src")
        .join(format!("rustc-{release}"));
    link(&unpacked, &place).with_context(by_hand)
}

/// Returns where cargo looks.
fn place() -> Result<PathBuf> {
    let bytes = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(String::from_utf8_lossy(&bytes).trim()).join("lib/rustlib/src/rust"))
}

fn release() -> Result<String> {
    let bytes = command::output(Command::new("rustc").arg("-vV"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(release
        .context("rustc does not tell its release")?
        .trim()
        .to_owned())
}

fn is_source(place: &Path) -> bool {
    place.join("library/core/src/lib.rs").exists() && place.join("library/Cargo.lock").exists()
}

/// Says whether a package version is this release: the same digits, then nothing or a suffix that is not a digit.
fn is_release(candidate: &str, release: &str) -> bool {
    let rest = version::upstream(candidate).strip_prefix(release);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

fn link(source: &Path, place: &Path) -> Result<()> {
    if !is_source(source) {
        bail!("{} does not hold the source of core", source.display());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    // What is there is a dangling link or a broken installation; a directory is left for a person to judge.
    if fs::symlink_metadata(place).is_ok_and(|data| data.file_type().is_symlink()) {
        fs::remove_file(place)?;
    }
    std::os::unix::fs::symlink(source, place)
        .with_context(|| format!("{} cannot be linked", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_release_fits() {
        assert!(is_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_release("1.95.0-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
        assert!(!is_release("1.97.1+dfsg1-1", "1.95.0"));
    }
}
