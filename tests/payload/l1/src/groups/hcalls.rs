//! Every hypercall of `papr-services`' table: absent ones answer H_FUNCTION, served ones have a row of cases here.

use papr_services::error::HCode;
use papr_services::table::TABLE;
use papr_services::table::number as nr;

use super::{hcalls_processor as processor, nested_args};
use crate::hcall::{hcall, raw};
use crate::mem::layout::{BUFFER, BUFFER2, SCRATCH};
use crate::report::{case, holds};
use crate::start::Machine;
use crate::{mem, probe, say};

// The numbers as the specification has them, not as the firmware's table says: `run` compares the two.
pub(super) const PARAMETER: i64 = -4;
pub(super) const FUNCTION: i64 = -2;
pub(super) const P2: i64 = -55;
pub(super) const P3: i64 = -56;
pub(super) const P4: i64 = -57;
pub(super) const P5: i64 = -58;
pub(super) const RESOURCE: i64 = -16;

/// An address that is in no partition's memory but whose high bits no real mode drops.
pub(super) const OUTSIDE: u64 = 0x0008_0000_0000_0000;
/// Ends beyond the address space.
pub(super) const WRAPS: u64 = 0xffff_ffff_ffff_f000;

type Cases = fn(&Machine);

/// The cases of each served row.
const CASES: &[(u64, Cases)] = &[
    (nr::H_SET_SPRG0, sprg0),
    (nr::H_PAGE_INIT, page_init),
    (nr::H_LOGICAL_CACHE_LOAD, cache_load_store),
    (nr::H_LOGICAL_CACHE_STORE, cache_store),
    (nr::H_GET_TERM_CHAR, get_term),
    (nr::H_PUT_TERM_CHAR, put_term),
    (nr::H_EOI, |machine| xics(machine, nr::H_EOI, eoi)),
    (nr::H_CPPR, |machine| xics(machine, nr::H_CPPR, cppr)),
    (nr::H_IPI, |machine| xics(machine, nr::H_IPI, ipi)),
    (nr::H_IPOLL, |machine| xics(machine, nr::H_IPOLL, ipoll)),
    (nr::H_XIRR, |machine| xics(machine, nr::H_XIRR, xirr)),
    (nr::H_REGISTER_VPA, processor::vpa),
    (nr::H_CEDE, processor::cede),
    (nr::H_CEDE, processor::areas),
    (nr::H_CONFER, processor::confer),
    (nr::H_PROD, processor::prod),
    (nr::H_GET_CPU_CHARACTERISTICS, processor::characteristics),
    (nr::H_POLL_PENDING, processor::poll_pending),
    (nr::H_XIRR_X, |machine| xics(machine, nr::H_XIRR_X, xirr_x)),
    (nr::H_INT_GET_SOURCE_INFO, xive),
    (nr::H_INT_SET_SOURCE_CONFIG, xive),
    (nr::H_INT_GET_SOURCE_CONFIG, xive),
    (nr::H_INT_GET_QUEUE_INFO, xive),
    (nr::H_INT_SET_QUEUE_CONFIG, xive),
    (nr::H_INT_GET_QUEUE_CONFIG, xive),
    (nr::H_INT_SET_OS_REPORTING_LINE, xive),
    (nr::H_INT_GET_OS_REPORTING_LINE, xive),
    (nr::H_INT_ESB, xive),
    (nr::H_INT_SYNC, xive),
    (nr::H_INT_RESET, xive),
    (nr::H_RANDOM, processor::random),
    (nr::H_SET_MODE, processor::set_mode),
    (nr::H_REGISTER_PROC_TBL, processor::proc_table),
    (nr::H_SIGNAL_SYS_RESET, processor::sys_reset),
    (nr::H_RPT_INVALIDATE, invalidate),
    (nr::H_GUEST_GET_CAPABILITIES, nested_get_capabilities),
    (nr::H_GUEST_SET_CAPABILITIES, nested_set_capabilities),
    (nr::H_GUEST_CREATE, nested_create),
    (nr::H_GUEST_CREATE_VCPU, nested_unknown_guest),
    (nr::H_GUEST_GET_STATE, nested_unknown_guest),
    (nr::H_GUEST_SET_STATE, nested_unknown_guest),
    (nr::H_GUEST_RUN_VCPU, nested_unknown_guest),
    (nr::H_GUEST_DELETE, nested_unknown_guest),
    (nr::H_RTAS, rtas),
];

pub(super) fn run(machine: &Machine) {
    for (code, number) in [
        (HCode::H_PARAMETER, PARAMETER),
        (HCode::H_FUNCTION, FUNCTION),
        (HCode::H_P2, P2),
        (HCode::H_P3, P3),
        (HCode::H_P4, P4),
        (HCode::H_P5, P5),
        (HCode::H_RESOURCE, RESOURCE),
    ] {
        case("hcall/code-of-table", code.code(), number);
    }
    for row in TABLE {
        if row.served {
            holds(
                format_args!("hcall/{}-has-cases", row.name),
                CASES.iter().any(|c| c.0 == row.number),
            );
        } else {
            let answer = raw(row.number, [u64::MAX; 9]).code();
            case(format_args!("hcall/{}-absent", row.name), answer, FUNCTION);
        }
    }
    for number in [
        0u64,
        1,
        2,
        3,
        0x55,
        0x4f0,
        0x4fc,
        0xeffc,
        0xf004,
        0xfffc,
        1 << 32 | 0x58,
        u64::MAX,
    ] {
        case(
            format_args!("hcall/number-{number:#x}"),
            hcall(number, [0, 0, 0, 0]).code(),
            FUNCTION,
        );
    }
    for (number, cases) in CASES {
        if TABLE.iter().any(|row| row.served && row.number == *number) {
            cases(machine);
        } else {
            say!("payload FAILED: cases for {number:#x}, which is not served");
            crate::report::failure();
        }
    }
}

fn sprg0(_: &Machine) {
    let value = 0x1122_3344_5566_7788;
    case(
        "hcall/H_SET_SPRG0",
        hcall(nr::H_SET_SPRG0, [value]).code(),
        0,
    );
    case(
        "hcall/H_SET_SPRG0-value",
        probe::mfspr::<272>().unwrap_or(0),
        value,
    );
}

fn page_init(_: &Machine) {
    const ZERO: u64 = 0x8000;
    const COPY: u64 = 0x4000;
    let init = |flags, to, from| hcall(nr::H_PAGE_INIT, [flags, to, from]).code();
    mem::fill(BUFFER, 0x3000, 0xee);
    case("hcall/H_PAGE_INIT-zero", init(ZERO, BUFFER + 0x1000, 0), 0);
    case("hcall/H_PAGE_INIT-zeroed", mem::read64(BUFFER + 0x1ff8), 0);
    let around = mem::read64(BUFFER + 0xff8) & mem::read64(BUFFER + 0x2000);
    case(
        "hcall/H_PAGE_INIT-only-that-page",
        around,
        0xeeee_eeee_eeee_eeee,
    );
    mem::write64(BUFFER2 + 0xff8, 0x1234_5678);
    case("hcall/H_PAGE_INIT-copy", init(COPY, BUFFER, BUFFER2), 0);
    case(
        "hcall/H_PAGE_INIT-copied",
        mem::read64(BUFFER + 0xff8),
        0x1234_5678,
    );
    case("hcall/H_PAGE_INIT-nothing", init(0, BUFFER, BUFFER2), 0);
    for (name, flags, to, from) in [
        ("to-misaligned", ZERO, BUFFER + 8, 0),
        ("from-misaligned", COPY, BUFFER, BUFFER2 + 8),
        ("to-outside", ZERO, OUTSIDE, 0),
        ("to-wraps", ZERO, WRAPS, 0),
        ("from-outside", COPY, BUFFER, OUTSIDE),
        ("from-wraps", COPY, BUFFER, WRAPS),
    ] {
        case(
            format_args!("hcall/H_PAGE_INIT-{name}"),
            init(flags, to, from),
            PARAMETER,
        );
    }
}

fn cache_load_store(_: &Machine) {
    let load = |size, addr| hcall(nr::H_LOGICAL_CACHE_LOAD, [size, addr]);
    let store = |size, addr, value| hcall(nr::H_LOGICAL_CACHE_STORE, [size, addr, value]).code();
    let value = 0x8123_4567_89ab_cdefu64;
    for size in [1u64, 2, 4, 8] {
        mem::fill(BUFFER, 32, 0);
        case(
            format_args!("hcall/H_LOGICAL_CACHE_STORE-{size}"),
            store(size, BUFFER + 8, value),
            0,
        );
        let ret = load(size, BUFFER + 8);
        case(
            format_args!("hcall/H_LOGICAL_CACHE_LOAD-{size}"),
            ret.code(),
            0,
        );
        let want = if size == 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        };
        case(
            format_args!("hcall/H_LOGICAL_CACHE_LOAD-{size}-value"),
            ret.r(4),
            want,
        );
        let around = mem::read64(BUFFER) | mem::read64(BUFFER + 16);
        let rest = (size..8)
            .map(|i| u64::from(mem::read8(BUFFER + 8 + i)))
            .sum::<u64>();
        case(
            format_args!("hcall/H_LOGICAL_CACHE_STORE-{size}-alone"),
            around | rest,
            0,
        );
    }
    for (name, size, addr) in [
        ("size-0", 0, BUFFER),
        ("size-3", 3, BUFFER),
        ("size-16", 16, BUFFER),
        ("size-huge", 1 << 32 | 8, BUFFER),
        ("outside", 8, OUTSIDE),
        ("wraps", 8, u64::MAX),
    ] {
        case(
            format_args!("hcall/H_LOGICAL_CACHE_LOAD-{name}"),
            load(size, addr).code(),
            PARAMETER,
        );
        case(
            format_args!("hcall/H_LOGICAL_CACHE_STORE-{name}"),
            store(size, addr, 0),
            PARAMETER,
        );
    }
}

fn cache_store(machine: &Machine) {
    let end = machine.memory;
    let store = |addr| hcall(nr::H_LOGICAL_CACHE_STORE, [8, addr, 0]).code();
    case("hcall/H_LOGICAL_CACHE_STORE-at-end", store(end), PARAMETER);
    case(
        "hcall/H_LOGICAL_CACHE_STORE-across-end",
        store(end - 4),
        PARAMETER,
    );
    let load = hcall(nr::H_LOGICAL_CACHE_LOAD, [8, end - 8]).code();
    case("hcall/H_LOGICAL_CACHE_LOAD-last", load, 0);
}

fn get_term(_: &Machine) {
    let ret = hcall(nr::H_GET_TERM_CHAR, [0]);
    case("hcall/H_GET_TERM_CHAR", ret.code(), 0);
    holds("hcall/H_GET_TERM_CHAR-count", ret.r(4) <= 16);
    for unit in [1, 0x1234_5678, u64::MAX] {
        let code = hcall(nr::H_GET_TERM_CHAR, [unit]).code();
        case(
            format_args!("hcall/H_GET_TERM_CHAR-unit-{unit:#x}"),
            code,
            PARAMETER,
        );
    }
}

fn put_term(_: &Machine) {
    let put = |unit, len| hcall(nr::H_PUT_TERM_CHAR, [unit, len, 0x2020_2020_2020_2020, 0]).code();
    case("hcall/H_PUT_TERM_CHAR-empty", put(0, 0), 0);
    for len in [17, 1 << 32, u64::MAX] {
        case(
            format_args!("hcall/H_PUT_TERM_CHAR-len-{len:#x}"),
            put(0, len),
            PARAMETER,
        );
    }
    for unit in [1, 0x1234_5678, u64::MAX] {
        case(
            format_args!("hcall/H_PUT_TERM_CHAR-unit-{unit:#x}"),
            put(unit, 1),
            PARAMETER,
        );
    }
}

/// Cases of a call that only partitions with XICS have.
fn xics(machine: &Machine, number: u64, cases: Cases) {
    if machine.controller.is_none() {
        return cases(machine);
    }
    let answer = raw(number, [0; 9]).code();
    case(format_args!("hcall/xics-{number:#x}"), answer, FUNCTION);
}

/// The calls of exploitation mode have a group of their own.
fn xive(_: &Machine) {}

fn eoi(_: &Machine) {
    // Source 2 (the inter-processor interrupt) is known; it is not in service, which harms nothing.
    case("hcall/H_EOI", hcall(nr::H_EOI, [0xff00_0002]).code(), 0);
    hcall(nr::H_CPPR, [0]);
}

fn cppr(_: &Machine) {
    case("hcall/H_CPPR-255", hcall(nr::H_CPPR, [255]).code(), 0);
    case("hcall/H_CPPR-0", hcall(nr::H_CPPR, [0]).code(), 0);
}

fn ipi(machine: &Machine) {
    case(
        "hcall/H_IPI-idle",
        hcall(nr::H_IPI, [machine.server, 0xff]).code(),
        0,
    );
    for server in [0x7fff, u64::MAX] {
        let code = hcall(nr::H_IPI, [server, 0xff]).code();
        case(
            format_args!("hcall/H_IPI-server-{server:#x}"),
            code,
            PARAMETER,
        );
    }
}

fn ipoll(machine: &Machine) {
    let ret = hcall(nr::H_IPOLL, [machine.server]);
    case("hcall/H_IPOLL", ret.code(), 0);
    case("hcall/H_IPOLL-mfrr", ret.r(5), 0xff);
    case(
        "hcall/H_IPOLL-server",
        hcall(nr::H_IPOLL, [0x7fff]).code(),
        PARAMETER,
    );
}

fn xirr(_: &Machine) {
    let ret = hcall(nr::H_XIRR, []);
    case("hcall/H_XIRR", ret.code(), 0);
    case("hcall/H_XIRR-spurious", ret.r(4) & 0xff_ffff, 0);
}

fn xirr_x(_: &Machine) {
    let ret = hcall(nr::H_XIRR_X, [0]);
    case("hcall/H_XIRR_X", ret.code(), 0);
    case("hcall/H_XIRR_X-spurious", ret.r(4) & 0xff_ffff, 0);
}

fn invalidate(_: &Machine) {
    let all = hcall(nr::H_RPT_INVALIDATE, [0, 1, 2, u64::MAX, 0, u64::MAX]).code();
    case("hcall/H_RPT_INVALIDATE", all, 0);
}

fn nested_get_capabilities(_: &Machine) {
    nested_args::before_capabilities();
    let ret = hcall(nr::H_GUEST_GET_CAPABILITIES, [0]);
    case("hcall/H_GUEST_GET_CAPABILITIES", ret.code(), 0);
    case(
        "hcall/H_GUEST_GET_CAPABILITIES-flags",
        hcall(nr::H_GUEST_GET_CAPABILITIES, [1]).code(),
        PARAMETER,
    );
}

fn nested_set_capabilities(_: &Machine) {
    let offered = hcall(nr::H_GUEST_GET_CAPABILITIES, [0]).r(4);
    case(
        "hcall/H_GUEST_SET_CAPABILITIES",
        hcall(nr::H_GUEST_SET_CAPABILITIES, [0, offered]).code(),
        0,
    );
}

fn nested_create(_: &Machine) {
    case(
        "hcall/H_GUEST_CREATE-token",
        hcall(nr::H_GUEST_CREATE, [0, 0x1234]).code(),
        P2,
    );
}

fn nested_unknown_guest(_: &Machine) {
    for number in [
        nr::H_GUEST_CREATE_VCPU,
        nr::H_GUEST_GET_STATE,
        nr::H_GUEST_SET_STATE,
        nr::H_GUEST_RUN_VCPU,
        nr::H_GUEST_DELETE,
    ] {
        case(
            format_args!("hcall/{number:#x}-unknown-guest"),
            hcall(number, [0, 0x7777_7777, 0, BUFFER, 4]).code(),
            P2,
        );
    }
}

fn rtas(machine: &Machine) {
    let call = |at| hcall(nr::H_RTAS, [at]).code();
    case("hcall/H_RTAS-outside", call(OUTSIDE), PARAMETER);
    case("hcall/H_RTAS-wraps", call(WRAPS), PARAMETER);
    case("hcall/H_RTAS-at-end", call(machine.memory - 8), PARAMETER);
    crate::rtas::block(SCRATCH, 0x0bad_0bad, &[], 1);
    case("hcall/H_RTAS-token", call(SCRATCH), PARAMETER);
}
