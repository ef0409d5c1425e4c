//! The part of the table that is about payload forms in OPAL mode: what is booted there takes a second and is no Linux.
//!
//! Surprising fact: a line of the program and a line of the firmware are both needed. The first says that the program was
//! entered as it must be, the second that the firmware took the file for what it is.

use super::{Case, Stop, Work};
use crate::flash_boot::InFlash;
use crate::forms::{Form, Inner, RUNS};
use crate::tiny_elf::Class;

/// Nothing else is there: what the flash gave in part is not started.
const NO_KERNEL: (&str, &str) = ("reason", "boot stopped at stage payload: no kernel: ");
const OFF: (&str, &str) = ("off", "stop] power off");

/// One case for each form, and for what is none.
pub(super) fn cases() -> Vec<Case> {
    let case = |name, form, lines, stop| Case {
        name,
        work: Work::Form(form, lines, stop),
    };
    let runs = |name, form, lines| case(name, form, lines, Stop::PowerOff);
    vec![
        runs(
            "opal-raw",
            Form::Raw,
            &[
                ("form", "kernel: raw image, entry 0x20000000"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-elf-big-endian",
            Form::Elf(Class::Big64),
            &[
                ("form", "kernel: big-endian ELF, entry 0x20000200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-elf-little-endian",
            Form::Elf(Class::Little64),
            &[
                ("form", "kernel: little-endian ELF, entry 0x20000200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-elf-32-bit",
            Form::Elf(Class::Big32),
            &[
                ("form", "kernel: 32-bit ELF, entry 0x20000200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-elf-descriptor",
            Form::Descriptor,
            &[
                ("form", "kernel: big-endian ELF, entry 0x20000200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-container-elf",
            Form::Contained(Inner::Elf),
            &[
                ("form", "kernel: big-endian ELF, entry 0x20001200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-container-raw",
            Form::Contained(Inner::Raw),
            &[
                ("form", "kernel: raw image, entry 0x20001000"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "opal-bad-container",
            Form::BadContainer,
            &[
                (
                    "reason",
                    "boot stopped at stage payload: the secure-boot container at 0x20000000 is malformed: ",
                ),
                OFF,
            ],
        ),
        runs(
            "opal-text",
            Form::Text,
            &[
                (
                    "reason",
                    "boot stopped at stage payload: no kernel: found bytes that are no ELF file",
                ),
                OFF,
            ],
        ),
        runs(
            "opal-no-kernel",
            Form::Nothing,
            &[
                (
                    "reason",
                    "boot stopped at stage payload: no kernel: nothing but zeroes",
                ),
                OFF,
            ],
        ),
        runs(
            "flash-packed",
            Form::Flash(InFlash::Packed),
            &[
                ("file", "BOOTKERNEL from flash: 2 KiB, with xz, "),
                ("form", "kernel: big-endian ELF, entry 0x20000200"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "flash-ecc",
            Form::Flash(InFlash::WithEcc),
            &[
                ("correction", "BOOTKERNEL in flash: 1 wrong bits corrected"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "flash-bad-ecc",
            Form::Flash(InFlash::WithBadEcc),
            &[
                (
                    "warning",
                    "BOOTKERNEL in flash: more than one wrong bit in the nine bytes at ",
                ),
                NO_KERNEL,
                OFF,
            ],
        ),
        runs(
            "flash-wrong-hash",
            Form::Flash(InFlash::WrongHash),
            &[
                ("warning", "its hash is not what its container says"),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "flash-secure-wrong-hash",
            Form::Flash(InFlash::WrongHashInSecureMode),
            &[
                (
                    "warning",
                    "BOOTKERNEL in flash: its secure-boot container: the payload's hash is wrong",
                ),
                NO_KERNEL,
                OFF,
            ],
        ),
        runs(
            "flash-secure",
            Form::Flash(InFlash::Signed),
            &[
                ("mode", "secure mode: "),
                ("file", "BOOTKERNEL from flash: "),
                ("program", RUNS),
                OFF,
            ],
        ),
        runs(
            "flash-cut",
            Form::Flash(InFlash::Cut),
            &[
                ("warning", "BOOTKERNEL in flash: the xz stream is cut off"),
                NO_KERNEL,
                OFF,
            ],
        ),
        runs(
            "opal-reboot-kinds",
            Form::Reboots,
            &[("program", RUNS), ("reboot", "stop] reboot")],
        ),
        case(
            "opal-platform-error",
            Form::PlatformError,
            &[
                ("program", RUNS),
                (
                    "reason",
                    "the kernel reports a platform error: no reason given; the machine stays stopped",
                ),
            ],
            Stop::Stays,
        ),
        case(
            "opal-no-bmc",
            Form::NoBmc,
            &[
                (
                    "warning",
                    "the machine can not be switched off by the firmware",
                ),
                ("program", RUNS),
                OFF,
                (
                    "reason",
                    "cannot power off: there is no BMC; the machine stays stopped here",
                ),
            ],
            Stop::Stays,
        ),
    ]
}
