//! The part of the table that is about L1s whose L2s run while something happens to them: threads that go and come, load,
//! another kernel in their place, restarts.
//!
//! Surprising fact: a kernel that follows another one by kexec tells the firmware nothing of it. The line that its L2s were
//! deleted comes before the kernel's first own line on the console, as its milestones ask for.

use super::cases::{all_threads_are_online, interrupts_by_xics, interrupts_by_xive};
use super::{Case, Work};
use crate::boot::{Choice, Mode};
use crate::console::Step;
use crate::counters;

fn nested() -> Choice {
    Choice::new(Mode::Nested)
}

/// The L2 of a case with one has four threads.
fn four_threads_in_l2(lines: &[String]) -> Result<(), String> {
    let says =
        |line: &String| line.contains("NIDUS-L2-USERLAND id=1 ") && line.contains(" cpus=4 ");
    if lines.iter().any(says) {
        Ok(())
    } else {
        Err("the userland of L2 does not see 4 processors".to_owned())
    }
}

/// The kernel that follows has both threads, which the one before it had left in its memory.
fn two_threads_after_kexec(lines: &[String]) -> Result<(), String> {
    let says =
        |line: &String| line.contains("NIDUS-L1-USERLAND id=1 ") && line.contains(" cpus=2 ");
    if lines.iter().any(says) {
        Ok(())
    } else {
        Err("the second kernel does not see 2 processors".to_owned())
    }
}

/// The kernel crashes, and the one after the restart has guests again. It would crash as well: Ctrl-A x ends QEMU.
const CRASH: &[(&str, &str)] = &[
    ("NIDUS-L1-COUNTERS when=before heap=0 ", ""),
    ("NIDUS-L1-L2S-UP count=1", ""),
    ("Kernel panic - not syncing: sysrq triggered crash", ""),
    (DELETED, ""),
    ("stop] reboot", ""),
    ("INIT: Starting kernel at 0x", ""),
    ("NIDUS-L1-COUNTERS when=before heap=0 ", ""),
    ("NIDUS-L1-L2S-UP count=1", "\u{1}x"),
];

/// The kernel reboots while its guest runs, and the one after the restart has guests again.
const REBOOT: &[(&str, &str)] = &[
    ("NIDUS-L1-COUNTERS when=before heap=0 ", ""),
    ("NIDUS-L1-L2S-UP count=1", ""),
    (DELETED, ""),
    ("stop] reboot", ""),
    ("INIT: Starting kernel at 0x", ""),
    ("NIDUS-L1-COUNTERS when=before heap=0 ", ""),
    ("NIDUS-L1-L2S-UP count=1", "\u{1}x"),
];

/// The firmware's word that nothing is left of an L2.
const DELETED: &str =
    "nested guests deleted with their kernel: 1; in use: 0 bytes of heap, 0 of tables";

/// The boots.
pub(super) fn cases() -> Vec<Case> {
    let boot = |name, choice, checks| Case {
        name,
        work: Work::Boot(choice, checks),
    };
    let step = |&(expect, send): &(&'static str, &'static str)| Step { expect, send };
    vec![
        Case {
            name: "nested-crash",
            work: Work::Shell(
                "nested --shell --smp 2 --l2-smp 2 --append 'nidus_do=nested nidus_counters=1 nidus_end=panic panic=1'",
                CRASH.iter().map(step).collect(),
            ),
        },
        Case {
            name: "nested-reboot",
            work: Work::Shell(
                "nested --shell --smp 2 --l2-smp 2 --append 'nidus_do=nested nidus_counters=1 nidus_end=reboot'",
                REBOOT.iter().map(step).collect(),
            ),
        },
        boot(
            "nested-smp8-p11",
            Choice {
                machine: "powernv11".to_owned(),
                smp: "8,cores=2,threads=4".to_owned(),
                l2_smp: "4".to_owned(),
                ..nested()
            },
            vec![
                all_threads_are_online,
                interrupts_by_xive,
                four_threads_in_l2,
            ],
        ),
        boot(
            "nested-xive-off",
            Choice {
                smp: "4".to_owned(),
                l2_smp: "2".to_owned(),
                append: "xive=off nidus_interrupts=1".to_owned(),
                ..nested()
            },
            vec![interrupts_by_xics],
        ),
        boot(
            "nested-kexec",
            Choice {
                smp: "2".to_owned(),
                l2_smp: "2".to_owned(),
                append: "nidus_end=kexec retain_initrd crashkernel=384M@512M".to_owned(),
                ..nested()
            },
            vec![counters::begin_with_nothing, two_threads_after_kexec],
        ),
        boot(
            "nested-crash-kexec",
            Choice {
                smp: "2".to_owned(),
                l2_smp: "2".to_owned(),
                append: "nidus_end=crash crashkernel=384M@512M".to_owned(),
                quotes: vec!["Kernel panic - not syncing: sysrq triggered crash"],
                ..nested()
            },
            vec![counters::nothing_left],
        ),
        boot(
            "nested-load",
            Choice {
                load: 20,
                ..nested().under_load()
            },
            vec![],
        ),
        boot(
            "nested-hotplug",
            Choice {
                smp: "4".to_owned(),
                l2_smp: "2".to_owned(),
                // Whoever has so little of a processor is late, not stuck.
                append: "nidus_offline=3 nidus_counters=1 \
                    nidus_l2_append=nidus_busy=1,watchdog_thresh=60,rcupdate.rcu_cpu_stall_timeout=120"
                    .to_owned(),
                ..nested()
            },
            vec![counters::come_and_go, |lines| {
                let wanted = "NIDUS-L1-HOTPLUG rounds=3 moved=9 threads=4";
                match lines.iter().any(|line| line.trim_end() == wanted) {
                    true => Ok(()),
                    false => Err(format!("no line '{wanted}'")),
                }
            }],
        ),
    ]
}
