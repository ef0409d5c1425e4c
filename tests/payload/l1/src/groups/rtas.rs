//! Every RTAS call that the tree names: good arguments where they harm nothing, and always bad ones.

use papr_services::table::number::H_RTAS;

use super::hcalls::PARAMETER;
use crate::hcall::hcall;
use crate::mem::layout::{BUFFER, SCRATCH};
use crate::report::{case, holds, one_of, skip};
use crate::rtas::{self, block, result};
use crate::start::Machine;
use crate::{mem, say};

/// Cells of a call: arguments, results; and cases of its own, which get the token.
struct Known {
    name: &'static str,
    args: usize,
    rets: &'static [u32],
    cases: Option<fn(&Machine, u32)>,
}

const fn known(
    name: &'static str,
    args: usize,
    rets: &'static [u32],
    cases: Option<fn(&Machine, u32)>,
) -> Known {
    Known {
        name,
        args,
        rets,
        cases,
    }
}

/// The calls of papr-partition.md 4.2 that a first partition has.
const CALLS: &[Known] = &[
    known("query-cpu-stopped-state", 1, &[2], Some(query_cpu)),
    known("start-cpu", 3, &[1], Some(start_cpu)),
    known("stop-self", 0, &[1], None),
    known("power-off", 2, &[1], None),
    known("ibm,power-off-ups", 0, &[1], None),
    known("system-reboot", 0, &[1], None),
    known("get-time-of-day", 0, &[8], Some(get_time)),
    known("set-time-of-day", 7, &[1], Some(set_time)),
    known("event-scan", 4, &[1], Some(event_scan)),
    known("check-exception", 6, &[1], Some(check_exception)),
    known("nvram-fetch", 3, &[2], Some(nvram_fetch)),
    known("nvram-store", 3, &[2], Some(nvram_store)),
    known("display-character", 1, &[1], Some(display)),
    known("ibm,set-xive", 3, &[1], Some(set_xive)),
    known("ibm,get-xive", 1, &[3], Some(get_xive)),
    known("ibm,int-on", 1, &[1], Some(int_on_off)),
    known("ibm,int-off", 1, &[1], Some(int_on_off)),
    known("ibm,get-system-parameter", 3, &[1], Some(get_parameter)),
    known("ibm,set-system-parameter", 2, &[1], Some(set_parameter)),
    known("ibm,os-term", 1, &[1], Some(os_term)),
    known("ibm,nmi-register", 2, &[1], Some(nmi_register)),
    known("ibm,nmi-interlock", 0, &[1], None),
    known("rtas-last-error", 2, &[1], None),
];

/// The last page that RTAS can name (32 bits): outside memory, unless the partition has 4 GiB.
const OUTSIDE: u32 = 0xffff_f000;
const BAD: i64 = -3;

pub(super) fn run(machine: &Machine) {
    let mut calls = 0;
    for (name, token) in machine.rtas.calls() {
        calls += 1;
        let Some(call) = CALLS.iter().find(|c| c.name == name) else {
            say!("case rtas/{name}-has-cases FAILED: token {token:#x} of the tree has none");
            crate::report::failure();
            continue;
        };
        wrong_cells(call, token);
        if let Some(cases) = call.cases {
            cases(machine, token);
        }
    }
    holds("rtas/tree-names-calls", calls > 0);
    holds(
        "rtas/power-off-in-tree",
        machine.rtas.token("power-off").is_some(),
    );
    blocks(machine);
    entry(machine);
}

/// Calls and expects these two.
fn expect(name: impl core::fmt::Display, token: u32, args: &[u32], rets: u32, want: (i64, i64)) {
    let got = rtas::call(token, args, rets);
    case(format_args!("rtas/{name}"), got.0, want.0);
    case(format_args!("rtas/{name}-status"), got.1, want.1);
}

/// Calls with a buffer at [`OUTSIDE`].
fn expect_outside(machine: &Machine, name: &str, token: u32, args: &[u32], rets: u32) {
    if machine.memory <= u64::from(OUTSIDE) {
        expect(name, token, args, rets, (0, BAD));
    } else {
        skip(
            format_args!("rtas/{name}"),
            "all 32-bit addresses are memory here",
        );
    }
}

fn wrong_cells(call: &Known, token: u32) {
    let args = [0u32; 16];
    let rets = call.rets[0];
    let name = call.name;
    expect(
        format_args!("{name}-args+1"),
        token,
        &args[..call.args + 1],
        rets,
        (PARAMETER, BAD),
    );
    if call.args > 0 {
        expect(
            format_args!("{name}-args-1"),
            token,
            &args[..call.args - 1],
            rets,
            (PARAMETER, BAD),
        );
    }
    expect(
        format_args!("{name}-rets+1"),
        token,
        &args[..call.args],
        rets + 1,
        (PARAMETER, BAD),
    );
    // No result cell: nowhere to put a status.
    block(SCRATCH, token, &args[..call.args], 0);
    case(
        format_args!("rtas/{name}-rets-0"),
        hcall(H_RTAS, [SCRATCH]).code(),
        PARAMETER,
    );
}

/// Argument blocks themselves.
fn blocks(machine: &Machine) {
    expect("unknown-token", 0x0bad_0bad, &[], 1, (PARAMETER, BAD));
    expect("token-all-ones", u32::MAX, &[], 1, (PARAMETER, BAD));
    expect("token-0", 0, &[], 1, (PARAMETER, BAD));
    for (name, args, rets) in [
        ("args-huge", 0x4000_0000u32, 1u32),
        ("args-all-ones", u32::MAX, 1),
        ("rets-huge", 0, 0x4000_0000),
        ("rets-all-ones", 0, u32::MAX),
        ("sum-wraps", 0x8000_0000, 0x8000_0000),
        ("both-17", 17, 17),
    ] {
        block(
            SCRATCH,
            machine.rtas.token("display-character").unwrap_or(1),
            &[],
            1,
        );
        mem::write32(SCRATCH + 4, args.to_be());
        mem::write32(SCRATCH + 8, rets.to_be());
        case(
            format_args!("rtas/block-{name}"),
            hcall(H_RTAS, [SCRATCH]).code(),
            PARAMETER,
        );
    }
    for (name, at) in [
        ("far", 1u64 << 48),
        ("wraps", u64::MAX - 3),
        ("behind-memory", machine.memory),
        ("across-end", machine.memory - 4),
    ] {
        case(
            format_args!("rtas/block-{name}"),
            hcall(H_RTAS, [at]).code(),
            PARAMETER,
        );
    }
}

/// The way a kernel calls: 32-bit big-endian entry.
fn entry(machine: &Machine) {
    let rtas = &machine.rtas;
    holds(
        "rtas/base-in-first-GiB",
        rtas.base > 0 && rtas.base < 0x4000_0000,
    );
    holds("rtas/size", rtas.size >= 20);
    if let (Some(token), true) = (rtas.token("get-time-of-day"), rtas.entry != 0) {
        case("rtas/entry", rtas::call_entry(rtas.entry, token, &[], 8), 0);
        let year = result(SCRATCH, 0, 1);
        holds("rtas/entry-result", (1970..2200).contains(&year));
        let status = rtas::call_entry(rtas.entry, 0x0bad_0bad, &[], 1);
        case("rtas/entry-unknown-token", status, BAD);
    }
}

fn query_cpu(machine: &Machine, token: u32) {
    expect("query-self", token, &[machine.server as u32], 2, (0, 0));
    case("rtas/query-self-runs", u64::from(result(SCRATCH, 1, 1)), 2);
    expect("query-unknown", token, &[0x7fff], 2, (0, BAD));
}

fn start_cpu(machine: &Machine, token: u32) {
    expect(
        "start-self",
        token,
        &[machine.server as u32, 0x40_0000, 0],
        1,
        (0, -1),
    );
    expect("start-unknown", token, &[0x7fff, 0x40_0000, 0], 1, (0, BAD));
}

fn get_time(_: &Machine, token: u32) {
    expect("time", token, &[], 8, (0, 0));
    let cell = |n| result(SCRATCH, 0, n);
    holds(
        "rtas/time-date",
        (1970..2200).contains(&cell(1))
            && (1..=12).contains(&cell(2))
            && (1..=31).contains(&cell(3)),
    );
    holds(
        "rtas/time-of-day",
        cell(4) < 24 && cell(5) < 60 && cell(6) < 61 && cell(7) < 1_000_000_000,
    );
}

fn set_time(_: &Machine, token: u32) {
    for (name, date) in [
        ("month-13", [2026, 13, 1, 0, 0, 0, 0]),
        ("month-0", [2026, 0, 1, 0, 0, 0, 0]),
        ("day-32", [2026, 1, 32, 0, 0, 0, 0]),
        ("hour-24", [2026, 1, 1, 24, 0, 0, 0]),
        ("minute-60", [2026, 1, 1, 0, 60, 0, 0]),
        ("all-ones", [u32::MAX; 7]),
    ] {
        expect(format_args!("set-time-{name}"), token, &date, 1, (0, BAD));
    }
}

fn event_scan(_: &Machine, token: u32) {
    expect(
        "event-scan",
        token,
        &[u32::MAX, 0, BUFFER as u32, 1024],
        1,
        (0, 1),
    );
}

fn check_exception(_: &Machine, token: u32) {
    let args = [0x500, 0x1000, u32::MAX, 0, BUFFER as u32, 1024];
    expect("check-exception", token, &args, 1, (0, 1));
}

fn nvram_fetch(machine: &Machine, token: u32) {
    let at = BUFFER as u32;
    expect("nvram-fetch", token, &[0, at, 16], 2, (0, 0));
    case(
        "rtas/nvram-fetch-count",
        u64::from(result(SCRATCH, 3, 1)),
        16,
    );
    expect(
        "nvram-fetch-offset",
        token,
        &[0xffff_fff0, at, 32],
        2,
        (0, BAD),
    );
    expect("nvram-fetch-length", token, &[0, at, u32::MAX], 2, (0, BAD));
    expect_outside(machine, "nvram-fetch-buffer", token, &[0, OUTSIDE, 16], 2);
}

fn nvram_store(machine: &Machine, token: u32) {
    let at = BUFFER as u32;
    mem::write64(BUFFER, 0x0123_4567_89ab_cdef);
    expect("nvram-store", token, &[0x100, at, 8], 2, (0, 0));
    if let Some(fetch) = machine.rtas.token("nvram-fetch") {
        mem::write64(BUFFER, 0);
        expect("nvram-fetch-stored", fetch, &[0x100, at, 8], 2, (0, 0));
        case(
            "rtas/nvram-keeps",
            mem::read64(BUFFER),
            0x0123_4567_89ab_cdef,
        );
    }
    expect(
        "nvram-store-offset",
        token,
        &[0xffff_fff0, at, 32],
        2,
        (0, BAD),
    );
    expect_outside(machine, "nvram-store-buffer", token, &[0, OUTSIDE, 16], 2);
}

fn display(_: &Machine, token: u32) {
    expect("display-character", token, &[u32::from(b'\n')], 1, (0, 0));
}

/// The console's interrupt source is the one that every partition has.
fn set_xive(machine: &Machine, token: u32) {
    let me = machine.server as u32;
    expect("set-xive-unknown", token, &[0xff_fff0, me, 5], 1, (0, BAD));
    expect("set-xive-spurious", token, &[0, me, 5], 1, (0, BAD));
    let (Some(source), Some(get)) = (machine.console_source, machine.rtas.token("ibm,get-xive"))
    else {
        skip("rtas/set-xive", "the console has no interrupt");
        return;
    };
    expect("set-xive-server", token, &[source, 0x7fff, 5], 1, (0, BAD));
    expect("set-xive-priority", token, &[source, me, 256], 1, (0, BAD));
    for priority in [5, 0, 0xff] {
        expect(
            format_args!("set-xive-{priority}"),
            token,
            &[source, me, priority],
            1,
            (0, 0),
        );
        expect(
            format_args!("get-xive-{priority}"),
            get,
            &[source],
            3,
            (0, 0),
        );
        case(
            format_args!("rtas/get-xive-{priority}-server"),
            u64::from(result(SCRATCH, 1, 1)),
            machine.server,
        );
        case(
            format_args!("rtas/get-xive-{priority}-priority"),
            u64::from(result(SCRATCH, 1, 2)),
            u64::from(priority),
        );
    }
}

fn get_xive(_: &Machine, token: u32) {
    expect("get-xive-unknown", token, &[0xff_fff0], 3, (0, BAD));
}

fn int_on_off(machine: &Machine, token: u32) {
    expect("int-on-off-unknown", token, &[0xff_fff0], 1, (0, BAD));
    if let Some(source) = machine.console_source {
        expect("int-on-off", token, &[source], 1, (0, 0));
    }
}

fn get_parameter(machine: &Machine, token: u32) {
    let at = BUFFER as u32;
    expect(
        "get-parameter-unknown",
        token,
        &[0x7fff_ffff, at, 512],
        1,
        (0, BAD),
    );
    // 55 is the partition's name: any string, or not known.
    let (code, status) = rtas::call(token, &[55, at, 512], 1);
    case("rtas/get-parameter-name", code, 0);
    one_of("rtas/get-parameter-name-status", status, &[0, BAD]);
    if status == 0 {
        let len = u16::from_be(mem::read16(BUFFER));
        holds("rtas/get-parameter-name-length", len > 0 && len < 510);
        // This call has a code of its own for bad parameters.
        if machine.memory <= u64::from(OUTSIDE) {
            let (code, status) = rtas::call(token, &[55, OUTSIDE, 512], 1);
            case("rtas/get-parameter-buffer", code, 0);
            one_of("rtas/get-parameter-buffer-status", status, &[BAD, -9999]);
        }
    }
}

fn set_parameter(_: &Machine, token: u32) {
    expect(
        "set-parameter-unknown",
        token,
        &[0x7fff_ffff, BUFFER as u32],
        1,
        (0, BAD),
    );
}

fn os_term(machine: &Machine, token: u32) {
    mem::install(BUFFER, b"payload: ibm,os-term is tried, nothing is wrong\0");
    expect("os-term", token, &[BUFFER as u32], 1, (0, 0));
    expect_outside(machine, "os-term-outside", token, &[OUTSIDE], 1);
}

fn nmi_register(_: &Machine, token: u32) {
    // Handlers must lie below 32 MiB.
    expect(
        "nmi-register-high",
        token,
        &[0x200_0000, 0x200_0000],
        1,
        (0, BAD),
    );
}
