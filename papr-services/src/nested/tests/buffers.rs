//! Guest state buffers: vectors, hostile bytes, two phases.

use alloc::vec;
use alloc::vec::Vec;

use isa::addr::Gra;
use proptest::prelude::*;

use super::{
    BUFFER, GUEST_WIDE, HOST_WIDE, RAM, ROOT, World, code, double, gsb, pair, parse,
    partition_table, word,
};
use crate::error::HCode;
use crate::nested::buffer::{Items, Output, Purpose, copy_used};
use crate::nested::element::{self, Access, Scope};
use crate::nested::vcpu::Area;

/// linux arch/powerpc/kvm/test-guest-state-buffer.c: three elements in order.
#[test]
fn linux_vector_of_three_elements() {
    let bytes = gsb(&[
        (0x1000, double(0xdead_beef)),
        (0x1001, double(0xcafe_f00d)),
        (0x3000, pair(1, 2)),
    ]);
    assert_eq!(bytes.len(), 4 + 12 + 12 + 20);
    assert_eq!(
        bytes[..16],
        [
            0, 0, 0, 3, 0x10, 0, 0, 8, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef
        ]
    );
    let items: Vec<_> = Items::new(&bytes, Purpose::RunInput)
        .map(Result::unwrap)
        .collect();
    let seen: Vec<_> = items
        .iter()
        .map(|i| (i.element.id + i.number, i.value_offset, i.value.len()))
        .collect();
    assert_eq!(seen, [(0x1000, 8, 8), (0x1001, 20, 8), (0x3000, 32, 16)]);
    assert_eq!(
        items[2].element.words(items[2].value),
        [1, 2, 0],
        "high half first"
    );
}

/// The same file: its message of five, in the scopes that a real call needs.
#[test]
fn linux_vector_of_a_message() {
    let world = World::new();
    let guest = world.ready();
    world
        .set(
            GUEST_WIDE,
            guest,
            0,
            &[partition_table(ROOT), (6, pair(0, 4096))],
        )
        .unwrap();
    world
        .set(
            0,
            guest,
            0,
            &[
                (0x0c00, pair(0x5_0000, 4096)),
                (0x1000, double(0x1234)),
                (0x2000, word(0x5678)),
            ],
        )
        .unwrap();
    assert_eq!(
        world.get(GUEST_WIDE, guest, 0, &[6]).unwrap(),
        [pair(0, 4096)]
    );
    assert_eq!(
        world.get(0, guest, 0, &[0x0c00, 0x1000, 0x2000]).unwrap(),
        [pair(0x5_0000, 4096), double(0x1234), word(0x5678)]
    );
    assert_eq!(
        world.get(GUEST_WIDE, guest, 0, &[5]).unwrap(),
        [partition_table(ROOT).1]
    );
}

/// The same file writes a process table under the partition table's id: its length gives it away.
#[test]
fn linux_vector_with_the_wrong_length() {
    let world = World::new();
    let guest = world.ready();
    let answer = world.set(
        GUEST_WIDE,
        guest,
        0,
        &[(6, pair(0, 4096)), (5, pair(0, 4096))],
    );
    let refusal = answer.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.outputs.as_slice()),
        (HCode::H_INVALID_ELEMENT_SIZE, &[1][..])
    );
}

/// The same file: five counters in one host-wide GET, ids of guest and vCPU ignored.
#[test]
fn linux_vector_of_host_wide_counters() {
    let world = World::new();
    let ids = [0x800, 0x801, 0x802, 0x803, 0x804];
    assert_eq!(world.get(HOST_WIDE, !0, !0, &ids).unwrap().len(), 5);
}

#[test]
fn an_empty_buffer_is_nothing_to_do() {
    let world = World::new();
    let guest = world.ready();
    assert_eq!(code(&world.set(0, guest, 0, &[])), 0);
    assert_eq!(code(&world.get_raw(0, guest, 0, &[0; 4])), 0);
    assert_eq!(
        code(&world.get_raw(0, guest, 0, &[0; 64])),
        0,
        "what follows the elements is ignored"
    );
}

#[test]
fn sizes_and_places_are_checked() {
    let world = World::new();
    let guest = world.ready();
    let env = world.env();
    for (at, size, expected) in [
        (BUFFER, 0, HCode::H_P5),
        (BUFFER, 3, HCode::H_P5),
        (BUFFER, 0x1_0001, HCode::H_P5),
        (BUFFER, 1 << 32, HCode::H_P5),
        (BUFFER, !0, HCode::H_P5),
        (RAM, 64, HCode::H_P4),
        (RAM - 63, 64, HCode::H_P4),
        (!0 - 3, 64, HCode::H_P4),
        (1 << 63, 64, HCode::H_P4),
        (0xc000_0000_0001_0000, 64, HCode::H_P4),
    ] {
        for flags in [0, GUEST_WIDE] {
            let set = world.nested.set_state(&env, flags, guest, 0, Gra(at), size);
            let get = world.nested.get_state(&env, flags, guest, 0, Gra(at), size);
            assert_eq!(
                (set, get),
                (Err(expected.into()), Err(expected.into())),
                "{at:#x} {size:#x}"
            );
        }
        assert_eq!(
            world.nested.get_state(&env, HOST_WIDE, 0, 0, Gra(at), size),
            Err(expected.into())
        );
    }
    world.ram.write(Gra(RAM - 4), &[0; 4]).unwrap();
    assert_eq!(
        code(&world.nested.set_state(&env, 0, guest, 0, Gra(RAM - 4), 4)),
        0
    );
    world.ram.write(Gra(BUFFER), &[0; 4]).unwrap();
    assert_eq!(
        code(
            &world
                .nested
                .set_state(&env, 0, guest, 0, Gra(BUFFER), 0x1_0000)
        ),
        0
    );
}

#[test]
fn any_alignment_and_page_crossing_work() {
    let world = World::new();
    let guest = world.ready();
    let bytes = gsb(&[
        (0x1003, double(0x0102_0304_0506_0708)),
        (0x3021, pair(3, 4)),
    ]);
    for at in (0x1_0ff0..0x1_1003).map(Gra) {
        world.ram.write(at, &bytes).unwrap();
        let size = bytes.len() as u64;
        assert_eq!(
            code(&world.nested.set_state(&world.env(), 0, guest, 0, at, size)),
            0
        );
        assert_eq!(
            code(&world.nested.get_state(&world.env(), 0, guest, 0, at, size)),
            0
        );
        assert_eq!(world.bytes(at.0, bytes.len()).unwrap(), bytes);
    }
}

#[test]
fn counts_and_lengths_that_lie_are_bounded() {
    let world = World::new();
    let guest = world.ready();
    let mut huge = gsb(&[(0x1000, double(1))]);
    huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut long = gsb(&[(0x1000, double(1)), (0x1001, double(2))]);
    long[18] = 0xff;
    let mut odd = gsb(&[(0, vec![]), (0, vec![1; 5]), (0, vec![])]);
    odd[10] = 0xff;
    for (bytes, index) in [
        (huge, 1),
        (long, 1),
        (odd, 1),
        (gsb(&[(0x1000, double(1))])[..15].to_vec(), 0),
        (vec![0, 0, 0, 1], 0),
        (vec![0, 0, 0, 1, 0, 0, 0], 0),
    ] {
        for answer in [
            world.set_raw(0, guest, 0, &bytes),
            world.get_raw(0, guest, 0, &bytes),
        ] {
            let refusal = answer.unwrap_err();
            assert_eq!(refusal.code, HCode::H_INVALID_ELEMENT_SIZE);
            assert_eq!(refusal.outputs.as_slice(), [index]);
        }
    }
    assert_eq!(world.value(0, guest, 0, 0x1000), 0, "nothing was applied");
}

#[test]
fn the_last_of_duplicates_wins() {
    let world = World::new();
    let guest = world.ready();
    world
        .set(
            0,
            guest,
            0,
            &[
                (0x1005, double(1)),
                (0x1005, double(2)),
                (0x1006, double(9)),
                (0x1005, double(3)),
            ],
        )
        .unwrap();
    assert_eq!(world.value(0, guest, 0, 0x1005), 3);
    let other = ROOT + 0x1_0000;
    world
        .set(
            GUEST_WIDE,
            guest,
            0,
            &[partition_table(other), partition_table(ROOT)],
        )
        .unwrap();
    assert_eq!(
        world.get(GUEST_WIDE, guest, 0, &[5]).unwrap(),
        [partition_table(ROOT).1]
    );
}

#[test]
fn guest_wide_values_are_applied_together_or_not_at_all() {
    let world = World::new();
    let guest = world.ready();
    world.machine.flushes.borrow_mut().clear();
    let before = world.machine.entries.borrow().clone();
    let bad = world.set(
        GUEST_WIDE,
        guest,
        0,
        &[
            partition_table(ROOT + 0x1_0000),
            (6, pair(0x1_0000, 0x1_0000)),
            (3, word(0x0f00_0005)),
            (4, double(1)),
        ],
    );
    assert_eq!(bad.unwrap_err().outputs.as_slice(), [3]);
    assert_eq!(
        world.get(GUEST_WIDE, guest, 0, &[5]).unwrap(),
        [partition_table(ROOT).1]
    );
    assert_eq!(world.value(GUEST_WIDE, guest, 0, 3), 0x0f00_0006);
    assert!(world.machine.flushes.borrow().is_empty());
    assert_eq!(*world.machine.entries.borrow(), before);
}

#[test]
fn get_writes_values_and_nothing_else() {
    let world = World::new();
    let guest = world.ready();
    let mut bytes = gsb(&[
        (0, vec![0xee; 3]),
        (0x1021, vec![0xee; 8]),
        (0, vec![0xee; 1]),
        (0x3005, vec![0xee; 16]),
    ]);
    let end = bytes.len();
    bytes.extend([0xdd; 21]);
    world.get_raw(0, guest, 0, &bytes).unwrap();
    let back = world.bytes(BUFFER, bytes.len()).unwrap();
    let mut expected = bytes.clone();
    expected[15..23].copy_from_slice(&0x100u64.to_be_bytes());
    expected[end - 16..end].fill(0);
    assert_eq!(back, expected);
}

#[test]
fn output_of_everything_that_an_exit_can_have_fits() {
    let world = World::new();
    let guest = world.ready();
    let slot = world.nested.guest(guest).unwrap().vcpu(0).unwrap();
    slot.with(|vcpu| {
        let mut out = Output::new();
        let mut expected = 0;
        for (element, last) in [(&element::GPR, 32), (&element::VSR, 3)] {
            for number in 0..last {
                out.put(element, number, vcpu);
                expected += 1;
            }
        }
        for element in element::TABLE
            .iter()
            .filter(|e| e.id >= 0x1020 && e.count == 1)
            .take(30)
        {
            out.put(element, 0, vcpu);
            expected += 1;
        }
        assert_eq!(parse(out.finish()).len(), expected);
    })
    .unwrap();
}

/// The first error of a buffer, decided in the plainest way.
fn expected_error(bytes: &[u8], purpose: Purpose) -> Option<(HCode, u64, u64)> {
    let count = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let mut at = 4;
    for index in 0..u64::from(count) {
        let error = |code| Some((code, index, at as u64));
        let short = match purpose {
            Purpose::RunInput => HCode::H_INPUT_BUFFER_TOO_SMALL,
            Purpose::Get(_) | Purpose::Set(_) => HCode::H_INVALID_ELEMENT_SIZE,
        };
        if bytes.len() - at < 4 {
            return error(short);
        }
        let id = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        if bytes.len() - at - 4 < len {
            return error(short);
        }
        if id != 0 {
            let Some((element, _)) = element::find(id) else {
                return error(HCode::H_INVALID_ELEMENT_ID);
            };
            let allowed = match purpose {
                Purpose::Get(scope) => element.scope == scope,
                Purpose::Set(scope) => element.scope == scope && element.access == Access::RW,
                Purpose::RunInput => {
                    element.scope == Scope::Thread && element.access == Access::RW && id >= 0x1000
                }
            };
            if !allowed {
                return error(HCode::H_INVALID_ELEMENT_ID);
            }
            if usize::from(element.len) != len {
                return error(HCode::H_INVALID_ELEMENT_SIZE);
            }
        }
        at += 4 + len;
    }
    None
}

fn purposes() -> impl Strategy<Value = Purpose> {
    prop_oneof![
        Just(Purpose::RunInput),
        Just(Purpose::Get(Scope::Thread)),
        Just(Purpose::Get(Scope::Guest)),
        Just(Purpose::Get(Scope::Host)),
        Just(Purpose::Set(Scope::Thread)),
        Just(Purpose::Set(Scope::Guest)),
    ]
}

fn known_id() -> impl Strategy<Value = u16> {
    let ids: Vec<u16> = (0..=u16::MAX)
        .filter(|id| element::find(*id).is_some())
        .collect();
    prop_oneof![8 => prop::sample::select(ids), 1 => Just(0u16), 1 => any::<u16>()]
}

/// Buffers that are nearly right.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let element = (
        known_id(),
        prop_oneof![20 => Just(None), 1 => (0usize..40).prop_map(Some)],
        any::<u8>(),
    );
    (
        prop::collection::vec(element, 0..12),
        prop_oneof![4 => Just(0i64), 1 => -2i64..3],
        0usize..9,
    )
        .prop_map(|(list, lie, cut)| {
            let list: Vec<_> = list
                .into_iter()
                .map(|(id, len, fill)| {
                    let own = element::find(id).map_or(3, |(e, _)| usize::from(e.len));
                    (id, vec![fill; len.unwrap_or(own)])
                })
                .collect();
            let mut bytes = gsb(&list);
            let count = i64::try_from(list.len()).unwrap() + lie;
            bytes[..4].copy_from_slice(&u32::try_from(count.max(0)).unwrap().to_be_bytes());
            let keep = bytes
                .len()
                .saturating_sub(if lie == 0 { 0 } else { cut })
                .max(4);
            bytes.truncate(keep);
            bytes
        })
}

proptest! {
    #[test]
    fn first_error_is_found_and_placed(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 4..200), plausible()],
        purpose in purposes(),
    ) {
        let mut items = Items::new(&bytes, purpose);
        let first = items.find_map(Result::err);
        prop_assert_eq!(first.map(|bad| (bad.code, bad.index, bad.offset)), expected_error(&bytes, purpose));
        prop_assert!(items.next().is_none(), "nothing after an error");
        for item in Items::new(&bytes, purpose).filter_map(Result::ok) {
            let at = usize::try_from(item.value_offset).unwrap();
            prop_assert_eq!(&bytes[at..at + usize::from(item.element.len)], item.value);
        }
    }

    #[test]
    fn a_used_copy_parses_like_a_whole_one(bytes in plausible(), at in 0u64..0x3000, slack in 0usize..100) {
        let ram = crate::guest_ram::tests::flat(0x1_0000);
        ram.write(Gra(at), &bytes).unwrap();
        let mut used = Vec::new();
        // What lies behind the registered size is never looked at.
        copy_used(&ram, Area { gra: Gra(at), len: bytes.len() as u64 }, &mut used).unwrap();
        prop_assert!(used.len() <= bytes.len());
        let errors = |bytes: &[u8]| Items::new(bytes, Purpose::RunInput).find_map(Result::err);
        prop_assert_eq!(errors(&used), errors(&bytes));
        // With room behind, no more than one step too much is read.
        let area = Area { gra: Gra(at), len: (bytes.len() + slack) as u64 };
        copy_used(&ram, area, &mut used).unwrap();
        prop_assert!(used.len() <= bytes.len() + slack);
        prop_assert_eq!(&used[..bytes.len().min(used.len())], &bytes[..bytes.len().min(used.len())]);
    }
}

/// Any bytes, any flags, any ids: some answer, and a refused SET changes nothing.
#[test]
fn hostile_buffers_are_answered() {
    let world = World::new();
    let guest = world.ready();
    let ids: Vec<u16> = (0..=u16::MAX)
        .filter(|id| element::find(*id).is_some_and(|(e, _)| e.scope == Scope::Thread))
        .collect();
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    let cases = (
        prop_oneof![prop::collection::vec(any::<u8>(), 0..300), plausible()],
        prop_oneof![Just(0), Just(GUEST_WIDE)],
    );
    runner
        .run(&cases, |(bytes, flags)| {
            let before = world.get(0, guest, 0, &ids).unwrap();
            let set = world.set_raw(flags, guest, 0, &bytes);
            if set.is_err() || flags == GUEST_WIDE {
                prop_assert_eq!(world.get(0, guest, 0, &ids).unwrap(), before);
            }
            let get = world.get_raw(flags, guest, 0, &bytes);
            let after = world.bytes(BUFFER, bytes.len()).unwrap();
            if get.is_err() {
                prop_assert_eq!(&after, &bytes, "a refused GET writes nothing");
            } else {
                parse(&after);
            }
            Ok(())
        })
        .unwrap();
}
