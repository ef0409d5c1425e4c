//! The verb `bench`: figures under a clock of one nanosecond per instruction, beside those of the peer where there is
//! one (skiboot, as QEMU brings it). The same run gives the same figures.
//!
//! The surprise: idle time is skipped, so a boot that waits costs nothing here; only what is executed counts.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::boot::{self, Choice, Mode};
use crate::image::{self, Image};
use crate::initramfs;
use crate::machine::{Clock, Machine};
use crate::milestone::{self, Verdict, Watch};
use crate::payload::{self, Payload};
use crate::runner::{self, Boot};
use crate::setup::kernel::Kernel;
use crate::setup::{self, qemu};
use crate::table;
use crate::tools::Tools;

/// Nanoseconds, and so instructions, per tick of the time base.
const NS_PER_TICK: f64 = 1e9 / 512e6;
/// Long enough for a boot that is slower by the exact clock.
const LIMIT: Duration = Duration::from_secs(400);

/// The options of `scripts/bench`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only the figures whose names begin with one of these
    names: Vec<String>,
    /// A file for the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
}

/// Measures and prints the table.
pub fn run(tools: &Tools, options: &Options) -> Result<bool> {
    setup::run(tools)?;
    let image = image::firmware()?;
    let wanted = |name: &str| {
        options.names.is_empty()
            || options
                .names
                .iter()
                .any(|start| name.starts_with(start.as_str()))
    };
    let mut figures = Vec::new();
    if wanted("reset") || wanted("userland") {
        figures.extend(boots(tools, &image)?);
    }
    if CALLS.iter().any(|row| wanted(row.0)) {
        figures.extend(calls(tools, &image)?);
    }
    figures.retain(|figure| wanted(figure.name));
    if figures.is_empty() {
        bail!("no figure has such a name");
    }
    println!("{:50} {:>12} {:>12} {:>7}", "", "Nidus", "peer", "ratio");
    for figure in &figures {
        println!("{}", row(figure));
    }
    if let Some(file) = &options.json {
        image::replace(file, json(&figures).as_bytes())?;
    }
    Ok(true)
}

fn row(figure: &Figure) -> String {
    let digits = if figure.unit == "s" { 3 } else { 0 };
    let name = format!("{} ({})", figure.name, figure.unit);
    let mut text = format!("{name:50} {:>12.digits$}", figure.ours);
    if let Some(peer) = figure.peer {
        let _ = write!(text, " {peer:>12.digits$} {:>7.3}", figure.ours / peer);
    }
    text
}

fn json(figures: &[Figure]) -> String {
    let each = figures.iter().map(|figure| {
        let peer = figure
            .peer
            .map_or("null".to_owned(), |peer| format!("{peer:.6}"));
        let (name, unit) = (table::string(figure.name), table::string(figure.unit));
        format!(
            "  {{\"name\": {name}, \"unit\": {unit}, \"nidus\": {:.6}, \"peer\": {peer}}}",
            figure.ours
        )
    });
    format!("[\n{}\n]\n", each.collect::<Vec<_>>().join(",\n"))
}

/// The same kernel and initramfs as a partition on our firmware and on the bare machine of skiboot.
fn boots(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let choice = |mode| Choice {
        append: "quiet".to_owned(),
        ..Choice::new(mode)
    };
    let ours = choice(Mode::Papr).machine(tools, image)?;
    let skiboot = Machine {
        bios: None,
        ..choice(Mode::Opal).machine(tools, image)?
    };
    let ours = times(tools, "bench-papr", ours)?;
    let peer = times(tools, "bench-skiboot", skiboot)?;
    let figure = |name, ours, peer| Figure {
        name,
        unit: "s",
        ours,
        peer: Some(peer),
    };
    Ok(vec![
        figure("reset to kernel", ours.0, peer.0),
        figure("userland uptime", ours.1, peer.1),
    ])
}

/// Boots, and returns the time base at the kernel's first instruction and the uptime in userland, in seconds.
fn times(tools: &Tools, name: &str, machine: Machine) -> Result<(f64, f64)> {
    let machine = Machine {
        clock: Clock::Instructions,
        ..machine
    };
    let list = [
        ("kernel start", "INIT: Starting kernel at 0x"),
        ("userland", "NIDUS-L1-USERLAND"),
        ("off", "NIDUS-L1-OFF"),
    ];
    let lines = booted(tools, name, &machine, &list)?;
    let line = |pattern: &str| {
        lines
            .iter()
            .find(|line| line.contains(pattern))
            .map(String::as_str)
    };
    let start = line("INIT: Starting kernel at 0x")
        .and_then(stamp)
        .context("no time in the line of the kernel start")?;
    let uptime = line("NIDUS-L1-USERLAND")
        .and_then(uptime)
        .context("no uptime in the line of userland")?;
    Ok((start, uptime))
}

/// Boots through all milestones, and returns what was on the console.
fn booted(
    tools: &Tools,
    name: &str,
    machine: &Machine,
    milestones: &[(&str, &str)],
) -> Result<Vec<String>> {
    let watch = Watch::new(milestone::in_order(milestones), boot::forbidden()?);
    let report = runner::run(
        &qemu::program(tools),
        Boot {
            name,
            machine,
            watch,
            limit: LIMIT,
            echo: false,
        },
    )?;
    if report.verdict != Verdict::Passed {
        bail!(
            "{name}: {:?}; log: {}",
            report.verdict,
            report.log.display()
        );
    }
    Ok(report.lines)
}

/// The time at the beginning of a firmware's line: `[ 0.220773 ...` or `[ 1.063080030,5] ...`.
fn stamp(line: &str) -> Option<f64> {
    let text = line.split_once('[')?.1.trim_start();
    text.get(..text.find(|c: char| !c.is_ascii_digit() && c != '.')?)?
        .parse()
        .ok()
}

fn uptime(line: &str) -> Option<f64> {
    line.split_once("uptime=")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// What the bare L1 program measures: lines `bench NAME ticks=T count=N`.
fn calls(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let payload = Payload {
        smp: "1",
        name: "bench",
        package: "l1-payload",
        machine: "powernv10",
        append: "nidus.mode=papr group=bench",
    };
    let machine = Machine {
        clock: Clock::Instructions,
        ..payload::machine(image, &payload)?
    };
    let outcome = payload::run(tools, payload.name, &machine)?;
    if let Some(problem) = outcome.problem {
        bail!(
            "the bench program: {problem}; log: {}",
            outcome.log.display()
        );
    }
    from_lines(&outcome.lines, &peer_calls(tools)?)
}

/// The same from Linux with KVM as the hypervisor, on the bare machine of skiboot.
fn peer_calls(tools: &Tools) -> Result<Vec<String>> {
    let kernel = Kernel::named(tools, "7.2")?;
    let program = image::build("l1-payload", "l1-payload")?;
    let machine = Machine {
        initrd: Some(initramfs::peer(tools, &kernel, &program)?),
        kernel: Some(kernel.image),
        append: "console=hvc0 quiet nidus_do=peer".to_owned(),
        clock: Clock::Instructions,
        ..Machine::new("powernv10")
    };
    let list = [
        ("kernel start", "INIT: Starting kernel at 0x"),
        ("userland", "NIDUS-L1-USERLAND"),
        ("end of the program", "cases: "),
        ("off", "NIDUS-L1-OFF"),
    ];
    booted(tools, "bench-peer", &machine, &list)
}

/// A figure of the bare program: its name here, that of its line, and that of the line to take off, which the one of
/// the loop itself is for all that have no better.
const CALLS: [(&str, &str, &str); 9] = [
    ("hcall, nothing to do", "hcall-nobody", "nothing"),
    (
        "run-vcpu until an L2 hcall is back",
        "run-minimal",
        "nothing",
    ),
    ("run-vcpu with 32 registers", "run-32-dirty", "nothing"),
    ("page-fault, 4K", "first-touch-4K", "second-touch-4K"),
    ("page-fault, 64K", "first-touch-64K", "second-touch-64K"),
    ("page-fault, 2M", "first-touch-2M", "second-touch-2M"),
    ("page-fault that L1 resolves", "fault-to-l1", "nothing"),
    ("invalidate one page", "invalidate-page", "nothing"),
    ("create and delete an L2", "create-delete", "nothing"),
];

fn from_lines(ours: &[String], peer: &[String]) -> Result<Vec<Figure>> {
    let value =
        |lines: &[String], line: &str, less: &str| Some(each(lines, line)? - each(lines, less)?);
    let figure = |&(name, line, less): &(&'static str, &str, &str)| {
        Ok(Figure {
            name,
            unit: "instructions",
            ours: value(ours, line, less)
                .with_context(|| format!("the bench program has no line for {line}"))?,
            peer: value(peer, line, less),
        })
    };
    CALLS.iter().map(figure).collect()
}

/// Instructions per round.
fn each(lines: &[String], name: &str) -> Option<f64> {
    let start = format!("bench {name} ");
    let line = lines.iter().find(|line| line.starts_with(&start))?;
    let value =
        |key: &str| -> Option<f64> { line.split_once(key)?.1.split(' ').next()?.parse().ok() };
    let count = value("count=").filter(|&count| count > 0.0)?;
    Some(value("ticks=")? * NS_PER_TICK / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_both_firmwares() {
        assert_eq!(
            stamp("[    0.220773 0000 boot] INIT: Starting kernel at 0x400000"),
            Some(0.220_773)
        );
        assert_eq!(
            stamp("[    1.063080030,5] INIT: Starting kernel at 0x20010000"),
            Some(1.063_080_03)
        );
        assert_eq!(stamp("INIT"), None);
        assert_eq!(
            uptime("NIDUS-L1-USERLAND id=0 uptime=1.16 kernel=7.2"),
            Some(1.16)
        );
    }

    #[test]
    fn ticks_become_instructions_per_round_without_the_loop() {
        let line = |name: &str, ticks: u64| format!("bench {name} ticks={ticks} count=1000");
        let lines = |ticks: u64| -> Vec<_> {
            let all = CALLS.iter().map(|row| line(row.1, ticks));
            let less = [
                "nothing",
                "second-touch-4K",
                "second-touch-64K",
                "second-touch-2M",
            ];
            all.chain(less.map(|name| line(name, 5120))).collect()
        };
        let figures = from_lines(&lines(512_000), &lines(1_029_120)).expect("complete");
        assert!((figures[0].ours - 990.0).abs() < 1e-9);
        assert!((figures[3].peer.expect("there") - 2000.0).abs() < 1e-9);
        let missing = from_lines(&lines(1)[1..], &lines(1)).expect_err("no first line");
        assert!(missing.to_string().contains("hcall-nobody"));
        let alone = from_lines(&lines(1), &lines(1)[..8]).expect("a peer may have less");
        assert!(alone[8].peer.is_none());
        assert!(each(&["bench a ticks=1 count=0".to_owned()], "a").is_none());
    }

    #[test]
    fn figures_are_shown_with_their_ratio() {
        let figure = Figure {
            name: "userland uptime",
            unit: "s",
            ours: 1.2,
            peer: Some(1.0),
        };
        assert!(
            row(&figure).ends_with("1.200        1.000   1.200"),
            "{}",
            row(&figure)
        );
        assert!(json(&[figure]).contains("\"peer\": 1.000000"));
    }
}
