//! L2 with translation on: interrupts that AIL = 3 relocates, faults of its own page tables, which L1 never sees, and
//! faults of L2 real addresses behind them, which it does.

use isa::lpcr::Lpcr;
use isa::msr::Msr;
use isa::pte::Pte;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{self, Guest, L2_MSR, program};
use crate::mem;
use crate::mem::layout::L2_MEMORY;
use crate::radix::{self, set_entry};
use crate::report::{case, holds, one_of};
use crate::start::Machine;

/// L2 real addresses of its process table and of process 0's tables.
const TABLE: u64 = 0x8_0000;
const ROOT: u64 = 0x9_0000;
const DIRECTORY: u64 = 0xa_0000;

const TRANSLATED: u64 = L2_MSR.union(Msr::IR).union(Msr::DR).bits();
const WITH_EE: u64 = TRANSLATED | Msr::EE.bits();
const LPCR: u64 = Lpcr::ILE.union(Lpcr::LD).union(Lpcr::AIL).bits();
const KERNEL: u64 = 0xc000_0000_0000_0000;
const GPR5: u16 = id::GPR0 + 5;

pub(super) fn run(_: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-translated") else {
        return;
    };
    radix::identity_process(L2_MEMORY, TABLE, ROOT, DIRECTORY);
    let table = guest::set_wide(g.id, id::PROCESS_TABLE, &[TABLE, 4096]).code();
    case("nested-translated/process-table", table, 0);
    case(
        "nested-translated/pid",
        guest::set(g.id, 0, id::PIDR, 0).code(),
        0,
    );
    delivered(&g);
    own_faults(&g);
    nested_faults(&g);
    own_invalidation(&g);
    table_faults(&g);
    case("nested-translated/delete", g.end(), 0);
}

fn start(g: &Guest, name: &str, nia: u64, elements: &[(u16, u64)], want: i64) -> bool {
    let code = g.prepare(0, nia);
    let set = guest::set_with(0, g.id, 0, |w| {
        w.u64(id::MSR, TRANSLATED)
            .u64(id::LPCR, LPCR)
            .u64(id::HDEC_EXPIRY, guest::soon(guest::BOUND));
        for (id, value) in elements {
            w.element(*id, *value);
        }
    });
    case(
        format_args!("nested-translated/{name}-set"),
        code | set.code(),
        0,
    );
    case(format_args!("nested-translated/{name}"), g.run(), want)
}

fn relocated(g: &Guest, name: &str, vector: u64, at: u64) {
    let say = |what: &str, got: u64, want: u64| {
        case(format_args!("nested-translated/{name}-{what}"), got, want);
    };
    say("vector", g.gpr(3), 0x4000 + vector);
    say("srr0", g.gpr(4), at);
    let on = (Msr::IR | Msr::DR).bits();
    say("srr1", g.gpr(5) & on, on);
    say("msr", g.element(id::MSR) & (on | Msr::EE.bits()), on);
    let nia = g.element(id::NIA);
    say("place", nia & !0xff, KERNEL | (0x4000 + vector));
}

fn delivered(g: &Guest) {
    let far = KERNEL | program::LOOP;
    for (name, nia) in [("user-address", program::LOOP), ("kernel-address", far)] {
        let dec = [(id::MSR, WITH_EE), (id::DEC_EXPIRY, guest::soon(50_000))];
        if start(g, name, nia, &dec, 0xc00) {
            relocated(g, name, 0x900, nia);
        }
    }
    let mer = [(id::MSR, WITH_EE), (id::LPCR, LPCR | Lpcr::MER.bits())];
    if start(g, "external", far, &mer, 0xc00) {
        relocated(g, "external", 0x500, far);
    }
    let later = [(id::LPCR, LPCR | Lpcr::MER.bits())];
    if start(g, "external-later", KERNEL | program::ENABLE, &later, 0xc00) {
        relocated(g, "external-later", 0x500, (KERNEL | program::ENABLE) + 16);
    }
    let bell = [(id::MSR, WITH_EE), (id::DPDES, 1)];
    if start(g, "doorbell", far, &bell, 0xc00) {
        relocated(g, "doorbell", 0xa00, far);
    }
    if start(g, "user-sc1", program::USER_SC, &[], 0xc00) {
        relocated(g, "user-sc1", 0x700, program::USER_SC_AT);
        case(
            "nested-translated/user-sc1-cause",
            g.gpr(5) & 0xf_0000,
            0x4_0000,
        );
    }
    if start(g, "sc0", far - program::LOOP + program::SYSCALL, &[], 0xc00) {
        relocated(g, "sc0", 0xc00, (KERNEL | program::SYSCALL) + 4);
    }
}

/// Faults of L2's own tables are L2's.
fn own_faults(g: &Guest) {
    let hole = KERNEL | 0x4000_0000;
    if start(g, "own-load", program::LOAD, &[(GPR5, hole)], 0xc00) {
        relocated(g, "own-load", 0x300, program::LOAD);
        case("nested-translated/own-load-dar", g.gpr(6), hole);
    }
    if start(g, "own-store", program::STORE, &[(GPR5, hole)], 0xc00) {
        relocated(g, "own-store", 0x300, program::STORE);
    }
    if start(g, "own-fetch", program::JUMP, &[(GPR5, hole)], 0xc00) {
        relocated(g, "own-fetch", 0x400, hole);
    }
    if start(g, "own-segment", program::LOAD, &[(GPR5, 1 << 60)], 0xc00) {
        let vector = g.gpr(3);
        one_of(
            "nested-translated/own-segment-vector",
            vector,
            &[0x4380, 0x4300],
        );
    }
}

/// L2 maps it, L1 does not: HDAR is the effective address, ASDR the L2 real one.
fn nested_faults(g: &Guest) {
    let (ea, real) = (KERNEL | 0x1000_1238, 0x1000_1000u64);
    if start(g, "load", program::LOAD, &[(GPR5, ea)], 0xe00) {
        case("nested-translated/load-hdar", g.element(id::HDAR), ea);
        case(
            "nested-translated/load-asdr",
            g.element(id::ASDR) & !0xfff,
            real,
        );
        case(
            "nested-translated/load-hdsisr",
            g.element(id::HDSISR),
            0x4000_0000,
        );
        case(
            "nested-translated/load-nia",
            g.element(id::NIA),
            program::LOAD,
        );
    }
    if start(g, "store", program::STORE, &[(GPR5, ea)], 0xe00) {
        case(
            "nested-translated/store-hdsisr",
            g.element(id::HDSISR),
            0x4200_0000,
        );
        case(
            "nested-translated/store-asdr",
            g.element(id::ASDR) & !0xfff,
            real,
        );
    }
    if start(g, "fetch", program::JUMP, &[(GPR5, ea & !7)], 0xe20) {
        case(
            "nested-translated/fetch-asdr",
            g.element(id::ASDR) & !0xfff,
            real,
        );
        case("nested-translated/fetch-nia", g.element(id::NIA), ea & !7);
        case(
            "nested-translated/fetch-msr",
            g.element(id::MSR) & 0x7800_0000,
            0x4000_0000,
        );
    }
}

/// L2's tables themselves lie where L1 maps nothing.
fn table_faults(g: &Guest) {
    let outside = 0x2000_0000u64;
    let at = L2_MEMORY + ROOT + 8; // the second 512 GiB
    set_entry(at, Pte::VALID.bits() | outside | 9);
    let ea = KERNEL | 1 << 39;
    if start(g, "table", program::LOAD, &[(GPR5, ea)], 0xe00) {
        let cause = g.element(id::HDSISR);
        holds(
            "nested-translated/table-cause",
            cause & 0x4000_0000 != 0 || cause & 0x2_0000 != 0,
        );
        case(
            "nested-translated/table-asdr",
            g.element(id::ASDR) & !0xfff,
            outside,
        );
    }
    set_entry(at, 0);
    let moved = guest::set_wide(g.id, id::PROCESS_TABLE, &[outside, 4096]).code();
    case("nested-translated/moved-process-table", moved, 0);
    if code_of(g) {
        case(
            "nested-translated/no-process-table-asdr",
            g.element(id::ASDR) & !0xfff,
            outside,
        );
    }
    let back = guest::set_wide(g.id, id::PROCESS_TABLE, &[TABLE, 4096]).code();
    case("nested-translated/process-table-back", back, 0);
    // It goes on as if nothing had been.
    start(g, "goes-on", program::SC, &[], 0xc00);
}

/// The first fetch cannot be translated: HISI, or HDSI in the model.
fn code_of(g: &Guest) -> bool {
    let code = g.prepare(0, program::SC);
    let set = guest::set(g.id, 0, id::MSR, TRANSLATED).code();
    case("nested-translated/no-process-table-set", code | set, 0);
    one_of(
        "nested-translated/no-process-table",
        g.run(),
        &[0xe00, 0xe20],
    )
}

/// L2 changes its own page table and asks for an invalidation, which never reaches L1: the new page shows at once.
fn own_invalidation(g: &Guest) {
    // The second gigabyte of process 0 by 4K pages: a directory and a leaf table in L2's memory.
    let (directory, leaves, a, b) = (0xb_0000u64, 0xb_1000u64, 0xc_0000u64, 0xc_1000u64);
    let valid = Pte::VALID.bits();
    mem::fill(L2_MEMORY + directory, 0x2000, 0);
    set_entry(L2_MEMORY + DIRECTORY + 8, valid | directory | 9);
    set_entry(L2_MEMORY + directory, valid | leaves | 9);
    let leaf = |real: u64| (Pte::VALID | Pte::LEAF | radix::ALL).bits() | real;
    mem::write64(L2_MEMORY + a, 0xaaaa);
    mem::write64(L2_MEMORY + b, 0xbbbb);
    for (round, from, to) in [(0, a, b), (1, b, a)] {
        set_entry(L2_MEMORY + leaves, leaf(from));
        // L2 stores little-endian; the entry is big-endian.
        let entry = leaf(to).swap_bytes();
        let (want_from, want_to) = if from == a {
            (0xaaaa, 0xbbbb)
        } else {
            (0xbbbb, 0xaaaa)
        };
        let elements = [
            (GPR5, 1u64 << 30),
            (id::GPR0 + 6, leaves),
            (id::GPR0 + 7, entry),
        ];
        if start(g, "remap", program::REMAP, &elements, 0xc00) {
            case(
                format_args!("nested-translated/remap-{round}-end"),
                g.gpr(3),
                0x4248,
            );
            case(
                format_args!("nested-translated/remap-{round}-answer"),
                g.gpr(6),
                0,
            );
            case(
                format_args!("nested-translated/remap-{round}-before"),
                g.gpr(5),
                want_from,
            );
            case(
                format_args!("nested-translated/remap-{round}-after"),
                g.gpr(4),
                want_to,
            );
        }
    }
    set_entry(L2_MEMORY + DIRECTORY + 8, 0);
}
