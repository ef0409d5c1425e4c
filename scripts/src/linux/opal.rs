//! The part of the table that is about kernels in OPAL mode.
//!
//! Surprising fact: each kernel runs on each machine, but memory and machines are not multiplied: the sizes are spread
//! over these boots, the smallest and the largest with each of two kernels.

use super::cases::all_threads_are_online;
use super::{Case, Check, Work, devices};
use crate::boot::{Choice, Mode};
use crate::console::Step;
use crate::levels;

fn opal() -> Choice {
    Choice::new(Mode::Opal)
}

/// Each kernel on each machine with one thread: name, machine, kernel, memory.
const EACH: [(&str, &str, &str, &str); 9] = [
    ("opal-7.2", "powernv10", "7.2", "5G"),
    ("opal-7.2-64k", "powernv10", "7.2-64k", "1G"),
    ("opal-6.12", "powernv10", "6.12", "2G"),
    ("opal-rainier-7.2", "powernv10-rainier", "7.2", "16G"),
    ("opal-rainier-7.2-64k", "powernv10-rainier", "7.2-64k", "5G"),
    ("opal-rainier-6.12", "powernv10-rainier", "6.12", "1G"),
    ("opal-p11-7.2", "powernv11", "7.2", "1G"),
    ("opal-p11-7.2-64k", "powernv11", "7.2-64k", "2G"),
    ("opal-p11-6.12", "powernv11", "6.12", "16G"),
];

/// The kernel has most of 16 GiB.
fn has_16_gib(lines: &[String]) -> Result<(), String> {
    let memory = lines.iter().find_map(|line| {
        let (_, rest) = line.split_once("NIDUS-L1-USERLAND ")?;
        let (_, rest) = rest.split_once(" memory=")?;
        rest.split_once("kB")?.0.parse::<u64>().ok()
    });
    match memory {
        Some(kib) if kib > 15 << 20 => Ok(()),
        found => Err(format!("the kernel has {found:?} kB of 16 GiB")),
    }
}

/// Each of eight threads ran a task, and all but the first left and came back.
pub(super) fn all_threads_come_and_go(lines: &[String]) -> Result<(), String> {
    threads_come_and_go(lines, 8, 1)
}

/// The same, three times.
fn all_threads_come_and_go_in_a_loop(lines: &[String]) -> Result<(), String> {
    threads_come_and_go(lines, 8, 3)
}

/// The same for the second kernel of a case with four threads: the first does not say so.
fn four_threads_come_and_go(lines: &[String]) -> Result<(), String> {
    threads_come_and_go(lines, 4, 1)
}

fn threads_come_and_go(lines: &[String], count: u32, rounds: u32) -> Result<(), String> {
    for wanted in [
        format!("NIDUS-L1-TASKS threads={count} ran={count}"),
        format!(
            "NIDUS-L1-HOTPLUG rounds={rounds} moved={} threads={count}",
            rounds * (count - 1)
        ),
    ] {
        if !lines.iter().any(|line| line.trim_end() == wanted) {
            return Err(format!("no line '{wanted}'"));
        }
    }
    Ok(())
}

/// What to wait for, and what to type then.
fn steps(list: &[(&'static str, &'static str)]) -> Vec<Step> {
    let step = |&(expect, send): &(&'static str, &'static str)| Step { expect, send };
    list.iter().map(step).collect()
}

/// Says "keys interrupt" when the kernel has had interrupts for the console.
const KEYS: &str = "awk '/hvc_console/ { print \"keys\", $2 + $3 + $4 + $5 ? \"interrupt\" : \"\" }' /proc/interrupts\n";
/// Runs a task on each of four threads, which says where it ran.
const ON_EACH: &str = "for n in 1 2 4 8; do taskset $n sh -c 'read -r s </proc/self/stat; set -- $s; shift 38; echo ran-on-$1'; done\n";

/// Boots that a kernel makes, of each kind of reboot.
fn restarts() -> Vec<Case> {
    vec![
        Case {
            name: "opal-crash",
            work: Work::Shell(
                "opal --shell --memory 2G --append panic=1",
                steps(&[
                    ("# ", "echo c >/proc/sysrq-trigger\n"),
                    ("Kernel panic - not syncing: sysrq triggered crash", ""),
                    ("stop] reboot", ""),
                    ("NIDUS-L1-USERLAND", ""),
                    ("# ", "exit\n"),
                    ("NIDUS-L1-OFF", ""),
                ]),
            ),
        },
        Case {
            name: "opal-reboot",
            work: Work::Shell(
                "opal --shell --memory 2G --smp 2",
                steps(&[
                    ("NIDUS-L1-USERLAND", ""),
                    ("# ", "echo typed-$((6 * 7))\n"),
                    // Not polled: the kernel has had interrupts for the console.
                    ("typed-42", KEYS),
                    // Nobody keeps the kernel's file, which makes it a normal one.
                    ("keys interrupt", "restart fast\n"),
                    ("no fast reboot: the kernel was loaded and not kept", ""),
                    ("Unsupported 'fast' reboot.", ""),
                    ("stop] reboot", ""),
                    ("INIT: Starting kernel at 0x", ""),
                    ("NIDUS-L1-USERLAND", ""),
                    ("# ", "restart full\n"),
                    ("Restarting system with command 'full'", ""),
                    ("stop] reboot", ""),
                    ("INIT: Starting kernel at 0x", ""),
                    ("NIDUS-L1-USERLAND", ""),
                    ("# ", "exit\n"),
                    ("NIDUS-L1-OFF", ""),
                ]),
            ),
        },
        Case {
            name: "opal-fast-reboot",
            work: Work::Shell(
                "opal --shell --machine powernv11 --memory 2G --smp 4,cores=2,threads=2 --append nidus.fast-reboot=keep",
                steps(&[
                    ("kept for a fast reboot", ""),
                    ("NIDUS-L1-USERLAND", ""),
                    ("# ", "restart fast\n"),
                    ("fast reboot: all 4 threads are back, starting again", ""),
                    // The machine was not reset.
                    ("fast reboot 1 since the machine was reset", ""),
                    ("4 threads, tree of", ""),
                    ("INIT: Starting kernel at 0x", ""),
                    ("NIDUS-L1-USERLAND id=0", ""),
                    ("cpus=4 ", ""),
                    ("# ", ON_EACH),
                    ("ran-on-0", ""),
                    ("ran-on-1", ""),
                    ("ran-on-2", ""),
                    ("ran-on-3", KEYS),
                    ("keys interrupt", "exit\n"),
                    ("NIDUS-L1-OFF", ""),
                ]),
            ),
        },
    ]
}

/// The boots in OPAL mode.
pub(super) fn cases() -> Vec<Case> {
    let boot = |name, choice, checks| Case {
        name,
        work: Work::Boot(choice, checks),
    };
    let mut all: Vec<Case> = EACH
        .iter()
        .map(|&(name, machine, kernel, memory)| {
            let choice = Choice {
                machine: machine.to_owned(),
                kernel: kernel.to_owned(),
                memory: memory.to_owned(),
                ..opal()
            };
            let checks: Vec<Check> = match memory {
                "16G" => vec![has_16_gib],
                _ => vec![],
            };
            boot(name, choice, checks)
        })
        .collect();
    let eight = || vec![all_threads_are_online as Check, all_threads_come_and_go];
    all.extend(restarts());
    all.extend([
        boot(
            "opal-smp8",
            Choice {
                smp: "8,cores=2,threads=4".to_owned(),
                append: "nidus_do=threads nidus_rounds=3".to_owned(),
                ..opal()
            },
            vec![all_threads_are_online, all_threads_come_and_go_in_a_loop],
        ),
        boot(
            "opal-devices",
            Choice {
                machine: "powernv10-rainier".to_owned(),
                memory: "2G".to_owned(),
                append: "nidus_do=devices".to_owned(),
                ..opal()
            },
            vec![devices::answer],
        ),
        boot(
            "opal-at-power10",
            Choice {
                machine: "powernv11".to_owned(),
                append: "nidus.compat=power10 nidus_cpu=1".to_owned(),
                ..opal()
            },
            vec![levels::only_the_tree_is_at_power10],
        ),
        boot(
            "opal-two-chips",
            Choice {
                machine: "powernv11".to_owned(),
                smp: "8,sockets=2,cores=1,threads=4".to_owned(),
                append: "nidus_do=threads".to_owned(),
                ..opal()
            },
            eight(),
        ),
        boot(
            "opal-kexec",
            Choice {
                machine: "powernv11".to_owned(),
                smp: "4,cores=2,threads=2".to_owned(),
                memory: "2G".to_owned(),
                append: "nidus_do=kexec crashkernel=256M@512M".to_owned(),
                ..opal()
            },
            vec![four_threads_come_and_go],
        ),
        boot(
            "opal-big-core",
            Choice {
                machine: "powernv11,big-core=on".to_owned(),
                smp: "8,cores=1,threads=8".to_owned(),
                memory: "1G".to_owned(),
                append: "nidus_do=threads".to_owned(),
                ..opal()
            },
            eight(),
        ),
        Case {
            name: "opal-dmesg",
            work: Work::LikeSkiboot(Choice {
                append: "nidus_do=warnings".to_owned(),
                ..opal()
            }),
        },
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_runs_on_each_machine_and_7_2_with_little_and_much_memory() {
        for machine in ["powernv10", "powernv10-rainier", "powernv11"] {
            for kernel in ["7.2", "7.2-64k", "6.12"] {
                let is_it = |row: &&(&str, &str, &str, &str)| row.1 == machine && row.2 == kernel;
                assert_eq!(EACH.iter().filter(is_it).count(), 1, "{machine} {kernel}");
            }
        }
        for memory in ["1G", "16G"] {
            assert!(EACH.iter().any(|row| row.2 == "7.2" && row.3 == memory));
        }
    }

    #[test]
    fn memory_is_counted() {
        let line = |kib: u64| {
            vec![format!(
                "NIDUS-L1-USERLAND id=0 uptime=1 kernel=x cpus=1 memory={kib}kB"
            )]
        };
        assert!(has_16_gib(&line(16_000_000)).is_ok());
        assert!(has_16_gib(&line(8_000_000)).is_err());
        assert!(has_16_gib(&[]).is_err());
    }
}
