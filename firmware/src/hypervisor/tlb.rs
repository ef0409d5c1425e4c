//! Translation invalidation: turns what the tables owe ([`Flush`]) into `tlbie` sequences.
//!
//! Surprising fact: QEMU drops a partition-scoped translation by address only when the *effective* address equals the
//! guest real address, so there a range flush becomes a flush of the whole partition ([`range_flush_is_unreliable`]).
#![expect(unsafe_code, reason = "executes tlbie")]

use isa::barrier::{eieio, ptesync};
use isa::pte::PageSize;
use papr_services::host::{Flush, ProcessFlush};

/// Above this many pages, one flush of everything costs less than single ones (the choice of Linux, too).
const MOST_PAGES: u64 = 33;

/// Selector in RB: everything of a partition.
const IS_PARTITION: u64 = 2 << 10;
/// Selector in RB: everything of a process.
const IS_PROCESS: u64 = 1 << 10;

macro_rules! tlbie {
    ($rb:expr, $rs:expr, $ric:literal, $prs:literal) => {{
        let (rb, rs): (u64, u64) = ($rb, $rs);
        // SAFETY: invalidating translations is always allowed; memory that they reached stays what it was.
        unsafe {
            core::arch::asm!(
                concat!("tlbie {rb}, {rs}, ", $ric, ", ", $prs, ", 1"),
                rb = in(reg) rb,
                rs = in(reg) rs,
                options(nostack, preserves_flags)
            );
        }
    }};
}

/// QEMU's `tlbie` by address ignores PRS and compares effective addresses (target/ppc/mmu-radix64.c), so a
/// partition-scoped one misses what it should drop.
fn range_flush_is_unreliable(is_qemu: bool) -> bool {
    is_qemu
}

/// Runs `flush` and waits until all threads have done it.
pub(super) fn run(flush: Flush, is_qemu: bool) {
    let partition = |lpid: u32| u64::from(lpid);
    let process = |lpid: u32, pid: u32| (u64::from(pid) << 32) | u64::from(lpid);
    let pages =
        |start: u64, end: u64, size: PageSize| end.saturating_sub(start).div_ceil(size.bytes());
    if flush == Flush::Nothing {
        return;
    }
    ptesync();
    match flush {
        Flush::Nothing => {}
        Flush::Partition { lpid } => flush_partition(partition(lpid)),
        Flush::Range {
            lpid,
            start,
            end,
            size,
        } => {
            if range_flush_is_unreliable(is_qemu) || pages(start.0, end.0, size) > MOST_PAGES {
                tlbie!(IS_PARTITION, partition(lpid), 0, 0);
            } else {
                for_each_page(start.0, end.0, size, |rb| tlbie!(rb, partition(lpid), 0, 0));
            }
        }
        Flush::Process { lpid, pid, what } => match what {
            ProcessFlush::Tlb => tlbie!(IS_PROCESS, process(lpid, pid), 0, 1),
            ProcessFlush::WalkCache => tlbie!(IS_PROCESS, process(lpid, pid), 1, 1),
            ProcessFlush::All => tlbie!(IS_PROCESS, process(lpid, pid), 2, 1),
        },
        Flush::ProcessRange {
            lpid,
            pid,
            start,
            end,
            size,
        } => {
            if pages(start, end, size) > MOST_PAGES {
                tlbie!(IS_PROCESS, process(lpid, pid), 0, 1);
            } else {
                for_each_page(start, end, size, |rb| tlbie!(rb, process(lpid, pid), 0, 1));
            }
        }
    }
    wait();
}

/// Waits until all threads have done the invalidations that this one began.
fn wait() {
    eieio();
    // SAFETY: it only waits.
    unsafe { core::arch::asm!("tlbsync", options(nostack, preserves_flags)) };
    ptesync();
}

/// QEMU drops all translations of a thread when its LPIDR is written, so none is left behind (target/ppc/misc_helper.c).
fn switch_drops_translations(is_qemu: bool) -> bool {
    is_qemu
}

/// A vCPU of the nested guest `lpid` continues on another thread than before: what it invalidated locally may be left
/// on the old one, where another vCPU of the guest may find it.
pub(super) fn guest_moved(lpid: u32, is_qemu: bool) {
    if !switch_drops_translations(is_qemu) {
        ptesync();
        tlbie!(IS_PARTITION, u64::from(lpid), 2, 1);
        wait();
    }
}

/// Waits for invalidations that a guest had begun when it was interrupted: it may go on on another thread, whose
/// `tlbsync` does not wait for them.
pub(super) fn finish_guests_own() {
    wait();
}

/// Partition-scoped translations, then everything process-scoped of the partition.
fn flush_partition(lpid: u64) {
    tlbie!(IS_PARTITION, lpid, 2, 0);
    tlbie!(IS_PARTITION, lpid, 2, 1);
}

/// Calls `f` with RB for each page of `[start, end)`: address and AP.
fn for_each_page(start: u64, end: u64, size: PageSize, mut f: impl FnMut(u64)) {
    let mut at = start & !(size.bytes() - 1);
    while at < end {
        f(at & !0xfff | size.ap() << 5);
        match at.checked_add(size.bytes()) {
            Some(next) => at = next,
            None => return,
        }
    }
}
