//! The verb `test`: the three levels, and how many cases each of them has.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::tools::{Tools, repository};
use crate::{bench, cases, image, linux, opal, payload, pnor, setup, trees};

/// QEMUs at a time.
const AT_A_TIME: usize = 2;

/// What can be tested alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Unit, property and table tests on this machine
    Host,
    /// Our own bare programs on the firmware, in QEMU
    Payload,
    /// Debian kernels on the firmware, in QEMU
    Linux,
    /// All of these
    All,
}

/// The options of `scripts/test`.
#[derive(Args, Debug)]
pub struct Options {
    /// Which level
    #[arg(value_enum, default_value = "all")]
    level: Level,
    /// Only the cases of these names (of the levels payload and linux)
    names: Vec<String>,
}

/// Counts of one level.
struct Tally {
    level: &'static str,
    passed: usize,
    failed: usize,
    note: String,
}

/// Tests; returns whether everything passed.
pub fn run(tools: &Tools, options: &Options) -> Result<bool> {
    setup::run(tools)?;
    let wants = |level| options.level == level || options.level == Level::All;
    let start = Instant::now();
    let mut tallies = Vec::new();
    if wants(Level::Host) {
        tallies.push(host(tools)?);
    }
    if wants(Level::Payload) {
        tallies.push(payload(tools, &options.names)?);
    }
    if wants(Level::Linux) {
        tallies.push(linux(tools, &options.names)?);
    }
    println!();
    for Tally {
        level,
        passed,
        failed,
        note,
    } in &tallies
    {
        println!("{level:8} {passed:5} cases passed, {failed} failed{note}");
    }
    println!("time     {:5} s", start.elapsed().as_secs());
    // A level in which nothing ran has not passed.
    Ok(tallies
        .iter()
        .all(|tally| tally.failed == 0 && tally.passed > 0))
}

/// All tests of the workspace, the model checker's of the agreement between threads, and what needs a tool that set-up
/// brought.
fn host(tools: &Tools) -> Result<Tally> {
    println!("== host");
    let mut tally = cargo_test(&["test", "--workspace", "--no-fail-fast"])?;
    let model = cargo_test(&[
        "test",
        "-p",
        "papr-services",
        "--features",
        "model",
        "nested::model::",
    ])?;
    tally.passed += model.passed;
    // Where no model was tried, none held.
    tally.failed += model.failed + usize::from(model.passed == 0);
    tally.note.push_str(&model.note);
    match pnor::agreement(tools) {
        Ok(count) => {
            println!("ok     pflash and pnor-image agree on {count} partitions");
            tally.passed += 1;
        }
        Err(error) => {
            println!("FAILED pflash and pnor-image: {error:#}");
            tally.failed += 1;
        }
    }
    Ok(tally)
}

/// `cargo test`, shown as it comes.
fn cargo_test(arguments: &[&str]) -> Result<Tally> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(repository())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let mut lines = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            // One line per passed test would hide the others.
            if !line.ends_with("... ok") && !line.is_empty() {
                println!("{line}");
            }
            lines.push(line);
        }
    }
    let good = child.wait()?.success();
    let (passed, failed) = cases::host_tests(&lines);
    let note = if good || failed > 0 {
        ""
    } else {
        "; cargo test failed without a failed case"
    };
    Ok(Tally {
        level: "host",
        passed,
        failed: if good { failed } else { failed.max(1) },
        note: note.to_owned(),
    })
}

fn chosen(name: &str, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// The bare kernel on both firmwares.
const COMPARISON: &str = "opal-skiboot";
/// What it costs there.
const FIGURES: &str = "opal-figures";

/// Shows and counts a check that is one case.
fn judged(
    tally: &mut Tally,
    name: &str,
    elapsed: Duration,
    problems: &[String],
    note: &str,
    log: &str,
) {
    let seconds = elapsed.as_secs_f64();
    for problem in problems {
        println!("{name}: {problem}");
    }
    if problems.is_empty() {
        tally.passed += 1;
        println!("ok     {name:20} {seconds:6.1} s  {note}");
    } else {
        tally.failed += 1;
        let count = problems.len();
        println!("FAILED {name:20} {seconds:6.1} s  {count} problems; log: {log}");
    }
}

fn payload(tools: &Tools, names: &[String]) -> Result<Tally> {
    println!("== payload");
    let image = image::firmware()?;
    let mut tally = Tally {
        level: "payload",
        passed: 0,
        failed: 0,
        note: String::new(),
    };
    let mut skipped = 0;
    for payload in payload::PAYLOADS
        .iter()
        .filter(|payload| chosen(payload.name, names))
    {
        let machine = payload::machine(&image, payload)?;
        let outcome = payload::run(tools, payload.name, &machine)?;
        for line in outcome.cases.failed.iter().chain(&outcome.cases.skipped) {
            println!("{}: {line}", payload.name);
        }
        let seconds = outcome.elapsed.as_secs_f64();
        match &outcome.problem {
            None => println!(
                "ok     {:20} {seconds:6.1} s  {} cases",
                payload.name, outcome.cases.passed
            ),
            Some(problem) => {
                println!(
                    "FAILED {:20} {seconds:6.1} s  {problem}; log: {}",
                    payload.name,
                    outcome.log.display()
                );
                tally.failed += outcome.cases.failed.len().max(1);
            }
        }
        tally.passed += outcome.cases.passed;
        skipped += outcome.cases.skipped.len();
    }
    let chosen = |name: &str| chosen(name, names);
    trees::run(tools, &image, &chosen, &mut |outcome| {
        let seconds = outcome.elapsed.as_secs_f64();
        match outcome.problems.split_first() {
            None => {
                println!("ok     {:20} {seconds:6.1} s", outcome.name);
                tally.passed += 1;
            }
            Some((first, more)) => {
                println!("FAILED {:20} {seconds:6.1} s  {first}", outcome.name);
                for problem in more {
                    println!("{}: {problem}", outcome.name);
                }
                tally.failed += 1;
            }
        }
    })?;
    if chosen(COMPARISON) {
        let outcome = opal::compare(tools, &image)?;
        let note = format!("{} answers compared", outcome.compared);
        let log = outcome.log.display().to_string();
        judged(
            &mut tally,
            COMPARISON,
            outcome.elapsed,
            &outcome.problems,
            &note,
            &log,
        );
    }
    if chosen(FIGURES) {
        let start = Instant::now();
        let (rows, problems) = bench::opal_figures(tools, &image)?;
        for row in &rows {
            println!("{row}");
        }
        let note = format!("{} figures, Nidus and skiboot", rows.len());
        judged(
            &mut tally,
            FIGURES,
            start.elapsed(),
            &problems,
            &note,
            "above",
        );
    }
    if skipped > 0 {
        tally.note = format!(", {skipped} skipped (their reasons are above)");
    }
    Ok(tally)
}

fn linux(tools: &Tools, names: &[String]) -> Result<Tally> {
    println!("== linux");
    let image = image::firmware()?;
    let mut queue = VecDeque::new();
    for case in linux::cases() {
        if chosen(case.name, names) {
            queue.push_back(linux::prepare(tools, &image, case)?);
        }
    }
    let queue = Mutex::new(queue);
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let worker = || {
        let mut counts = (0, 0);
        while let Some(case) = next() {
            match attempt(tools, &case) {
                true => counts.0 += 1,
                false => counts.1 += 1,
            }
        }
        counts
    };
    let counts: Vec<(usize, usize)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or((0, 1)))
            .collect()
    });
    let (passed, failed) = counts
        .iter()
        .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    Ok(Tally {
        level: "linux",
        passed,
        failed,
        note: String::new(),
    })
}

/// Runs one case, once more when its time was up, and tells what came of it.
fn attempt(tools: &Tools, case: &linux::Ready) -> bool {
    for last in [false, true] {
        match linux::run(tools, case) {
            Ok(outcome) => {
                let seconds = outcome.elapsed.as_secs_f64();
                let Some(problem) = outcome.problem else {
                    println!("ok     {:20} {seconds:6.1} s", case.name);
                    for line in &outcome.quoted {
                        println!("       {line}");
                    }
                    return true;
                };
                println!(
                    "FAILED {:20} {seconds:6.1} s  {problem}; log: {}",
                    case.name,
                    outcome.log.display()
                );
                if last || !outcome.timed_out {
                    return false;
                }
                println!("again  {:20}", case.name);
            }
            Err(error) => {
                println!("FAILED {:20} {error:#}", case.name);
                return false;
            }
        }
    }
    false
}
