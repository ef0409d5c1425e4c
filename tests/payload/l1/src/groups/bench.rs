//! Costs in ticks of the time base: under `-icount shift=0` one instruction is one nanosecond, and a tick is
//! 1.953 of them. Not cases: lines `bench NAME ticks=T count=N` for a reader to divide.

use isa::pte::PageSize;
use papr_services::table::number::{
    H_GUEST_GET_STATE, H_GUEST_SET_STATE, H_POLL_PENDING, H_PROD, H_RPT_INVALIDATE,
};

use super::nested_args::{guest_or_fail, setup};
use super::shadow::{PAT, PWC, TLB, invalidate};
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, Guest, program};
use crate::hcall::hcall;
use crate::mem::layout::{BUFFER, PAGES, RUN_INPUT};
use crate::probe;
use crate::radix::ALL;
use crate::report::case;
use crate::say;
use crate::start::Machine;

/// Times `count` rounds.
pub(super) fn time(name: &str, count: u64, mut round: impl FnMut()) {
    round();
    let start = probe::time_base();
    for _ in 0..count {
        round();
    }
    let ticks = probe::time_base().wrapping_sub(start);
    say!("bench {name} ticks={ticks} count={count}");
}

/// Pages of one size that L2 touches in order.
pub(super) struct Touch {
    pub name: &'static str,
    pub size: PageSize,
    pub count: u64,
    /// L2 real address of the first.
    pub at: u64,
}

const fn touched(name: &'static str, size: PageSize, count: u64, gigabyte: u64) -> Touch {
    Touch {
        name,
        size,
        count,
        at: gigabyte << 30,
    }
}

pub(super) const TOUCHES: [Touch; 3] = [
    touched("4K", PageSize::Size4K, 0x400, 4),
    touched("64K", PageSize::Size64K, 0x80, 8),
    touched("2M", PageSize::Size2M, 16, 12),
];

/// L2 real address of 4K pages that L1 maps one by one, when L2 asks; and their number.
pub(super) const UNMAPPED: (u64, u64) = (36 << 30, 64);

/// What every hypervisor has: the loop itself, and a hypercall with nothing to do. KVM leaves H_POLL_PENDING to QEMU,
/// but answers H_PROD for a processor that is not there itself.
pub(super) fn common() {
    time("nothing", 1000, || {
        core::hint::black_box(0);
    });
    time("hcall-nobody", 1000, || {
        hcall(H_PROD, [0x7fff]);
    });
}

pub(super) fn run(_: &Machine) {
    common();
    time("hcall-empty", 1000, || {
        hcall(H_POLL_PENDING, []);
    });
    time("hcall-unknown", 1000, || {
        hcall(0x4f0, []);
    });
    time("invalidate-own", 100, || {
        hcall(H_RPT_INVALIDATE, [1, 1, 2, u64::MAX, 0, u64::MAX]);
    });
    if !setup() {
        return;
    }
    let Some(mut g) = guest_or_fail("bench") else {
        return;
    };
    state(&g);
    runs(&g);
    touch(&mut g);
    time("create-delete", 20, || {
        if let Ok(id) = guest::create() {
            guest::delete(id);
        }
    });
    case("bench/delete", g.end(), 0);
}

fn state(g: &Guest) {
    let mut w = Writer::new(BUFFER);
    w.u64(id::GPR0, 0);
    time("set-one", 1000, || {
        hcall(H_GUEST_SET_STATE, [0, g.id, 0, BUFFER, w.size()]);
    });
    time("get-one", 1000, || {
        hcall(H_GUEST_GET_STATE, [0, g.id, 0, BUFFER, w.size()]);
    });
}

fn runs(g: &Guest) {
    let start = |name: &str, nia| {
        let exit = g.start(nia, &[(id::GPR0 + 3, 0x1230)]);
        case(format_args!("bench/{name}"), exit, 0xc00);
    };
    start("calls", program::CALLS);
    Writer::new(RUN_INPUT);
    time("run-minimal", 1000, || {
        guest::run(g.id);
    });
    // What Linux sends each time: LPCR and the expiry.
    let mut w = Writer::new(RUN_INPUT);
    w.u64(id::LPCR, 0x0202_0000)
        .u64(id::HDEC_EXPIRY, guest::far());
    time("run-two-elements", 1000, || {
        guest::run(g.id);
    });
    let mut w = Writer::new(RUN_INPUT);
    for n in 0..32 {
        w.u64(id::GPR0 + n, 0x1230);
    }
    time("run-32-dirty", 1000, || {
        guest::run(g.id);
    });
    let mut w = Writer::new(RUN_INPUT);
    for n in 0..64 {
        w.element(id::VSR0 + n, 0x1230);
    }
    time("run-64-vsrs", 200, || {
        guest::run(g.id);
    });
    Writer::new(RUN_INPUT);
    let code = guest::set(g.id, 0, id::HDEC_EXPIRY, 0).code();
    case("bench/due", code, 0);
    time("run-due", 1000, || {
        guest::run(g.id);
    });
}

fn touch(g: &mut Guest) {
    for row in &TOUCHES {
        g.tree
            .map_range(row.at, PAGES, row.count * row.size.bytes(), row.size, ALL);
        let all = [
            (id::GPR0 + 5, row.at),
            (id::GPR0 + 6, row.count),
            (id::GPR0 + 7, row.size.bytes()),
        ];
        for (what, flush) in [("first-touch", true), ("second-touch", false)] {
            if flush {
                invalidate(g, TLB | PWC | PAT, u64::MAX, 0, u64::MAX);
                // The program's own page is not part of the figure.
                g.start(program::SC, &[]);
            }
            let start = probe::time_base();
            let exit = g.start(program::TOUCH, &all);
            let ticks = probe::time_base().wrapping_sub(start);
            case(format_args!("bench/{what}-{}", row.name), exit, 0xc00);
            say!(
                "bench {what}-{} ticks={ticks} count={}",
                row.name,
                row.count
            );
        }
    }
    let [first, ..] = &TOUCHES;
    let (at, size) = (first.at, first.size);
    time("invalidate-page", 64, || {
        invalidate(g, TLB, size.rpt_bit(), at, at + size.bytes());
    });
    // A page that L1 does not map: exit, map, run again.
    let (at, count) = UNMAPPED;
    let start = probe::time_base();
    for n in 0..count {
        let exit = g.start(program::LOAD, &[(id::GPR0 + 5, at + n * 0x1000)]);
        if exit == 0xe00 {
            g.tree
                .map(at + n * 0x1000, PAGES + n * 0x1000, PageSize::Size4K, ALL);
            g.run();
        }
    }
    let ticks = probe::time_base().wrapping_sub(start);
    say!("bench fault-to-l1 ticks={ticks} count={count}");
}
