//! Builds for the bare target: the firmware image, and the programs that run on it in tests.
//!
//! The surprise: the prebuilt `core` uses vector registers even for copies, which an OPAL call must not touch, so
//! `core` and `alloc` are compiled anew for our own target file.

use std::ffi::OsStr;
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
    let file = repository().join(TARGET);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    command::shown(
        Command::new(cargo)
            .current_dir(repository())
            .env("RUSTC_BOOTSTRAP", "1")
            .args([
                "build",
                "--quiet",
                "--release",
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
            .arg(&file)
            .arg("--target-dir")
            .arg(target()),
    )
    .with_context(|| format!("{package} cannot be built for the bare target"))?;
    let name = file.file_stem().unwrap_or(OsStr::new("")).to_owned();
    Ok(target().join(name).join("release").join(binary))
}

/// Returns the packages in the directories under `place` (relative to the repository), in the order of their names.
pub fn packages_in(place: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(repository().join(place))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_to_string(entry.path().join("Cargo.toml")).ok())
        .filter_map(|text| package_name(&text))
        .collect();
    names.sort();
    names
}

fn package_name(manifest: &str) -> Option<String> {
    let line = manifest.lines().find(|line| line.starts_with("name"))?;
    Some(line.split('"').nth(1)?.to_owned())
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
    fn package_name_is_the_first_name() {
        let text = "[package]\nname = \"l1-payload\"\n[[bin]]\nname = \"other\"\n";
        assert_eq!(package_name(text).as_deref(), Some("l1-payload"));
        assert_eq!(package_name("[package]\n"), None);
    }
}
