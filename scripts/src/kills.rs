//! NVRAM that survives: QEMU is killed at random moments of a program that writes NVRAM without end (group `nvram` of
//! `tests/payload/opal`), on one and the same image of the flash.
//!
//! After each kill the file is looked at as boot will look at it, and the next start has to find the same. The surprise: on
//! QEMU every store of the firmware reaches the file at once, so most kills leave a journal or a change half written.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pnor_image::nvram;
use pnor_image::nvram::journal::{self, Blocks, Recovered};
use pnor_image::tool::build;
use pnor_image::tool::image::{Image as Flash, write_whole};
use pnor_image::tool::layout::{self, Layout};

use crate::cases::Cases;
use crate::image::Image;
use crate::machine::{Clock, Console, Machine};
use crate::payload;
use crate::runner::{Running, send_lines};
use crate::setup::qemu;
use crate::tools::{Tools, target};

/// Kills in a normal run; `NIDUS_KILLS` says another number.
const KILLS: usize = 20;
/// Where the program writes in NVRAM: `AREA` and `WORDS` there.
const AREA: Range<usize> = 0x1c00..0x3400;
/// Bytes of an erase block of QEMU's flash.
const BLOCK: u64 = 0x1000;
/// For a line of the program to come; a machine that others use as well may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of the kills.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many.
    kills: usize,
    /// After how many of them a journal was whole, so that boot had to finish the write.
    finished: usize,
    /// The last generation that was found.
    generation: u64,
    /// What is wrong.
    pub problems: Vec<String>,
    /// From start to end.
    pub elapsed: Duration,
    /// The last console.
    pub log: PathBuf,
}

impl Outcome {
    /// For a person.
    pub fn note(&self) -> String {
        format!(
            "{} kills, {} of them between journal and end of a write; generation {}",
            self.kills, self.finished, self.generation
        )
    }
}

/// Kills a machine again and again.
pub fn run(tools: &Tools, image: &Image) -> Result<Outcome> {
    let wanted = match std::env::var("NIDUS_KILLS") {
        Ok(text) => text.parse().context("NIDUS_KILLS is no number")?,
        Err(_) => KILLS,
    };
    let start = Instant::now();
    let mut outcome = Outcome {
        log: target().join("logs").join("payload-nvram-kills.log"),
        ..Outcome::default()
    };
    fs::create_dir_all(target().join("logs"))?;
    let path = target().join("nvram-kills.pnor");
    let layout = Layout::parse(&layout::text_of("qemu")?)?;
    let fresh = build::image(&layout, &[])?;
    write_whole(&path, &fresh)?;
    let program = payload::opal_group("nvram-kills", "powernv10", "group=nvram", Clock::Wall);
    let machine = Machine {
        memory: "2G".to_owned(),
        extra: vec![
            "-drive".to_owned(),
            format!("file={},if=mtd,format=raw", path.display()),
        ],
        ..payload::machine(image, &program)?
    };
    // How long a write takes is not known before the first one is done.
    let mut longest = None;
    let mut expected = 0;
    while outcome.kills < wanted && outcome.problems.is_empty() {
        let boot = cut_off(tools, &machine, longest)?;
        fs::write(&outcome.log, boot.lines.join("\n"))?;
        longest = longest.or(boot.a_write);
        outcome.kills += 1;
        match judge(&fresh, &fs::read(&path)?, &boot, expected) {
            Ok((generation, recovered)) => {
                expected = generation;
                outcome.generation = generation;
                outcome.finished += usize::from(recovered == Recovered::Finished);
            }
            Err(problem) => {
                let kept = path.with_extension("failed");
                fs::copy(&path, &kept)?;
                outcome.problems.push(format!(
                    "kill {}: {problem:#}; the flash is kept as {}",
                    outcome.kills,
                    kept.display()
                ));
            }
        }
    }
    outcome.elapsed = start.elapsed();
    Ok(outcome)
}

/// A boot that was cut off.
struct Boot {
    lines: Vec<String>,
    /// How long the first write took, if it was waited for.
    a_write: Option<Duration>,
}

impl Boot {
    /// The numbers of generations in lines of this form.
    fn generations(&self, before: &str, after: &str) -> impl Iterator<Item = u64> {
        self.lines.iter().filter_map(move |line| {
            let (_, rest) = line.split_once(before)?;
            rest.strip_suffix(after)?.parse().ok()
        })
    }
}

const FOUND: &str = "nvram: found generation ";

/// Starts the machine, and kills it at a random moment of its first writes, or, if it is not known how long they take, of
/// its second one.
fn cut_off(tools: &Tools, machine: &Machine, longest: Option<Duration>) -> Result<Boot> {
    let mut running = Running(
        Command::new(qemu::program(tools))
            .args(machine.arguments(Console::Captured))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("QEMU cannot be started")?,
    );
    let (sender, lines) = mpsc::channel();
    let output = running.0.stdout.take().context("no output")?;
    let errors = running.0.stderr.take().context("no errors")?;
    for stream in [
        Box::new(output) as Box<dyn std::io::Read + Send>,
        Box::new(errors),
    ] {
        let sender = sender.clone();
        thread::spawn(move || send_lines(stream, &sender));
    }
    drop(sender);
    let mut boot = Boot {
        lines: Vec::new(),
        a_write: None,
    };
    boot.wait_for(&lines, FOUND)?;
    let start = Instant::now();
    let most = match longest {
        Some(longest) => 2 * longest,
        None => {
            boot.wait_for(&lines, "is written")?;
            boot.a_write = Some(start.elapsed());
            start.elapsed()
        }
    };
    let moment = Instant::now() + most.mul_f64(random());
    loop {
        match lines.recv_timeout(moment.saturating_duration_since(Instant::now())) {
            Ok(line) => boot.lines.push(line),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                bail!(
                    "the machine has ended by itself:\n{}",
                    boot.lines.join("\n")
                )
            }
        }
    }
    // SIGKILL, and all that came out before.
    running.0.kill()?;
    running.0.wait()?;
    boot.lines.extend(lines.iter());
    Ok(boot)
}

impl Boot {
    fn wait_for(&mut self, lines: &Receiver<String>, text: &str) -> Result<()> {
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let is_it = line.contains(text);
                    self.lines.push(line);
                    if is_it {
                        return Ok(());
                    }
                }
                Err(_) => bail!("no \"{text}\" came:\n{}", self.lines.join("\n")),
            }
        }
    }
}

/// Between 0 and 1.
fn random() -> f64 {
    // The keys of a hasher are random.
    f64::from(u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0))
        / f64::from(u32::MAX)
}

/// What boot will find in a flash: its generation. `expected` is what the boot before this kill had to find.
fn judge(fresh: &[u8], left: &[u8], boot: &Boot, expected: u64) -> Result<(u64, Recovered)> {
    if let Some(line) = Cases::read(&boot.lines).failed.first() {
        bail!("{line}");
    }
    let found: Vec<u64> = boot.generations(FOUND, "").collect();
    ensure!(
        found == [expected],
        "boot found generation {found:?}, not {expected}"
    );
    let written = boot.generations("nvram: generation ", " is written");
    let last = written.last().unwrap_or(expected);

    let flash = Flash::new(fresh.to_vec())?;
    let entry = flash.entry("NVRAM")?;
    let (at, length) = flash.found.table.extent(&entry);
    let place = usize::try_from(at)?..usize::try_from(at + length)?;
    ensure!(
        left.len() == fresh.len()
            && left.get(..place.start) == fresh.get(..place.start)
            && left.get(place.end..) == fresh.get(place.end..),
        "something else than NVRAM has changed"
    );
    let before = fresh.get(place.clone()).context("NVRAM is outside")?;
    let mut now = left.get(place).context("NVRAM is outside")?.to_vec();
    let recovered = journal::recover(&mut now, &Blocks::new(at, BLOCK, before.len()))?;
    ensure!(recovered != Recovered::Dropped, "the journal was dropped");
    nvram::check(&now).map_err(|damage| anyhow::anyhow!("NVRAM: {damage}"))?;
    let words = now.get(AREA).context("NVRAM is small")?;
    let (first, _) = words.split_first_chunk().context("no words")?;
    ensure!(
        words.chunks(8).all(|word| word == first),
        "neither the old nor the new NVRAM: {:x?}",
        words.chunks(8).collect::<std::collections::BTreeSet<_>>()
    );
    let generation = u64::from_be_bytes(*first);
    ensure!(
        (last..=last + 1).contains(&generation),
        "generation {generation} is left, but {last} was written"
    );
    let spare = journal::spare(&now).start;
    ensure!(
        now.get(..AREA.start) == before.get(..AREA.start)
            && now.get(AREA.end..spare) == before.get(AREA.end..spare),
        "something else in NVRAM has changed"
    );
    Ok((generation, recovered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash() -> Vec<u8> {
        let layout = Layout::parse(&layout::text_of("qemu").expect("there")).expect("good");
        build::image(&layout, &[]).expect("fits")
    }

    fn boot(lines: &[&str]) -> Boot {
        Boot {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            a_write: None,
        }
    }

    /// NVRAM begins there in the layout.
    const NVRAM: usize = 0x8000;

    fn with_generation(fresh: &[u8], generation: u64) -> Vec<u8> {
        let mut left = fresh.to_vec();
        for word in left[NVRAM + AREA.start..NVRAM + AREA.end].chunks_mut(8) {
            word.copy_from_slice(&generation.to_be_bytes());
        }
        left
    }

    #[test]
    fn the_old_and_the_new_are_good_and_nothing_else_is() {
        let fresh = flash();
        let lines = [
            "nvram: found generation 3",
            "nvram: generation 4 is written",
        ];
        let judged = |left: &[u8], expected| judge(&fresh, left, &boot(&lines), expected);
        for generation in [4, 5] {
            let left = with_generation(&fresh, generation);
            let good = judged(&left, 3).expect("good");
            assert_eq!(good, (generation, Recovered::Nothing));
        }
        let mixed = {
            let mut left = with_generation(&fresh, 5);
            left[NVRAM + AREA.end - 1] = 4;
            left
        };
        let damaged = |at: usize| {
            let mut left = with_generation(&fresh, 4);
            left[at] ^= 0x80;
            left
        };
        for (left, expected, text) in [
            (with_generation(&fresh, 3), 3, "generation 3 is left"),
            (with_generation(&fresh, 6), 3, "generation 6 is left"),
            (with_generation(&fresh, 4), 2, "boot found generation [3]"),
            (mixed, 3, "neither the old nor the new"),
            (damaged(NVRAM + AREA.end), 3, "something else in NVRAM"),
            (damaged(NVRAM), 3, "NVRAM: "),
            (damaged(0x40), 3, "something else than NVRAM"),
        ] {
            let problem = judged(&left, expected).expect_err("wrong").to_string();
            assert!(problem.starts_with(text), "{problem}");
        }
    }
}
