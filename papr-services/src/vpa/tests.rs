//! H_REGISTER_VPA and what is written to the areas.

use alloc::vec;
use alloc::vec::Vec;

use isa::addr::Gra;

use crate::error::HCode::{self, H_PARAMETER, H_RESOURCE};
use crate::serve::After;
use crate::serve::tests::{MEMORY, World};
use crate::table::number::{H_CEDE, H_CPPR, H_IPI, H_PROD, H_REGISTER_VPA, H_SIGNAL_SYS_RESET};

const VPA: u64 = 1 << 45;
const LOG: u64 = 2 << 45;
const SHADOW: u64 = 3 << 45;
const NO_VPA: u64 = 5 << 45;
const NO_LOG: u64 = 6 << 45;
const NO_SHADOW: u64 = 7 << 45;

const AREA: u64 = 0x1_0400;
const LOG_AREA: u64 = 0x2_0008;
const SHADOW_AREA: u64 = 0x3_0000;

fn put(world: &World, at: u64, bytes: &[u8]) {
    world.partition.ram.write(Gra(at), bytes).unwrap();
}

fn get<const N: usize>(world: &World, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    world.partition.ram.read(Gra(at), &mut bytes).unwrap();
    bytes
}

fn register(world: &mut World, function: u64, area: u64) -> Result<(), HCode> {
    match world.call(H_REGISTER_VPA, &[function, 0, area]) {
        0 => Ok(()),
        code if code == H_PARAMETER.code() => Err(H_PARAMETER),
        code if code == H_RESOURCE.code() => Err(H_RESOURCE),
        code => panic!("{code}"),
    }
}

/// Sizes where areas have them: three areas that can be registered.
fn world() -> World {
    let world = World::new(2);
    put(&world, AREA + 4, &0x400_u16.to_be_bytes());
    put(&world, LOG_AREA + 4, &(48_u32 * 3 + 5).to_be_bytes());
    put(&world, SHADOW_AREA + 4, &0x280_u32.to_be_bytes());
    world
}

fn yield_count(world: &World) -> u32 {
    u32::from_be_bytes(get(world, AREA + 0x100))
}

#[test]
fn order_of_registration_is_kept() {
    let mut world = world();
    let w = &mut world;
    for nothing in [NO_VPA, NO_LOG, NO_SHADOW] {
        assert_eq!(register(w, nothing, 0), Ok(()));
    }
    assert_eq!(register(w, LOG, LOG_AREA), Err(H_RESOURCE));
    assert_eq!(register(w, SHADOW, SHADOW_AREA), Err(H_RESOURCE));
    assert_eq!(register(w, VPA, AREA), Ok(()));
    assert_eq!(register(w, LOG, LOG_AREA), Ok(()));
    assert_eq!(register(w, NO_VPA, 0), Err(H_RESOURCE));
    assert_eq!(register(w, SHADOW, SHADOW_AREA), Ok(()));
    assert_eq!(register(w, NO_LOG, 0), Ok(()));
    assert_eq!(register(w, NO_VPA, 0), Err(H_RESOURCE));
    assert_eq!(register(w, NO_SHADOW, 0), Ok(()));
    assert_eq!(register(w, NO_VPA, 0), Ok(()));
    assert_eq!(register(w, LOG, LOG_AREA), Err(H_RESOURCE));
}

#[test]
fn bad_areas_are_refused() {
    let mut world = world();
    let w = &mut world;
    for function in [0, 4 << 45, 8 << 45, VPA | 1, VPA | 1 << 63, u64::MAX] {
        assert_eq!(register(w, function, AREA), Err(H_PARAMETER));
    }
    for area in [0, AREA + 64, MEMORY, MEMORY - 0x80, !0x7f] {
        assert_eq!(register(w, VPA, area), Err(H_PARAMETER), "{area:#x}");
    }
    for (area, size) in [(AREA, 632_u16), (AREA, 0), (AREA, 0xc01), (0x1_0d80, 0x281)] {
        put(w, area + 4, &size.to_be_bytes());
        assert_eq!(register(w, VPA, area), Err(H_PARAMETER), "{size}");
    }
    for (area, size) in [(AREA, 640_u16), (AREA, 0xc00), (0x1_0d80, 0x280)] {
        put(w, area + 4, &size.to_be_bytes());
        assert_eq!(register(w, VPA, area), Ok(()), "{size}");
    }
    for (area, size) in [
        (0, 4096),
        (LOG_AREA, 47_u32),
        (LOG_AREA, u32::MAX),
        (MEMORY - 64, 65),
    ] {
        put(w, area + 4, &size.to_be_bytes());
        assert_eq!(register(w, LOG, area), Err(H_PARAMETER), "{size}");
    }
    for area in [MEMORY, MEMORY - 4, u64::MAX] {
        assert_eq!(register(w, LOG, area), Err(H_PARAMETER));
        assert_eq!(register(w, SHADOW, area), Err(H_PARAMETER));
    }
    for (area, size) in [(0, 0x280), (SHADOW_AREA, 7_u32), (SHADOW_AREA, 0x1001)] {
        put(w, area + 4, &size.to_be_bytes());
        assert_eq!(register(w, SHADOW, area), Err(H_PARAMETER), "{size}");
    }
}

#[test]
fn the_processor_is_dedicated() {
    let mut world = world();
    put(&world, AREA + 9, &[0xff]);
    put(&world, AREA + 0x100, &[0xff; 4]);
    register(&mut world, VPA, AREA).unwrap();
    assert_eq!(get(&world, AREA + 9), [0xfd]);
    assert_eq!(yield_count(&world), 0);
}

#[test]
fn yield_count_is_odd_only_in_cede() {
    let mut world = world();
    register(&mut world, VPA, AREA).unwrap();
    assert!(matches!(world.after(H_CEDE, &[]), After::Cede));
    assert_eq!(yield_count(&world), 1);
    world.prepare_entry();
    assert_eq!(yield_count(&world), 2);
    world.prepare_entry();
    assert_eq!(yield_count(&world), 2);
    // It moves when there is nothing to wait for, too.
    world.call(H_PROD, &[0]);
    assert_eq!(world.call(H_CEDE, &[]), 0);
    world.prepare_entry();
    assert_eq!(yield_count(&world), 4);
    // The parity holds whatever the partition writes.
    put(&world, AREA + 0x100, &u32::MAX.to_be_bytes());
    world.after(H_CEDE, &[]);
    assert_eq!(yield_count(&world), 1);
    put(&world, AREA + 0x100, &6_u32.to_be_bytes());
    world.prepare_entry();
    assert_eq!(yield_count(&world), 8);
    register(&mut world, NO_VPA, 0).unwrap();
    world.after(H_CEDE, &[]);
    world.prepare_entry();
    assert_eq!(yield_count(&world), 8);
}

#[test]
fn the_log_has_why_and_where() {
    let mut world = world();
    register(&mut world, VPA, AREA).unwrap();
    register(&mut world, LOG, LOG_AREA).unwrap();
    put(&world, LOG_AREA + 48 * 3, &[0x77; 5]);
    let index = |world: &World| u64::from_be_bytes(get(world, AREA + 0x218));
    let cede = |world: &mut World| {
        world.after(H_CEDE, &[]);
        world.prepare_entry();
    };
    cede(&mut world);
    assert_eq!(index(&world), 0, "nothing asked for");
    put(&world, AREA + 0xb8, &[1]);
    world.call(H_CPPR, &[0xff]);
    let mut reasons = Vec::new();
    for event in 0..4 {
        match event {
            0 => {}
            1 => assert_eq!(world.call(H_PROD, &[0]), 0),
            2 => assert_eq!(world.call(H_IPI, &[0, 1]), 0),
            _ => {
                world.call(H_IPI, &[0, 0xff]);
                assert_eq!(world.call(H_SIGNAL_SYS_RESET, &[0]), 0);
            }
        }
        let (nia, msr) = (world.vcpu.nia, world.vcpu.msr | 0x8000);
        cede(&mut world);
        let at = LOG_AREA + 48 * (event % 3);
        let entry: [u8; 48] = get(&world, at);
        reasons.push((entry[0], entry[1]));
        assert_eq!(entry[2..16], [0; 14]);
        assert_ne!(entry[16..24], [0; 8]);
        assert_eq!(entry[32..40], nia.to_be_bytes());
        assert_eq!(entry[40..48], msr.to_be_bytes());
        assert_eq!(index(&world), event + 1);
    }
    assert_eq!(reasons, vec![(3, 2), (2, 2), (0, 2), (4, 2)]);
    assert_eq!(
        get(&world, LOG_AREA + 48 * 3),
        [0x77; 5],
        "whole entries only"
    );
}

#[test]
fn nested_times_add_up_when_they_are_wanted() {
    let mut world = world();
    register(&mut world, VPA, AREA).unwrap();
    let times =
        |world: &World| [0x1a0, 0x1a8, 0x1b0].map(|at| u64::from_be_bytes(get(world, AREA + at)));
    world.partition.count_nested_run(0, 1, 2, 3);
    assert_eq!(times(&world), [0; 3]);
    put(&world, AREA + 0xbc, &[1]);
    world.partition.count_nested_run(0, 1, 2, 3);
    world.partition.count_nested_run(0, 10, 20, 30);
    world.partition.count_nested_run(1, 10, 20, 30);
    assert_eq!(times(&world), [11, 22, 33]);
}
