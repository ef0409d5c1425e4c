//! The device trees that the firmware hands over in OPAL mode: each against its golden, against the rules of trees, and
//! against the one of skiboot on the same machine.
//!
//! `NIDUS_BLESS=1` writes the goldens. The surprise: a case boots twice and no program of ours runs in it
//! ([`monitor`]); a tree is wrong in one of three ways, and all of them are told at once.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::image::Image;
use crate::machine::Machine;
use crate::setup::qemu;
use crate::tools::{Tools, repository};
use tree::Tree;

mod differences;
mod monitor;
mod tree;
mod valid;

/// A machine whose tree is looked at.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Names the case, and its golden.
    name: &'static str,
    kind: &'static str,
    smp: &'static str,
    memory: &'static str,
}

/// Every machine, two chips, and big cores.
const CASES: [Case; 5] = [
    Case {
        name: "tree-powernv10",
        kind: "powernv10",
        smp: "1",
        memory: "1G",
    },
    Case {
        name: "tree-rainier",
        kind: "powernv10-rainier",
        smp: "4,threads=4",
        memory: "5G",
    },
    Case {
        name: "tree-powernv11",
        kind: "powernv11",
        smp: "2,cores=2",
        memory: "2G",
    },
    Case {
        name: "tree-two-chips",
        kind: "powernv10",
        smp: "4,sockets=2,cores=1,threads=2",
        memory: "2G",
    },
    Case {
        name: "tree-big-core",
        kind: "powernv11,big-core=on",
        smp: "8,cores=1,threads=8",
        memory: "1G",
    },
];

/// The names of all cases.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// The case.
    pub name: &'static str,
    /// What is wrong; nothing if all is well.
    pub problems: Vec<String>,
    /// What it took.
    pub elapsed: Duration,
}

/// Values that are others in each build; instead of them, the goldens say what they are.
fn mask(path: &str, name: &str) -> Option<&'static str> {
    match (path, name) {
        ("/ibm,opal", "opal-entry-address") => Some("/* in the image */ <>"),
        _ => None,
    }
}

/// Looks at the trees of the cases that are chosen, and says what came of each as soon as it is known. Lines of the list of
/// differences that no machine needs are told when all were looked at.
///
/// # Errors
/// QEMU or a file could not be used at all.
pub fn run(
    tools: &Tools,
    image: &Image,
    chosen: &dyn Fn(&str) -> bool,
    tell: &mut dyn FnMut(&Outcome),
) -> Result<()> {
    let list = differences::read(differences::LIST);
    let mut listed = list.map_err(anyhow::Error::msg)?;
    let last = CASES.len() - 1;
    let all = CASES.iter().all(|case| chosen(case.name));
    for (n, case) in CASES.iter().enumerate() {
        if !chosen(case.name) {
            continue;
        }
        let start = Instant::now();
        let mut problems = case.look(tools, image, &mut listed)?;
        if all && n == last {
            problems.extend(differences::stale(&listed));
        }
        tell(&Outcome {
            name: case.name,
            problems,
            elapsed: start.elapsed(),
        });
    }
    Ok(())
}

impl Case {
    fn look(
        &self,
        tools: &Tools,
        image: &Image,
        listed: &mut [differences::Listed<'_>],
    ) -> Result<Vec<String>> {
        let qemu = qemu::program(tools);
        let machine = Machine {
            smp: self.smp.to_owned(),
            memory: self.memory.to_owned(),
            bios: Some(image.lid.clone()),
            append: "quiet".to_owned(),
            ..Machine::new(self.kind)
        };
        let ours = Tree::read(&monitor::tree_of(&qemu, &machine, self.name)?)?;
        let machine = Machine {
            bios: None,
            ..machine
        };
        let name = format!("{}-skiboot", self.name);
        let theirs = Tree::read(&monitor::tree_of(&qemu, &machine, &name)?)?;
        let mut problems = valid::problems(&ours);
        problems.extend(self.golden(&ours.source(&mask))?);
        problems.extend(differences::compare(&ours, &theirs, listed));
        Ok(problems)
    }

    /// Compares with the golden, or makes it the golden.
    fn golden(&self, now: &str) -> Result<Option<String>> {
        let path: PathBuf = repository()
            .join("tests/golden")
            .join(format!("opal-{}.dts", self.name));
        if std::env::var_os("NIDUS_BLESS").is_some() {
            fs::write(&path, now)?;
        }
        let golden = fs::read_to_string(&path)
            .with_context(|| format!("no golden {}; NIDUS_BLESS=1 makes it", path.display()))?;
        Ok(first_difference(&golden, now))
    }
}

fn first_difference(golden: &str, now: &str) -> Option<String> {
    if golden == now {
        return None;
    }
    let (mut old, mut new) = (golden.lines(), now.lines());
    for n in 1.. {
        match (old.next(), new.next()) {
            (Some(old), Some(new)) if old == new => {}
            (None, None) => break,
            (old, new) => {
                let line = |line: Option<&str>| line.unwrap_or("(its end)").trim().to_owned();
                let (old, new) = (line(old), line(new));
                return Some(format!(
                    "not as the golden: line {n} is '{new}', was '{old}'; review the rest with NIDUS_BLESS=1"
                ));
            }
        }
    }
    Some("not as the golden: line ends".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_told() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let told = |now| first_difference("a\nb\n", now).unwrap_or_default();
        assert!(told("a\nc\n").contains("line 2 is 'c', was 'b'"));
        assert!(told("a\n").contains("line 2 is '(its end)', was 'b'"));
        assert!(told("a\nb").contains("line ends"));
    }

    #[test]
    fn every_case_has_a_golden() {
        for case in CASES {
            let path = repository().join(format!("tests/golden/opal-{}.dts", case.name));
            assert!(path.exists(), "{}", path.display());
        }
    }
}
