//! Starting a program among unpacked packages: through their own loader, with their own libraries.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::tools;

/// The words that start `program` (below `root`) with the loader and the libraries that lie below `root`, and the
/// triplet of the architecture.
pub fn words(root: &Path, program: &str) -> Result<(String, String)> {
    let loader = tools::find_file(root, &|name| {
        name.starts_with("ld-linux") || name.starts_with("ld64.so")
    })
    .context("the packages hold no loader")?;
    let libraries = tools::find_file(root, &|name| name == "libc.so.6")
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .context("the packages hold no C library")?;
    let triplet = libraries
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let words = format!(
        "'{}' --library-path '{root}/usr/lib/{triplet}:{root}/lib/{triplet}' '{root}/{program}'",
        loader.display(),
        root = root.display(),
    );
    Ok((words, triplet))
}

/// Writes a shell script so that nobody sees half of it.
pub fn write(path: &Path, body: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = path.with_extension("partial");
    fs::write(
        &partial,
        format!("#!/bin/sh\n# Made by scripts/setup.\n{body}"),
    )?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(partial, path)?)
}
