//! The guard on the crate graph: who may depend on whom, and under which licences.

use std::process::Command;

use anyhow::Result;

use crate::command;
use crate::tools::repository;

/// Our crates and the crates of ours that each may depend on. `papr-services` and `opal-calls` know no device.
const GRAPH: [(&str, &[&str]); 14] = [
    ("isa", &[]),
    ("nest", &["isa"]),
    ("platform-p10", &["isa", "nest"]),
    ("platform-p11", &["isa", "nest", "platform-p10"]),
    ("opal-calls", &["isa"]),
    ("papr-services", &["isa"]),
    ("pnor-image", &[]),
    (
        "firmware",
        &[
            "isa",
            "nest",
            "opal-calls",
            "papr-services",
            "platform-p10",
            "platform-p11",
            "pnor-image",
        ],
    ),
    ("scripts", &["pnor-image"]),
    ("fuzz", &["nest", "pnor-image"]),
    ("host-counters", &[]),
    ("payload-common", &[]),
    ("l1-payload", &["isa", "papr-services", "payload-common"]),
    ("opal-payload", &["isa", "opal-calls", "payload-common"]),
];
/// Crates from the registry that may end up in the image; each was looked at before it came in.
const IN_IMAGE: [&str; 20] = [
    "arrayvec",
    "bitflags",
    "block-buffer",
    "cfg-if",
    "cpufeatures",
    "crc",
    "crc-catalog",
    "crypto-common",
    "digest",
    "elf",
    "fdt",
    "hybrid-array",
    "linked_list_allocator",
    "log",
    "sha2",
    "spin",
    "typenum",
    "vcell",
    "volatile-register",
    "xz4rust",
];
/// Licences that fit with ours.
const LICENCES: [&str; 9] = [
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "NCSA",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Returns what breaks the graph.
pub fn check() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let members = tree(&["--workspace", "--depth", "0"], "{p}")?;
    for member in members.iter().filter_map(|line| line.split(' ').next()) {
        match GRAPH.iter().find(|(name, _)| *name == member) {
            None => problems.push(format!(
                "crate {member} is not in the table of scripts/src/check/graph.rs"
            )),
            Some((_, allowed)) => {
                let direct = tree(
                    &["--package", member, "--edges", "normal", "--depth", "1"],
                    "{p}",
                )?;
                let ours = |name: &&str| {
                    GRAPH.iter().any(|(crate_name, _)| crate_name == name) && *name != member
                };
                for dependency in direct
                    .iter()
                    .filter_map(|line| line.split(' ').next())
                    .filter(ours)
                {
                    if !allowed.contains(&dependency) {
                        problems.push(format!("crate {member} must not depend on {dependency}"));
                    }
                }
            }
        }
    }
    for line in tree(&["--package", "firmware", "--edges", "normal"], "{p}")? {
        let name = line.split(' ').next().unwrap_or_default();
        if !GRAPH.iter().any(|(ours, _)| *ours == name) && !IN_IMAGE.contains(&name) {
            problems.push(format!(
                "crate {name} would get into the image: look at it, then add it to the table"
            ));
        }
    }
    Ok(problems)
}

/// Returns the crates whose licence does not fit, and how many crates were looked at.
pub fn licences() -> Result<(Vec<String>, usize)> {
    let mut lines = tree(
        &[
            "--workspace",
            "--edges",
            "all",
            "--target",
            "all",
            "--no-dedupe",
        ],
        "{p}|{l}",
    )?;
    lines.retain(|line| line.contains('|'));
    lines.sort();
    lines.dedup();
    let bad = lines.iter().filter(|line| {
        !line
            .split_once('|')
            .is_some_and(|(_, licence)| fits(licence))
    });
    Ok((
        bad.map(|line| format!("licence: {line}")).collect(),
        lines.len(),
    ))
}

fn tree(arguments: &[&str], format: &str) -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = command::output(
        Command::new(cargo)
            .current_dir(repository())
            .args(["tree", "--locked", "--prefix", "none", "--format", format])
            .args(arguments),
    )?;
    let text = String::from_utf8_lossy(&output);
    Ok(text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect())
}

/// Judges a licence expression: every part of an AND, any part of an OR (which cargo also lets be written as `/`).
fn fits(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_judged() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "GPL-2.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert!(fits(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-2.0",
            "Proprietary",
            "(MIT OR Apache-2.0) AND CC-BY-4.0",
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn the_table_has_no_circle() {
        // A crate may only depend on those that can be reached without itself.
        for (name, _) in GRAPH {
            let mut reached: Vec<&str> = vec![name];
            let mut next = 0;
            while let Some(&current) = reached.get(next) {
                let dependencies = GRAPH
                    .iter()
                    .find(|(other, _)| *other == current)
                    .map_or(&[][..], |(_, list)| list);
                assert!(
                    !dependencies.contains(&name),
                    "{name} depends on itself through {current}"
                );
                reached.extend(
                    dependencies
                        .iter()
                        .filter(|other| !reached.contains(other))
                        .copied()
                        .collect::<Vec<_>>(),
                );
                next += 1;
            }
        }
    }
}
