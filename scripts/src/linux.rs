//! The boots of Linux that `scripts/test linux` makes: a table, and how each row is judged.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::boot::{Check, Choice, forbidden};
use crate::console::{self, Step};
use crate::forms::Form;
use crate::image::Image;
use crate::machine::Machine;
use crate::milestone::{self, Verdict, Watch};
use crate::runner::{self, Boot, Report};
use crate::setup::qemu;
use crate::tools::{Tools, target};
use crate::wrong::Wrong;

mod cases;
mod devices;
mod flash;
mod kvm_hosts;
mod life;
mod mtd;
mod opal;
mod payload_forms;
mod warnings;

pub use cases::cases;

/// For two boots in a row, each of which may start guests.
const LONG: Duration = Duration::from_secs(600);

/// What is done for one case.
enum Work {
    /// All milestones of a boot, then the checks.
    Boot(Choice, Vec<Check>),
    /// All milestones of a boot, and of the same one on skiboot: the kernel has nothing more to warn of.
    LikeSkiboot(Choice),
    /// Two boots with the same flash: the kernel owns the machine, then it is a partition because NVRAM says so.
    Flash,
    /// A boot whose kernel reads, erases and writes the flash.
    FlashCalls,
    /// A kernel in the flash, on this machine: it owns the machine, sets the mode in NVRAM, reboots, and is a partition.
    FromFlash(&'static str),
    /// A conversation on a terminal, with the arguments of `scripts/run`.
    Shell(&'static str, Vec<Step>),
    /// A machine with something wrong: it has to say this in one line, and stop in this way.
    Stop(Wrong, &'static str, Stop),
    /// A kernel in this form, in OPAL mode: these lines in this order, and a stop in this way.
    Form(Form, &'static [(&'static str, &'static str)], Stop),
}

/// How a machine stops that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Through the BMC, so that QEMU ends by itself.
    PowerOff,
    /// It stays where it is, for a person or a service processor to look at: QEMU plays the latter, and ends.
    Stays,
}

impl Stop {
    /// What QEMU says when the firmware calls the service processor. It comes on a stream of its own, so its place among the
    /// lines is not known.
    const ATTENTION: &str = "host executed attn";

    /// Milestones, and the stop: this one and not the other.
    fn watch(self, lines: &[(&str, &str)], mut forbidden: Vec<String>) -> Watch {
        let quotes: &[&str] = match self {
            Self::PowerOff => {
                forbidden.push(Self::ATTENTION.to_owned());
                &[]
            }
            Self::Stays => &[Self::ATTENTION],
        };
        Watch::new(milestone::in_order(lines), forbidden).quoting(quotes)
    }
}

/// A named case.
pub struct Case {
    /// The name on the command line.
    pub name: &'static str,
    work: Work,
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// None if it passed.
    pub problem: Option<String>,
    /// The only outcome that is worth another try.
    pub timed_out: bool,
    /// The lines that the case was to show.
    pub quoted: Vec<String>,
    /// What it took.
    pub elapsed: Duration,
    /// Where to look.
    pub log: PathBuf,
}

/// A case with all its files made, ready to start.
pub struct Ready {
    /// The name on the command line.
    pub name: &'static str,
    work: ReadyWork,
}

enum ReadyWork {
    Boot(Box<ReadyBoot>),
    LikeSkiboot(Box<ReadyBoot>),
    Flash(PathBuf, Box<[ReadyBoot; 2]>),
    FlashCalls(PathBuf, Box<ReadyBoot>),
    Shell(String, Vec<Step>),
}

struct ReadyBoot {
    machine: Machine,
    watch: Watch,
    limit: Duration,
    checks: Vec<Check>,
}

/// Makes the files of a case. One at a time: several cases share them.
pub fn prepare(tools: &Tools, image: &Image, case: Case) -> Result<Ready> {
    let name = case.name;
    let work = match case.work {
        Work::Boot(choice, mut checks) => {
            checks.extend(choice.checks());
            ReadyWork::Boot(Box::new(ready(tools, image, &choice, checks)?))
        }
        Work::LikeSkiboot(choice) => {
            ReadyWork::LikeSkiboot(Box::new(ready(tools, image, &choice, vec![])?))
        }
        Work::Flash => {
            let path = flash::make()?;
            let [opal, papr] = flash::choices(&path);
            let mut second = ready(tools, image, &papr, vec![])?;
            second.machine = flash::without_mode(second.machine);
            let both = [ready(tools, image, &opal, vec![])?, second];
            ReadyWork::Flash(path, Box::new(both))
        }
        Work::FlashCalls => {
            let path = mtd::make()?;
            let ready = ready(tools, image, &mtd::choice(&path), vec![])?;
            ReadyWork::FlashCalls(path, Box::new(ready))
        }
        Work::FromFlash(machine) => {
            ReadyWork::Boot(Box::new(flash::from_flash(tools, image, machine)?))
        }
        Work::Shell(arguments, steps) => {
            let program = std::env::current_exe()?;
            ReadyWork::Shell(format!("'{}' run {arguments}", program.display()), steps)
        }
        Work::Stop(wrong, line, stop) => {
            let machine = wrong.machine(tools, image)?;
            short(machine, &[("the reason", line)], stop)?
        }
        Work::Form(form, lines, stop) => short(form.machine(image)?, lines, stop)?,
    };
    Ok(Ready { name, work })
}

/// A boot that ends in the firmware, or soon after.
fn short(machine: Machine, lines: &[(&str, &str)], stop: Stop) -> Result<ReadyWork> {
    Ok(ReadyWork::Boot(Box::new(ReadyBoot {
        machine,
        watch: stop.watch(lines, forbidden()?),
        // Seconds on an idle machine.
        limit: Duration::from_secs(180),
        checks: vec![],
    })))
}

fn ready(tools: &Tools, image: &Image, choice: &Choice, checks: Vec<Check>) -> Result<ReadyBoot> {
    Ok(ReadyBoot {
        machine: choice.machine(tools, image)?,
        watch: choice.watch()?,
        limit: choice.limit(),
        checks,
    })
}

/// Runs a case.
pub fn run(tools: &Tools, case: &Ready) -> Result<Outcome> {
    match &case.work {
        ReadyWork::Boot(ready) => {
            let report = boot(
                tools,
                &format!("linux-{}", case.name),
                ready,
                &ready.machine,
            )?;
            Ok(judge(&report, &ready.checks))
        }
        ReadyWork::LikeSkiboot(ready) => {
            let name = format!("linux-{}", case.name);
            let nidus = boot(tools, &name, ready, &ready.machine)?;
            let outcome = judge(&nidus, &[]);
            if outcome.problem.is_some() {
                return Ok(outcome);
            }
            let machine = Machine {
                bios: None,
                ..ready.machine.clone()
            };
            let skiboot = boot(tools, &format!("{name}-skiboot"), ready, &machine)?;
            let reference = judge(&skiboot, &[]);
            let (problem, log) = match reference.problem {
                Some(problem) => (Some(format!("skiboot: {problem}")), reference.log),
                None => (
                    warnings::compare(&nidus.lines, &skiboot.lines).err(),
                    outcome.log,
                ),
            };
            Ok(Outcome {
                problem,
                quoted: vec![],
                timed_out: reference.timed_out,
                elapsed: outcome.elapsed + reference.elapsed,
                log,
            })
        }
        ReadyWork::Flash(path, boots) => {
            let mut all: Option<Outcome> = None;
            for (ready, mode) in boots.iter().zip(["opal", "papr"]) {
                let name = format!("linux-{}-{mode}", case.name);
                let report = boot(tools, &name, ready, &ready.machine)?;
                let mut outcome = judge(&report, &[]);
                if outcome.problem.is_none() {
                    outcome.problem = flash::problem(path)?;
                }
                outcome.elapsed += all.map_or(Duration::ZERO, |before| before.elapsed);
                let failed = outcome.problem.is_some();
                all = Some(outcome);
                if failed {
                    break;
                }
            }
            all.ok_or_else(|| anyhow::anyhow!("no boot"))
        }
        ReadyWork::FlashCalls(path, ready) => {
            let name = format!("linux-{}", case.name);
            let report = boot(tools, &name, ready, &ready.machine)?;
            let mut outcome = judge(&report, &[]);
            if outcome.problem.is_none() {
                outcome.problem = mtd::problem(path, &report.lines)?;
            }
            Ok(outcome)
        }
        ReadyWork::Shell(line, steps) => {
            let start = std::time::Instant::now();
            let log = target()
                .join("logs")
                .join(format!("linux-{}.log", case.name));
            fs::create_dir_all(target().join("logs"))?;
            let talk = console::converse(line, steps, forbidden()?, LONG)?;
            fs::write(&log, talk.shown)?;
            Ok(Outcome {
                problem: talk.problem,
                quoted: vec![],
                timed_out: talk.timed_out,
                elapsed: start.elapsed(),
                log,
            })
        }
    }
}

fn boot(tools: &Tools, name: &str, ready: &ReadyBoot, machine: &Machine) -> Result<Report> {
    let boot = Boot {
        name,
        machine,
        watch: ready.watch.clone(),
        limit: ready.limit,
        echo: false,
        typing: None,
    };
    runner::run(&qemu::program(tools), boot)
}

fn judge(report: &Report, checks: &[Check]) -> Outcome {
    let problem = match &report.verdict {
        Verdict::Passed => checks.iter().find_map(|check| check(&report.lines).err()),
        Verdict::Failed(reason) | Verdict::TimedOut(reason) => Some(reason.clone()),
    };
    let timed_out = problem.is_some() && matches!(report.verdict, Verdict::TimedOut(_));
    Outcome {
        problem,
        quoted: report.watch.quoted().map(str::to_owned).collect(),
        timed_out,
        elapsed: report.elapsed,
        log: report.log.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milestone::End;

    #[test]
    fn each_stop_is_told_from_the_other_and_from_a_hang() {
        let verdict = |stop: Stop, lines: &[&str], end| {
            let mut watch = stop.watch(&[("reason", "why")], vec![]);
            for line in lines {
                watch.line(Duration::ZERO, line);
            }
            watch.verdict(end)
        };
        let attention = "Entering checkstop state: host executed attn";
        let off = End::Exited(0);
        assert_eq!(verdict(Stop::PowerOff, &["why"], off), Verdict::Passed);
        assert_ne!(
            verdict(Stop::PowerOff, &["why", attention], off),
            Verdict::Passed
        );
        // The two streams of QEMU have no order.
        for lines in [["why", attention], [attention, "why"]] {
            assert_eq!(verdict(Stop::Stays, &lines, off), Verdict::Passed);
            assert_ne!(verdict(Stop::Stays, &lines, End::TimedOut), Verdict::Passed);
        }
        assert_ne!(verdict(Stop::Stays, &["why"], off), Verdict::Passed);
        assert_ne!(
            verdict(Stop::Stays, &["why"], End::TimedOut),
            Verdict::Passed
        );
    }
}
