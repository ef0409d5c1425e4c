//! The arguments of the nine nested hypercalls: flags, ids, addresses and sizes (nested.md 1.3 and 7).

use papr_services::table::number::{
    H_GUEST_CREATE, H_GUEST_CREATE_VCPU, H_GUEST_DELETE, H_GUEST_GET_CAPABILITIES,
    H_GUEST_GET_STATE, H_GUEST_RUN_VCPU, H_GUEST_SET_CAPABILITIES, H_GUEST_SET_STATE,
};

use super::hcalls::{OUTSIDE, P2, P3, P4, P5, PARAMETER, WRAPS};
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, GUEST_WIDE, Guest, HOST_WIDE};
use crate::hcall::{called, hcall};
use crate::mem::layout::{BUFFER, RUN_INPUT, RUN_OUTPUT};
use crate::radix::Tree;
use crate::report::{case, holds, one_of};
use crate::start::Machine;

pub(super) const IN_USE: i64 = -77;
pub(super) const STATE: i64 = -75;
pub(super) const NOT_ENOUGH: i64 = -44;

/// Code of a reserved flag bit, in the manuals' numbering.
const fn unsupported(bit: i64) -> i64 {
    -256 - bit
}

pub(super) fn run(machine: &Machine) {
    before_capabilities();
    capabilities();
    if !setup() {
        return;
    }
    create();
    create_vcpu();
    state_flags();
    buffers(machine);
    missing_pieces();
    delete();
}

/// Nothing but GET_CAPABILITIES works before the first SET_CAPABILITIES.
pub(super) fn before_capabilities() {
    if !called(H_GUEST_SET_CAPABILITIES) {
        let create = hcall(H_GUEST_CREATE, [0, u64::MAX]).code();
        case("nested-args/create-before-capabilities", create, STATE);
    }
}

/// Chooses all offered levels, which also starts afresh. A group without this cannot run.
pub(super) fn setup() -> bool {
    let offered = hcall(H_GUEST_GET_CAPABILITIES, [0]);
    let set = hcall(H_GUEST_SET_CAPABILITIES, [0, offered.r(4)]).code();
    offered.code() == 0 && case("nested/set-up", set, 0)
}

/// A guest for a group, or a failed case.
pub(super) fn guest_or_fail(group: &str) -> Option<Guest> {
    match Guest::new() {
        Ok(guest) => Some(guest),
        Err(code) => {
            case(format_args!("{group}/guest"), code, 0);
            None
        }
    }
}

fn capabilities() {
    const COPY_MEMORY: u64 = 1 << 63;
    const LEVELS: u64 = 7 << 60;
    const POWER10: u64 = 1 << 61;
    for flag in [1u64, 1 << 63, 1 << 32] {
        let get = hcall(H_GUEST_GET_CAPABILITIES, [flag]).code();
        case(
            format_args!("nested-args/get-capabilities-flag-{flag:#x}"),
            get,
            PARAMETER,
        );
        let set = hcall(H_GUEST_SET_CAPABILITIES, [flag, POWER10]).code();
        case(
            format_args!("nested-args/set-capabilities-flag-{flag:#x}"),
            set,
            PARAMETER,
        );
    }
    let offered = hcall(H_GUEST_GET_CAPABILITIES, [0]).r(4);
    case("nested-args/capabilities-known", offered & !LEVELS, 0);
    case(
        "nested-args/capabilities-power10",
        offered & POWER10,
        POWER10,
    );
    for bad in [COPY_MEMORY, 1, 2, 1 << 59] {
        let ret = hcall(H_GUEST_SET_CAPABILITIES, [0, offered | bad]);
        case(
            format_args!("nested-args/set-capabilities-{bad:#x}"),
            ret.code(),
            P2,
        );
        case(
            format_args!("nested-args/set-capabilities-{bad:#x}-bitmaps"),
            ret.r(4),
            1,
        );
        case(
            format_args!("nested-args/set-capabilities-{bad:#x}-first"),
            ret.r(5),
            0,
        );
    }
    // Again and again: a kernel module that is loaded anew does that.
    let again = || hcall(H_GUEST_SET_CAPABILITIES, [0, POWER10]).code();
    case("nested-args/set-capabilities-power10", again(), 0);
    case("nested-args/set-capabilities-again", again(), 0);
}

fn create() {
    for bit in [0, 1, 31, 63] {
        let code = hcall(H_GUEST_CREATE, [1 << (63 - bit), u64::MAX]).code();
        case(
            format_args!("nested-args/create-flag-{bit}"),
            code,
            unsupported(bit),
        );
    }
    for token in [0, 1, 0x1234, u64::MAX - 1] {
        let code = hcall(H_GUEST_CREATE, [0, token]).code();
        case(
            format_args!("nested-args/create-token-{token:#x}"),
            code,
            P2,
        );
    }
    match guest::create() {
        Ok(id) => {
            holds("nested-args/create-id", id != 0 && id < 1 << 31);
            case("nested-args/delete", guest::delete(id), 0);
            let again = guest::create().unwrap_or(0);
            holds("nested-args/create-id-anew", again != 0 && again != id);
            case("nested-args/delete-again", guest::delete(again), 0);
        }
        Err(code) => {
            case("nested-args/create", code, 0);
        }
    }
}

/// Ids that name no guest, given one that does.
fn wrong_ids(good: u64) -> [u64; 8] {
    [
        0,
        u64::MAX,
        good ^ 1,
        good + 0x1_0000,
        good | 1 << 32,
        good | 1 << 63,
        0x7fff_ffff,
        good << 8,
    ]
}

fn create_vcpu() {
    let Ok(id) = guest::create() else { return };
    let vcpu = |flags, guest, n| hcall(H_GUEST_CREATE_VCPU, [flags, guest, n]).code();
    for bit in [0, 1, 63] {
        case(
            format_args!("nested-args/vcpu-flag-{bit}"),
            vcpu(1 << (63 - bit), id, 0),
            unsupported(bit),
        );
    }
    for wrong in wrong_ids(id) {
        case(
            format_args!("nested-args/vcpu-guest-{wrong:#x}"),
            vcpu(0, wrong, 0),
            P2,
        );
    }
    for n in [2048, 1 << 16, 1 << 32, u64::MAX] {
        case(
            format_args!("nested-args/vcpu-id-{n:#x}"),
            vcpu(0, id, n),
            P3,
        );
    }
    // Sparse and in any order.
    for n in [2047, 0, 8] {
        case(format_args!("nested-args/vcpu-{n}"), vcpu(0, id, n), 0);
        case(
            format_args!("nested-args/vcpu-{n}-twice"),
            vcpu(0, id, n),
            IN_USE,
        );
    }
    case("nested-args/vcpu-guest-deleted", guest::delete(id), 0);
    case("nested-args/vcpu-stale", vcpu(0, id, 1), P2);
}

fn state_flags() {
    let Some(g) = guest_or_fail("nested-args") else {
        return;
    };
    Writer::new(BUFFER);
    let get =
        |flags, guest, vcpu| hcall(H_GUEST_GET_STATE, [flags, guest, vcpu, BUFFER, 64]).code();
    let set =
        |flags, guest, vcpu| hcall(H_GUEST_SET_STATE, [flags, guest, vcpu, BUFFER, 64]).code();
    let run = |flags, guest, vcpu| hcall(H_GUEST_RUN_VCPU, [flags, guest, vcpu]).code();
    case("nested-args/get-empty", get(0, g.id, 0), 0);
    case("nested-args/set-empty", set(0, g.id, 0), 0);
    case(
        "nested-args/get-both-scopes",
        get(GUEST_WIDE | HOST_WIDE, g.id, 0),
        PARAMETER,
    );
    // 1: giving ownership back is in the document, but not offered.
    one_of(
        "nested-args/set-flag-1",
        set(HOST_WIDE, g.id, 0),
        &[PARAMETER, unsupported(1)],
    );
    for bit in [2, 31, 63] {
        case(
            format_args!("nested-args/get-flag-{bit}"),
            get(1 << (63 - bit), g.id, 0),
            unsupported(bit),
        );
        case(
            format_args!("nested-args/set-flag-{bit}"),
            set(1 << (63 - bit), g.id, 0),
            unsupported(bit),
        );
    }
    for bit in [3, 31, 63] {
        case(
            format_args!("nested-args/run-flag-{bit}"),
            run(1 << (63 - bit), g.id, 0),
            unsupported(bit),
        );
    }
    for wrong in wrong_ids(g.id) {
        case(
            format_args!("nested-args/get-guest-{wrong:#x}"),
            get(0, wrong, 0),
            P2,
        );
        case(
            format_args!("nested-args/get-wide-guest-{wrong:#x}"),
            get(GUEST_WIDE, wrong, 0),
            P2,
        );
        case(
            format_args!("nested-args/set-guest-{wrong:#x}"),
            set(0, wrong, 0),
            P2,
        );
        case(
            format_args!("nested-args/set-wide-guest-{wrong:#x}"),
            set(GUEST_WIDE, wrong, 0),
            P2,
        );
        case(
            format_args!("nested-args/run-guest-{wrong:#x}"),
            run(0, wrong, 0),
            P2,
        );
        case(
            format_args!("nested-args/delete-{wrong:#x}"),
            hcall(H_GUEST_DELETE, [0, wrong]).code(),
            P2,
        );
    }
    for wrong in [1, 2047, 2048, 1 << 32, u64::MAX] {
        case(
            format_args!("nested-args/get-vcpu-{wrong:#x}"),
            get(0, g.id, wrong),
            P3,
        );
        case(
            format_args!("nested-args/set-vcpu-{wrong:#x}"),
            set(0, g.id, wrong),
            P3,
        );
        case(
            format_args!("nested-args/run-vcpu-{wrong:#x}"),
            run(0, g.id, wrong),
            P3,
        );
        case(
            format_args!("nested-args/get-wide-vcpu-{wrong:#x}"),
            get(GUEST_WIDE, g.id, wrong),
            0,
        );
        case(
            format_args!("nested-args/set-wide-vcpu-{wrong:#x}"),
            set(GUEST_WIDE, g.id, wrong),
            0,
        );
    }
    case(
        "nested-args/get-host-ignores-ids",
        get(HOST_WIDE, 0x7777, 0x7777),
        0,
    );
    case("nested-args/flags-delete", g.end(), 0);
}

fn buffers(machine: &Machine) {
    let Some(g) = guest_or_fail("nested-args") else {
        return;
    };
    let end = machine.memory;
    for (name, at, size, want) in [
        ("outside", OUTSIDE, 64u64, &[P4, P5][..]),
        ("far", 1 << 48, 64, &[P4, P5]),
        ("wraps", WRAPS, 0x2000, &[P4, P5]),
        ("all-ones", u64::MAX, 64, &[P4, P5]),
        ("behind-memory", end, 64, &[P4, P5]),
        ("across-end", end - 32, 64, &[P4, P5]),
        ("size-0", BUFFER, 0, &[P5]),
        ("size-3", BUFFER, 3, &[P5]),
        ("size-16M", BUFFER, 16 << 20, &[P5]),
        ("size-32-bits", BUFFER, 1 << 32 | 64, &[P5]),
        ("size-all-ones", BUFFER, u64::MAX, &[P4, P5]),
    ] {
        Writer::new(BUFFER);
        for (call, number) in [("get", H_GUEST_GET_STATE), ("set", H_GUEST_SET_STATE)] {
            let code = hcall(number, [0, g.id, 0, at, size]).code();
            one_of(format_args!("nested-args/{call}-buffer-{name}"), code, want);
            let wide = hcall(number, [GUEST_WIDE, g.id, 0, at, size]).code();
            one_of(
                format_args!("nested-args/{call}-wide-buffer-{name}"),
                wide,
                want,
            );
        }
        let host = hcall(H_GUEST_GET_STATE, [HOST_WIDE, 0, 0, at, size]).code();
        one_of(
            format_args!("nested-args/get-host-buffer-{name}"),
            host,
            want,
        );
    }
    case("nested-args/buffers-delete", g.end(), 0);
}

/// RUN says what is missing, in this order: input, output, its size, partition table.
fn missing_pieces() {
    let Ok(g) = guest::create() else { return };
    case("nested-args/missing-vcpu", guest::run(g).code(), P3);
    case(
        "nested-args/missing-create-vcpu",
        hcall(H_GUEST_CREATE_VCPU, [0, g, 0]).code(),
        0,
    );
    case("nested-args/missing-input", guest::run(g).code(), -82);
    let buffer = |id, at: u64, size: u64| {
        guest::set_with(0, g, 0, |w| {
            w.words(id, &[at, size]);
        })
        .code()
    };
    Writer::new(RUN_INPUT);
    case(
        "nested-args/input",
        buffer(id::RUN_INPUT, RUN_INPUT, 4096),
        0,
    );
    case("nested-args/missing-output", guest::run(g).code(), -84);
    // Either refused here, or by RUN.
    let small = buffer(id::RUN_OUTPUT, RUN_OUTPUT, 8);
    if one_of("nested-args/small-output", small, &[0, -81]) && small == 0 {
        case("nested-args/small-output-run", guest::run(g).code(), -85);
    }
    case(
        "nested-args/output",
        buffer(id::RUN_OUTPUT, RUN_OUTPUT, 4096),
        0,
    );
    case("nested-args/missing-table", guest::run(g).code(), -86);
    let tree = Tree::new();
    case(
        "nested-args/table",
        guest::set_wide(g, id::PARTITION_TABLE, &[tree.root, 52, 65536]).code(),
        0,
    );
    // Complete now; the table is empty, so the first fetch (at the reset NIA) leaves.
    let ret = guest::run(g);
    case("nested-args/complete", ret.code(), 0);
    case("nested-args/complete-exit", ret.r(4), 0xe20);
    case("nested-args/missing-delete", guest::delete(g), 0);
}

fn delete() {
    for bit in [1, 2, 63] {
        let code = hcall(H_GUEST_DELETE, [1 << (63 - bit), 0]).code();
        case(
            format_args!("nested-args/delete-flag-{bit}"),
            code,
            unsupported(bit),
        );
    }
    let (a, b) = (guest::create().unwrap_or(0), guest::create().unwrap_or(0));
    holds("nested-args/two-guests", a != 0 && b != 0 && a != b);
    case("nested-args/delete-one", guest::delete(a), 0);
    case("nested-args/delete-stale", guest::delete(a), P2);
    case(
        "nested-args/other-lives",
        hcall(H_GUEST_CREATE_VCPU, [0, b, 0]).code(),
        0,
    );
    case(
        "nested-args/delete-all",
        hcall(H_GUEST_DELETE, [1 << 63, 0]).code(),
        0,
    );
    case("nested-args/delete-all-took-it", guest::delete(b), P2);
    case(
        "nested-args/delete-all-of-none",
        hcall(H_GUEST_DELETE, [1 << 63, 0]).code(),
        0,
    );
    let c = guest::create().unwrap_or(0);
    holds("nested-args/create-after-all", c != 0 && c != a && c != b);
    // A new kernel chooses capabilities: what the old one left is gone.
    setup();
    case("nested-args/reload-deletes", guest::delete(c), P2);
}
