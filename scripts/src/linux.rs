//! The boots of Linux that `scripts/test linux` makes: a table, and how each row is judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::boot::{self, Choice, Mode};
use crate::command;
use crate::console::{self, Step};
use crate::counters;
use crate::image::Image;
use crate::machine::{Console, Machine};
use crate::milestone::{self, End, Verdict, Watch};
use crate::runner::{self, Boot, Report};
use crate::setup::qemu;
use crate::tools::{Tools, target};

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

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    NoKernel,
    NotElf,
    BigEndian,
    SmallMemory,
    UnknownMachine,
    BrokenTree,
    InitrdOutside,
    InitrdOverlaps,
    NoBmc,
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
    let counted = || vec![counters::come_and_go as Check];
    vec![
        boot(
            "two-l2s",
            Choice {
                l2: 2,
                append: "nidus_counters=1".to_owned(),
                ..nested()
            },
            counted(),
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
        boot("papr-7.2", Choice::new(Mode::Papr), vec![]),
        boot(
            "papr-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![],
        ),
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

impl Wrong {
    fn machine(self, tools: &Tools, image: &Image) -> Result<Machine> {
        let good = Choice {
            memory: "2G".to_owned(),
            ..Choice::new(Mode::Papr)
        }
        .machine(tools, image)?;
        let place = target().join("wrong");
        fs::create_dir_all(&place)?;
        Ok(match self {
            // Without a kernel QEMU takes no command line, but a tree keeps one.
            Self::NoKernel => {
                let machine = with_tree(tools, good, &place.join("same.dtb"), &|_| 1)?;
                Machine {
                    kernel: None,
                    initrd: None,
                    ..machine
                }
            }
            Self::NotElf => {
                let file = place.join("text");
                fs::write(&file, "This is not a kernel.\n".repeat(1000))?;
                Machine {
                    kernel: Some(file),
                    ..good
                }
            }
            Self::BigEndian => {
                let file = place.join("big-endian");
                let kernel = good.kernel.clone().context("a kernel")?;
                fs::write(&file, big_endian(&fs::read(kernel)?)?)?;
                Machine {
                    kernel: Some(file),
                    ..good
                }
            }
            Self::SmallMemory => Machine {
                memory: "1G".to_owned(),
                ..good
            },
            Self::UnknownMachine => with_tree(tools, good, &place.join("unknown.dtb"), &|tree| {
                replace_all(tree, b"ibm,powernv\0", b"ibm,unknown\0")
            })?,
            Self::BrokenTree => with_tree(tools, good, &place.join("broken.dtb"), &|tree| {
                // QEMU checks the header and the length only. A token that does not exist ends the first node.
                let start = tree
                    .get(8..12)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map_or(0, u32::from_be_bytes);
                let token = usize::try_from(start).unwrap_or(0) + 8;
                tree.get_mut(token..token + 4).map_or(0, |bytes| {
                    bytes.copy_from_slice(&[0, 0, 0, 0x77]);
                    1
                })
            })?,
            Self::InitrdOutside => with_tree(tools, good, &place.join("outside.dtb"), &|tree| {
                set_cell(tree, b"linux,initrd-end\0", 0xfff0_0000)
            })?,
            Self::InitrdOverlaps => with_tree(tools, good, &place.join("overlaps.dtb"), &|tree| {
                set_cell(tree, b"linux,initrd-start\0", 0x2000_1000)
            })?,
            Self::NoBmc => Machine {
                extra: vec!["-nodefaults".to_owned()],
                ..good
            },
        })
    }
}

/// Marks a little-endian ELF file as big-endian and swaps its machine and type fields, which is all that is looked at
/// before the byte order decides.
fn big_endian(kernel: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = kernel
        .get(..0x1000)
        .context("a kernel of more than a page")?
        .to_vec();
    bytes[5] = 2;
    for position in [16, 18] {
        bytes.swap(position, position + 1);
    }
    Ok(bytes)
}

/// Lets QEMU write the tree of a machine, changes it and gives it back to the machine.
fn with_tree(
    tools: &Tools,
    good: Machine,
    file: &Path,
    change: &dyn Fn(&mut Vec<u8>) -> usize,
) -> Result<Machine> {
    let dumping = Machine {
        kind: format!("{},dumpdtb={}", good.kind, file.display()),
        ..good.clone()
    };
    command::output(
        std::process::Command::new(qemu::program(tools)).args(dumping.arguments(Console::Captured)),
    )?;
    let mut tree = fs::read(file).with_context(|| format!("QEMU wrote no {}", file.display()))?;
    if change(&mut tree) == 0 {
        bail!("nothing was changed in {}", file.display());
    }
    fs::write(file, tree)?;
    let extra = vec!["-dtb".to_owned(), file.display().to_string()];
    // QEMU does not put a command line into a tree that it is given; it is in there already.
    Ok(Machine {
        extra,
        append: String::new(),
        ..good
    })
}

/// Replaces each occurrence by something of the same length, and returns how many there were.
fn replace_all(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places: Vec<_> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from)
        .map(|(place, _)| place)
        .collect();
    for &place in &places {
        if let Some(part) = bytes.get_mut(place..place + to.len()) {
            part.copy_from_slice(to);
        }
    }
    places.len()
}

/// Changes the value of each property of one cell with this name (which ends with NUL), and returns how many there were.
fn set_cell(tree: &mut [u8], name: &[u8], value: u32) -> usize {
    let word = |place: usize| {
        tree.get(place..place + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let Some(strings) = word(12).and_then(|word| usize::try_from(word).ok()) else {
        return 0;
    };
    let Some(offset) = tree
        .get(strings..)
        .and_then(|table| table.windows(name.len()).position(|part| part == name))
    else {
        return 0;
    };
    // FDT_PROP, length, offset of the name; then the value.
    let places: Vec<_> = (0..strings)
        .step_by(4)
        .filter(|&place| {
            [3, 4]
                .iter()
                .zip([place, place + 4])
                .all(|(&want, at)| word(at) == Some(want))
                && word(place + 8).is_some_and(|word| usize::try_from(word) == Ok(offset))
        })
        .collect();
    for &place in &places {
        if let Some(part) = tree.get_mut(place + 12..place + 16) {
            part.copy_from_slice(&value.to_be_bytes());
        }
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn cells_are_changed_by_name() {
        let mut tree = vec![0; 16];
        let strings = 16 + 16;
        tree[12..16].copy_from_slice(&u32::to_be_bytes(strings));
        for word in [3_u32, 4, 2, 0x1234] {
            tree.extend(word.to_be_bytes());
        }
        tree.extend(b"a\0linux\0");
        assert_eq!(set_cell(&mut tree, b"linux\0", 7), 1);
        assert_eq!(tree[28..32], [0, 0, 0, 7]);
        assert_eq!(set_cell(&mut tree, b"other\0", 7), 0);
        assert_eq!(replace_all(&mut tree, b"linux", b"other"), 1);
        assert_eq!(set_cell(&mut [], b"other\0", 7), 0);
    }
}
