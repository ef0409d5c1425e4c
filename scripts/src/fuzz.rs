//! The fuzz targets of `tests/fuzz` under libFuzzer, for some seconds each.
//!
//! Built for themselves, with the compiler's counters of coverage in every crate, so in a directory of their own. The
//! surprise: what was found lasts, in `target/fuzz/corpus`, so that the next run begins where this one ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use pnor_image::container::{Description, unsigned};
use pnor_image::tool::build::{self, pack};
use pnor_image::tool::layout::{self, Layout};

use crate::tools::{repository, target};

/// What `tests/fuzz` knows: the longest input, and the inputs of a normal run, which are about three seconds'.
/// `NIDUS_FUZZ_SECONDS` searches on instead.
const TARGETS: [(&str, u32, u32); 5] = [
    ("ffs", 8192, 150_000),
    ("container", 8192, 1_500_000),
    ("xz", 8192, 90_000),
    ("nvram", 512, 4_000),
    ("hiomap", 1024, 500_000),
];
/// Counters for libFuzzer; assertions and checks of overflow as in tests.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on";

/// Runs every target; tells of each what came of it.
pub fn run(tell: &mut dyn FnMut(&str, Result<String>)) -> Result<()> {
    let seconds: Option<u32> = match std::env::var("NIDUS_FUZZ_SECONDS") {
        Ok(text) => Some(text.parse().context("NIDUS_FUZZ_SECONDS is no number")?),
        Err(_) => None,
    };
    let program = program()?;
    for (name, longest, inputs) in TARGETS {
        let words = match seconds {
            // Bounded on a machine of any speed.
            None => vec![
                "-seed=1".to_owned(),
                format!("-runs={inputs}"),
                "-max_total_time=60".to_owned(),
            ],
            Some(seconds) => vec![format!("-max_total_time={seconds}")],
        };
        let came = one(&program, name, longest, &words);
        tell(&format!("fuzz {name}"), came);
    }
    Ok(())
}

fn place() -> PathBuf {
    target().join("fuzz")
}

/// Builds the program.
fn program() -> Result<PathBuf> {
    let triple = triple()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(repository())
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "fuzz",
        ])
        .args([
            "--features",
            "libfuzzer",
            "--bin",
            "fuzz",
            "--target",
            &triple,
        ])
        .arg("--target-dir")
        .arg(place())
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!(
            "the fuzz targets cannot be built; they need a C++ compiler (g++):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(place().join(triple).join("release/fuzz"))
}

/// What rustc calls this machine: with a target named, build scripts have no counters.
fn triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("rustc does not say for what it builds")?
        .to_owned())
}

fn one(program: &Path, name: &str, longest: u32, words: &[String]) -> Result<String> {
    let corpus = place().join("corpus").join(name);
    fs::create_dir_all(&corpus)?;
    for (index, seed) in seeds(name)?.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{index}")), seed)?;
    }
    let found = place().join(format!("{name}-"));
    let output = Command::new(program)
        .env("NIDUS_FUZZ", name)
        .args(words)
        .arg(format!("-max_len={longest}"))
        .arg(format!("-artifact_prefix={}", found.display()))
        .args(["-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=300"])
        .arg(&corpus)
        .stdin(Stdio::null())
        .output()
        .context("the program cannot be started")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.len().saturating_sub(30);
        let end = lines.get(start..).unwrap_or_default().join("\n");
        bail!("{}:\n{end}", output.status);
    }
    judge(&text)
}

/// What libFuzzer says at its end; a run in which nothing was tried is none.
fn judge(text: &str) -> Result<String> {
    let number = |key: &str| -> Option<u64> {
        let line = text.lines().rev().find(|line| line.contains(key))?;
        let (_, rest) = line.split_once(key)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let runs = number("stat::number_of_executed_units:").context("no count at the end")?;
    let edges = number(" cov: ").context("no coverage: the counters are missing")?;
    ensure!(runs > 0 && edges > 0, "nothing was tried");
    Ok(format!("{runs} inputs, {edges} edges"))
}

/// Good inputs, to begin with.
fn seeds(name: &str) -> Result<Vec<Vec<u8>>> {
    Ok(match name {
        // The first byte: check sums are made right, 32 MiB or 64 MiB of flash.
        "ffs" => {
            let mut seeds = Vec::new();
            for (_, _, text) in layout::BUILT_IN {
                let layout = Layout::parse(text)?;
                let how = match layout.table.flash_size() >> 20 {
                    32 => 3,
                    64 => 5,
                    size => bail!("the target has no flash of {size} MiB"),
                };
                let image = build::image(&layout, &[])?;
                let table = image.get(..0x1800).unwrap_or_default();
                seeds.push([&[how], table].concat());
            }
            seeds
        }
        "container" => {
            let made = unsigned(b"what is inside", Description::of("PAYLOAD"));
            vec![[&[0], &made[..]].concat()]
        }
        "xz" => vec![
            pack(b"")?,
            pack(&b"not much of a firmware".repeat(100))?,
            pack(&[0; 0x2_0000])?,
        ],
        _ => vec![vec![0; 64], (0..=255).collect()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnor_image::ffs::Table;

    #[test]
    fn every_target_has_seeds() {
        for (name, longest, _) in TARGETS {
            let seeds = seeds(name).expect("made");
            let fits = |seed: &Vec<u8>| seed.len() <= longest as usize;
            assert!(!seeds.is_empty() && seeds.iter().all(fits), "{name}");
        }
    }

    #[test]
    fn the_seeds_of_the_table_are_sound_where_the_target_has_them() {
        for seed in seeds("ffs").expect("made") {
            let size = if seed[0] == 3 { 32 << 20 } else { 64 << 20 };
            let (_, problems) = Table::parse(&seed[1..], size).expect("a table");
            assert!(problems.is_empty(), "{problems:?}");
        }
    }

    #[test]
    fn the_end_of_a_run_is_read() {
        let text = "#8\tINITED cov: 12 ft: 13 corp: 1/1b\n\
            #99\tDONE   cov: 40 ft: 51 corp: 9/1b\nstat::number_of_executed_units: 99\n";
        assert_eq!(judge(text).expect("good"), "99 inputs, 40 edges");
        assert!(judge(&text.replace("cov: ", "")).is_err());
        assert!(judge(&text.replace("units: 99", "units: 0")).is_err());
        assert!(judge("").is_err());
    }
}
