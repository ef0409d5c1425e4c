//! The costs of nesting that both interfaces have, measured by the same code: `bench` and `bench-v1` say how.
//!
//! The surprise: nothing here looks at answers but the exit of a program. A figure of something that went wrong shows
//! as a failed case beside it.

use core::fmt::Display;

use isa::pte::{PageSize, Pte};

use crate::guest::program;
use crate::mem::layout::PAGES;
use crate::radix::{ALL, Tree, entry, set_entry};
use crate::report::case;
use crate::{probe, say};

/// An L2 with one vCPU, by either interface.
pub(super) trait Nested {
    /// Starts a program with r5, r6 and r7: the exit.
    fn start(&mut self, program: u64, r5: [u64; 3]) -> i64;
    /// Goes on where it is: the exit.
    fn resume(&mut self) -> i64;
    /// Goes on behind the load that left, with a value in r4: the exit.
    fn emulate(&mut self, value: u64) -> i64;
    /// L2 real address of the access that left.
    fn fault_address(&self) -> u64;
    /// The tree of its memory.
    fn tree(&mut self) -> &mut Tree;
    /// Says that 4K pages of the tree changed.
    fn invalidate(&mut self, start: u64, end: u64);
    /// Says that everything changed.
    fn invalidate_all(&mut self);
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

/// Each in a block of entries of its own: no neighbour helps.
const APART: u64 = 0x1_1000;
/// Where these are, pages that L1 maps when L2 asks, and one that it never maps.
const SCATTERED: u64 = 20 << 30;
const UNMAPPED: u64 = 36 << 30;
const DEVICE: u64 = 40 << 30;
/// Pages of the figures below.
const COUNT: u64 = 256;

/// Times a program that touches pages, seven times over, each after `prepare`: the median. A hypervisor may leave R and C
/// to L1, whose part is in the time then, and the first round finds none of L1's own pages known to it.
fn timed<N: Nested>(
    n: &mut N,
    name: impl Display,
    program: u64,
    r5: [u64; 3],
    prepare: impl Fn(&mut N),
) {
    let mut lost = 0;
    let times = [(); 7].map(|()| {
        prepare(n);
        let begin = probe::time_base();
        let mut exit = n.start(program, r5);
        for _ in 0..2 * COUNT {
            if exit != 0xe00 {
                break;
            }
            let at = n.fault_address() & 0x0fff_ffff_ffff_f000;
            let leaf = n.tree().slot(at, PageSize::Size4K);
            set_entry(leaf, (entry(leaf) | Pte::R | Pte::C).bits());
            exit = n.resume();
        }
        lost += u64::from(exit != 0xc00);
        probe::time_base().wrapping_sub(begin)
    });
    let [_, count, _] = r5;
    let ticks = super::bench::median(times);
    case(format_args!("bench/{name}"), lost, 0);
    say!("bench {name} ticks={ticks} count={count} all={times:?}");
}

/// Nothing is known of the guest's memory but its program, whose own page is not part of the figures.
fn cold(n: &mut impl Nested) {
    n.invalidate_all();
    n.start(program::SC, [0; 3]);
}

pub(super) fn run<N: Nested>(n: &mut N) {
    let touch = |n: &mut N, name: &str, r5| {
        timed(
            n,
            format_args!("first-touch-{name}"),
            program::TOUCH,
            r5,
            cold,
        );
        timed(
            n,
            format_args!("second-touch-{name}"),
            program::TOUCH,
            r5,
            |_| (),
        );
    };
    for row in &TOUCHES {
        let bytes = row.size.bytes();
        n.tree()
            .map_range(row.at, PAGES, row.count * bytes, row.size, ALL);
        touch(n, row.name, [row.at, row.count, bytes]);
    }
    for page in 0..COUNT {
        let at = SCATTERED + page * APART;
        n.tree()
            .map(at, PAGES + page * 0x1000, PageSize::Size4K, ALL);
    }
    touch(n, "scattered", [SCATTERED, COUNT, APART]);
    let [small, ..] = &TOUCHES;
    let pages = [small.at, COUNT, 0x1000];
    timed(n, "after-aging", program::TOUCH, pages, |n| {
        without(n, small.at, Pte::R);
    });
    timed(n, "after-logging", program::WRITE, pages, |n| {
        without(n, small.at, Pte::C);
    });
    faults(n);
}

/// Takes R or C away, as a host does that looks which pages are in use.
fn without(n: &mut impl Nested, at: u64, bit: Pte) {
    for page in 0..COUNT {
        let leaf = n.tree().slot(at + page * 0x1000, PageSize::Size4K);
        set_entry(leaf, (entry(leaf) - bit).bits());
    }
    n.invalidate(at, at + COUNT * 0x1000);
}

/// What only L1 can resolve: a page that it maps now, and a device that it emulates.
fn faults(n: &mut impl Nested) {
    let mut lost = 0;
    let begin = probe::time_base();
    for page in 0..COUNT {
        let at = UNMAPPED + page * 0x1000;
        if n.start(program::LOAD, [at, 0, 0]) == 0xe00 {
            n.tree()
                .map(at, PAGES + page * 0x1000, PageSize::Size4K, ALL);
        }
        lost += u64::from(n.resume() != 0xc00);
    }
    let ticks = probe::time_base().wrapping_sub(begin);
    say!("bench fault-to-l1 ticks={ticks} count={COUNT}");
    let begin = probe::time_base();
    for value in 0..COUNT {
        let exit = n.start(program::LOAD, [DEVICE, 0, 0]);
        lost += u64::from(exit != 0xe00 || n.emulate(value) != 0xc00);
    }
    let ticks = probe::time_base().wrapping_sub(begin);
    say!("bench mmio-load ticks={ticks} count={COUNT}");
    case("bench/faults", lost, 0);
}
