//! What the bare L1 program measures: calls, faults of its L2, and what L2s take of the firmware's memory.

use anyhow::{Context as _, Result, bail};

use super::boots::{LIMIT, booted};
use super::figure::Figure;
use crate::image::{self, Image};
use crate::initramfs;
use crate::machine::{Clock, Machine};
use crate::payload::{self, Payload};
use crate::setup::kernel::Kernel;
use crate::tools::Tools;

/// Nanoseconds, and so instructions, per tick of the time base.
const NS_PER_TICK: f64 = 1e9 / 512e6;

/// Names of all figures here.
pub(super) const ROWS: &[&str] = &[
    "hcall",
    "run-vcpu",
    "page-fault",
    "invalidate",
    "mmio",
    "console",
    "create",
    "growth",
    "exits",
    "memory",
];

/// A figure: its name, the line of the program, and the line to take off, which is that of the program's own loop for
/// all that have no better; then what the ratio to KVM shall be at most.
struct Call(&'static str, &'static str, &'static str, Option<f64>);

const CALLS: [Call; 17] = [
    Call(
        "hcall, nothing to do",
        "hcall-nobody",
        "nothing",
        Some(0.35),
    ),
    Call(
        "run-vcpu until an L2 hcall is back",
        "run-minimal",
        "nothing",
        Some(0.5),
    ),
    Call(
        "run-vcpu with 32 registers",
        "run-32-dirty",
        "nothing",
        None,
    ),
    Call(
        "page-fault, 4K in order",
        "first-touch-4K",
        "second-touch-4K",
        Some(0.2),
    ),
    Call(
        "page-fault, 64K in order",
        "first-touch-64K",
        "second-touch-64K",
        None,
    ),
    Call(
        "page-fault, 2M in order",
        "first-touch-2M",
        "second-touch-2M",
        None,
    ),
    Call(
        "page-fault that L1 resolves",
        "fault-to-l1",
        "nothing",
        None,
    ),
    Call("invalidate one page", "invalidate-page", "nothing", None),
    Call(
        "page-fault, 4K scattered",
        "first-touch-scattered",
        "second-touch-scattered",
        None,
    ),
    Call(
        "page-fault after aging",
        "after-aging",
        "second-touch-4K",
        None,
    ),
    Call(
        "page-fault after dirty logging",
        "after-logging",
        "second-touch-4K",
        None,
    ),
    Call("mmio load that L1 emulates", "mmio-load", "nothing", None),
    Call(
        "invalidate a gigabyte",
        "invalidate-gigabyte",
        "nothing",
        None,
    ),
    Call("console write, 16 bytes", "console", "nothing", None),
    Call(
        "hcall: H_PROD and H_CEDE there and back",
        "ping-pong",
        "nothing",
        None,
    ),
    Call("create and delete an L2", "create-delete", "nothing", None),
    Call(
        "create: first run of an L2 and its end",
        "first-run-delete",
        "nothing",
        None,
    ),
];

/// What may grow: its name, the line of the program, whether it shall not, and at how many GiB there is a figure.
const GROWING: [(&str, &str, bool, &[u32]); 5] = [
    ("hcall", "hcall-nobody", true, &[32]),
    ("run-vcpu", "run-minimal", true, &[32]),
    ("page-fault", "first-touch-4K", true, &[2, 4, 8, 16, 32]),
    ("invalidate", "invalidate-page", false, &[32]),
    ("create and delete", "create-delete", false, &[32]),
];
/// With how many L2s there is one.
const L2S: &[u32] = &[2, 4, 8];
/// What the ratios to one L2, and to one GiB, shall be at most.
const LIMITS: [f64; 2] = [1.05, 1.1];

/// A line of the program over another one of it.
struct Growth {
    name: String,
    line: String,
    over: String,
    at_most: Option<f64>,
}

fn growth() -> Vec<Growth> {
    let [of_l2s, of_gib] = LIMITS;
    let rows = |of, limit, numbers: fn(&'static [u32]) -> &'static [u32]| {
        GROWING.iter().flat_map(move |&(what, line, bounded, gib)| {
            numbers(gib).iter().map(move |number| Growth {
                name: format!("growth of {what}, {number} {of} over 1"),
                line: format!("{line}-{number}-{of}"),
                over: format!("{line}-1-{of}"),
                at_most: bounded.then_some(limit),
            })
        })
    };
    let l2s = rows("L2s", of_l2s, |_| L2S);
    l2s.chain(rows("GiB", of_gib, |gib| gib)).collect()
}

/// Lines `bench-exits NAME exits=N count=M`: the name of the figure, that of the line, and the most it shall be.
const EXITS: [(&str, &str, Option<f64>); 3] = [
    ("exits per page, 4K in order", "4K", Some(0.1)),
    ("exits per page, 64K in order", "64K", None),
    ("exits per page, 2M in order", "2M", None),
];

/// Lines `bench-bytes NAME bytes=N`: the name of the figure, that of the line, and the most it shall be.
const BYTES: [(&str, &str, Option<f64>); 7] = [
    (
        "memory of an L2 with one vCPU before its first run",
        "new-l2",
        Some(16384.0),
    ),
    (
        "memory of an idle L2 that has run, without tables",
        "heap",
        Some(16384.0),
    ),
    ("memory of its tables, at least", "first-tables", None),
    ("memory of a further vCPU", "vcpu", Some(12288.0)),
    (
        "memory of tables for 1 GiB by 4K",
        "tables-4K",
        Some(0.0025 * GIB),
    ),
    ("memory of tables for 1 GiB by 64K", "tables-64K", None),
    (
        "memory of tables for 1 GiB by 2M",
        "tables-2M",
        Some(0.0001 * GIB),
    ),
];
const GIB: f64 = 1_073_741_824.0;

/// Runs the program on the firmware, and as a guest of KVM.
pub(super) fn measure(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let one = Payload {
        name: "bench",
        package: "l1-payload",
        machine: "powernv10",
        smp: "1",
        append: "nidus.mode=papr group=bench",
        clock: Clock::Instructions,
        from_flash: false,
    };
    let two = Payload {
        name: "bench-threads",
        smp: "2,cores=2",
        append: "nidus.mode=papr group=bench-threads",
        ..one
    };
    let mut lines = Vec::new();
    for payload in [one, two] {
        let machine = payload::machine(image, &payload)?;
        let outcome = payload::run(tools, payload.name, &machine)?;
        if let Some(problem) = outcome.problem {
            let log = outcome.log.display();
            bail!("the program {}: {problem}; log: {log}", payload.name);
        }
        lines.extend(outcome.lines);
    }
    figures(&lines, &peer(tools)?)
}

/// The same from Linux with KVM as the hypervisor, on the bare machine of skiboot.
fn peer(tools: &Tools) -> Result<Vec<String>> {
    let kernel = Kernel::named(tools, "7.2")?;
    let program = image::build("l1-payload", "l1-payload")?;
    let machine = Machine {
        initrd: Some(initramfs::peer(tools, &kernel, &program)?),
        kernel: Some(kernel.image),
        append: "console=hvc0 quiet damon_stat.enabled=N nidus_do=peer nidus_level=L0".to_owned(),
        clock: Clock::Instructions,
        ..Machine::new("powernv10")
    };
    let list = [
        ("kernel start", "INIT: Starting kernel at 0x"),
        ("userland", "NIDUS-L0-USERLAND"),
        ("end of the program", "cases: "),
        ("off", "NIDUS-L0-OFF"),
    ];
    booted(tools, "bench-peer", &machine, &list, LIMIT)
}

fn figures(ours: &[String], peer: &[String]) -> Result<Vec<Figure>> {
    let missing = |line: &str| format!("the bench program has no line for {line}");
    let value =
        |lines: &[String], line: &str, less: &str| Some(each(lines, line)? - each(lines, less)?);
    let mut list = Vec::new();
    for Call(name, line, less, at_most) in &CALLS {
        let cost = value(ours, line, less).with_context(|| missing(line))?;
        let mut figure = Figure::new(*name, "instructions", cost);
        if let Some(peer) = value(peer, line, less) {
            figure = figure.beside("KVM", peer);
        }
        list.push(Figure {
            at_most: *at_most,
            ..figure
        });
    }
    for growth in growth() {
        let cost = |line: &str| each(ours, line).with_context(|| missing(line));
        let figure = Figure::new(growth.name, "instructions", cost(&growth.line)?);
        list.push(Figure {
            at_most: growth.at_most,
            ..figure.beside("one", cost(&growth.over)?)
        });
    }
    for (name, line, at_most) in EXITS {
        let exits = exits_per_page(ours, line).with_context(|| missing(line))?;
        list.push(Figure {
            at_most,
            ..Figure::new(name, "exits", exits)
        });
    }
    for (name, line, at_most) in BYTES {
        let bytes = bytes(ours, line).with_context(|| missing(line))?;
        list.push(Figure {
            at_most,
            ..Figure::new(name, "bytes", bytes)
        });
    }
    Ok(list)
}

/// Instructions per round.
pub(super) fn each(lines: &[String], name: &str) -> Option<f64> {
    let line = find(lines, &format!("bench {name} "))?;
    let count = number(line, "count=").filter(|&count| count > 0.0)?;
    Some(number(line, "ticks=")? * NS_PER_TICK / count)
}

fn exits_per_page(lines: &[String], name: &str) -> Option<f64> {
    let line = find(lines, &format!("bench-exits {name} "))?;
    let count = number(line, "count=").filter(|&count| count > 0.0)?;
    Some(number(line, "exits=")? / count)
}

fn bytes(lines: &[String], name: &str) -> Option<f64> {
    number(find(lines, &format!("bench-bytes {name} "))?, "bytes=")
}

fn find<'a>(lines: &'a [String], start: &str) -> Option<&'a str> {
    let line = lines.iter().find(|line| line.starts_with(start))?;
    Some(line.trim_end())
}

fn number(line: &str, key: &str) -> Option<f64> {
    line.split_once(key)?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line for each name that is asked for.
    fn lines(ticks: u64) -> Vec<String> {
        let line = |name: &str, ticks: u64| format!("bench {name} ticks={ticks} count=1000\r");
        let calls = CALLS.iter().map(|row| line(row.1, ticks));
        let growth = growth();
        let growth = growth.iter().flat_map(|row| [&row.line, &row.over]);
        let growth = growth.map(|name| line(name, ticks));
        let exits = EXITS
            .iter()
            .map(|row| format!("bench-exits {} exits=64 count=1024", row.1));
        let less = [
            "nothing",
            "second-touch-scattered",
            "second-touch-4K",
            "second-touch-64K",
            "second-touch-2M",
        ];
        let bytes = BYTES
            .iter()
            .map(|row| format!("bench-bytes {} bytes=4096", row.1));
        calls
            .chain(growth)
            .chain(less.map(|name| line(name, 5120)))
            .chain(exits)
            .chain(bytes)
            .collect()
    }

    #[test]
    fn ticks_become_instructions_per_round_without_the_loop() {
        let figures = figures(&lines(512_000), &lines(1_029_120)).expect("complete");
        assert!((figures[0].ours - 990.0).abs() < 1e-9);
        assert!((figures[0].ratio().expect("a peer") - 0.495).abs() < 1e-9);
        assert!((figures[CALLS.len()].ratio().expect("itself") - 1.0).abs() < 1e-9);
        assert!(
            figures
                .last()
                .is_some_and(|figure| figure.ours == 4096.0 && !figure.misses())
        );
        assert!(each(&["bench a ticks=1 count=0".to_owned()], "a").is_none());
    }

    #[test]
    fn a_line_that_is_missing_is_named_and_a_peer_may_have_less() {
        let missing = figures(&lines(1)[1..], &lines(1)).expect_err("no first line");
        assert!(missing.to_string().contains("hcall-nobody"));
        let alone = figures(&lines(1), &lines(1)[..8]).expect("a peer may have less");
        assert!(
            alone
                .iter()
                .all(|figure| figure.peer.as_ref().is_none_or(|p| p.who == "one"))
        );
    }

    #[test]
    fn every_name_begins_as_promised() {
        let names = CALLS.iter().map(|row| row.0);
        let names = names
            .chain(EXITS.map(|row| row.0))
            .chain(BYTES.map(|row| row.0));
        let growth = growth();
        for name in names.chain(growth.iter().map(|row| row.name.as_str())) {
            assert!(ROWS.iter().any(|row| name.starts_with(row)), "{name}");
        }
    }
}
