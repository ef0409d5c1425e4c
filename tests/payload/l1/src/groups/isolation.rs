//! What a partition sees that it should not: registers at its first instruction, memory and registers of the
//! hypervisor. The surprising fact: the entry code already stored the registers; here they are only judged.

use papr_services::table::number as nr;

use crate::hcall::hcall;
use crate::low::{DUMP, ENTRY, ENTRY_GPR};
use crate::registers::{self, SPRS};
use crate::report::{case, holds, one_of, skip};
use crate::start::Machine;
use crate::{mem, probe};

/// Not in any partition's memory, inside the 52-bit partition space.
const FAR: u64 = 1 << 48;

pub(super) fn run(machine: &Machine) {
    entry();
    files();
    memory(machine);
    hypervisor_registers();
    instructions();
    hcall_keeps();
}

/// A register that the entry code saved in the byte order of the entry.
fn saved(index: u64) -> u64 {
    let raw = mem::read64(ENTRY + 8 * index);
    let big = mem::read64(ENTRY + 0x30) != 0;
    if big { raw.swap_bytes() } else { raw }
}

fn entry() {
    for n in (0..30).filter(|n| !matches!(n, 3 | 4)) {
        case(
            format_args!("isolation/entry-r{n}"),
            mem::read64(ENTRY_GPR + 8 * n),
            0,
        );
    }
    for (name, index) in [("r31", 0), ("r30", 1), ("SRR0", 2), ("SRR1", 3), ("LR", 5)] {
        case(format_args!("isolation/entry-{name}"), saved(index), 0);
    }
    for (name, at) in [("CR", 0x38), ("CTR", 0x40), ("XER", 0x48)] {
        case(
            format_args!("isolation/entry-{name}"),
            mem::read64(ENTRY + at),
            0,
        );
    }
    // SF and ME; byte order and RI are free.
    let msr = saved(4) & !3;
    case("isolation/entry-MSR", msr, 0x8000_0000_0000_1000);
}

fn files() {
    // Facilities off at first are right too; turn on what the dump reads.
    let fscr = probe::mfspr::<153>().unwrap_or(u64::MAX);
    one_of("isolation/entry-FSCR", fscr & !0x3184, &[0]);
    holds(
        "isolation/FSCR-writable",
        probe::mtspr::<153>(0x3184).is_ok(),
    );
    registers::dump();
    for n in 0..64 {
        let [high, low] = registers::vsr(DUMP, n);
        case(format_args!("isolation/entry-VSR{n}"), high | low, 0);
    }
    for spr in SPRS {
        // Set by this payload, by interrupts, or with reset values that are not zero.
        let value = registers::special(DUMP, spr.index);
        match spr.name {
            "LR" | "CTR" | "XER" | "CR" | "SRR0" | "SRR1" | "FSCR" | "DAR" | "DSISR" => {}
            "PPR" => {
                one_of(
                    "isolation/entry-PPR",
                    value,
                    &[0, 2 << 50, 3 << 50, 4 << 50],
                );
            }
            "CTRL" => {
                one_of("isolation/entry-CTRL", value & 0xff, &[0, 1]);
            }
            "MMCR0" => {
                case("isolation/entry-MMCR0", value & !0x8000_0200, 0);
            }
            "MMCRA" => {
                case("isolation/entry-MMCRA", value & !0x20_0000_0000, 0);
            }
            name => {
                case(format_args!("isolation/entry-{name}"), value, 0);
            }
        }
    }
    let vscr = registers::special(DUMP, registers::VSCR) & 0xffff_ffff;
    one_of("isolation/entry-VSCR", vscr, &[0, 0x1_0000]);
}

fn memory(machine: &Machine) {
    // Bit 1 set: real mode ignores it, the model takes it for a quadrant that is not there (0x380, 0x480).
    for (name, addr) in [
        ("far", FAR),
        ("far-odd", FAR + 0x1008),
        ("high-bits", 1 << 62 | FAR),
    ] {
        let trap = probe::load(addr).err();
        let vector = trap.map_or(0, |t| t.vector);
        one_of(
            format_args!("isolation/load-{name}"),
            vector,
            &[0x300, 0x200, 0x380],
        );
        if vector == 0x300 {
            let dar = trap.map_or(0, |t| t.dar);
            case(format_args!("isolation/load-{name}-DAR"), dar, addr);
        }
        let vector = probe::store_outside(addr, 1).err().map_or(0, |t| t.vector);
        one_of(
            format_args!("isolation/store-{name}"),
            vector,
            &[0x300, 0x200, 0x380],
        );
        let vector = probe::fetch(addr).map_or(0, |t| t.vector);
        one_of(
            format_args!("isolation/fetch-{name}"),
            vector,
            &[0x400, 0x200, 0x480],
        );
    }
    let vector = probe::load(machine.memory).err().map_or(0, |t| t.vector);
    one_of("isolation/load-behind-memory", vector, &[0x300, 0x200]);
    holds(
        "isolation/load-last",
        probe::load(machine.memory - 8).is_ok(),
    );
}

/// A hypervisor register must be out of reach: a privileged (or illegal) program interrupt.
fn refused(name: &str, trap: Option<probe::Trap>) {
    let vector = trap.map_or(0, |t| t.vector);
    if case(format_args!("isolation/{name}"), vector, 0x700) {
        let cause = trap.map_or(0, |t| t.srr1) & 0xe_0000;
        one_of(
            format_args!("isolation/{name}-cause"),
            cause,
            &[0x4_0000, 0x8_0000],
        );
    }
}

fn hypervisor_registers() {
    macro_rules! each {
        ($($name:literal $number:literal),*) => { $(
            refused(concat!("read-", $name), probe::mfspr::<$number>().err());
            refused(concat!("write-", $name), probe::mtspr::<$number>(0).err());
        )* };
    }
    each!("LPCR" 318, "LPIDR" 319, "HSPRG0" 304, "HSPRG1" 305, "HDSISR" 306, "HDAR" 307, "HDEC" 310, "HRMOR" 313,
        "HSRR0" 314, "HSRR1" 315, "HFSCR" 190, "PCR" 338, "AMOR" 349, "PTCR" 464, "ASDR" 816, "HEIR" 339,
        "CIABR" 187, "DAWR0" 180, "HID0" 1008);
    refused("write-TBU40", probe::mtspr::<286>(0).err());
}

fn instructions() {
    refused("hrfid", probe::hrfid());
    refused("tlbie-partition-scope", probe::tlbie_partition());
    let trap = probe::illegal();
    case("isolation/illegal", trap.map_or(0, |t| t.vector), 0x700);
    case(
        "isolation/illegal-cause",
        trap.map_or(0, |t| t.srr1) & 0xf_0000,
        0x8_0000,
    );
    skip(
        "isolation/stop",
        "the model refuses it, silicon may wake at once: a case for hardware",
    );
}

/// Non-volatile registers and files across a hypercall.
fn hcall_keeps() {
    registers::keep();
    mem::fill(crate::low::LOAD, 0x100, 0);
    registers::fill(crate::low::LOAD, 77);
    registers::round_trip();
    let mut before = [0u64; 224];
    for (i, slot) in (0u64..).zip(before.iter_mut()) {
        *slot = mem::read64(DUMP + 8 * i);
    }
    registers::call(nr::H_POLL_PENDING, [0; 9]);
    for n in 13..32 {
        let (got, want) = (registers::gpr(DUMP, n), registers::gpr_value(77, n));
        if got != want {
            case(format_args!("isolation/hcall-keeps-r{n}"), got, want);
        }
    }
    holds(
        "isolation/hcall-keeps-gprs",
        (13..32).all(|n| registers::gpr(DUMP, n) == registers::gpr_value(77, n)),
    );
    for spr in SPRS {
        // The call itself uses SRR0/1; LR, CTR, XER and CR are volatile.
        if matches!(spr.name, "SRR0" | "SRR1" | "LR" | "CTR" | "XER" | "CR") {
            continue;
        }
        let index = spr.index as usize;
        let got = registers::special(DUMP, spr.index);
        case(
            format_args!("isolation/hcall-keeps-{}", spr.name),
            got,
            before[32 + index],
        );
    }
    let vsrs = (0..64).all(|n| registers::vsr(DUMP, n) == registers::vsr_value(77, n));
    holds("isolation/hcall-keeps-vsrs", vsrs);
    clean();
}

/// Ordinary register values again: zero, with facilities on and counters frozen.
pub(super) fn clean() {
    mem::fill(crate::low::LOAD, 0x700, 0);
    for spr in SPRS {
        let value = if spr.name == "CTRL" { 1 } else { spr.fixed };
        mem::write64(crate::low::LOAD + 0x100 + 8 * spr.index, value);
    }
    registers::round_trip();
    hcall(nr::H_CPPR, [0]);
}
