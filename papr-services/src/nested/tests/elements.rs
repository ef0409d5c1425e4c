//! The table of elements and the value rules.

use alloc::vec;
use alloc::vec::Vec;
use std::sync::OnceLock;

use isa::addr::Gra;
use isa::lpcr::{HFSCR_CAUSE, Lpcr};
use isa::msr::{Msr, SRR1_CAUSE, TRANSACTION_BITS};
use proptest::prelude::*;

use super::{
    GUEST_WIDE, OWN, QUOTAS, RAM, ROOT, World, code, double, gsb, pair, partition_table, word,
};
use crate::error::{HCode, Refusal};
use crate::guest_ram::GuestRam;
use crate::guest_ram::tests::flat;
use crate::level::{self, Level, NO_LEVELS};
use crate::nested::element::{
    self, Access, Element, LPCR_SETTABLE, Limits, MSR_SETTABLE, Rule, Scope, TABLE,
};
use crate::nested::run::{Exit, Start};

/// Every id that is in the table.
fn ids() -> impl Iterator<Item = (u16, &'static Element, u16)> {
    (0..=u16::MAX).filter_map(|id| element::find(id).map(|(element, number)| (id, element, number)))
}

#[test]
fn ids_are_those_of_the_document() {
    let documented = [
        0x0001..=0x0006,
        0x0800..=0x0804,
        0x0c00..=0x0c02,
        0x1000..=0x1053,
        0x2000..=0x200e,
        0x3000..=0x303f,
        0xf000..=0xf003,
    ];
    let all: Vec<u16> = documented.into_iter().flatten().collect();
    assert_eq!(ids().map(|(id, ..)| id).collect::<Vec<_>>(), all);
}

#[test]
fn rows_ascend_and_are_found() {
    let mut next = 1;
    for row in TABLE {
        assert!(row.id >= next, "{}", row.name);
        next = row.id + row.count;
        for number in 0..row.count {
            let (found, found_number) = element::find(row.id + number).unwrap();
            assert!(
                core::ptr::eq(found, *row) && found_number == number,
                "{}",
                row.name
            );
        }
        assert!(!row.doc.is_empty());
    }
}

#[test]
fn lengths_are_those_linux_demands() {
    for (id, element, _) in ids() {
        let len = match id {
            0x0003 | 0x2000..=0x2fff | 0xf001 => 4,
            0x0005 => 24,
            0x0006 | 0x0c00 | 0x0c01 | 0x3000..=0x303f => 16,
            _ => 8,
        };
        assert_eq!(element.len, len, "{id:#x}");
    }
    assert_eq!(element::HEIR.len, 8);
}

#[test]
fn scopes_follow_the_ranges() {
    for (id, element, _) in ids() {
        let scope = match id {
            0x0001..=0x07ff => Scope::Guest,
            0x0800..=0x0bff => Scope::Host,
            _ => Scope::Thread,
        };
        assert_eq!(element.scope, scope, "{id:#x}");
        let read_only = matches!(id, 1 | 2 | 0x800..=0x804 | 0xf000..=0xf003);
        assert_eq!(element.access == Access::R, read_only, "{id:#x}");
    }
}

/// A value of an element that its rule takes and keeps, different for each id.
fn sample(id: u16, element: &Element) -> Vec<u8> {
    let mark = u64::from(id) << 32 | 0x5a00_0000 | u64::from(id);
    match element.rule {
        Rule::Any => match element.len {
            4 => word(0x5a00_0000 | u32::from(id)),
            16 => pair(mark, !mark),
            _ => double(mark),
        },
        // The two DAWRX: different lengths.
        Rule::Mask(_) if element.len == 4 => word(0x1 | u32::from(id & 3) << 10),
        Rule::Ppr => double(4 << 50),
        Rule::Mask(_) => double(1),
        Rule::Msr => double((Msr::SF | Msr::ME | Msr::DR | Msr::RI).bits()),
        Rule::Lpcr => double((Lpcr::ILE | Lpcr::AIL | Lpcr::LD | Lpcr::GTSE).bits()),
        Rule::Hfscr => double(0x0a << 56 | 0x2103),
        Rule::Amor => double(0x1230),
        Rule::Hdexcr => double(OWN.hdexcr | 0x1000_0000),
        Rule::Ciabr => double(0xc000_0000_0000_1001),
        Rule::TbOffset => double(0x77 << 24),
        Rule::LogicalPvr => word(0x0f00_0005),
        Rule::PartitionTable => partition_table(ROOT).1,
        Rule::ProcessTable => pair(0x1_0000_0000, 0x1_0000),
        Rule::RunBuffer => pair(0x5_0000 | u64::from(id) << 4, 2048),
        Rule::Vpa => double(0x6_0000),
    }
}

#[test]
fn every_element_reads_back_as_written_and_no_two_share_a_place() {
    let world = World::new();
    let guest = world.create().unwrap();
    world.nested.create_vcpu(0, guest, 7).unwrap();
    for (flags, scope) in [(GUEST_WIDE, Scope::Guest), (0, Scope::Thread)] {
        let list: Vec<_> = ids()
            .filter(|(_, e, _)| e.scope == scope && e.access == Access::RW)
            .map(|(id, e, _)| (id, sample(id, e)))
            .collect();
        assert_eq!(code(&world.set(flags, guest, 7, &list)), 0);
        let ids: Vec<u16> = list.iter().map(|(id, _)| *id).collect();
        let values = world.get(flags, guest, 7, &ids).unwrap();
        for ((id, sent), read) in list.iter().zip(&values) {
            assert_eq!(sent, read, "{id:#x}");
        }
    }
}

#[test]
fn a_new_vcpu_reads_as_the_reset_column_says() {
    let world = World::new();
    let guest = world.create().unwrap();
    world.nested.create_vcpu(0, guest, 0).unwrap();
    for (id, element, _) in ids().filter(|(_, e, _)| e.scope == Scope::Thread) {
        let value = world.get(0, guest, 0, &[id]).unwrap().remove(0);
        let expected = match id {
            0x0c02 | 0x1020 => double(u64::MAX),
            0x1021 => double(0x100),
            0x1022 => double((Msr::SF | Msr::ME).bits()),
            0x102a => double(i64::MAX.cast_unsigned()),
            0x103a => double(3 << 50),
            0x103b => double(0x8000_0200),
            0x103f => double(0x20_0000_0000),
            0x1052 => double(1),
            _ => vec![0; element.len.into()],
        };
        assert_eq!(value, expected, "{id:#x}");
    }
    let settings = [(0x0002, 1024), (0x0003, 0x0f00_0006), (0x0004, 0)];
    for (id, expected) in settings {
        assert_eq!(world.value(GUEST_WIDE, guest, 0, id), expected);
    }
    assert_eq!(
        world.get(GUEST_WIDE, guest, 0, &[6]),
        Ok(vec![pair(0, 4096)])
    );
}

#[test]
fn partition_tables_are_checked() {
    let world = World::new();
    let guest = world.create().unwrap();
    let table = |root: u64, bits: u64, size: u64| {
        let value = [root, bits, size]
            .iter()
            .flat_map(|w| w.to_be_bytes())
            .collect();
        code(&world.set(GUEST_WIDE, guest, 0, &[(5, value)]))
    };
    assert_eq!(table(ROOT, 52, 65536), 0);
    assert_eq!(
        table(RAM - 0x1_0000, 52, 65536),
        0,
        "the last root in memory"
    );
    for (root, bits, size) in [
        (ROOT, 51, 65536),
        (ROOT, 53, 65536),
        (ROOT, 52 | 1 << 32, 65536),
        (ROOT, 52, 4096),
        (ROOT, 52, 0),
        (ROOT, 52, 131_072),
        (ROOT + 0x1000, 52, 65536),
        (ROOT | 1, 52, 65536),
        (ROOT | 1 << 63, 52, 65536),
        (RAM, 52, 65536),
        (!0xffff, 52, 65536),
        (!0, 52, 65536),
    ] {
        assert_eq!(table(root, bits, size), -81, "{root:#x} {bits} {size}");
    }
}

#[test]
fn process_tables_are_checked_but_not_looked_up() {
    let world = World::new();
    let guest = world.create().unwrap();
    let table =
        |base: u64, size: u64| code(&world.set(GUEST_WIDE, guest, 0, &[(6, pair(base, size))]));
    assert_eq!(table(0, 1 << 12), 0);
    assert_eq!(
        table(1 << 36, 1 << 36),
        0,
        "an address of the guest, beyond the partition's memory"
    );
    assert_eq!(table((1 << 52) - (1 << 24), 1 << 24), 0);
    for (base, size) in [
        (0, 0),
        (0, 1 << 11),
        (0, 1 << 37),
        (0, 0x3000),
        (0x1000, 0x2000),
        (1 << 52, 1 << 12),
        (!0xfff, 1 << 12),
        (1 << 63, 1 << 12),
    ] {
        assert_eq!(table(base, size), -81, "{base:#x} {size:#x}");
    }
}

#[test]
fn areas_must_be_memory() {
    let world = World::new();
    let guest = world.ready();
    let set = |id: u16, value: Vec<u8>| code(&world.set(0, guest, 0, &[(id, value)]));
    for id in [0x0c00, 0x0c01] {
        assert_eq!(set(id, pair(0, 4)), 0, "address 0 is memory");
        assert_eq!(set(id, pair(RAM - 0x1_0000, 0x1_0000)), 0);
        for (gra, len) in [
            (RAM, 1024),
            (RAM - 1, 1024),
            (!0, 4),
            (!0 - 1023, 1024),
            (0x1000, 0),
            (0x1000, 3),
            (0x1000, 0x1_0001),
            (0x1000, !0),
        ] {
            assert_eq!(set(id, pair(gra, len)), -81, "{gra:#x} {len:#x}");
        }
    }
    assert_eq!(set(0x0c02, double(0x1_0000)), 0);
    assert_eq!(set(0x0c02, double(0x1_0d80)), 0, "ends with the page");
    assert_eq!(set(0x0c02, double(!0)), 0, "none");
    for gra in [0x1_0d81, 0x1_0fff, RAM, RAM - 8, !1, 1 << 63] {
        assert_eq!(set(0x0c02, double(gra)), -81, "{gra:#x}");
    }
    assert_eq!(
        world.value(0, guest, 0, 0x0c02),
        !0,
        "refused values leave no trace"
    );
}

#[test]
fn time_base_offsets_are_multiples_of_2_24() {
    let world = World::new();
    let guest = world.create().unwrap();
    let set = |value| code(&world.set(GUEST_WIDE, guest, 0, &[(4, double(value))]));
    assert_eq!(set(0xffff_ffff_ff00_0000), 0, "negative");
    for value in [1, 0x80_0000, 0xff_ffff, 0x0100_0001, !0] {
        assert_eq!(set(value), -81, "{value:#x}");
    }
}

/// The matrix of the levels through the calls: every own level, every choice of capabilities, every version, before
/// and after there is a vCPU and it ran. The table's own tests say that it is the right matrix.
#[test]
fn logical_pvr_follows_levels() {
    for own in Level::ALL {
        for chosen in (1..8).map(|bits: u64| bits << 60) {
            let world = World::raw(own, QUOTAS, 8 << 20, 2..64);
            let answer = world.nested.set_capabilities(&world.env(), 0, chosen);
            if chosen & !own.offered() != 0 {
                assert_eq!(answer.err(), Some(Refusal::with(HCode::H_P2, [1, 0])));
                continue;
            }
            let guest = world.create().unwrap();
            let start = Level::highest(chosen).unwrap().logical_pvr();
            assert_eq!(world.value(GUEST_WIDE, guest, 0, 3), start.into());
            every_version(&world, guest, chosen);
            let guest = world.ready();
            every_version(&world, guest, chosen);
            let Ok(Start::Enter(running)) = world.nested.run(&world.env(), 0, guest, 0) else {
                panic!("it runs")
            };
            assert_eq!(running.finish(Exit::Interrupted, &world.env()), (0, 0));
            every_version(&world, guest, chosen);
        }
    }
}

/// Sets every version after an element that is good: all or nothing, with the index of the bad one.
fn every_version(world: &World, guest: u64, chosen: u64) {
    let levels = level::TABLE.map(|row| row.logical_pvr);
    for pvr in levels.into_iter().chain(NO_LEVELS) {
        let before = world.value(GUEST_WIDE, guest, 0, 3);
        world
            .set(GUEST_WIDE, guest, 0, &[(4, double(1 << 24))])
            .unwrap();
        let list = [(4, double(2 << 24)), (3, word(pvr))];
        let answer = world.set(GUEST_WIDE, guest, 0, &list).map(drop);
        let accepted = Level::accepted(pvr.into(), chosen).is_some();
        let (want, after, offset) = if accepted {
            (Ok(()), pvr.into(), 2 << 24)
        } else {
            let refusal = Refusal::with(HCode::H_INVALID_ELEMENT_VALUE, [1]);
            (Err(refusal), before, 1 << 24)
        };
        assert_eq!(answer, want, "{pvr:#x} of {chosen:#x}");
        assert_eq!(world.value(GUEST_WIDE, guest, 0, 3), after);
        assert_eq!(world.value(GUEST_WIDE, guest, 0, 4), offset);
    }
}

#[test]
fn an_older_linux_on_power11_chooses_less_and_gets_that() {
    let world = World::at(Level::Power11, 0x6000_0000_0000_0000);
    let guest = world.create().unwrap();
    assert_eq!(world.value(GUEST_WIDE, guest, 0, 3), 0x0f00_0006);
    let set = |pvr| code(&world.set(GUEST_WIDE, guest, 0, &[(3, word(pvr))]));
    assert_eq!(
        (set(0x0f00_0006), set(0x0f00_0005), set(0x0f00_0007)),
        (0, 0, -81)
    );
}

#[test]
fn reading_lpcr_never_shows_a_mediated_interrupt() {
    let world = World::new();
    let guest = world.ready();
    world
        .set(
            0,
            guest,
            0,
            &[(0x102c, double((Lpcr::MER | Lpcr::ILE).bits()))],
        )
        .unwrap();
    assert_eq!(world.value(0, guest, 0, 0x102c), Lpcr::ILE.bits());
}

#[test]
fn linux_first_lpcr_is_accepted() {
    // DPFD 4, ILE, AIL 3, LD, GTSE.
    assert_eq!(
        accept(Rule::Lpcr, 0x0040_0000_0382_0400),
        Some(0x0040_0000_0382_0400)
    );
}

#[test]
fn scope_and_access_are_enforced() {
    let world = World::new();
    let guest = world.ready();
    for (id, element, _) in ids() {
        let value = vec![0; element.len.into()];
        let guest_wide = code(&world.set(GUEST_WIDE, guest, 0, &[(id, value.clone())]));
        let thread = code(&world.set(0, guest, 0, &[(id, value.clone())]));
        let writable = element.access == Access::RW;
        assert_eq!(
            guest_wide == -79,
            !(element.scope == Scope::Guest && writable),
            "{id:#x}"
        );
        assert_eq!(
            thread == -79,
            !(element.scope == Scope::Thread && writable),
            "{id:#x}"
        );
        for (flags, scope) in [
            (GUEST_WIDE, Scope::Guest),
            (0, Scope::Thread),
            (super::HOST_WIDE, Scope::Host),
        ] {
            let got = code(&world.get_raw(flags, guest, 0, &gsb(&[(id, value.clone())])));
            assert_eq!(got, if element.scope == scope { 0 } else { -79 }, "{id:#x}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused_for_every_id() {
    let world = World::new();
    let guest = world.ready();
    for (id, element, _) in ids() {
        let flags = match element.scope {
            Scope::Guest => GUEST_WIDE,
            Scope::Host => super::HOST_WIDE,
            Scope::Thread => 0,
        };
        for len in (0..40).filter(|len| *len != element.len) {
            let bytes = gsb(&[(id, vec![0; len.into()])]);
            assert_eq!(
                code(&world.get_raw(flags, guest, 0, &bytes)),
                -80,
                "{id:#x} {len}"
            );
        }
    }
}

/// One memory of 64 KiB for all cases.
fn limits() -> Limits<'static> {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    let ram = RAM.get_or_init(|| flat(0x1_0000));
    Limits {
        ram,
        own: OWN,
        levels: 0,
    }
}

fn accept(rule: Rule, value: u64) -> Option<u64> {
    limits()
        .accept(rule, [value, 0, 0])
        .map(|[first, second, third]| {
            assert_eq!((second, third), (0, 0));
            first
        })
}

/// Values with few bits set as well as any.
fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64, 0u32..64).prop_map(|(a, b)| 1 << a | 1 << b),
        any::<u64>().prop_map(|v| v & LPCR_SETTABLE),
        any::<u64>().prop_map(|v| v & MSR_SETTABLE),
    ]
}

proptest! {
    #[test]
    fn msr_has_no_more_than_a_guest_may(value in values()) {
        let forbidden = value & (Msr::HV | Msr::S).bits() != 0;
        match accept(Rule::Msr, value) {
            None => prop_assert!(forbidden),
            Some(msr) => {
                prop_assert!(!forbidden);
                prop_assert_eq!(msr & !(MSR_SETTABLE | Msr::ME.bits()), 0);
                prop_assert_eq!(msr & (SRR1_CAUSE | TRANSACTION_BITS), 0);
                prop_assert!(msr & Msr::ME.bits() != 0);
                prop_assert_eq!(msr & MSR_SETTABLE, value & MSR_SETTABLE, "nothing else is lost");
            }
        }
    }

    #[test]
    fn lpcr_has_only_the_partitions_bits(value in values()) {
        match accept(Rule::Lpcr, value) {
            None => prop_assert!(value & !LPCR_SETTABLE != 0),
            Some(lpcr) => {
                prop_assert_eq!(lpcr & !LPCR_SETTABLE, 0);
                let ail = lpcr & Lpcr::AIL.bits();
                prop_assert!(ail == 0 || ail == Lpcr::AIL.bits());
                prop_assert_eq!(lpcr & !Lpcr::AIL.bits(), value & !Lpcr::AIL.bits());
            }
        }
    }

    #[test]
    fn control_registers_never_exceed_the_partitions(value in values()) {
        let hfscr = accept(Rule::Hfscr, value).unwrap();
        prop_assert_eq!(hfscr & !(OWN.hfscr | HFSCR_CAUSE), 0);
        prop_assert_eq!(hfscr & 0x400, 0, "MSGP");
        prop_assert_eq!(hfscr & HFSCR_CAUSE, value & HFSCR_CAUSE);
        prop_assert_eq!(accept(Rule::Amor, value).unwrap() & !OWN.amor, 0);
        match accept(Rule::Hdexcr, value) {
            None => prop_assert!(value >> 32 != 0),
            Some(hdexcr) => {
                prop_assert_eq!(hdexcr & OWN.hdexcr, OWN.hdexcr, "restrictions stay");
                prop_assert_eq!(hdexcr & 0x8000_0000 & !OWN.hdexcr, 0, "no permission is added");
                prop_assert_eq!(hdexcr >> 32, 0);
            }
        }
    }

    #[test]
    fn debug_registers_never_match_the_hypervisor(value in values()) {
        prop_assert_ne!(accept(Rule::Ciabr, value).unwrap() & 3, 3);
        for dawrx in [&element::DAWRX0, &element::DAWRX1] {
            // Length, DW, DR, WT, WTI, privileged and problem state.
            prop_assert_eq!(accept(dawrx.rule, value & 0xffff_ffff).unwrap() & !0xfc7b, 0);
        }
    }

    #[test]
    fn no_guest_has_the_hypervisors_priority(value in values()) {
        let ppr = accept(element::PPR.rule, value).unwrap();
        prop_assert_eq!(ppr & !(7 << 50), 0);
        prop_assert_ne!(ppr >> 50, 7);
    }

    #[test]
    fn accepted_values_are_accepted_again_unchanged(value in values()) {
        for element in TABLE.iter().filter(|e| e.len == 8 && e.access == Access::RW) {
            if let Some(once) = accept(element.rule, value) {
                prop_assert_eq!(accept(element.rule, once), Some(once), "{}", element.name);
            }
        }
    }

    #[test]
    fn areas_that_are_accepted_lie_in_memory(gra: u64, near in 0u64..0x2_0000, len in 0u64..0x1_1000) {
        let limits = limits();
        for gra in [gra, near] {
            let inside = gra.checked_add(len).is_some_and(|end| end <= 0x1_0000);
            let taken = limits.accept(Rule::RunBuffer, [gra, len, 0]).is_some();
            prop_assert_eq!(taken, inside && (4..=0x1_0000).contains(&len));
            prop_assert!(!taken || limits.ram.contains(Gra(gra), len));
            prop_assert!(accept(Rule::Vpa, gra).is_none() || gra == !0 || limits.ram.contains(Gra(gra), 640));
        }
    }
}

#[test]
fn an_element_error_says_which() {
    let world = World::new();
    let guest = world.ready();
    let answer = world.set(
        0,
        guest,
        0,
        &[
            (0x1000, double(1)),
            (0, vec![1, 2, 3]),
            (0x1022, double(Msr::HV.bits())),
        ],
    );
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code, HCode::H_INVALID_ELEMENT_VALUE);
    assert_eq!(
        refusal.outputs.as_slice(),
        [2],
        "no-operation elements count"
    );
    assert_eq!(world.value(0, guest, 0, 0x1000), 0, "nothing was applied");
}
