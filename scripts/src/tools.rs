//! Places: the repository, the build directory and the cache of tools and payloads.
//!
//! `NIDUS_TOOLS` moves the cache, so that several work trees share one download; without it, it is `target/tools`.
//! An item of the cache is complete when its `MANIFEST` is there: it is made in a directory of another name and
//! renamed, so that an interrupted set-up leaves nothing that looks finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Returns the directory of all that is built.
pub fn target() -> PathBuf {
    repository().join("target")
}

/// The cache of tools and payloads.
#[derive(Clone, Debug)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Opens the cache that the environment or the repository names.
    pub fn open() -> Result<Self> {
        let root =
            std::env::var_os("NIDUS_TOOLS").map_or_else(|| target().join("tools"), PathBuf::from);
        fs::create_dir_all(&root).with_context(|| format!("{} cannot be made", root.display()))?;
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    /// Returns the place of something in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Says whether an item is complete.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).join("MANIFEST").exists()
    }

    /// Returns what an item was made of.
    pub fn manifest(&self, name: &str) -> String {
        fs::read_to_string(self.path(name).join("MANIFEST")).unwrap_or_default()
    }

    /// Makes an item: `build` fills a fresh directory and returns the manifest.
    pub fn make(&self, name: &str, build: impl FnOnce(&Path) -> Result<String>) -> Result<()> {
        let partial = self.path(&format!(".partial-{name}"));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        let manifest = build(&partial)?;
        fs::write(partial.join("MANIFEST"), manifest)?;
        let place = self.path(name);
        let _ = fs::remove_dir_all(&place);
        fs::rename(&partial, &place)
            .with_context(|| format!("{} cannot be put in place", place.display()))
    }

    /// Waits until no other set-up works on this cache; the lock ends with the returned file.
    pub fn lock(&self) -> Result<File> {
        let file = File::create(self.path("lock"))?;
        file.lock()?;
        Ok(file)
    }
}

/// Finds a file by name anywhere under a directory, in the order of the names.
pub fn find_file(root: &Path, accept: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|data| data.is_dir());
        if is_directory {
            if let Some(found) = find_file(&path, accept) {
                return Some(found);
            }
        } else if path
            .file_name()
            .is_some_and(|name| accept(&name.to_string_lossy()))
        {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_there_only_when_its_build_succeeded() {
        let root = std::env::temp_dir().join(format!("nidus-tools-{}", std::process::id()));
        fs::create_dir_all(&root).expect("made");
        let tools = Tools { root: root.clone() };
        let failed = tools.make("item", |path| {
            fs::write(path.join("half"), "")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err() && !tools.has("item"));
        tools
            .make("item", |path| {
                fs::create_dir(path.join("deep"))?;
                fs::write(path.join("deep/whole"), "")?;
                Ok("text\n".to_owned())
            })
            .expect("made");
        assert!(tools.has("item"));
        assert_eq!(tools.manifest("item"), "text\n");
        assert!(find_file(&root, &|name| name == "whole").is_some());
        assert!(find_file(&tools.path("item"), &|name| name == "half").is_none());
        fs::remove_dir_all(root).expect("removed");
    }
}
