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
use crate::machine::{Clock, Machine};
use crate::milestone::{self, Verdict, Watch};
use crate::payload::{self, Payload};
use crate::runner::{self, Boot};
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
    if ["hcall", "run-vcpu", "page-fault"].into_iter().any(wanted) {
        figures.extend(calls(tools, &image)?);
    }
    figures.retain(|figure| wanted(figure.name));
    if figures.is_empty() {
        bail!("no figure has such a name");
    }
    println!("{:50} {:>12} {:>12} {:>7}", "", "Nidus", "skiboot", "ratio");
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
            "  {{\"name\": {name}, \"unit\": {unit}, \"nidus\": {:.6}, \"skiboot\": {peer}}}",
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
    let watch = Watch::new(milestone::in_order(&list), boot::forbidden()?);
    let report = runner::run(
        &qemu::program(tools),
        Boot {
            name,
            machine: &machine,
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
    let line = |pattern: &str| {
        report
            .lines
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
    from_lines(&outcome.lines)
}

fn from_lines(lines: &[String]) -> Result<Vec<Figure>> {
    let each = |name: &str| {
        each(lines, name).with_context(|| format!("the bench program has no line for {name}"))
    };
    // A round of the program's own loop is part of the others.
    let nothing = each("nothing")?;
    let figure = |name, value| Figure {
        name,
        unit: "instructions",
        ours: value,
        peer: None,
    };
    Ok(vec![
        figure("hcall, empty", each("hcall-empty")? - nothing),
        figure(
            "run-vcpu until an L2 hcall is back",
            each("run-minimal")? - nothing,
        ),
        figure(
            "page-fault, 4K",
            each("first-touch-4K")? - each("second-touch-4K")?,
        ),
        figure(
            "page-fault, 64K",
            each("first-touch-64K")? - each("second-touch-64K")?,
        ),
        figure(
            "page-fault, 2M",
            each("first-touch-2M")? - each("second-touch-2M")?,
        ),
    ])
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
        let names = [
            "nothing",
            "hcall-empty",
            "run-minimal",
            "second-touch-4K",
            "second-touch-64K",
            "second-touch-2M",
        ];
        let mut lines: Vec<_> = names
            .iter()
            .map(|name| format!("bench {name} ticks=5120 count=1000"))
            .collect();
        assert!(from_lines(&lines).is_err());
        lines.extend(
            ["4K", "64K", "2M"]
                .map(|size| format!("bench first-touch-{size} ticks=512000 count=1000")),
        );
        let figures = from_lines(&lines).expect("complete");
        assert!((figures[0].ours - 0.0).abs() < 1e-9);
        assert!((figures[2].ours - 990.0).abs() < 1e-9);
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
        assert!(json(&[figure]).contains("\"skiboot\": 1.000000"));
    }
}
