//! The arguments of H_RPT_INVALIDATE, for L1 itself and for its guests (nested.md 4.5).

use papr_services::table::number::H_RPT_INVALIDATE;

use super::hcalls::{P2, P4, P5};
use super::nested_args::{guest_or_fail, setup};
use super::shadow::{NESTED, PAT, PWC, TLB};
use crate::hcall::hcall;
use crate::report::{case, holds};
use crate::start::Machine;

const ALL: u64 = u64::MAX;

fn call(args: [u64; 6]) -> i64 {
    hcall(H_RPT_INVALIDATE, args).code()
}

pub(super) fn run(_: &Machine) {
    own();
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("invalidate") else {
        return;
    };
    nested(g.id);
    case("invalidate/runs-on", g.run(), 0xc00);
    let id = g.id;
    case("invalidate/delete", g.end(), 0);
    // An L1 flushes before the first entry and after the last: a guest that is not there is flushed.
    case(
        "invalidate/stale-guest",
        call([id, 1, NESTED | TLB, ALL, 0, ALL]),
        0,
    );
}

/// For L1's own processes: never refused when well-formed.
fn own() {
    for target in [1, 2, 4, 5] {
        for kind in [TLB, PWC, PAT, TLB | PWC, TLB | PWC | PAT] {
            let code = call([1, target, kind, ALL, 0, ALL]);
            case(
                format_args!("invalidate/own-target-{target}-type-{kind}"),
                code,
                0,
            );
        }
    }
    for size in [1, 2, 4, 8, 15, ALL] {
        let code = call([1, 1, TLB, size, 0x1000_0000, 0x1020_0000]);
        case(format_args!("invalidate/own-sizes-{size:#x}"), code, 0);
    }
    for (name, pid) in [("0", 0u64), ("20-bits", 0xf_ffff)] {
        case(
            format_args!("invalidate/own-pid-{name}"),
            call([pid, 1, TLB, ALL, 0, ALL]),
            0,
        );
    }
    case(
        "invalidate/own-backwards",
        call([1, 1, TLB, ALL, 0x2000, 0x1000]),
        P5,
    );
    case(
        "invalidate/own-empty",
        call([1, 1, TLB, ALL, 0x1000, 0x1000]),
        0,
    );
    case(
        "invalidate/own-huge-range",
        call([1, 1, TLB, 1, 0, ALL - 1]),
        0,
    );
}

fn nested(id: u64) {
    for kind in [TLB, PWC, PAT, TLB | PWC, TLB | PWC | PAT] {
        for (name, start, end) in [
            ("all", 0, ALL),
            ("page", 0x2000, 0x3000),
            ("empty", 0x3000, 0x3000),
            ("terabytes", 0, 1 << 50),
            ("beyond", 1 << 52, 1 << 60),
        ] {
            let code = call([id, 1, NESTED | kind, ALL, start, end]);
            case(
                format_args!("invalidate/nested-type-{kind}-{name}"),
                code,
                0,
            );
        }
    }
    for size in [1u64, 2, 4, 8] {
        let code = call([id, 1, NESTED | TLB, size, 0, 0x1_0000]);
        case(format_args!("invalidate/nested-size-{size}"), code, 0);
    }
    case(
        "invalidate/nested-size-0",
        call([id, 1, NESTED | TLB, 0, 0, 0x1000]),
        P4,
    );
    case(
        "invalidate/nested-size-16",
        call([id, 1, NESTED | TLB, 16, 0, 0x1000]),
        P4,
    );
    for target in [0u64, 2, 4, 8, ALL] {
        let code = call([id, target, NESTED | TLB, ALL, 0, ALL]);
        case(
            format_args!("invalidate/nested-target-{target:#x}"),
            code,
            P2,
        );
    }
    case(
        "invalidate/nested-backwards",
        call([id, 1, NESTED | TLB, ALL, 0x2000, 0x1000]),
        P5,
    );
    for unknown in [0u64, 0x7777_7777, ALL, id ^ 1, id | 1 << 32] {
        let code = call([unknown, 1, NESTED | TLB, ALL, 0, ALL]);
        case(
            format_args!("invalidate/nested-unknown-{unknown:#x}"),
            code,
            0,
        );
    }
    holds("invalidate/id-usable", id < 1 << 31);
}
