//! The verb `check`: format, lints and guards. What a person would have to look for in a review, but does not see.

pub mod frames;
pub mod graph;
pub mod image;
pub mod instructions;
pub mod sources;

use std::process::Command;

use anyhow::Result;

use crate::tools::{Tools, repository};
use crate::{command, image as build, setup};

/// Programs for the bare target.
const BARE: [(&str, &str); 4] = [
    ("firmware", "nidus"),
    ("l1-payload", "l1-payload"),
    ("opal-payload", "opal-payload"),
    ("host-counters", "host-counters"),
];

/// Checks everything; returns whether all is well.
pub fn run(tools: &Tools) -> Result<bool> {
    setup::run(tools)?;
    let mut good = true;
    let mut report = |name: &str, result: Result<(Vec<String>, String)>| match result {
        Ok((problems, note)) if problems.is_empty() => println!("ok     {name}{note}"),
        Ok((problems, _)) => {
            good = false;
            println!("FAILED {name}");
            for problem in problems {
                println!("       {problem}");
            }
        }
        Err(error) => {
            good = false;
            println!("FAILED {name}: {error:#}");
        }
    };
    let counted = |what: &'static str| {
        move |(problems, count): (Vec<String>, usize)| (problems, format!(" ({count} {what})"))
    };
    report("format", cargo(&["fmt", "--all", "--check"]));
    report(
        "lints, host",
        cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    );
    for (package, binary) in BARE {
        report(
            &format!("lints, {binary} for the bare target"),
            bare_lints(package, binary),
        );
    }
    report(
        "crate graph",
        graph::check().map(|problems| (problems, String::new())),
    );
    report("licences", graph::licences().map(counted("crates")));
    report("source files", sources::check().map(counted("files")));
    let program = build::firmware().and_then(|made| image::Program::read(&made.elf))?;
    report(
        "no vector or floating-point instruction in the image",
        image::check(&program).map(counted("instructions")),
    );
    let (problems, count) = frames::check(&program);
    report("stack frames", Ok((problems, format!(" ({count} frames)"))));
    Ok(good)
}

fn cargo(arguments: &[&str]) -> Result<(Vec<String>, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    command::shown(
        Command::new(cargo)
            .current_dir(repository())
            .args(arguments),
    )?;
    Ok((Vec::new(), String::new()))
}

fn bare_lints(package: &str, binary: &str) -> Result<(Vec<String>, String)> {
    command::shown(build::bare("clippy", package, binary).args(["--", "-D", "warnings"]))?;
    Ok((Vec::new(), String::new()))
}
