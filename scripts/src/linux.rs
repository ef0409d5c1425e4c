//! The boots of Linux that `scripts/test linux` makes: a table, and how each row is judged.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::boot::{self, Choice};
use crate::console::{self, Step};
use crate::image::Image;
use crate::machine::Machine;
use crate::milestone::{self, End, Verdict, Watch};
use crate::runner::{self, Boot, Report};
use crate::setup::qemu;
use crate::tools::{Tools, target};
use crate::wrong::Wrong;

mod cases;

pub use cases::cases;

/// A statement about the lines of a console.
type Check = fn(&[String]) -> Result<(), String>;

/// What is done for one case.
enum Work {
    /// All milestones of a boot, then the checks.
    Boot(Choice, Vec<Check>),
    /// A conversation on a terminal, with the arguments of `scripts/run`.
    Shell(&'static str, Vec<Step>),
    /// A machine with something wrong: it has to say this in one line, and stop in this way.
    Stop(Wrong, &'static str, Stop),
}

/// How a machine stops that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Through the BMC, so that QEMU ends by itself.
    PowerOff,
    /// It stays where it is, for a person or a service processor to look at.
    Stays,
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
    Shell(String, Vec<Step>),
}

struct ReadyBoot {
    machine: Machine,
    watch: Watch,
    limit: Duration,
    checks: Vec<Check>,
    stop: Stop,
}

/// Makes the files of a case. One at a time: several cases share them.
pub fn prepare(tools: &Tools, image: &Image, case: Case) -> Result<Ready> {
    let name = case.name;
    let work = match case.work {
        Work::Boot(choice, checks) => ReadyWork::Boot(Box::new(ReadyBoot {
            machine: choice.machine(tools, image)?,
            watch: choice.watch()?,
            limit: choice.limit(),
            checks,
            stop: Stop::PowerOff,
        })),
        Work::Shell(arguments, steps) => {
            let program = std::env::current_exe()?;
            ReadyWork::Shell(format!("'{}' run {arguments}", program.display()), steps)
        }
        Work::Stop(wrong, line, stop) => ReadyWork::Boot(Box::new(ReadyBoot {
            machine: wrong.machine(tools, image)?,
            watch: Watch::new(
                milestone::in_order(&[("the reason", line)]),
                boot::forbidden()?,
            ),
            limit: Duration::from_secs(60),
            checks: vec![],
            stop,
        })),
    };
    Ok(Ready { name, work })
}

/// Runs a case.
pub fn run(tools: &Tools, case: &Ready) -> Result<Outcome> {
    match &case.work {
        ReadyWork::Boot(ready) => {
            let name = format!("linux-{}", case.name);
            let boot = Boot {
                name: &name,
                machine: &ready.machine,
                watch: ready.watch.clone(),
                limit: ready.limit,
                echo: false,
            };
            let report = runner::run(&qemu::program(tools), boot)?;
            Ok(judge(&report, &ready.checks, ready.stop))
        }
        ReadyWork::Shell(line, steps) => {
            let start = std::time::Instant::now();
            let log = target()
                .join("logs")
                .join(format!("linux-{}.log", case.name));
            fs::create_dir_all(target().join("logs"))?;
            let result = console::converse(line, steps, Duration::from_secs(240));
            let (text, problem) = match result {
                Ok(text) => (text, None),
                Err(error) => {
                    let text = format!("{error:#}");
                    let first = text.lines().next().unwrap_or_default().to_owned();
                    (text, Some(first))
                }
            };
            fs::write(&log, text)?;
            let timed_out = problem
                .as_ref()
                .is_some_and(|problem| problem.starts_with("time was up"));
            Ok(Outcome {
                problem,
                timed_out,
                elapsed: start.elapsed(),
                log,
            })
        }
    }
}

fn judge(report: &Report, checks: &[Check], stop: Stop) -> Outcome {
    let reached = report
        .watch
        .milestones()
        .iter()
        .all(|(_, reached)| reached.is_some());
    let stays = stop == Stop::Stays && reached && report.watch.forbidden_line().is_none();
    let problem = match &report.verdict {
        // Whether QEMU ends at an attention or leaves the machine to a debugger is QEMU's choice.
        _ if stays && matches!(report.end, End::TimedOut | End::Exited(_)) => None,
        Verdict::Passed => checks.iter().find_map(|check| check(&report.lines).err()),
        Verdict::Failed(reason) | Verdict::TimedOut(reason) => Some(reason.clone()),
    };
    let timed_out = problem.is_some() && matches!(report.verdict, Verdict::TimedOut(_));
    Outcome {
        problem,
        timed_out,
        elapsed: report.elapsed,
        log: report.log.clone(),
    }
}
