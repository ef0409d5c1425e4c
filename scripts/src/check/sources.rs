//! Guards on the source files: who may use unsafe code, how long a file is, and that it says what it is for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::tools::repository;

/// The files that opted in to unsafe code; a change to this list is a change to review.
const UNSAFE_LIST: &str = "scripts/unsafe-files.txt";
/// "About 500" lines, without the tests.
const LONGEST: usize = 550;

/// Returns what is wrong with the files, and how many there are.
pub fn check() -> Result<(Vec<String>, usize)> {
    let root = repository();
    let listing = command::output(Command::new("git").current_dir(&root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]))?;
    let listing = String::from_utf8_lossy(&listing).into_owned();
    let files: BTreeSet<&str> = listing
        .lines()
        .filter(|name| root.join(name).exists())
        .collect();
    let mut problems = Vec::new();
    let mut with_unsafe = BTreeSet::new();
    for name in &files {
        let text = fs::read_to_string(root.join(name))
            .with_context(|| format!("{name} cannot be read"))?;
        problems.extend(shape(name, &text));
        if opts_in(&text) {
            with_unsafe.insert((*name).to_owned());
        }
    }
    problems.extend(compare(&with_unsafe, &root.join(UNSAFE_LIST))?);
    Ok((problems, files.len()))
}

/// Header and length of one file.
fn shape(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!(
            "{name} does not begin with a //! line that says what it is"
        ));
    }
    let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
    let length = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count();
    if !is_test && length > LONGEST {
        problems.push(format!(
            "{name} has {length} lines without its tests, more than {LONGEST}"
        ));
    }
    problems
}

/// Says whether an attribute lets the file use unsafe code.
fn opts_in(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    // Put together here, so that this file does not name itself.
    let lint = format!("unsafe{}", "_code");
    ["expect(", "allow(", "warn("]
        .iter()
        .any(|level| plain.contains(&format!("{level}{lint}")))
}

fn compare(found: &BTreeSet<String>, list: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(list).with_context(|| format!("{} cannot be read", list.display()))?;
    let listed: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let new = found
        .difference(&listed)
        .map(|name| format!("{name} uses unsafe code but is not in {UNSAFE_LIST}"));
    let gone = listed
        .difference(found)
        .map(|name| format!("{name} is in {UNSAFE_LIST} but uses no unsafe code"));
    Ok(new.chain(gone).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_needs_a_header_and_a_limit() {
        assert!(shape("a.rs", "//! It is.\nfn main() {}\n").is_empty());
        assert_eq!(shape("a.rs", "fn main() {}\n").len(), 1);
        let long = format!("//! It is.\n{}", "// line\n".repeat(LONGEST));
        assert_eq!(shape("a.rs", &long).len(), 1);
        assert!(shape("a/tests.rs", &long).is_empty());
        let tested = format!(
            "//! It is.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// line\n".repeat(LONGEST)
        );
        assert!(shape("a.rs", &tested).is_empty());
    }

    #[test]
    fn opting_in_is_seen_in_every_form() {
        let lint = format!("unsafe{}", "_code");
        assert!(opts_in(&format!("#![expect({lint}, reason = \"x\")]")));
        assert!(opts_in(&format!(
            "#![cfg_attr(a,\n    expect(\n        {lint}))]"
        )));
        assert!(opts_in(&format!("#[allow({lint})]")));
        assert!(!opts_in(&format!("#![forbid({lint})]")));
    }
}
