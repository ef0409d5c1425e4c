//! The boots of Linux that `scripts/test linux` makes: a table, and how each row is judged.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::boot::{self, Choice, Mode};
use crate::console::{self, Step};
use crate::counters;
use crate::image::Image;
use crate::levels;
use crate::machine::Machine;
use crate::milestone::{self, End, Verdict, Watch};
use crate::runner::{self, Boot, Report};
use crate::setup::qemu;
use crate::tools::{Tools, target};
use crate::wrong::Wrong;

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

fn nested() -> Choice {
    Choice::new(Mode::Nested)
}

/// The kernel of the case with eight threads uses them all.
fn all_threads_are_online(lines: &[String]) -> Result<(), String> {
    let online = |line: &String| line.contains("NIDUS-L1-USERLAND") && line.contains(" cpus=8 ");
    if lines.iter().any(online) {
        Ok(())
    } else {
        Err("L1's userland does not see 8 processors".to_owned())
    }
}

/// The firmware's boot stages, as its own list has them and its own test compares.
const STAGES: &str = include_str!("../../tests/golden/boot-stages.txt");

/// The firmware logged each of its boot stages once, in the order of its list.
fn stages_in_their_order(lines: &[String]) -> Result<(), String> {
    let logged = |line: &String| {
        let (_, rest) = line.split_once(" stages] stage ")?;
        let (name, _) = rest.split_once(" done in ")?;
        Some(name.to_owned())
    };
    let found: Vec<String> = lines.iter().filter_map(logged).collect();
    if found.iter().map(String::as_str).eq(STAGES.lines()) {
        Ok(())
    } else {
        Err(format!("boot stages in the log: {}", found.join(" ")))
    }
}

fn opal() -> Choice {
    Choice::new(Mode::Opal)
}

/// All cases. The long ones come first, so that two at a time end at about the same time.
pub fn cases() -> Vec<Case> {
    let boot = |name, choice, checks| Case {
        name,
        work: Work::Boot(choice, checks),
    };
    let with = |append: &str| Choice {
        append: append.to_owned(),
        ..nested()
    };
    let stop = |name, wrong, line, how| Case {
        name,
        work: Work::Stop(wrong, line, how),
    };
    let power11 = |append: &str| Choice {
        machine: "powernv11".to_owned(),
        ..with(&format!("nidus_cpu=1 {append}"))
    };
    let counted = || vec![counters::come_and_go as Check];
    vec![
        boot(
            "two-l2s",
            Choice {
                l2: 2,
                append: "nidus_counters=1 nidus_cpu=1 nidus_l2_compat=power10,power9".to_owned(),
                ..nested()
            },
            vec![counters::come_and_go, |lines| {
                levels::agree(lines, "power10", &["power10", "power9"])
            }],
        ),
        boot(
            "p11-at-power11",
            Choice {
                l2: 3,
                ..power11("nidus_l2_compat=host,power10,power9")
            },
            vec![|lines| levels::agree(lines, "power11", &["power11", "power10", "power9"])],
        ),
        // Two that ask for Power11, one on purpose and one because QEMU reads the chip's version, do not disturb the
        // others.
        boot(
            "p11-at-power10",
            Choice {
                l2: 4,
                refused: vec![1, 2],
                ..power11("nidus.compat=power10 nidus_l2_compat=power11,host,power10,power9")
            },
            vec![|lines| {
                levels::agree(
                    lines,
                    "power10",
                    &["refused", "refused", "power10", "power9"],
                )
            }],
        ),
        boot(
            "p11-at-power10-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                ..power11("nidus.compat=power10")
            },
            vec![|lines| levels::agree(lines, "power10", &["power10"])],
        ),
        boot(
            "reload",
            Choice {
                rounds: 2,
                append: "nidus_counters=1".to_owned(),
                ..nested()
            },
            counted(),
        ),
        boot(
            "l2-2g",
            Choice {
                l2_memory: 2048,
                ..nested()
            },
            vec![],
        ),
        boot(
            "nested-smp",
            Choice {
                smp: "4".to_owned(),
                l2_smp: 2,
                ..nested()
            },
            vec![],
        ),
        boot("nested-7.2", nested(), vec![]),
        boot(
            "nested-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                ..nested()
            },
            vec![],
        ),
        boot(
            "nested-7.2-64k",
            Choice {
                kernel: "7.2-64k".to_owned(),
                ..nested()
            },
            vec![],
        ),
        boot(
            "counters",
            with("nidus_counters=1 transparent_hugepage=never"),
            vec![counters::come_and_go, counters::many_small_leaves],
        ),
        boot(
            "hugetlb",
            with("nidus_counters=1 nidus_l2_huge=1"),
            vec![counters::come_and_go, counters::large_leaves_only],
        ),
        boot(
            "p10-at-power9",
            Choice {
                append: "nidus.compat=power9 nidus_cpu=1".to_owned(),
                ..nested()
            },
            vec![|lines| levels::agree(lines, "power9", &["power9"])],
        ),
        boot(
            "papr-7.2",
            Choice::new(Mode::Papr),
            vec![stages_in_their_order],
        ),
        boot(
            "papr-smp8",
            Choice {
                smp: "8,cores=2,threads=4".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![all_threads_are_online],
        ),
        boot(
            "papr-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![],
        ),
        boot(
            "papr-powernv11",
            Choice {
                machine: "powernv11".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![],
        ),
        boot(
            "nested-powernv11",
            Choice {
                machine: "powernv11".to_owned(),
                ..nested()
            },
            vec![],
        ),
        boot("opal-7.2", opal(), vec![]),
        boot(
            "opal-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                ..opal()
            },
            vec![],
        ),
        boot(
            "opal-7.2-64k",
            Choice {
                kernel: "7.2-64k".to_owned(),
                memory: "1G".to_owned(),
                ..opal()
            },
            vec![],
        ),
        boot(
            "opal-smp8",
            Choice {
                smp: "8,cores=2,threads=4".to_owned(),
                ..opal()
            },
            vec![all_threads_are_online],
        ),
        boot(
            "opal-two-chips",
            Choice {
                machine: "powernv11".to_owned(),
                smp: "8,sockets=2,cores=1,threads=4".to_owned(),
                ..opal()
            },
            vec![all_threads_are_online],
        ),
        boot(
            "opal-big-core",
            Choice {
                machine: "powernv11,big-core=on".to_owned(),
                smp: "8,cores=1,threads=8".to_owned(),
                ..opal()
            },
            vec![all_threads_are_online],
        ),
        Case {
            name: "opal-reboot",
            work: Work::Shell(
                "opal --shell --memory 2G --smp 2",
                vec![
                    Step {
                        expect: "NIDUS-L1-USERLAND",
                        send: "",
                    },
                    Step {
                        expect: "# ",
                        send: "echo typed-$((6 * 7))\n",
                    },
                    Step {
                        expect: "typed-42",
                        send: "reboot -f\n",
                    },
                    Step {
                        expect: "stop] reboot",
                        send: "",
                    },
                    Step {
                        expect: "INIT: Starting kernel at 0x",
                        send: "",
                    },
                    Step {
                        expect: "NIDUS-L1-USERLAND",
                        send: "",
                    },
                    Step {
                        expect: "# ",
                        send: "exit\n",
                    },
                    Step {
                        expect: "NIDUS-L1-OFF",
                        send: "",
                    },
                ],
            ),
        },
        Case {
            name: "shell",
            work: Work::Shell(
                "papr --shell --memory 2G",
                vec![
                    Step {
                        expect: "NIDUS-L1-USERLAND",
                        send: "",
                    },
                    Step {
                        expect: "# ",
                        send: "echo typed-$((6 * 7))\n",
                    },
                    Step {
                        expect: "typed-42",
                        send: "echo start-$((1 + 1)); sleep 1000\n",
                    },
                    Step {
                        expect: "start-2",
                        send: "\u{3}",
                    },
                    Step {
                        expect: "^C",
                        send: "echo after-$((40 + 2))\n",
                    },
                    Step {
                        expect: "after-42",
                        send: "exit\n",
                    },
                    Step {
                        expect: "NIDUS-L1-OFF",
                        send: "",
                    },
                ],
            ),
        },
        Case {
            name: "reboot",
            work: Work::Shell(
                "papr --shell --memory 2G --smp 2",
                vec![
                    Step {
                        expect: "NIDUS-L1-USERLAND",
                        send: "",
                    },
                    Step {
                        expect: "# ",
                        send: "reboot -f\n",
                    },
                    Step {
                        expect: "stop] reboot",
                        send: "",
                    },
                    Step {
                        expect: "INIT: Starting kernel at 0x",
                        send: "",
                    },
                    Step {
                        expect: "NIDUS-L1-USERLAND",
                        send: "",
                    },
                    Step {
                        expect: "# ",
                        send: "exit\n",
                    },
                    Step {
                        expect: "NIDUS-L1-OFF",
                        send: "",
                    },
                ],
            ),
        },
        stop(
            "no-kernel",
            Wrong::NoKernel,
            "boot stopped at stage payload: no kernel: nothing",
            Stop::PowerOff,
        ),
        stop(
            "not-an-elf",
            Wrong::NotElf,
            "boot stopped at stage payload: no kernel: found bytes that are no ELF file",
            Stop::PowerOff,
        ),
        stop(
            "big-endian",
            Wrong::BigEndian,
            "boot stopped at stage payload: no kernel: found a big-endian ELF file",
            Stop::PowerOff,
        ),
        stop(
            "small-memory",
            Wrong::SmallMemory,
            "give the machine more memory",
            Stop::PowerOff,
        ),
        stop(
            "unknown-machine",
            Wrong::UnknownMachine,
            "boot stopped at stage tree: unknown machine",
            Stop::PowerOff,
        ),
        stop(
            "broken-tree",
            Wrong::BrokenTree,
            "boot stopped at stage tree: the device tree at ",
            Stop::PowerOff,
        ),
        stop(
            "initrd-outside",
            Wrong::InitrdOutside,
            "boot stopped at stage payload: the initrd at ",
            Stop::PowerOff,
        ),
        stop(
            "initrd-overlaps",
            Wrong::InitrdOverlaps,
            "boot stopped at stage payload: the kernel ends at ",
            Stop::PowerOff,
        ),
        stop(
            "no-bmc",
            Wrong::NoBmc,
            "the machine stays stopped here",
            Stop::Stays,
        ),
    ]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_out_of_order_is_noticed() {
        let log = |names: &[&str]| -> Vec<String> {
            let line = |name: &&str| format!("[    0.1 0000 stages] stage {name} done in 0.1 ms");
            names.iter().map(line).collect()
        };
        let all: Vec<&str> = STAGES.lines().collect();
        assert_eq!(stages_in_their_order(&log(&all)), Ok(()));
        let mut swapped = all.clone();
        swapped.swap(1, 2);
        assert!(stages_in_their_order(&log(&swapped)).is_err());
        assert!(stages_in_their_order(&log(&all[1..])).is_err());
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
