//! Costs in ticks of the time base: under `-icount shift=0` one instruction is one nanosecond, and a tick is
//! 1.953 of them. Not cases: lines `bench NAME ticks=T count=N` for a reader to divide.

use core::fmt::Display;

use isa::pte::PageSize;
use papr_services::table::number::{
    H_GUEST_CREATE_VCPU, H_GUEST_GET_STATE, H_GUEST_SET_STATE, H_POLL_PENDING, H_PROD,
    H_PUT_TERM_CHAR, H_RPT_INVALIDATE,
};

use super::bench_growth::{self, touching};
use super::bench_nested::{self, Nested, TOUCHES};
use super::nested_args::{guest_or_fail, setup};
use super::shadow::{PAT, PWC, TLB, invalidate};
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, Guest, L2_MSR, program};
use crate::hcall::hcall;
use crate::mem::layout::{BUFFER, L2_MEMORY, L2_MEMORY_SIZE, PAGES, RUN_INPUT, TABLES};
use crate::probe;
use crate::radix::{ALL, Tree};
use crate::report::{case, holds};
use crate::say;
use crate::start::Machine;

/// Times `count` rounds, five times over: the median, because a hypervisor below has other work now and then.
pub(super) fn time(name: impl Display, count: u64, mut round: impl FnMut()) {
    round();
    let ticks = median([(); 5].map(|()| {
        let start = probe::time_base();
        for _ in 0..count {
            round();
        }
        probe::time_base().wrapping_sub(start)
    }));
    say!("bench {name} ticks={ticks} count={count}");
}

/// The middle one.
pub(super) fn median<const N: usize>(mut values: [u64; N]) -> u64 {
    values.sort_unstable();
    values.get(N / 2).copied().unwrap_or(0)
}

/// What every hypervisor has: the loop itself, and a hypercall with nothing to do. KVM leaves H_POLL_PENDING to QEMU,
/// but answers H_PROD for a processor that is not there itself.
pub(super) fn common() {
    time("nothing", 200, || {
        core::hint::black_box(0);
    });
    time("hcall-nobody", 200, || {
        hcall(H_PROD, [0x7fff]);
    });
    time("console", 4, || {
        hcall(
            H_PUT_TERM_CHAR,
            [
                0,
                16,
                u64::from_be_bytes(*b"bench, b"),
                u64::from_be_bytes(*b"ench ..\n"),
            ],
        );
    });
}

pub(super) fn run(machine: &Machine) {
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
    bench_nested::run(&mut g);
    invalidations(&g);
    exits(&mut g, machine);
    bench_growth::run(&mut g);
    time("create-delete", 5, || {
        if let Ok(id) = guest::create() {
            guest::delete(id);
        }
    });
    first_runs();
    case("bench/delete", g.end(), 0);
    bytes();
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
    time("run-minimal", 200, || {
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
    time("run-32-dirty", 200, || {
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
    let code = guest::set(g.id, 0, id::HDEC_EXPIRY, guest::far()).code();
    case("bench/not-due", code, 0);
}

impl Nested for Guest {
    fn start(&mut self, program: u64, r5: [u64; 3]) -> i64 {
        let mut w = Writer::new(RUN_INPUT);
        w.u64(id::NIA, program).u64(id::MSR, L2_MSR.bits());
        for (n, value) in (id::GPR0 + 5..).zip(r5) {
            w.u64(n, value);
        }
        let exit = self.run();
        Writer::new(RUN_INPUT);
        exit
    }

    fn resume(&mut self) -> i64 {
        self.run()
    }

    fn emulate(&mut self, value: u64) -> i64 {
        let behind = self.output(id::NIA).unwrap_or(0) + 4;
        let mut w = Writer::new(RUN_INPUT);
        w.u64(id::NIA, behind).u64(id::GPR0 + 4, value);
        let exit = self.run();
        Writer::new(RUN_INPUT);
        exit
    }

    fn fault_address(&self) -> u64 {
        self.output(id::ASDR).unwrap_or(0)
    }

    fn tree(&mut self) -> &mut Tree {
        &mut self.tree
    }

    fn invalidate(&mut self, start: u64, end: u64) {
        invalidate(self, TLB, PageSize::Size4K.rpt_bit(), start, end);
    }

    fn invalidate_all(&mut self) {
        invalidate(self, TLB | PWC | PAT, u64::MAX, 0, u64::MAX);
    }
}

fn invalidations(g: &Guest) {
    let [small, ..] = &TOUCHES;
    let page = PageSize::Size4K;
    time("invalidate-page", 16, || {
        invalidate(g, TLB, page.rpt_bit(), small.at, small.at + page.bytes());
    });
    // Most of it is not mapped, which is how a kernel gives a range back.
    time("invalidate-gigabyte", 16, || {
        invalidate(g, TLB, page.rpt_bit(), small.at, small.at + (1 << 30));
    });
}

/// How often L2 leaves for the pages that it touches in order. The firmware's counters tell, for L1 sees none of it.
fn exits(g: &mut Guest, machine: &Machine) {
    let Some(exits) = machine.exits else {
        holds("bench/exit-counters", false);
        return;
    };
    for row in &TOUCHES {
        Nested::invalidate_all(g);
        Nested::start(g, program::SC, [0; 3]);
        let count = || exits.nested(machine.server, "data-storage").unwrap_or(0);
        let before = count();
        let all = touching(row.at, row.count, row.size);
        case(
            format_args!("bench/exits-{}", row.name),
            Guest::start(g, program::TOUCH, &all),
            0xc00,
        );
        let exits = count() - before;
        say!("bench-exits {} exits={exits} count={}", row.name, row.count);
    }
}

/// An L2 with all that its first run makes and its deletion takes away, without the program's own part.
fn first_runs() {
    let mut lost = 0;
    let ticks = median([(); 5].map(|()| {
        let mut tree = Tree::at(TABLES + 0x20_0000);
        tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
        let Ok(g) = Guest::with_tree(tree) else {
            lost += 1;
            return 0;
        };
        let start = probe::time_base();
        lost += u64::from(g.run() != 0xc00);
        lost += u64::from(g.end() != 0);
        probe::time_base().wrapping_sub(start)
    }));
    case("bench/first-runs", lost, 0);
    say!("bench first-run-delete ticks={ticks} count=1");
}

/// What L2s take of the firmware's memory, as its counters have it.
fn bytes() {
    let counters = || [guest::counter(id::HEAP), guest::counter(id::TABLES)];
    let [heap, tables] = counters();
    let Some(mut g) = guest_or_fail("bench-bytes") else {
        return;
    };
    let since = || {
        let [heap_now, tables_now] = counters();
        [heap_now - heap, tables_now - tables]
    };
    let [heap_new, tables_new] = since();
    let all = heap_new + tables_new;
    say!("bench-bytes new-l2 bytes={all}");
    case("bench/bytes-runs", g.run(), 0xc00);
    let [heap_ran, tables_ran] = since();
    say!("bench-bytes heap bytes={heap_ran}");
    say!("bench-bytes first-tables bytes={tables_ran}");
    let heap_then = guest::counter(id::HEAP);
    let code = hcall(H_GUEST_CREATE_VCPU, [0, g.id, 1]).code();
    case("bench/second-vcpu", code, 0);
    say!(
        "bench-bytes vcpu bytes={}",
        guest::counter(id::HEAP) - heap_then
    );
    for (gigabyte, row) in (16u64..).zip(&TOUCHES) {
        let (at, size) = (gigabyte << 30, row.size);
        let count = (1 << 30) / size.bytes();
        // 64 MiB of memory, over and over.
        let frames = (64 << 20) / size.bytes();
        for n in 0..count {
            let frame = PAGES + n % frames * size.bytes();
            g.tree.map(at + n * size.bytes(), frame, size, ALL);
        }
        let before = guest::counter(id::TABLES);
        let exit = Guest::start(&g, program::TOUCH, &touching(at, count, size));
        case(format_args!("bench/gigabyte-{}", row.name), exit, 0xc00);
        let after = guest::counter(id::TABLES);
        say!("bench-bytes tables-{} bytes={}", row.name, after - before);
    }
    case("bench/bytes-delete", g.end(), 0);
}
