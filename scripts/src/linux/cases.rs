//! The table of Linux boots: what is booted, and what its console must say.

use super::{Case, Check, Stop, Work, kvm_hosts, life, opal, payload_forms};
use crate::boot::{Choice, Mode};
use crate::console::Step;
use crate::counters;
use crate::levels;
use crate::wrong::Wrong;

fn nested() -> Choice {
    Choice::new(Mode::Nested)
}

/// The kernel of the case with eight threads uses them all.
pub(super) fn all_threads_are_online(lines: &[String]) -> Result<(), String> {
    let online = |line: &String| line.contains("NIDUS-L1-USERLAND") && line.contains(" cpus=8 ");
    if lines.iter().any(online) {
        Ok(())
    } else {
        Err("L1's userland does not see 8 processors".to_owned())
    }
}

/// What Linux says when the interrupt controller is the partition's own affair.
const EXPLOITATION: &str = "xive: Interrupt handling initialized with spapr backend";
/// What the first process says when the kernel's interrupts come by calls.
const BY_CALLS: &str = "NIDUS-L1-INTERRUPTS kind=XICS";

/// L1 has XIVE exploitation mode.
pub(super) fn interrupts_by_xive(lines: &[String]) -> Result<(), String> {
    if lines.iter().any(|line| line.contains(EXPLOITATION)) {
        Ok(())
    } else {
        Err("L1 does not say that it has XIVE".to_owned())
    }
}

/// L1 sees the machine's cores.
fn four_threads_a_core(lines: &[String]) -> Result<(), String> {
    let says = |line: &String| line.contains("CPU maps initialized for 4 threads per core");
    if lines.iter().any(says) {
        Ok(())
    } else {
        Err("L1 does not say that its cores have 4 threads".to_owned())
    }
}

/// L1 has not: its kernel was told `xive=off`.
pub(super) fn interrupts_by_xics(lines: &[String]) -> Result<(), String> {
    if interrupts_by_xive(lines).is_ok() {
        return Err("L1 has XIVE, although it was told xive=off".to_owned());
    }
    if lines.iter().any(|line| line.trim_end() == BY_CALLS) {
        Ok(())
    } else {
        Err(format!("no line '{BY_CALLS}'"))
    }
}

/// The firmware's boot stages, as its own list has them and its own test compares.
const STAGES: &str = include_str!("../../../tests/golden/boot-stages.txt");

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
    let mut all = vec![
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
                quotes: vec![
                    "Unable to set CPU compatibility mode in KVM: Invalid argument",
                    "kvm run failed Invalid argument",
                ],
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
        // This kernel says itself what it could not do; the newer one leaves it to QEMU.
        boot(
            "p11-at-power10-6.12",
            Choice {
                kernel: "6.12".to_owned(),
                l2: 2,
                refused: vec![1],
                quotes: vec![
                    "KVM-NESTEDv2: couldn't set guest wide elements",
                    "KVM: unknown exit, hardware reason ffffffffffffffea",
                ],
                ..power11("nidus.compat=power10 nidus_l2_compat=host,power10")
            },
            vec![|lines| levels::agree(lines, "power10", &["refused", "power10"])],
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
                l2_smp: "2".to_owned(),
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
            vec![stages_in_their_order, interrupts_by_xive],
        ),
        boot(
            "papr-smp8",
            Choice {
                smp: "8,cores=2,threads=4".to_owned(),
                append: "nidus_do=threads".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![
                all_threads_are_online,
                opal::all_threads_come_and_go,
                interrupts_by_xive,
                four_threads_a_core,
            ],
        ),
        boot(
            "papr-xive-off",
            Choice {
                smp: "4".to_owned(),
                append: "xive=off nidus_interrupts=1".to_owned(),
                ..Choice::new(Mode::Papr)
            },
            vec![interrupts_by_xics],
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
                        // One process group from the first letter on: a signal before `sleep` runs would be the shell's.
                        send: "sh -c 'echo start-$((1 + 1)); exec sleep 1000'\n",
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
    ];
    all.splice(0..0, life::cases());
    all.splice(0..0, kvm_hosts::cases());
    all.push(Case {
        name: "flash",
        work: Work::Flash,
    });
    all.push(Case {
        name: "opal-flash",
        work: Work::FlashCalls,
    });
    all.push(Case {
        name: "flash-boot",
        work: Work::FromFlash("powernv10"),
    });
    all.push(Case {
        name: "flash-boot-p11",
        work: Work::FromFlash("powernv11"),
    });
    all.extend(opal::cases());
    all.extend(payload_forms::cases());
    all
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
