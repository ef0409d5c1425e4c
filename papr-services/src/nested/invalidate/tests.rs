//! Arguments, codes, and what is flushed.

use alloc::vec::Vec;

use isa::addr::{Gra, Nra};
use isa::pte::PageSize;
use proptest::prelude::*;

use super::{RptArgs, Scope, rpt_invalidate};
use crate::error::{HCode, Outputs};
use crate::host::{Flush, ProcessFlush};
use crate::nested::shadow::tests::{Partition, Tlb, furnished, leaves, quota};
use crate::nested::shadow::{Access, Outcome, PageFault, Shadow};
use crate::nested::tests::{ROOT, World};

const LPID: u32 = 7;
const ALL: u64 = !0;
const RWX_RC: u64 = 0xc000_0000_0000_0187;

/// An L1's usual call about its own process.
const OWN: RptArgs = RptArgs {
    id: 42,
    target: 1,
    kind: 2,
    page_sizes: 1,
    start: 0x1_0000,
    end: 0x1_1000,
};

/// An L1's usual call about one page of a nested guest.
const NESTED: RptArgs = RptArgs { kind: 3, ..OWN };

fn process(args: RptArgs) -> Result<Vec<Flush>, HCode> {
    let host = Tlb::default();
    let answer = rpt_invalidate(&args, &Scope::Process { lpid: LPID }, &host);
    assert!(answer.is_ok() || host.flush_count() == 0);
    answer
        .map(|outputs| {
            assert_eq!(outputs, Outputs::NONE);
            host.flushes.lock().unwrap().clone()
        })
        .map_err(|refusal| refusal.code)
}

fn flush(what: ProcessFlush) -> Flush {
    Flush::Process {
        lpid: LPID,
        pid: 42,
        what,
    }
}

fn range(start: u64, end: u64, size: PageSize) -> Flush {
    Flush::ProcessRange {
        lpid: LPID,
        pid: 42,
        start,
        end,
        size,
    }
}

#[test]
fn codes_of_bad_arguments() {
    for (args, code) in [
        (RptArgs { id: 1 << 32, ..OWN }, HCode::H_PARAMETER),
        (RptArgs { target: 0, ..OWN }, HCode::H_P2),
        (RptArgs { target: 8, ..OWN }, HCode::H_P2),
        (RptArgs { kind: 0, ..OWN }, HCode::H_P3),
        (RptArgs { kind: 0x12, ..OWN }, HCode::H_P3),
        (
            RptArgs {
                page_sizes: 0,
                ..OWN
            },
            HCode::H_P4,
        ),
        (
            RptArgs {
                page_sizes: 0x10,
                ..OWN
            },
            HCode::H_P4,
        ),
        (RptArgs { end: 0xffff, ..OWN }, HCode::H_P5),
        (NESTED, HCode::H_FUNCTION),
    ] {
        assert_eq!(process(args), Err(code), "{args:x?}");
    }
    let host = Tlb::default();
    let nested =
        |args: RptArgs| rpt_invalidate(&args, &Scope::Nested(None), &host).map_err(|r| r.code);
    for (args, code) in [
        (
            RptArgs {
                target: 2,
                ..NESTED
            },
            HCode::H_P2,
        ),
        (
            RptArgs {
                target: 5,
                ..NESTED
            },
            HCode::H_P2,
        ),
        (RptArgs { kind: 1, ..NESTED }, HCode::H_P3),
        (
            RptArgs {
                page_sizes: 0x11,
                ..NESTED
            },
            HCode::H_P4,
        ),
        (
            RptArgs {
                start: 1,
                end: 0,
                ..NESTED
            },
            HCode::H_P5,
        ),
        (OWN, HCode::H_FUNCTION),
    ] {
        assert_eq!(nested(args), Err(code), "{args:x?}");
    }
    assert_eq!(
        nested(NESTED),
        Ok(Outputs::NONE),
        "an unknown guest is no error"
    );
    assert_eq!(nested(RptArgs { id: !0, ..NESTED }), Ok(Outputs::NONE));
    assert_eq!(host.flush_count(), 0);
}

#[test]
fn processes_are_flushed_by_page_up_to_33() {
    assert_eq!(
        process(OWN),
        Ok([range(0x1_0000, 0x1_1000, PageSize::Size4K)].to_vec())
    );
    let pages = |n: u64| RptArgs {
        end: OWN.start + n * 0x1000,
        ..OWN
    };
    assert_eq!(
        process(pages(33)),
        Ok([range(0x1_0000, 0x3_1000, PageSize::Size4K)].to_vec())
    );
    assert_eq!(process(pages(34)), Ok([flush(ProcessFlush::Tlb)].to_vec()));
    assert_eq!(process(pages(0)), Ok([].to_vec()));
    let two = RptArgs {
        page_sizes: 6,
        start: 0x1_2345,
        end: 0x1_2346,
        ..OWN
    };
    assert_eq!(
        process(two),
        Ok([
            range(0x1_0000, 0x2_0000, PageSize::Size64K),
            range(0, 0x20_0000, PageSize::Size2M)
        ]
        .to_vec())
    );
    let top = RptArgs {
        start: !0xfff,
        end: ALL,
        ..OWN
    };
    assert_eq!(
        process(top),
        Ok([range(!0xfff, !0xfff, PageSize::Size4K)].to_vec())
    );
}

#[test]
fn whole_processes_take_one_flush_where_one_does() {
    let whole = |kind| {
        process(RptArgs {
            kind,
            page_sizes: ALL,
            start: 0,
            end: ALL,
            ..OWN
        })
    };
    assert_eq!(whole(2), Ok([flush(ProcessFlush::Tlb)].to_vec()));
    assert_eq!(whole(4), Ok([flush(ProcessFlush::WalkCache)].to_vec()));
    for kind in [6, 8, 0xa, 0xc, 0xe] {
        assert_eq!(
            whole(kind),
            Ok([flush(ProcessFlush::All)].to_vec()),
            "{kind}"
        );
    }
    assert_eq!(
        process(RptArgs { kind: 6, ..OWN }),
        Ok([
            flush(ProcessFlush::WalkCache),
            range(0x1_0000, 0x1_1000, PageSize::Size4K)
        ]
        .to_vec())
    );
    for target in 1..8 {
        assert!(process(RptArgs { target, ..OWN }).is_ok(), "{target}");
    }
}

/// A guest with four pages of 4 KiB and one of 2 MiB, all of them in use.
fn guest() -> (Partition, Tlb, Shadow) {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = furnished(&quota(4, u64::MAX), LPID);
    shadow.set_table(Some(l1.root), &host);
    for page in 0..4 {
        l1.map(0x1_0000 + page * 0x1000, PageSize::Size4K, RWX_RC | 0x5000);
    }
    l1.map(1 << 30, PageSize::Size2M, RWX_RC);
    for nra in [0x1_0000, 0x1_1000, 0x1_2000, 0x1_3000, 1 << 30] {
        let fault = PageFault {
            nra: Nra(nra),
            access: Access::Load,
            table_walk: false,
        };
        assert_eq!(shadow.fault(&l1.ram, &fault, &host), Outcome::Resolved);
    }
    (l1, host, shadow)
}

fn left_after(args: RptArgs) -> (usize, Vec<Flush>) {
    let (_l1, host, shadow) = guest();
    assert_eq!(
        rpt_invalidate(&args, &Scope::Nested(Some(&shadow)), &host),
        Ok(Outputs::NONE)
    );
    let flushes = host.flushes.lock().unwrap().clone();
    (leaves(&shadow).len(), flushes)
}

#[test]
fn pages_of_a_guest_are_dropped_at_their_own_size() {
    let of = |start: u64, end: u64, size| {
        [Flush::Range {
            lpid: LPID,
            start: Nra(start),
            end: Nra(end),
            size,
        }]
        .to_vec()
    };
    assert_eq!(
        left_after(NESTED),
        (4, of(0x1_0000, 0x1_1000, PageSize::Size4K))
    );
    // The partition's page is 64 KiB, ours are smaller.
    let large = RptArgs {
        page_sizes: 2,
        ..NESTED
    };
    assert_eq!(
        left_after(large),
        (1, of(0x1_0000, 0x1_4000, PageSize::Size4K))
    );
    // Ours is larger.
    let small = RptArgs {
        start: (1 << 30) + 0x5000,
        end: (1 << 30) + 0x6000,
        ..NESTED
    };
    assert_eq!(
        left_after(small),
        (4, of(1 << 30, (1 << 30) + (2 << 20), PageSize::Size2M))
    );
    assert_eq!(
        left_after(RptArgs {
            end: NESTED.start,
            ..NESTED
        }),
        (5, [].to_vec())
    );
    assert_eq!(
        left_after(RptArgs {
            start: 1 << 60,
            end: ALL,
            ..NESTED
        }),
        (5, [].to_vec())
    );
}

#[test]
fn a_guest_is_dropped_whole() {
    let everything = [Flush::Partition { lpid: LPID }].to_vec();
    // Whatever kind, over the whole range; a partition-table change over any.
    for kind in [3, 5, 7, 9, 0xb, 0xd, 0xf] {
        let args = RptArgs {
            kind,
            page_sizes: ALL,
            start: 0,
            end: ALL,
            ..NESTED
        };
        assert_eq!(left_after(args), (0, everything.clone()), "{kind}");
    }
    assert_eq!(left_after(RptArgs { kind: 9, ..NESTED }), (0, everything));
    // The walk cache of a part of it is nothing that we keep.
    assert_eq!(
        left_after(RptArgs {
            kind: 5,
            page_sizes: 0,
            ..NESTED
        }),
        (5, [].to_vec())
    );
}

#[test]
fn a_partition_reaches_its_own_processes_and_guests() {
    let world = World::new();
    let call = |args| world.nested.rpt_invalidate(&world.env(), &args);
    assert_eq!(call(OWN), Ok(Outputs::NONE));
    let own = |flush: &Flush| {
        matches!(
            flush,
            Flush::ProcessRange {
                lpid: 1,
                pid: 42,
                ..
            }
        )
    };
    assert!(world.machine.flushes.borrow().last().is_some_and(own));

    // A page of 1 GiB in the tree that the guest has.
    let id = world.ready();
    let table = ROOT + 0x1_0000;
    for (at, entry) in [(ROOT, (1 << 63) | table | 9), (table, RWX_RC)] {
        world.ram.write(Gra(at), &entry.to_be_bytes()).unwrap();
    }
    let guest = world.nested.guest(id).unwrap();
    let registry = &world.nested.registry;
    assert_eq!(registry.furnish(&world.env(), &guest), Ok(()));
    let fault = PageFault {
        nra: Nra(NESTED.start),
        access: Access::Load,
        table_walk: false,
    };
    let outcome = guest.shadow().fault(&world.ram, &fault, &world.machine);
    assert_eq!(outcome, Outcome::Resolved);
    for (other, left) in [(0, 1), (!0, 1), (id + 1, 1), (id, 0)] {
        assert_eq!(
            call(RptArgs {
                id: other,
                ..NESTED
            }),
            Ok(Outputs::NONE)
        );
        assert_eq!(leaves(guest.shadow()).len(), left);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Well-formed requests never fail, and leave no leaf that they name.
    #[test]
    fn requests_that_make_sense_succeed(
        kind in 1_u64..8,
        page_sizes in prop_oneof![1_u64..16, Just(ALL)],
        start in prop_oneof![0_u64..0x2_0000, (1_u64 << 30)..(1 << 30) + 0x40_0000, any::<u64>()],
        len in prop_oneof![0_u64..0x1_0000, any::<u64>()],
    ) {
        let end = start.saturating_add(len);
        let (_l1, host, shadow) = guest();
        let args = RptArgs { kind: kind * 2 + 1, page_sizes, start, end, ..NESTED };
        let answer = rpt_invalidate(&args, &Scope::Nested(Some(&shadow)), &host);
        prop_assert_eq!(answer, Ok(Outputs::NONE));
        for (nra, _, size) in leaves(&shadow) {
            let outside = nra + size.bytes() <= start || nra >= end || start == end;
            prop_assert!(outside || args.kind & 2 == 0);
        }
        let own = RptArgs { kind: kind * 2, ..args };
        prop_assert!(process(own).is_ok());
    }

    #[test]
    fn noise_is_answered_without_harm(regs: [u64; 6], small: [u8; 6]) {
        let (_l1, host, shadow) = guest();
        for args in [RptArgs::from_regs(regs), RptArgs::from_regs(small.map(|b| u64::from(b & 0x1f)))] {
            let _ = rpt_invalidate(&args, &Scope::Nested(Some(&shadow)), &host);
            let _ = rpt_invalidate(&args, &Scope::Process { lpid: LPID }, &host);
        }
    }
}
