//! Builds for the bare target: the firmware image, and the programs that run on it in tests.
//!
//! The surprise: the prebuilt `core` uses vector registers even for copies, which an OPAL call must not touch, so
//! `core` and `alloc` are compiled anew for our own target file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::tools::{repository, target};

/// The target file, relative to the repository.
const TARGET: &str = "firmware/powerpc64le-nidus.json";

/// The firmware in its two forms.
#[derive(Clone, Debug)]
pub struct Image {
    /// With symbols.
    pub elf: PathBuf,
    /// As it lies in memory, for `-bios`.
    pub lid: PathBuf,
}

/// Builds the firmware; `target/nidus.elf` and `target/nidus.lid` are replaced only when that succeeds.
pub fn firmware() -> Result<Image> {
    let built = build("firmware", "nidus")?;
    let image = Image {
        elf: target().join("nidus.elf"),
        lid: target().join("nidus.lid"),
    };
    let bytes = fs::read(&built).with_context(|| format!("{} cannot be read", built.display()))?;
    let lid = pnor_image::lid::from_elf(&bytes).with_context(|| format!("{}", built.display()))?;
    replace(&image.elf, &bytes)?;
    replace(&image.lid, &lid)?;
    Ok(image)
}

/// Builds one program for the bare target and returns its ELF file.
pub fn build(package: &str, binary: &str) -> Result<PathBuf> {
    command::shown(&mut bare("build", package, binary))
        .with_context(|| format!("{package} cannot be built for the bare target"))?;
    let name = Path::new(TARGET).file_stem().unwrap_or_default();
    Ok(target().join(name).join(PROFILE).join(binary))
}

/// How programs for the bare target are optimised: see `[profile.image]` of the workspace.
const PROFILE: &str = "image";

/// A cargo command for one program and the bare target.
pub fn bare(verb: &str, package: &str, binary: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            verb,
            "--quiet",
            "--profile",
            PROFILE,
            "--package",
            package,
            "--bin",
            binary,
        ])
        .args([
            "-Zbuild-std=core,alloc",
            "-Zbuild-std-features=compiler-builtins-mem",
            "-Zjson-target-spec",
        ])
        .arg("--target")
        .arg(repository().join(TARGET))
        .arg("--target-dir")
        .arg(target());
    cargo
}

/// Writes a file so that nobody sees half of it; one that is already the same is left alone.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, bytes)
        .with_context(|| format!("{} cannot be written", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_it_differs() {
        let path = std::env::temp_dir().join(format!("nidus-image-{}", std::process::id()));
        replace(&path, b"one").expect("written");
        let first = fs::metadata(&path)
            .expect("there")
            .modified()
            .expect("known");
        replace(&path, b"one").expect("left alone");
        assert_eq!(
            fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("known"),
            first
        );
        replace(&path, b"two").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"two");
        fs::remove_file(path).expect("removed");
    }
}
