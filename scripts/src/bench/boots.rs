//! Boots of Linux: on the bare machine, as a partition, as the guest of one, and what they do then.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::figure::Figure;
use crate::boot::{self, Choice, Mode};
use crate::image::Image;
use crate::initramfs;
use crate::machine::{Clock, Machine};
use crate::milestone::{self, Verdict, Watch};
use crate::runner::{self, Boot, Report};
use crate::setup::kernel::Kernel;
use crate::setup::qemu;
use crate::tools::Tools;

/// Long enough for a boot that is slower by the exact clock.
pub(super) const LIMIT: Duration = Duration::from_secs(400);
/// Three layers of Linux, the lowest with KVM, need three minutes of an idle host.
const PEER_LIMIT: Duration = Duration::from_secs(1500);
/// What the guests do, as `tests/linux/work` names it.
const WORK: [&str; 6] = ["compress", "hash", "fork+exec", "pipe", "stream", "touch"];
/// How often a boot is done whose time is not always the same.
const TIMES: usize = 3;

/// Names of the figures of [`bare`].
pub(super) const BARE_ROWS: &[&str] = &["reset to kernel", "userland", "work in L1"];
/// Names of the figures of [`nested`].
pub(super) const NESTED_ROWS: &[&str] =
    &["L1 that has guests", "L2 userland", "L2 over", "work in L2"];
/// Names of the figures of [`wall`].
pub(super) const WALL_ROWS: &[&str] = &["wall-clock, L1", "wall-clock, L2 userland"];
/// Names of the figures of [`emulator`].
pub(super) const EMULATOR_ROWS: &[&str] = &["wall-clock, L2 of"];

/// The same kernel and initramfs as a partition on our firmware and on the bare machine of skiboot.
pub(super) fn bare(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let boot = |name, mode, bios: bool| -> Result<Vec<String>> {
        let machine = counted(tools, image, mode, "quiet nidus_work=1")?;
        let machine = Machine {
            bios: machine.bios.filter(|_| bios),
            ..machine
        };
        booted(tools, name, &machine, &ALONE, LIMIT)
    };
    let ours = boot("bench-papr", Mode::Papr, true)?;
    let peer = boot("bench-skiboot", Mode::Opal, false)?;
    let start = |lines: &[String]| value(lines, "INIT: Starting kernel at 0x", stamp);
    let uptime = |lines: &[String]| value(lines, "NIDUS-L1-USERLAND", uptime);
    let reset = Figure::new("reset to kernel", "s", start(&ours)?);
    let userland = Figure::new("userland uptime, L1 over bare metal", "s", uptime(&ours)?);
    let mut list = vec![
        reset.beside("skiboot", start(&peer)?).at_most(0.2),
        userland.beside("skiboot", uptime(&peer)?).at_most(1.03),
    ];
    for name in WORK {
        let work = Figure::new(format!("work in L1: {name}"), "s", work(&ours, "L1", name)?);
        list.push(work.beside("skiboot", self::work(&peer, "L1", name)?));
    }
    Ok(list)
}

/// L1 and its L2, on our firmware and on Linux with KVM.
pub(super) fn nested(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let alone = counted(tools, image, Mode::Papr, "quiet nidus_work=1")?;
    let alone = booted(tools, "bench-alone", &alone, &ALONE, LIMIT)?;
    let words = "quiet nidus_l2_append=nidus_work=1";
    let machine = counted(tools, image, Mode::Nested, words)?;
    let ours = booted(tools, "bench-nested", &machine, &NESTED, LIMIT)?;
    let kernel = Kernel::named(tools, "7.2")?;
    let below = Machine {
        initrd: Some(initramfs::nested(
            tools,
            &kernel,
            "7.2",
            initramfs::With::default(),
        )?),
        kernel: Some(kernel.image),
        append: "console=hvc0 quiet damon_stat.enabled=N nidus_do=peer-boot nidus_level=L0 \
                 nidus_l1_append=nidus_l2=1,nidus_l2_mem=256,nidus_l2_append=nidus_work=1"
            .to_owned(),
        clock: Clock::Instructions,
        ..Machine::new("powernv10")
    };
    // Its userland comes some ticks of 4 ms earlier or later each time; ours does not.
    let boot = || booted(tools, "bench-peer-boot", &below, &NESTED, PEER_LIMIT);
    let peers: Vec<_> = std::iter::repeat_with(boot)
        .take(TIMES)
        .collect::<Result<_>>()?;
    let up = |lines: &[String], who: &str| value(lines, &format!("NIDUS-{who}-USERLAND"), uptime);
    let peer_up = |who| middle(&peers, |lines| up(lines, who));
    let (l2, l1) = (up(&ours, "L2")?, up(&alone, "L1")?);
    let mut list = vec![
        Figure::new("L1 that has guests, userland uptime", "s", up(&ours, "L1")?)
            .beside("KVM", peer_up("L1")?),
        Figure::new("L2 userland uptime", "s", l2)
            .beside("KVM", peer_up("L2")?)
            .at_most(0.85),
        Figure::new("L2 over L1, userland uptime", "s", l2)
            .beside("its L1", l1)
            .at_most(1.05),
    ];
    for name in WORK {
        let in_l2 = work(&ours, "L2", name)?;
        let over_kvm = Figure::new(format!("work in L2: {name}"), "s", in_l2);
        let in_peer = middle(&peers, |lines| work(lines, "L2", name))?;
        list.push(over_kvm.beside("KVM", in_peer));
        let over_l1 = Figure::new(format!("L2 over L1, work: {name}"), "s", in_l2);
        list.push(over_l1.beside("its L1", work(&alone, "L1", name)?));
    }
    Ok(list)
}

/// Times of this host, from the start of a kernel to its userland: the median of several runs.
pub(super) fn wall(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let boot = |name, mode, bios: bool| -> Result<Report> {
        let machine = Choice::new(mode).machine(tools, image)?;
        let machine = Machine {
            bios: machine.bios.filter(|_| bios),
            ..machine
        };
        let list = if mode == Mode::Nested {
            &NESTED[..]
        } else {
            &ALONE[..]
        };
        report(tools, name, &machine, list, LIMIT)
    };
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    let mut guests = Vec::new();
    for _ in 0..TIMES {
        ours.push(apart(
            &boot("bench-wall-papr", Mode::Papr, true)?,
            "kernel start",
            "userland",
        )?);
        bare.push(apart(
            &boot("bench-wall-skiboot", Mode::Opal, false)?,
            "kernel start",
            "userland",
        )?);
        guests.push(apart(
            &boot("bench-wall-nested", Mode::Nested, true)?,
            STARTED,
            UP,
        )?);
    }
    let (ours, bare, guests) = (median(ours), median(bare), median(guests));
    Ok(vec![
        Figure::new("wall-clock, L1 userland", "s", ours)
            .beside("skiboot", bare)
            .at_most(1.5),
        Figure::new("wall-clock, L2 userland and its QEMU", "s", guests)
            .beside("its L1", ours)
            .at_most(2.0),
    ])
}

/// From the start of an L2 of Linux 6.12 to its userland, on our firmware and on QEMU's own hypervisor for `pseries`.
///
/// That serves the same nested API in the emulator, not in the guest, so only this clock can compare it, and only with
/// the older kernel, because L2s of 7.2 hang there.
pub(super) fn emulator(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let choice = Choice {
        kernel: "6.12".to_owned(),
        ..Choice::new(Mode::Nested)
    };
    let ours = choice.machine(tools, image)?;
    let peer = Machine {
        kind: "pseries,x-vof=on,cap-nested-papr=true".to_owned(),
        cpu: Some("power10".to_owned()),
        bios: None,
        extra: vec!["-nodefaults".to_owned()],
        ..ours.clone()
    };
    let time = |name, machine, list| -> Result<f64> {
        let boot = || apart(&report(tools, name, machine, list, LIMIT)?, STARTED, UP);
        let times: Result<Vec<_>> = std::iter::repeat_with(boot).take(TIMES).collect();
        Ok(median(times?))
    };
    // No firmware tells of the kernel's start there, and no L2 ends there.
    let [_, later @ .., _] = &NESTED;
    let figure = Figure::new(
        "wall-clock, L2 of 6.12 and its QEMU",
        "s",
        time("bench-wall-6.12", &ours, &NESTED)?,
    );
    Ok(vec![
        figure.beside("QEMU", time("bench-wall-pseries", &peer, later)?),
    ])
}

const ALONE: [(&str, &str); 3] = [
    ("kernel start", "INIT: Starting kernel at 0x"),
    ("userland", "NIDUS-L1-USERLAND"),
    ("off", "NIDUS-L1-OFF"),
];
/// Between these an L2 and its QEMU start.
const STARTED: &str = "L2 started";
const UP: &str = "L2 userland";
const NESTED: [(&str, &str); 5] = [
    ("kernel start", "INIT: Starting kernel at 0x"),
    ("L1 userland", "NIDUS-L1-USERLAND"),
    (STARTED, "NIDUS-L1-START id=1"),
    (UP, "NIDUS-L2-USERLAND"),
    ("L1 off", "NIDUS-L1-OFF"),
];

fn counted(tools: &Tools, image: &Image, mode: Mode, append: &str) -> Result<Machine> {
    let choice = Choice {
        append: append.to_owned(),
        ..Choice::new(mode)
    };
    Ok(Machine {
        clock: Clock::Instructions,
        ..choice.machine(tools, image)?
    })
}

/// Boots through all milestones, and returns what was on the console.
pub(super) fn booted(
    tools: &Tools,
    name: &str,
    machine: &Machine,
    milestones: &[(&str, &str)],
    limit: Duration,
) -> Result<Vec<String>> {
    Ok(report(tools, name, machine, milestones, limit)?.lines)
}

fn report(
    tools: &Tools,
    name: &str,
    machine: &Machine,
    milestones: &[(&str, &str)],
    limit: Duration,
) -> Result<Report> {
    // The older nesting API is all that KVM as the hypervisor offers: no fault of its L1.
    let skiboot = machine.bios.is_none();
    let mut forbidden = boot::forbidden()?;
    forbidden.retain(|pattern| !skiboot || pattern != "falling back to nestedv1");
    // Nor what QEMU's hypervisor lacks: it has no VPA for L2s.
    let emulator = machine.kind.starts_with("pseries");
    forbidden.retain(|pattern| !emulator || !pattern.starts_with("KVM-NESTEDv2: couldn't"));
    let watch = Watch::new(milestone::in_order(milestones), forbidden);
    let ends = milestones.iter().any(|(_, line)| line.contains("-OFF"));
    let watch = if ends { watch } else { watch.until_the_last() };
    let boot = Boot {
        name,
        machine,
        watch,
        limit,
        echo: false,
        typing: None,
    };
    let report = runner::run(&qemu::program(tools), boot)?;
    if report.verdict != Verdict::Passed {
        bail!(
            "{name}: {:?}; log: {}",
            report.verdict,
            report.log.display()
        );
    }
    Ok(report)
}

/// Host seconds between two milestones.
fn apart(report: &Report, from: &str, to: &str) -> Result<f64> {
    let at = |name: &str| {
        let list = report.watch.milestones();
        let (_, reached) = list.iter().find(|(milestone, _)| milestone.name == name)?;
        reached.as_ref().map(|reached| reached.at.as_secs_f64())
    };
    let both = at(from).zip(at(to));
    both.map(|(from, to)| to - from)
        .with_context(|| format!("{from} or {to} was not reached"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of what is read in the lines of several boots.
fn middle(boots: &[Vec<String>], read: impl Fn(&[String]) -> Result<f64>) -> Result<f64> {
    let values: Result<Vec<_>> = boots.iter().map(|lines| read(lines)).collect();
    Ok(median(values?))
}

fn value(lines: &[String], pattern: &str, read: fn(&str) -> Option<f64>) -> Result<f64> {
    let line = lines.iter().find(|line| line.contains(pattern));
    line.and_then(|line| read(line))
        .with_context(|| format!("no figure in a line with '{pattern}'"))
}

/// The time at the beginning of a firmware's line: `[ 0.220773 ...` or `[ 1.063080030,5] ...`.
pub(super) fn stamp(line: &str) -> Option<f64> {
    let text = line.split_once('[')?.1.trim_start();
    text.get(..text.find(|c: char| !c.is_ascii_digit() && c != '.')?)?
        .parse()
        .ok()
}

fn uptime(line: &str) -> Option<f64> {
    after(line, "uptime=")
}

/// Seconds that a piece of work took.
fn work(lines: &[String], who: &str, name: &str) -> Result<f64> {
    let nanoseconds = |line: &str| after(line, " ns=");
    let pattern = format!("NIDUS-{who}-WORK name={name} ");
    Ok(value(lines, &pattern, nanoseconds)? / 1e9)
}

fn after(line: &str, key: &str) -> Option<f64> {
    let word = line.split_once(key)?.1.split_whitespace().next()?;
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_both_firmwares_and_from_userland() {
        let start = |line: &str| value(&[line.to_owned()], "INIT", stamp).ok();
        let ours = "[    0.220773 0000 boot] INIT: Starting kernel at 0x400000";
        assert_eq!(start(ours), Some(0.220_773));
        let theirs = "[    1.063080030,5] INIT: Starting kernel at 0x20010000";
        assert_eq!(start(theirs), Some(1.063_080_03));
        assert_eq!(start("INIT"), None);
        assert_eq!(
            uptime("NIDUS-L1-USERLAND id=0 uptime=1.16 kernel=7.2"),
            Some(1.16)
        );
        let lines = ["L2.1| NIDUS-L2-WORK name=hash ns=1500000000\r".to_owned()];
        assert_eq!(work(&lines, "L2", "hash").ok(), Some(1.5));
        assert!(work(&lines, "L1", "hash").is_err());
    }

    #[test]
    fn one_bad_time_of_three_does_not_count() {
        assert!((median(vec![2.0, 9.0, 1.0]) - 2.0).abs() < 1e-9);
        let boots = ["up uptime=2", "up uptime=9", "up uptime=1"].map(|line| vec![line.to_owned()]);
        let read = |lines: &[String]| value(lines, "up", uptime);
        assert_eq!(middle(&boots, read).ok(), Some(2.0));
        let [good, ..] = boots;
        assert!(middle(&[good, vec![]], read).is_err());
    }
}
