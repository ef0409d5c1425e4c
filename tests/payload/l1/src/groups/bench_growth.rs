//! What grows with the number of L2s, and with the memory that one has: the same calls and faults again and again.
//!
//! The surprise: with one L2 and with one gigabyte everything is measured here once more, by the very same code, so that
//! a quotient of one means no growth at all.

use isa::pte::PageSize;
use papr_services::table::number::H_PROD;

use super::bench::time;
use super::bench_nested::TOUCHES;
use super::shadow::{TLB, invalidate};
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, Guest, program};
use crate::hcall::hcall;
use crate::mem::layout::{L2_MEMORY, L2_MEMORY_SIZE, PAGES, RUN_INPUT, TABLES};
use crate::radix::{ALL, Tree};
use crate::report::case;
use crate::{probe, say};

/// L2s besides the one that is measured.
const OTHERS: usize = 7;

pub(super) fn run(g: &mut Guest) {
    many(g);
    large(g);
}

/// While others are there, which have run: at 1, 2, 4 and 8 of them.
fn many(g: &Guest) {
    let mut guests = [const { None }; OTHERS];
    again(g, 1, "L2s");
    for (n, slot) in (0..).zip(&mut guests) {
        let mut tree = Tree::at(TABLES + 0x20_0000 + n * 0x2_0000);
        tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
        let made = Guest::with_tree(tree);
        let code = made.as_ref().map_or_else(|code| *code, |_| 0);
        case(format_args!("bench/other-{n}"), code, 0);
        if let Ok(other) = made {
            case(format_args!("bench/other-{n}-runs"), other.run(), 0xc00);
            *slot = Some(other);
        }
        let there = n + 2;
        if there.is_power_of_two() {
            again(g, there, "L2s");
        }
    }
    for other in guests.into_iter().flatten() {
        case("bench/other-delete", other.end(), 0);
    }
}

/// With 1 to 32 GiB mapped and touched, by pages of 2 MiB.
fn large(g: &mut Guest) {
    const AT: u64 = 64 << 30;
    const PAGES_A_GIB: u64 = 512;
    let size = PageSize::Size2M;
    let mut mapped = 0;
    for gib in [1, 2, 4, 8, 16, 32] {
        let first = mapped;
        while mapped < gib * PAGES_A_GIB {
            let frame = PAGES + mapped % 32 * size.bytes();
            g.tree.map(AT + mapped * size.bytes(), frame, size, ALL);
            mapped += 1;
        }
        let new = touching(AT + first * size.bytes(), mapped - first, size);
        let exit = g.start(program::TOUCH, &new);
        case(format_args!("bench/{gib}-GiB"), exit, 0xc00);
        again(g, gib, "GiB");
    }
}

/// Measures calls, a run, the first touch of small pages, and what takes them away.
fn again(g: &Guest, number: u64, of: &str) {
    time(format_args!("hcall-nobody-{number}-{of}"), 200, || {
        hcall(H_PROD, [0x7fff]);
    });
    let exit = g.start(program::CALLS, &[]);
    case(format_args!("bench/calls-{number}-{of}"), exit, 0xc00);
    Writer::new(RUN_INPUT);
    time(format_args!("run-minimal-{number}-{of}"), 200, || {
        guest::run(g.id);
    });
    let [row, ..] = &TOUCHES;
    let end = row.at + row.count * row.size.bytes();
    invalidate(g, TLB, row.size.rpt_bit(), row.at, end);
    let all = touching(row.at, row.count, row.size);
    let start = probe::time_base();
    let exit = g.start(program::TOUCH, &all);
    let ticks = probe::time_base().wrapping_sub(start);
    case(format_args!("bench/touch-{number}-{of}"), exit, 0xc00);
    let count = row.count;
    say!("bench first-touch-4K-{number}-{of} ticks={ticks} count={count}");
    let page = row.size;
    time(format_args!("invalidate-page-{number}-{of}"), 16, || {
        invalidate(g, TLB, page.rpt_bit(), row.at, row.at + page.bytes());
    });
    time(format_args!("create-delete-{number}-{of}"), 5, || {
        if let Ok(id) = guest::create() {
            guest::delete(id);
        }
    });
}

/// What [`program::TOUCH`] needs.
pub(super) fn touching(at: u64, count: u64, size: PageSize) -> [(u16, u64); 3] {
    [
        (id::GPR0 + 5, at),
        (id::GPR0 + 6, count),
        (id::GPR0 + 7, size.bytes()),
    ]
}
