//! The shared libraries that a program needs, found among unpacked packages.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use elf::ElfBytes;
use elf::abi::DT_NEEDED;
use elf::endian::AnyEndian;

/// Returns name and file of each library that `program` needs, directly or not, from the given directories.
pub fn libraries(program: &Path, directories: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue: VecDeque<_> = needed_by(program)?.into();
    while let Some(name) = queue.pop_front() {
        if found.contains_key(&name) {
            continue;
        }
        let Some(file) = directories
            .iter()
            .map(|directory| directory.join(&name))
            .find(|file| file.exists())
        else {
            bail!("{} needs {name}, which no package holds", program.display());
        };
        queue.extend(needed_by(&file)?);
        found.insert(name, file);
    }
    Ok(found)
}

fn needed_by(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a dynamic ELF file", file.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<String>> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let common = elf.find_common_data()?;
    let (Some(dynamic), Some(strings)) = (common.dynamic, common.dynsyms_strs) else {
        bail!("no dynamic section");
    };
    dynamic
        .iter()
        .filter(|entry| entry.d_tag == DT_NEEDED)
        .map(|entry| Ok(strings.get(usize::try_from(entry.d_val())?)?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_test_program_needs_the_c_library() {
        let program = std::env::current_exe().expect("known");
        let needed = needed_by(&program).expect("dynamic");
        assert!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{needed:?}"
        );
        let error = libraries(&program, &[]).expect_err("nowhere to look");
        assert!(
            error.to_string().contains("which no package holds"),
            "{error}"
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(parse(b"not an ELF file").is_err());
    }
}
