//! Races of L2's stores with changes of L1's tree: when H_RPT_INVALIDATE has returned, nothing goes where the tree led
//! before, neither stores of L2 nor R and C of the firmware.

use core::sync::atomic::Ordering;

use isa::barrier::ptesync;
use isa::pte::{PageSize, Pte};
use papr_services::table::number::H_RPT_INVALIDATE;

use super::super::shadow::{NESTED, PWC, TLB};
use super::{Caller, FIRST, FREE, IN_USE, P2, TALLY, waits};
use crate::elements::id;
use crate::guest::{self, program};
use crate::hcall::hcall;
use crate::mem::layout::{L2_MEMORY, L2_MEMORY_SIZE, PAGES, TABLES};
use crate::radix::{ALL, Tree, set_entry};
use crate::{gsb, mem, probe};

/// L2 real address of the pages that change.
const AT: u64 = 0x4000_0000;
/// vCPUs, one for each thread that runs.
const VCPUS: [u64; 3] = [1, 64, 2046];
/// What L2 writes, and what it must not overwrite.
const FLOOD: u64 = 0x4242_4242_4242_4242;
const MARK: u64 = 0x1111_1111_1111_1111;
/// Two places for the page, 2 MiB each; one pair for each guest, because a run of the other may still be under way.
const FRAMES: [[u64; 2]; 2] = [
    [PAGES + 0x80_0000, PAGES + 0xa0_0000],
    [PAGES + 0xc0_0000, PAGES + 0xe0_0000],
];
/// Ticks for a store that is still under way to show: 20 us.
const LINGER: u64 = 10_000;

fn leaf(frame: u64, rights: Pte) -> u64 {
    (Pte::VALID | Pte::LEAF | rights).bits() | frame
}

fn drop_translations(guest: u64, kind: u64, size: PageSize) -> i64 {
    ptesync();
    let (sizes, start, end) = match kind {
        PWC => (u64::MAX, 0, u64::MAX),
        _ => (size.rpt_bit(), AT, AT + size.bytes()),
    };
    hcall(
        H_RPT_INVALIDATE,
        [guest, 1, NESTED | kind, sizes, start, end],
    )
    .code()
}

/// The threads that run: their vCPUs store at [`AT`] for ever, until the race is over.
fn store_for_ever(me: &Caller) {
    let Some(vcpu) = VCPUS.get(me.number - 1).copied() else {
        return;
    };
    let mut prepared = 0;
    while !TALLY.is_over() {
        let guest = TALLY.guest.load(Ordering::SeqCst);
        if guest == 0 {
            continue;
        }
        if guest != prepared {
            let gprs = [(5, AT), (7, 64 * me.number as u64), (8, FLOOD)];
            let code = me.set_buffers(guest, vcpu);
            TALLY.allow(0x70, code, &[0, P2]);
            let code = me.prepare(guest, vcpu, program::FLOOD, 0, &gprs);
            TALLY.allow(0x71, code, &[0, P2]);
            prepared = guest;
        }
        // Half a millisecond, so that the threads run in changing company.
        gsb::Writer::new(me.input()).u64(id::HDEC_EXPIRY, guest::soon(256_000));
        let (code, reason) = me.run(0, guest, vcpu);
        TALLY.allow(0x72, code, &[0, P2, IN_USE]);
        TALLY.reason(0x73, code, reason, &[0, 0x980, 0xe00]);
    }
}

/// A guest whose vCPUs are all made.
fn begin(me: &Caller, root: u64, at: u64) -> u64 {
    let old = TALLY.root.swap(root, Ordering::SeqCst);
    let made = me.make(&VCPUS);
    TALLY.root.store(old, Ordering::SeqCst);
    TALLY.allow(at, made.err().unwrap_or(0), &[0]);
    made.unwrap_or(0)
}

fn end(guest: u64, at: u64) {
    TALLY.over.store(true, Ordering::SeqCst);
    TALLY.guest.store(0, Ordering::SeqCst);
    TALLY.allow(at, guest::delete(guest), &[0]);
}

/// Lets L2 store in a frame, in most rounds while it can be on its way there or not.
fn let_flood(me: &mut Caller, round: u64, frame: u64) {
    if round == 0 {
        // Who has stored is in a run. Later rounds do not wait for that.
        TALLY.must(0x7a, crate::threads::wait(|| mem::read64(frame) == FLOOD));
    }
    if waits(round) {
        me.pause(LINGER);
        await_flood(frame);
    } else {
        me.pause(4 * LINGER);
    }
    if mem::read64(frame) == FLOOD {
        TALLY.count(&TALLY.refused);
    }
}

/// Waits until L2 stores in a frame, a little at most: it may not be scheduled.
fn await_flood(frame: u64) {
    let start = probe::time_base();
    while mem::read64(frame) != FLOOD && probe::time_base().wrapping_sub(start) < 4_000_000 {
        core::hint::spin_loop();
    }
}

/// Where each thread stores in a frame, and one that does not.
const PLACES: [u64; 4] = [0, 64, 128, 192];

/// Marks the frame that nobody stores in any more.
fn mark(frame: u64) {
    for place in PLACES {
        mem::write64(frame + place, MARK);
    }
}

fn is_marked(frame: u64) -> bool {
    PLACES
        .iter()
        .all(|place| mem::read64(frame + place) == MARK)
}

/// Which of the two guests a round is about, and whether it is the first round in a row with that one. Rows are even.
fn row(round: u64) -> (usize, bool) {
    let length = if round < FIRST { 4 } else { FREE };
    let is_first = round.is_multiple_of(length) || round == FIRST;
    (usize::from(!(round / length).is_multiple_of(2)), is_first)
}

/// The leaf at [`AT`] leads to one frame, then to the other; in between it is sometimes not there at all.
pub(super) fn invalidate(number: usize) {
    let mut me = Caller::new(number);
    if number != 0 {
        return store_for_ever(&me);
    }
    let mut tree = Tree::at(TABLES + 0x10_0000);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    let sizes = [PageSize::Size4K, PageSize::Size2M];
    let mut slots = [0, 0];
    let guests = [0, 1].map(|n| {
        // One tree for each size of leaf; what they have in common is L2's program.
        if n == 1 {
            tree = Tree::at(TABLES + 0x18_0000);
            tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
        }
        slots[n] = tree.slot(AT, sizes[n]);
        begin(&me, tree.root, 0x74)
    });
    // Marks are looked at a round later, so that a store that is late by any time until then shows.
    let mut marked = [None, None];
    for round in TALLY.rounds() {
        let (kind, is_first) = row(round);
        let (guest, slot, size) = (guests[kind], slots[kind], sizes[kind]);
        let [old, new] = [round, round + 1].map(|n| FRAMES[kind][n as usize % 2]);
        TALLY.must(0x77, marked[kind].is_none_or(is_marked));
        mem::write64(new, 0);
        if is_first {
            set_entry(slot, leaf(old, ALL));
            mem::write64(old, 0);
            TALLY.guest.store(guest, Ordering::SeqCst);
            await_flood(old);
        }
        let start = probe::time_base();
        if me.below(2) == 0 {
            set_entry(slot, 0);
            TALLY.allow(0x75, drop_translations(guest, TLB, size), &[0]);
        }
        let rights = match me.below(2) {
            0 => ALL,
            _ => ALL.difference(Pte::R | Pte::C),
        };
        set_entry(slot, leaf(new, rights));
        TALLY.allow(0x76, drop_translations(guest, TLB, size), &[0]);
        TALLY.took(probe::time_base().wrapping_sub(start));
        mark(old);
        marked[kind] = Some(old);
        let_flood(&mut me, round, new);
        TALLY.count(&TALLY.changes);
    }
    TALLY.must(0x79, marked.into_iter().flatten().all(is_marked));
    for guest in guests {
        end(guest, 0x78);
    }
}

/// The table of leaves above [`AT`] is replaced, as when a kernel collapses a range: after the walk cache was dropped the
/// old table is other memory, in which no R or C appears. Its entry is without them, so that each fault writes some.
pub(super) fn tables(number: usize) {
    let mut me = Caller::new(number);
    if number != 0 {
        return store_for_ever(&me);
    }
    let mut tree = Tree::at(TABLES + 0x10_0000);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    let [unused, frame] = FRAMES[0];
    // The directory entry above AT, and two tables for it.
    let directory = tree.slot(AT, PageSize::Size2M);
    let tables = [tree.table(4096), tree.table(4096)];
    let guest = begin(&me, tree.root, 0x80);
    // Junk that an R or a C would change: a leaf without them.
    let junk = leaf(unused, Pte::READ | Pte::WRITE);
    let mut behind = None;
    for round in TALLY.rounds() {
        let [old, new] = [round as usize % 2, (round as usize + 1) % 2].map(|n| tables[n]);
        let is_junk = |table| mem::read64(table) == junk.to_be();
        TALLY.must(0x82, behind.is_none_or(is_junk));
        mem::fill(new, 4096, 0);
        set_entry(new, leaf(frame, Pte::READ | Pte::WRITE));
        ptesync();
        set_entry(directory, Pte::VALID.bits() | new | 9);
        let start = probe::time_base();
        TALLY.allow(0x81, drop_translations(guest, PWC, PageSize::Size2M), &[0]);
        TALLY.took(probe::time_base().wrapping_sub(start));
        set_entry(old, junk);
        behind = Some(old);
        mem::write64(frame, 0);
        TALLY.guest.store(guest, Ordering::SeqCst);
        let_flood(&mut me, round, frame);
        TALLY.count(&TALLY.changes);
    }
    end(guest, 0x83);
}
