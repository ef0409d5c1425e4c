//! The boots of our own bare programs in `tests/payload`, which call the firmware through its tables.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::boot;
use crate::cases::Cases;
use crate::image::{self, Image};
use crate::machine::{Clock, Machine};
use crate::milestone::{End, Watch};
use crate::pnor;
use crate::runner::{self, Boot};
use crate::setup::qemu;
use crate::tools::{Tools, target};

/// A program and how it is started.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// What the boot is called.
    pub name: &'static str,
    /// The package, whose binary has the same name.
    pub package: &'static str,
    /// The `-M` argument.
    pub machine: &'static str,
    /// The `-smp` argument.
    pub smp: &'static str,
    /// The program's command line.
    pub append: &'static str,
    /// Which clock it sees.
    pub clock: Clock,
    /// Whether it lies in the flash as BOOTKERNEL, its command line in NVRAM, and QEMU loads nothing.
    pub from_flash: bool,
}

const fn l1(name: &'static str, machine: &'static str, append: &'static str) -> Payload {
    Payload {
        name,
        package: "l1-payload",
        machine,
        smp: "1",
        append,
        clock: Clock::Wall,
        from_flash: false,
    }
}

/// The program that is a kernel, on several threads.
pub const fn opal(name: &'static str, machine: &'static str) -> Payload {
    Payload {
        name,
        package: "opal-payload",
        machine,
        append: "",
        smp: "4,cores=2,threads=2",
        clock: Clock::Wall,
        from_flash: false,
    }
}

/// A group of it that is not in the others, on one thread.
pub const fn opal_group(
    name: &'static str,
    machine: &'static str,
    append: &'static str,
    clock: Clock,
) -> Payload {
    Payload {
        append,
        smp: "1",
        clock,
        ..opal(name, machine)
    }
}

/// All boots: everything on each machine, what depends on the level at the lower ones, and what needs threads.
pub const PAYLOADS: [Payload; 13] = [
    l1("l1-powernv10", "powernv10", "nidus.mode=papr"),
    l1("l1-powernv11", "powernv11", "nidus.mode=papr xive=off"),
    l1(
        "l1-at-power10",
        "powernv11",
        "nidus.mode=papr nidus.compat=power10 group=levels",
    ),
    l1(
        "l1-at-power9",
        "powernv11",
        "nidus.mode=papr nidus.compat=power9 group=isolation,nested-run,levels",
    ),
    Payload {
        smp: "4",
        ..l1(
            "l1-xive",
            "powernv11",
            "nidus.mode=papr group=xive,rtas keyboard",
        )
    },
    Payload {
        smp: "4",
        ..l1("l1-race", "powernv10", "nidus.mode=papr group=kick,race")
    },
    // The firmware's own word for it, which the program does not see.
    Payload {
        smp: "4",
        ..l1(
            "l1-race-xics",
            "powernv10",
            "nidus.mode=papr nidus.xive=off expect=xics group=xive,kick,race",
        )
    },
    opal("opal-powernv10", "powernv10"),
    opal("opal-powernv11", "powernv11"),
    // Each tick of the decrementer is another instruction of the call that it interrupts.
    opal_group(
        "opal-reentry",
        "powernv10",
        "group=reentry",
        Clock::Instructions,
    ),
    opal_group("opal-reboot", "powernv10", "group=reboot", Clock::Wall),
    Payload {
        append: "group=fast-reboot nidus.fast-reboot=keep",
        ..opal("opal-fast-reboot", "powernv11")
    },
    Payload {
        append: "group=fast-reboot",
        from_flash: true,
        ..opal("opal-fast-reboot-flash", "powernv10")
    },
];

/// Forbidden patterns of the firmware's own failures, which no program can cause.
const OWN_FAILURES: [&str; 5] = [
    "panicked",
    "time base of core",
    "only time bases that are not valid",
    "not all threads have a time base",
    "which is nearly all",
];

/// They take seconds; a machine that others use as well may be slow.
pub const LIMIT: Duration = Duration::from_secs(240);

/// What came of a boot.
#[derive(Debug)]
pub struct Outcome {
    /// What the program reported.
    pub cases: Cases,
    /// None if all is well.
    pub problem: Option<String>,
    /// All lines of the console.
    pub lines: Vec<String>,
    /// What it took.
    pub elapsed: Duration,
    /// Where to look.
    pub log: PathBuf,
}

/// Builds a program and makes its machine.
pub fn machine(image: &Image, payload: &Payload) -> Result<Machine> {
    let program = image::build(payload.package, payload.package)?;
    // The next build may replace the program while QEMU still reads it.
    let kernel = target().join("payload").join(payload.name);
    let program = fs::read(program)?;
    image::replace(&kernel, &program)?;
    let machine = Machine {
        bios: Some(image.lid.clone()),
        smp: payload.smp.to_owned(),
        memory: "4G".to_owned(),
        clock: payload.clock,
        ..Machine::new(payload.machine)
    };
    Ok(if payload.from_flash {
        let flash = kernel.with_extension("pnor");
        image::replace(&flash, &pnor::with_kernel(program, payload.append)?)?;
        let drive = format!("file={},if=mtd,format=raw", flash.display());
        Machine {
            extra: vec!["-drive".to_owned(), drive],
            ..machine
        }
    } else {
        Machine {
            kernel: Some(kernel),
            append: payload.append.to_owned(),
            ..machine
        }
    })
}

/// What a program says when somebody shall type (`tests/payload/l1/src/groups/xive_console.rs`), and what is typed.
const TYPING: (&str, &str) = ("payload: type something", "x");

/// Boots a program and reads its cases.
pub fn run(tools: &Tools, name: &str, machine: &Machine) -> Result<Outcome> {
    run_within(LIMIT, tools, name, machine)
}

/// The same with another time limit.
pub fn run_within(
    limit: Duration,
    tools: &Tools,
    name: &str,
    machine: &Machine,
) -> Result<Outcome> {
    let name = format!("payload-{name}");
    // The firmware reports what a hostile partition does; only its own failures are forbidden.
    let forbidden = boot::forbidden()?
        .into_iter()
        .filter(|pattern| OWN_FAILURES.contains(&pattern.as_str()))
        .collect();
    let boot = Boot {
        name: &name,
        machine,
        watch: Watch::new(vec![], forbidden),
        limit,
        echo: false,
        typing: Some(TYPING),
    };
    let report = runner::run(&qemu::program(tools), boot)?;
    let cases = Cases::read(&report.lines);
    let problem = match (report.watch.forbidden_line(), report.end) {
        (Some(line), _) => Some(format!("forbidden line: {line}")),
        (None, End::Exited(0)) => cases.problem(),
        (None, end) => Some(format!(
            "the machine did not go off by itself ({end:?}); {}",
            cases.problem().unwrap_or_default()
        )),
    };
    Ok(Outcome {
        cases,
        problem,
        lines: report.lines,
        elapsed: report.elapsed,
        log: report.log,
    })
}
