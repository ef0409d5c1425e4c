//! `pflash` of skiboot, from Debian's `opal-utils`: the tool with which people look at and write PNOR images.
//!
//! Tests compare our images with what it says of them. The surprise: the package is not in every suite, so an older
//! release is tried at the end.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages::{Group, Packages};
use super::script;
use crate::command;
use crate::debian::apt;
use crate::tools::Tools;

/// The item of the cache.
const ITEM: &str = "pflash-host";
const PACKAGE: &str = "opal-utils";
/// The suites that have had the package, newest release first.
const SUITES: [Group; 4] = [&["trixie"], &["forky"], &["sid"], &["bookworm"]];

/// Returns the script that starts pflash.
pub fn program(tools: &Tools) -> PathBuf {
    tools.path("bin").join("pflash")
}

/// Makes `bin/pflash` in the cache.
pub fn provide(tools: &Tools, packages: &mut Packages) -> Result<()> {
    if !tools.has(ITEM) {
        let by_hand = || format!("install the package {PACKAGE}, so that pflash is on the PATH");
        let arch = apt::host_arch().with_context(by_hand)?;
        let got = packages
            .fetch(tools, ITEM, &arch, &SUITES, &[PACKAGE], |_| true, |_| true)
            .with_context(by_hand)?;
        println!("setup: pflash: {}", got.version_of(PACKAGE));
    }
    let program = program(tools);
    if command::output(Command::new(&program).arg("--version")).is_ok() {
        return Ok(());
    }
    let (words, _) = script::words(&tools.path(ITEM), "usr/sbin/pflash")?;
    script::write(&program, &format!("exec {words} \"$@\"\n"))?;
    command::output(Command::new(&program).arg("--version"))
        .with_context(|| format!("{} does not start", program.display()))
        .map(drop)
}
