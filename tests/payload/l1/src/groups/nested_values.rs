//! The value rules of guest state elements (nested.md 2.3, 3.8, 6.4, 7): each with values inside and outside.

use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::{Msr, TRANSACTION_BITS};
use papr_services::table::number::{H_GUEST_GET_CAPABILITIES, H_GUEST_SET_CAPABILITIES};

use super::hcalls::{OUTSIDE, WRAPS};
use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{self, GUEST_WIDE, Guest};
use crate::hcall::hcall;
use crate::mem::layout::{RUN_INPUT, RUN_OUTPUT, TABLES, VPA};
use crate::report::{case, holds, one_of};
use crate::start::Machine;

const BAD_VALUE: i64 = -81;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-values") else {
        return;
    };
    partition_table(&g, machine);
    process_table(&g);
    time_base_offset(&g);
    msr(&g);
    lpcr(&g);
    hfscr(&g);
    debug(&g);
    control(&g);
    buffers(&g, machine);
    logical_pvr(&g);
    case("nested-values/delete", g.end(), 0);
    fewer_levels();
}

fn wide(g: &Guest, name: impl core::fmt::Display, id: u16, values: &[u64], want: i64) {
    let ret = guest::set_wide(g.id, id, values);
    if case(format_args!("nested-values/{name}"), ret.code(), want) && want != 0 {
        case(format_args!("nested-values/{name}-index"), ret.r(4), 0);
    }
}

fn partition_table(g: &Guest, machine: &Machine) {
    let good = [TABLES, 52, 65536];
    for (name, values, want) in [
        ("good", good, 0),
        ("bits-0", [TABLES, 0, 65536], BAD_VALUE),
        ("bits-51", [TABLES, 51, 65536], BAD_VALUE),
        ("bits-53", [TABLES, 53, 65536], BAD_VALUE),
        ("bits-high", [TABLES, 1 << 32 | 52, 65536], BAD_VALUE),
        ("size-0", [TABLES, 52, 0], BAD_VALUE),
        ("size-4096", [TABLES, 52, 4096], BAD_VALUE),
        ("size-65535", [TABLES, 52, 65535], BAD_VALUE),
        ("size-131072", [TABLES, 52, 131_072], BAD_VALUE),
        ("misaligned", [TABLES + 4096, 52, 65536], BAD_VALUE),
        ("low-bits", [TABLES + 13, 52, 65536], BAD_VALUE),
        ("valid-bit", [TABLES | 1 << 63, 52, 65536], BAD_VALUE),
        ("outside", [OUTSIDE, 52, 65536], BAD_VALUE),
        ("behind-memory", [machine.memory, 52, 65536], BAD_VALUE),
        ("wraps", [WRAPS & !0xffff, 52, 65536], BAD_VALUE),
        ("again", good, 0),
    ] {
        wide(
            g,
            format_args!("partition-table-{name}"),
            id::PARTITION_TABLE,
            &values,
            want,
        );
    }
    let root = guest::get_with(GUEST_WIDE, g.id, 0, id::PARTITION_TABLE);
    case(
        "nested-values/partition-table-kept",
        root.unwrap_or(0),
        TABLES,
    );
}

fn process_table(g: &Guest) {
    for (name, values, want) in [
        ("zero-4K", [0, 4096], 0),
        ("64K", [0x1_0000, 0x1_0000], 0),
        ("16M", [0x100_0000, 0x100_0000], 0),
        ("64G", [0, 1 << 36], 0),
        ("size-0", [0, 0], BAD_VALUE),
        ("size-2K", [0, 2048], BAD_VALUE),
        ("size-12K", [0, 12288], BAD_VALUE),
        ("size-4095", [0, 4095], BAD_VALUE),
        ("size-128G", [0, 1 << 37], BAD_VALUE),
        ("size-all-ones", [0, u64::MAX], BAD_VALUE),
        ("misaligned", [0x8000, 0x1_0000], BAD_VALUE),
        ("low-bits", [0x1001, 4096], BAD_VALUE),
        ("beyond-52-bits", [1 << 52, 4096], BAD_VALUE),
        ("all-ones", [!0xfff, 4096], BAD_VALUE),
        ("again", [0, 4096], 0),
    ] {
        wide(
            g,
            format_args!("process-table-{name}"),
            id::PROCESS_TABLE,
            &values,
            want,
        );
    }
}

fn time_base_offset(g: &Guest) {
    for (name, value, want) in [
        ("low-bit", 1u64, BAD_VALUE),
        ("bit-23", 1 << 23, BAD_VALUE),
        ("bit-24", 1 << 24, 0),
        ("negative", (-1i64 << 24).cast_unsigned(), 0),
        ("lowest", 1 << 63, 0),
        ("zero", 0, 0),
    ] {
        wide(
            g,
            format_args!("tb-offset-{name}"),
            id::TB_OFFSET,
            &[value],
            want,
        );
        if want == 0 {
            let kept = guest::get_with(GUEST_WIDE, g.id, 0, id::TB_OFFSET).unwrap_or(1);
            case(
                format_args!("nested-values/tb-offset-{name}-kept"),
                kept,
                value,
            );
        }
    }
}

/// SET, then what GET answers.
fn set_get(g: &Guest, id: u16, value: u64) -> (i64, u64) {
    (
        guest::set(g.id, 0, id, value).code(),
        guest::get(g.id, 0, id),
    )
}

fn refuse(g: &Guest, name: impl core::fmt::Display, id: u16, value: u64) {
    let before = guest::get(g.id, 0, id);
    let (code, after) = set_get(g, id, value);
    case(format_args!("nested-values/{name}"), code, BAD_VALUE);
    case(
        format_args!("nested-values/{name}-unchanged"),
        after,
        before,
    );
}

/// Accepts, and these bits come back so.
fn accept(g: &Guest, name: impl core::fmt::Display, id: u16, value: u64, mask: u64, want: u64) {
    let (code, after) = set_get(g, id, value);
    if case(format_args!("nested-values/{name}"), code, 0) {
        case(
            format_args!("nested-values/{name}-kept"),
            after & mask,
            want,
        );
    }
}

fn msr(g: &Guest) {
    let good = guest::L2_MSR.bits();
    accept(g, "msr", id::MSR, good, u64::MAX, good);
    refuse(g, "msr-HV", id::MSR, good | Msr::HV.bits());
    refuse(g, "msr-S", id::MSR, good | Msr::S.bits());
    accept(
        g,
        "msr-ME-forced",
        id::MSR,
        good & !Msr::ME.bits(),
        Msr::ME.bits(),
        Msr::ME.bits(),
    );
    accept(
        g,
        "msr-transaction",
        id::MSR,
        good | TRANSACTION_BITS,
        TRANSACTION_BITS,
        0,
    );
    // Cause bits are echoed by L1; they are not part of what L2 runs with.
    let (code, _) = set_get(g, id::MSR, good | 0x783f_0000);
    case("nested-values/msr-cause-bits", code, 0);
    accept(
        g,
        "msr-problem-state",
        id::MSR,
        good | Msr::PR.bits(),
        Msr::PR.bits(),
        Msr::PR.bits(),
    );
    accept(g, "msr-again", id::MSR, good, u64::MAX, good);
}

fn lpcr(g: &Guest) {
    // What Linux may send: DPFD, ILE, AIL 3, LD, MER, GTSE.
    let settable = 0x0070_0000_0382_0c00u64;
    let kept = settable & !Lpcr::MER.bits();
    accept(g, "lpcr-all-settable", id::LPCR, settable, kept, kept);
    accept(g, "lpcr-none", id::LPCR, 0, settable, 0);
    let refused = (0..64)
        .map(|n| 1u64 << n)
        .filter(|bit| bit & settable == 0)
        .find(|bit| guest::set(g.id, 0, id::LPCR, *bit).code() != BAD_VALUE);
    case(
        "nested-values/lpcr-first-wrongly-accepted",
        refused.unwrap_or(0),
        0,
    );
    // Reserved values of AIL count as 0.
    for ail in [1u64, 2] {
        accept(
            g,
            format_args!("lpcr-ail-{ail}"),
            id::LPCR,
            ail << 23,
            0x0180_0000,
            0,
        );
    }
    accept(g, "lpcr-ail-3", id::LPCR, 3 << 23, 0x0180_0000, 0x0180_0000);
}

fn hfscr(g: &Guest) {
    let allowed = guest::L2_HFSCR.bits() | Hfscr::BHRB.bits() | Hfscr::MSGP.bits() | 0x1000;
    let (code, all) = set_get(g, id::HFSCR, u64::MAX);
    case("nested-values/hfscr-all-ones", code, 0);
    case(
        "nested-values/hfscr-only-known",
        all & !allowed & !(0xff << 56),
        0,
    );
    holds("nested-values/hfscr-basic", all & 7 == 7);
    accept(g, "hfscr-fp", id::HFSCR, 1, !(0xff << 56), 1);
    accept(
        g,
        "hfscr-cause",
        id::HFSCR,
        0x0a << 56 | 1,
        0xff << 56,
        0x0a << 56,
    );
}

fn debug(g: &Guest) {
    // A match in hypervisor state is not for L1 to ask: refused, or the bits are taken away.
    for (name, id, value, bad, mask) in [
        ("ciabr-hypervisor", id::CIABR, 0x1003u64, 3u64, 3u64),
        ("dawrx0-hypervisor", id::DAWRX0, 0x6f, 4, 4),
        ("dawrx1-hypervisor", id::DAWRX1, 0x6f, 4, 4),
    ] {
        let (code, after) = set_get(g, id, value);
        one_of(format_args!("nested-values/{name}"), code, &[0, BAD_VALUE]);
        holds(
            format_args!("nested-values/{name}-gone"),
            after & mask != bad,
        );
    }
    accept(g, "ciabr-supervisor", id::CIABR, 0x1002, u64::MAX, 0x1002);
    accept(g, "ciabr-off", id::CIABR, 0, u64::MAX, 0);
    accept(g, "dawrx0-supervisor", id::DAWRX0, 0x62, u64::MAX, 0x62);
    accept(g, "dawrx0-off", id::DAWRX0, 0, u64::MAX, 0);
    accept(g, "dawrx1-off", id::DAWRX1, 0, u64::MAX, 0);
}

fn control(g: &Guest) {
    let (code, _) = set_get(g, id::AMOR, u64::MAX);
    case("nested-values/amor-all-ones", code, 0);
    accept(g, "amor-none", id::AMOR, 0, u64::MAX, 0);
    accept(g, "ctrl-run", id::CTRL, 1, 1, 1);
    accept(g, "dpdes-1", id::DPDES, 1, u64::MAX, 1);
    accept(g, "dpdes-0", id::DPDES, 0, u64::MAX, 0);
    let (code, after) = set_get(g, id::DPDES, 0xff);
    one_of("nested-values/dpdes-others", code, &[0, BAD_VALUE]);
    holds("nested-values/dpdes-others-gone", after & !1 == 0);
    let (code, _) = set_get(g, id::HDEXCR, 0);
    case("nested-values/hdexcr", code, 0);
}

fn buffers(g: &Guest, machine: &Machine) {
    let pair = |id, at: u64, size: u64| {
        guest::set_with(0, g.id, 0, |w| {
            w.words(id, &[at, size]);
        })
        .code()
    };
    for (what, id, good) in [
        ("run-input", id::RUN_INPUT, RUN_INPUT),
        ("run-output", id::RUN_OUTPUT, RUN_OUTPUT),
    ] {
        for (name, at, size) in [
            ("outside", OUTSIDE, 4096),
            ("behind-memory", machine.memory, 4096),
            ("across-end", machine.memory - 2048, 4096),
            ("wraps", WRAPS, 0x2000),
            ("size-all-ones", good, u64::MAX),
            ("size-16M", good, 16 << 20),
            ("size-0", good, 0),
            ("size-3", good, 3),
        ] {
            case(
                format_args!("nested-values/{what}-{name}"),
                pair(id, at, size),
                BAD_VALUE,
            );
        }
        case(
            format_args!("nested-values/{what}-odd-address"),
            pair(id, good + 1, 4096),
            0,
        );
        case(
            format_args!("nested-values/{what}"),
            pair(id, good, 4096),
            0,
        );
        case(
            format_args!("nested-values/{what}-kept"),
            guest::get(g.id, 0, id),
            good,
        );
    }
    for (name, at, want) in [
        ("good", VPA, 0),
        ("off", u64::MAX, 0),
        ("crosses-4k", VPA + 0xe00, BAD_VALUE),
        ("outside", OUTSIDE, BAD_VALUE),
        ("behind-memory", machine.memory, BAD_VALUE),
        ("off-again", u64::MAX, 0),
    ] {
        let code = guest::set(g.id, 0, id::VPA, at).code();
        case(format_args!("nested-values/vpa-{name}"), code, want);
    }
}

fn logical_pvr(g: &Guest) {
    let offered = hcall(H_GUEST_GET_CAPABILITIES, [0]).r(4);
    let p11 = if offered & 1 << 60 != 0 { 0 } else { BAD_VALUE };
    for (value, want) in [
        (0x0f00_0005u64, 0),
        (0x0f00_0007, p11),
        (0x0f00_0006, 0),
        (0, BAD_VALUE),
        (0x0f00_0004, BAD_VALUE),
        (0x0f00_0003, BAD_VALUE),
        (0x0f10_0003, BAD_VALUE),
        (0x0f00_0008, BAD_VALUE),
        (0x0080_0200, BAD_VALUE),
        (0x0082_0200, BAD_VALUE),
        (0xffff_ffff, BAD_VALUE),
    ] {
        wide(
            g,
            format_args!("logical-pvr-{value:#x}"),
            id::LOGICAL_PVR,
            &[value],
            want,
        );
    }
    let kept = guest::get_with(GUEST_WIDE, g.id, 0, id::LOGICAL_PVR).unwrap_or(0);
    case("nested-values/logical-pvr-kept", kept, 0x0f00_0006);
}

/// Levels that L1 did not choose are not there.
fn fewer_levels() {
    const POWER10: u64 = 1 << 61;
    let set = hcall(H_GUEST_SET_CAPABILITIES, [0, POWER10]).code();
    case("nested-values/power10-only", set, 0);
    if let Ok(id) = guest::create() {
        let pvr = |value| guest::set_wide(id, id::LOGICAL_PVR, &[value]).code();
        case("nested-values/power10-only-6", pvr(0x0f00_0006), 0);
        case("nested-values/power10-only-5", pvr(0x0f00_0005), BAD_VALUE);
        case("nested-values/power10-only-7", pvr(0x0f00_0007), BAD_VALUE);
        case("nested-values/power10-only-delete", guest::delete(id), 0);
    }
    setup();
}
