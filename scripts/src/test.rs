//! The verb `test`: the three levels, and how many cases each of them has.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use crate::tools::{Tools, repository};
use crate::{bench, cases, fuzz, image, kills, linux, opal, payload, pnor, setup, trees};

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
    /// Only the cases of these names
    #[arg(value_parser = PossibleValuesParser::new(HOST.into_iter().chain(payload_names()).chain(linux_names())))]
    names: Vec<String>,
    /// More words for the programs of the level payload, for example `rounds=1000000 race=migrate,doorbell`
    #[arg(long, default_value = "")]
    append: String,
    /// Seconds that each of them may take
    #[arg(long)]
    limit: Option<u64>,
}

impl Options {
    /// What is to be tested: with names, the levels that have one of them.
    fn levels(&self) -> Result<Vec<Level>> {
        let has = |level: Level, name: &str| match level {
            Level::Payload => payload_names().any(|known| known == name),
            Level::Linux => linux_names().any(|known| known == name),
            Level::Host => HOST.contains(&name),
            Level::All => false,
        };
        let mut levels = match self.level {
            Level::All => vec![Level::Host, Level::Payload, Level::Linux],
            level => vec![level],
        };
        for name in &self.names {
            if !levels.iter().any(|&level| has(level, name)) {
                bail!("{name} is a case of another level");
            }
        }
        if !self.names.is_empty() {
            levels.retain(|&level| self.names.iter().any(|name| has(level, name)));
        }
        Ok(levels)
    }
}

/// The parts of the level host.
const HOST: [&str; 4] = ["unit", "model", "pflash", "fuzz"];

/// The cases of the level payload.
fn payload_names() -> impl Iterator<Item = &'static str> {
    let programs = payload::PAYLOADS.iter().map(|payload| payload.name);
    programs
        .chain(trees::names())
        .chain([COMPARISON, KILLS, FIGURES])
}

/// The cases of the level linux.
fn linux_names() -> impl Iterator<Item = &'static str> {
    linux::cases().into_iter().map(|case| case.name)
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
    let levels = options.levels()?;
    setup::run(tools)?;
    let start = Instant::now();
    let mut tallies = Vec::new();
    for level in levels {
        tallies.push(match level {
            Level::Host => host(tools, &options.names)?,
            Level::Payload => payload(tools, options)?,
            Level::Linux => linux(tools, &options.names)?,
            Level::All => continue,
        });
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
fn host(tools: &Tools, names: &[String]) -> Result<Tally> {
    println!("== host");
    let mut tally = Tally {
        level: "host",
        passed: 0,
        failed: 0,
        note: String::new(),
    };
    let chosen = |name: &str| chosen(name, names);
    if chosen("unit") {
        tally = cargo_test(&["test", "--workspace", "--no-fail-fast"])?;
    }
    if chosen("model") {
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
    }
    let mut tell = |name: &str, result: Result<String>| match result {
        Ok(note) => {
            println!("ok     {name}: {note}");
            tally.passed += 1;
        }
        Err(error) => {
            println!("FAILED {name}: {error:#}");
            tally.failed += 1;
        }
    };
    if chosen("pflash") {
        let agreed = pnor::agreement(tools);
        tell(
            "pflash and pnor-image",
            agreed.map(|count| format!("they agree on {count} partitions")),
        );
    }
    if chosen("fuzz")
        && let Err(error) = fuzz::run(&mut tell)
    {
        tell("fuzz", Err(error));
    }
    Ok(tally)
}

/// `cargo test`, shown as it comes.
fn cargo_test(arguments: &[&str]) -> Result<Tally> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(repository())
        .args(arguments)
        // The same inputs in every run, so that a change fails by what it changed. Who searches for more sets another one.
        .env(
            "PROPTEST_RNG_SEED",
            env::var("PROPTEST_RNG_SEED").unwrap_or_else(|_| "1".to_owned()),
        )
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

/// How much of the log of a failed case is shown: where only the output is kept, it is all there is.
const TAIL: usize = 40;

/// Returns the last lines of a log, set off from the lines about cases.
fn tail(log: &Path) -> String {
    match fs::read(log) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("     | {}: {error}\n", log.display()),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    let last = lines.get(from..).unwrap_or_default();
    // A console's carriage returns and escapes would move the cursor of whoever reads this.
    let plain = |line: &&str| -> String { line.chars().filter(|c| !c.is_control()).collect() };
    last.iter()
        .map(|line| format!("     | {}\n", plain(line)))
        .collect()
}

fn chosen(name: &str, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// The bare kernel on both firmwares.
const COMPARISON: &str = "opal-skiboot";
/// What it costs there.
const FIGURES: &str = "opal-figures";

/// QEMU killed while NVRAM is written.
const KILLS: &str = "nvram-kills";

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

fn payload(tools: &Tools, options: &Options) -> Result<Tally> {
    let names = &options.names;
    let limit = options.limit.map_or(payload::LIMIT, Duration::from_secs);
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
        let mut machine = payload::machine(&image, payload)?;
        // QEMU takes no command line for a kernel that it does not load.
        if !payload.from_flash {
            machine.append = format!("{} {}", machine.append, options.append);
        }
        let outcome = payload::run_within(limit, tools, payload.name, &machine)?;
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
                print!("{}", tail(&outcome.log));
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
    if chosen(KILLS) {
        let outcome = kills::run(tools, &image)?;
        let log = outcome.log.display().to_string();
        judged(
            &mut tally,
            KILLS,
            outcome.elapsed,
            &outcome.problems,
            &outcome.note(),
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
        let mut came = Vec::new();
        while let Some(case) = next() {
            came.push(attempt(tools, &case));
        }
        came
    };
    let came: Vec<Came> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_| vec![Came::Failed]))
            .collect()
    });
    let count = |which| came.iter().filter(|&&one| one == which).count();
    let late = count(Came::PassedLate);
    let note = match late {
        0 => String::new(),
        late => format!(", {late} needed a second try"),
    };
    Ok(Tally {
        level: "linux",
        passed: count(Came::Passed) + late,
        failed: count(Came::Failed),
        note,
    })
}

/// What came of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Passed,
    /// The time of its first try was up.
    PassedLate,
    Failed,
}

/// Runs one case, once more when its time was up, and tells what came of it.
fn attempt(tools: &Tools, case: &linux::Ready) -> Came {
    for good in [Came::Passed, Came::PassedLate] {
        match linux::run(tools, case) {
            Ok(outcome) => {
                let seconds = outcome.elapsed.as_secs_f64();
                let Some(problem) = outcome.problem else {
                    println!("ok     {:20} {seconds:6.1} s", case.name);
                    for line in &outcome.quoted {
                        println!("       {line}");
                    }
                    return good;
                };
                let again = good == Came::Passed && outcome.timed_out;
                // At once: another case runs at the same time.
                print!(
                    "FAILED {:20} {seconds:6.1} s  {problem}; log: {}\n{}{}",
                    case.name,
                    outcome.log.display(),
                    tail(&outcome.log),
                    if again {
                        format!("again  {}\n", case.name)
                    } else {
                        String::new()
                    },
                );
                if !again {
                    return Came::Failed;
                }
            }
            Err(error) => {
                println!("FAILED {:20} {error:#}", case.name);
                return Came::Failed;
            }
        }
    }
    Came::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn levels(line: &str) -> Result<Vec<Level>, String> {
        let line = Line::try_parse_from(format!("test {line}").split_whitespace());
        let line = line.map_err(|error| error.to_string())?;
        line.options.levels().map_err(|error| error.to_string())
    }

    #[test]
    fn names_choose_the_levels_that_have_them() {
        use Level::{Host, Linux, Payload};
        assert_eq!(levels(""), Ok(vec![Host, Payload, Linux]));
        assert_eq!(levels("host"), Ok(vec![Host]));
        assert_eq!(levels("all reload l1-race"), Ok(vec![Payload, Linux]));
        assert_eq!(levels("all tree-rainier"), Ok(vec![Payload]));
        assert_eq!(levels("linux reload"), Ok(vec![Linux]));
    }

    #[test]
    fn a_name_that_no_level_has_is_refused_with_one_that_is_near() {
        let error = levels("linux relaod").expect_err("misspelt");
        assert!(
            error.contains("similar") && error.contains("'reload'"),
            "{error}"
        );
        assert!(levels("payload reload").is_err());
        assert!(levels("host reload").is_err());
        assert!(levels("linux opal-figures").is_err());
    }

    #[test]
    fn the_last_lines_of_a_log_are_shown_without_what_moves_a_cursor() {
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let shown = last_lines(&many);
        assert_eq!(shown.lines().count(), TAIL);
        assert_eq!(shown.lines().next(), Some("     | line 60"));
        assert_eq!(last_lines("a\u{1b}[Kb\r\n"), "     | a[Kb\n");
        assert_eq!(last_lines(""), "");
    }
}
