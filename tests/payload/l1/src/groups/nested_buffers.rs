//! Guest state buffers that lie, in GET, SET and RUN (nested.md 2.2): ids, lengths, counts, scopes, duplicates.

use papr_services::table::number::{H_GUEST_GET_STATE, H_GUEST_SET_STATE};

use super::nested_args::{guest_or_fail, setup};
use crate::elements::{self, Scope, id};
use crate::gsb::{self, Writer};
use crate::guest::{self, GUEST_WIDE, Guest, HOST_WIDE};
use crate::hcall::{Ret, hcall};
use crate::mem;
use crate::mem::layout::{BUFFER, BUFFER2, RUN_INPUT};
use crate::report::{case, holds, one_of};
use crate::start::Machine;

const BAD_ID: i64 = -79;
const BAD_SIZE: i64 = -80;
const INPUT_SMALL: i64 = -83;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-buffers") else {
        return;
    };
    ids(&g);
    sizes(&g);
    scopes(&g);
    structure(&g);
    apply(&g);
    get_writes_values_only(&g);
    placement(&g, machine);
    run_input(&g);
    case("nested-buffers/delete", g.end(), 0);
}

fn call(number: u64, flags: u64, g: &Guest, w: &Writer) -> Ret {
    hcall(number, [flags, g.id, 0, BUFFER, w.size()])
}

/// Both calls with the same buffer: code and index.
fn both(name: impl core::fmt::Display, flags: u64, g: &Guest, w: &Writer, want: i64, index: u64) {
    for (what, number) in [("get", H_GUEST_GET_STATE), ("set", H_GUEST_SET_STATE)] {
        let ret = call(number, flags, g, w);
        if case(
            format_args!("nested-buffers/{what}-{name}"),
            ret.code(),
            want,
        ) && want != 0
        {
            case(
                format_args!("nested-buffers/{what}-{name}-index"),
                ret.r(4),
                index,
            );
        }
    }
}

fn ids(g: &Guest) {
    for unknown in [
        0x0007, 0x07ff, 0x0805, 0x0bff, 0x0c03, 0x0fff, 0x1054, 0x1fff, 0x200f, 0x2fff, 0x3040,
        0xefff, 0xf004, 0xffff,
    ] {
        let mut w = Writer::new(BUFFER);
        w.u64(id::GPR0, 1).u64(unknown, 0);
        both(format_args!("id-{unknown:#06x}"), 0, g, &w, BAD_ID, 1);
    }
    for len in [0usize, 1, 7, 300] {
        let mut w = Writer::new(BUFFER);
        w.bytes(0, &[0xa5; 300][..len]).u64(id::GPR0, 1);
        both(format_args!("nop-{len}"), 0, g, &w, 0, 0);
        let mut w = Writer::new(BUFFER);
        w.bytes(0, &[0xa5; 300][..len]);
        both(format_args!("nop-wide-{len}"), GUEST_WIDE, g, &w, 0, 0);
    }
    for e in elements::all().filter(|e| !e.writable && e.scope != Scope::Host) {
        let mut w = Writer::new(BUFFER);
        w.u64(0, 0).ask(e.id);
        let flags = if e.scope == Scope::Guest {
            GUEST_WIDE
        } else {
            0
        };
        let ret = call(H_GUEST_SET_STATE, flags, g, &w);
        case(
            format_args!("nested-buffers/set-read-only-{:#06x}", e.id),
            ret.code(),
            BAD_ID,
        );
        case(
            format_args!("nested-buffers/set-read-only-{:#06x}-index", e.id),
            ret.r(4),
            1,
        );
    }
}

fn flags_of(scope: Scope) -> u64 {
    match scope {
        Scope::Guest => GUEST_WIDE,
        Scope::Host => HOST_WIDE,
        Scope::Thread => 0,
    }
}

/// Every element with every wrong length around its own: one case per element and call.
fn sizes(g: &Guest) {
    let zeros = [0u8; 32];
    for e in elements::all() {
        let lengths = [0, e.len - 1, e.len + 1, if e.len == 8 { 4 } else { 8 }];
        for (what, number) in [("get", H_GUEST_GET_STATE), ("set", H_GUEST_SET_STATE)] {
            if number == H_GUEST_SET_STATE && (!e.writable || e.scope == Scope::Host) {
                continue;
            }
            let wrong = lengths.iter().find_map(|len| {
                let mut w = Writer::new(BUFFER);
                w.bytes(e.id, &zeros[..usize::from(*len)]);
                let code = call(number, flags_of(e.scope), g, &w).code();
                (code != BAD_SIZE).then_some(code)
            });
            case(
                format_args!("nested-buffers/{what}-sizes-{:#06x}", e.id),
                wrong.unwrap_or(BAD_SIZE),
                BAD_SIZE,
            );
        }
    }
}

/// Every element under the flags of another scope: one case per element.
fn scopes(g: &Guest) {
    for e in elements::all() {
        for (name, scope) in [
            ("guest", Scope::Guest),
            ("thread", Scope::Thread),
            ("host", Scope::Host),
        ] {
            if scope == e.scope {
                continue;
            }
            let mut w = Writer::new(BUFFER);
            w.ask(e.id);
            let get = call(H_GUEST_GET_STATE, flags_of(scope), g, &w).code();
            let set = if scope == Scope::Host {
                get
            } else {
                call(H_GUEST_SET_STATE, flags_of(scope), g, &w).code()
            };
            let got = if get == BAD_ID { set } else { get };
            case(
                format_args!("nested-buffers/scope-{:#06x}-as-{name}", e.id),
                got,
                BAD_ID,
            );
        }
    }
}

fn structure(g: &Guest) {
    let mut w = Writer::new(BUFFER);
    w.u64(id::GPR0, 1).lie(u32::MAX);
    // The second element's header is not there.
    for (what, number) in [("get", H_GUEST_GET_STATE), ("set", H_GUEST_SET_STATE)] {
        case(
            format_args!("nested-buffers/{what}-count-all-ones"),
            call(number, 0, g, &w).code(),
            BAD_SIZE,
        );
    }
    w.lie(2);
    both("count-one-more", 0, g, &w, BAD_SIZE, 1);
    let mut w = Writer::new(BUFFER);
    w.u64(id::GPR0, 1).header(id::GPR0 + 1, 8);
    both("value-missing", 0, g, &w, BAD_SIZE, 1);
    let mut w = Writer::new(BUFFER);
    w.header(0, u16::MAX);
    both("nop-beyond-end", 0, g, &w, BAD_SIZE, 0);
    for cut in 1..12 {
        let mut w = Writer::new(BUFFER);
        w.u64(id::GPR0, 1);
        let ret = hcall(H_GUEST_SET_STATE, [0, g.id, 0, BUFFER, w.size() - cut]);
        case(
            format_args!("nested-buffers/set-cut-{cut}"),
            ret.code(),
            BAD_SIZE,
        );
    }
    let mut w = Writer::new(BUFFER);
    w.u64(id::GPR0, 0x77).u64(0xffff, 0).lie(1);
    both("trailing-bytes", 0, g, &w, 0, 0);
}

fn apply(g: &Guest) {
    // The last duplicate wins.
    let ret = guest::set_with(0, g.id, 0, |w| {
        w.u64(id::GPR0, 1).u64(id::GPR0, 2).u64(id::GPR0, 3);
    });
    case("nested-buffers/duplicates", ret.code(), 0);
    case(
        "nested-buffers/duplicates-last",
        guest::get(g.id, 0, id::GPR0),
        3,
    );
    // All or nothing, whatever is wrong with the last one.
    for (name, wrong, len, value) in [
        ("id", 0x1054u16, 8usize, 0u64),
        ("size", id::GPR0 + 2, 7, 0),
        ("value", id::MSR, 8, 1 << 60),
        ("scope", id::TB_OFFSET, 8, 0),
        ("read-only", id::HDAR, 8, 0),
    ] {
        let ret = guest::set_with(0, g.id, 0, |w| {
            w.u64(id::GPR0, 99)
                .u64(id::GPR0 + 1, 98)
                .bytes(wrong, &value.to_be_bytes()[..len]);
        });
        holds(
            format_args!("nested-buffers/atomic-{name}-refused"),
            ret.code() < 0,
        );
        case(
            format_args!("nested-buffers/atomic-{name}-index"),
            ret.r(4),
            2,
        );
        case(
            format_args!("nested-buffers/atomic-{name}"),
            guest::get(g.id, 0, id::GPR0),
            3,
        );
    }
}

/// GET changes values only: not the header, not ids and sizes, nothing behind; and nothing at all when it fails.
fn get_writes_values_only(g: &Guest) {
    mem::fill(BUFFER, 0x1000, 0x5a);
    let mut w = Writer::new(BUFFER);
    w.ask(id::GPR0).bytes(0, &[0x11; 5]).ask(id::MSR);
    let code = hcall(H_GUEST_GET_STATE, [0, g.id, 0, BUFFER, 0x1000]).code();
    case("nested-buffers/get-capacity", code, 0);
    case(
        "nested-buffers/get-value",
        gsb::find(BUFFER, 64, id::GPR0).unwrap_or(0),
        3,
    );
    case(
        "nested-buffers/get-count",
        u64::from(u32::from_be(mem::read32(BUFFER))),
        3,
    );
    let nop: u64 = (0..5)
        .map(|i| u64::from(mem::read8(BUFFER + 4 + 12 + 4 + i)))
        .sum();
    case("nested-buffers/get-nop-untouched", nop, 5 * 0x11);
    let behind = (w.size()..0x1000).all(|i| mem::read8(BUFFER + i) == 0x5a);
    holds("nested-buffers/get-behind-untouched", behind);
    let mut w = Writer::new(BUFFER);
    w.ask(id::GPR0).ask(0x1054);
    let code = call(H_GUEST_GET_STATE, 0, g, &w).code();
    case("nested-buffers/get-failed", code, BAD_ID);
    let junk = gsb::find(BUFFER, 64, id::GPR0).unwrap_or(0);
    case(
        "nested-buffers/get-failed-untouched",
        junk,
        0x5a5a_5a5a_5a5a_5a5a,
    );
}

fn placement(g: &Guest, machine: &Machine) {
    for shift in [1u64, 2, 3, 5, 7] {
        let at = BUFFER2 + 0x1000 - 16 + shift; // crosses a 4K page at an odd place
        let mut w = Writer::new(at);
        w.ask(id::GPR0);
        let code = hcall(H_GUEST_GET_STATE, [0, g.id, 0, at, w.size()]).code();
        case(format_args!("nested-buffers/odd-address-{shift}"), code, 0);
        let value = gsb::find(at, 64, id::GPR0).unwrap_or(0);
        case(
            format_args!("nested-buffers/odd-address-{shift}-value"),
            value,
            3,
        );
    }
    // Scratch in the registered run buffer is what Linux does.
    let mut w = Writer::new(RUN_INPUT);
    w.ask(id::GPR0);
    let code = hcall(H_GUEST_GET_STATE, [0, g.id, 0, RUN_INPUT, w.size()]).code();
    case("nested-buffers/get-in-run-buffer", code, 0);
    Writer::new(RUN_INPUT);
    // A count of zero in the last four bytes of memory; whatever is there, the answer is no address error.
    let last = hcall(H_GUEST_GET_STATE, [0, g.id, 0, machine.memory - 4, 4]).code();
    one_of("nested-buffers/end-of-memory", last, &[0, BAD_SIZE, BAD_ID]);
}

/// RUN with this input: code and r4.
fn run_with(g: &Guest, size: u64, build: impl FnOnce(&mut Writer)) -> Ret {
    let code = guest::set_with(0, g.id, 0, |w| {
        w.words(id::RUN_INPUT, &[RUN_INPUT, size]);
    });
    if code.code() != 0 {
        return code;
    }
    mem::fill(RUN_INPUT, 4096, 0);
    let mut w = Writer::new(RUN_INPUT);
    build(&mut w);
    let ret = guest::run(g.id);
    Writer::new(RUN_INPUT);
    ret
}

fn run_input(g: &Guest) {
    let start = g.prepare(0, guest::program::SC);
    case("nested-buffers/run-prepare", start, 0);
    let refused = |name: &str, ret: Ret, want: i64, offset: u64| {
        if case(format_args!("nested-buffers/run-{name}"), ret.code(), want) {
            case(
                format_args!("nested-buffers/run-{name}-offset"),
                ret.r(4),
                offset,
            );
        }
    };
    let first = |w: &mut Writer| {
        w.u64(id::GPR0 + 5, 0x55);
    };
    for (name, wrong) in [
        ("unknown", 0x1054u16),
        ("guest-wide", id::TB_OFFSET),
        ("host-wide", id::HEAP),
        ("run-input", id::RUN_INPUT),
        ("run-output", id::RUN_OUTPUT),
        ("vpa", id::VPA),
        ("read-only", id::HDAR),
    ] {
        let ret = run_with(g, 4096, |w| {
            first(w);
            w.ask(wrong);
        });
        refused(name, ret, BAD_ID, 16);
    }
    let ret = run_with(g, 4096, |w| {
        first(w);
        w.u32(id::NIA, 0);
    });
    refused("size", ret, BAD_SIZE, 16);
    let ret = run_with(g, 4096, |w| {
        first(w);
        w.u64(id::MSR, 1 << 60);
    });
    refused("value", ret, -81, 16);
    let ret = run_with(g, 20, |w| {
        first(w);
        w.u64(id::GPR0 + 6, 1);
    });
    case("nested-buffers/run-cut", ret.code(), INPUT_SMALL);
    let ret = run_with(g, 64, |w| {
        first(w);
        w.lie(u32::MAX);
    });
    // What is behind the elements is zero: NOPs of no length, until the buffer ends.
    case("nested-buffers/run-count", ret.code(), INPUT_SMALL);
    case(
        "nested-buffers/run-nothing-applied",
        u64::from(guest::get(g.id, 0, id::GPR0 + 5) == 0x55),
        0,
    );
    let ret = run_with(g, 4096, |w| {
        first(w);
        w.u64(id::GPR0 + 3, 0x9998)
            .bytes(0, &[1, 2, 3])
            .u64(id::GPR0 + 3, 0x9999);
    });
    case("nested-buffers/run-good", ret.code(), 0);
    case("nested-buffers/run-good-exit", ret.r(4), 0xc00);
    case("nested-buffers/run-duplicate", g.gpr(3), 0x9999);
    case("nested-buffers/run-applied", g.gpr(5), 0x55);
    let junk = run_with(g, 4096, |w| {
        w.u64(id::NIA, guest::program::SC).header(0, u16::MAX);
    });
    case(
        "nested-buffers/run-nop-beyond-end",
        junk.code(),
        INPUT_SMALL,
    );
}
