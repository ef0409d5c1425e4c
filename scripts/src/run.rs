//! The verb `run`: one boot, watched, or a console for a person.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::boot::{Choice, Mode};
use crate::flash_boot;
use crate::image::{self, Image};
use crate::machine::Console;
use crate::milestone::Verdict;
use crate::runner::{self, Boot};
use crate::setup::{self, qemu};
use crate::table;
use crate::tools::Tools;

/// The options of `scripts/run`.
#[derive(Args, Debug)]
pub struct Options {
    /// What the kernel does on the firmware
    #[arg(value_enum, default_value = "nested")]
    mode: Mode,
    /// powernv10, powernv11 or powernv10-rainier, with QEMU's options for it
    #[arg(long, default_value = "powernv10")]
    machine: String,
    /// Threads: a number or what QEMU's -smp takes [default: 1, under load 4]
    #[arg(long)]
    smp: Option<String>,
    /// Memory of the machine
    #[arg(long, default_value = "5G")]
    memory: String,
    /// 7.2, 6.12, 7.2-64k or an ELF image
    #[arg(long, default_value = "7.2")]
    kernel: String,
    /// An initramfs in place of ours
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// More words for the command line; the firmware takes those that begin with `nidus.`
    #[arg(long, default_value = "")]
    append: String,
    /// L2 guests [default: 1 in nested mode, 3 under load, 0 in opal mode]
    #[arg(long)]
    l2: Option<u32>,
    /// Threads of each L2: a number or what QEMU's -smp takes [default: 1, under load 2]
    #[arg(long)]
    l2_smp: Option<String>,
    /// MiB of each L2
    #[arg(long, default_value_t = 256)]
    l2_memory: u32,
    /// Kernel, initramfs and command line in the flash (target/run.pnor, made anew), from which the firmware starts them
    #[arg(long, conflicts_with_all = ["l2", "load"])]
    pnor: bool,
    /// L1 and its L2s work for so many seconds of their time, and sums are checked; nested mode [default with --load: 600]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "600")]
    load: Option<u32>,
    /// One more argument for QEMU; may be given again
    #[arg(long, allow_hyphen_values = true)]
    qemu_arg: Vec<String>,
    /// A firmware image in place of target/nidus.lid
    #[arg(long)]
    bios: Option<PathBuf>,
    /// An interactive console: every key goes to the guest, Ctrl-A x ends QEMU
    #[arg(long)]
    shell: bool,
    /// Seconds after which the machine is stopped
    #[arg(long, conflicts_with = "shell")]
    timeout: Option<u64>,
    /// A file for the milestones and times as JSON
    #[arg(long, conflicts_with = "shell")]
    json: Option<PathBuf>,
}

/// Boots; returns whether every milestone was reached.
pub fn run(tools: &Tools, options: Options) -> Result<bool> {
    setup::run(tools)?;
    let image = match options.bios {
        Some(file) => Image {
            elf: file.clone(),
            lid: file,
        },
        None => image::firmware()?,
    };
    let mut default = Choice::new(options.mode);
    if options.load.is_some() {
        if options.mode != Mode::Nested {
            bail!("--load is for nested mode");
        }
        default = default.under_load();
    }
    let choice = Choice {
        machine: options.machine,
        smp: options.smp.unwrap_or(default.smp),
        memory: options.memory,
        kernel: options.kernel,
        initrd: options.initrd,
        append: options.append,
        l2: options.l2.unwrap_or(default.l2),
        l2_smp: options.l2_smp.unwrap_or(default.l2_smp),
        l2_memory: options.l2_memory,
        load: options.load.unwrap_or(0),
        shell: options.shell,
        extra: options.qemu_arg,
        ..default
    };
    let mut machine = choice.machine(tools, &image)?;
    if options.pnor {
        machine = flash_boot::from_flash(machine, "run.pnor")?;
    }
    let qemu = qemu::program(tools);
    if choice.shell {
        println!("Ctrl-A x ends QEMU, Ctrl-A h shows its other keys");
        let error = Command::new(&qemu)
            .args(machine.arguments(Console::Interactive))
            .exec();
        return Err(error).with_context(|| format!("{} cannot be started", qemu.display()));
    }
    let boot = Boot {
        name: choice.mode.name(),
        machine: &machine,
        watch: choice.watch()?,
        limit: options.timeout.map_or(choice.limit(), Duration::from_secs),
        echo: true,
        typing: None,
    };
    let report = runner::run(&qemu, boot)?;
    print!("\n{}log: {}\n", table::text(&report), report.log.display());
    if let Some(file) = options.json {
        image::replace(&file, table::json(choice.mode.name(), &report).as_bytes())?;
    }
    let problem = choice
        .checks()
        .iter()
        .find_map(|check| check(&report.lines).err());
    if let Some(problem) = &problem {
        println!("FAILED: {problem}");
    }
    Ok(report.verdict == Verdict::Passed && problem.is_none())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _options: super::Options,
    }

    #[test]
    fn what_a_console_for_a_person_cannot_honour_is_refused() {
        let is_good = |line: &str| Line::try_parse_from(line.split(' ')).is_ok();
        assert!(is_good("run opal --shell") && is_good("run opal --timeout 5 --json x"));
        assert!(!is_good("run opal --shell --timeout 5"));
        assert!(!is_good("run opal --json x --shell"));
    }
}
