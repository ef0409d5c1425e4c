//! Every row with good and bad arguments, through H_RTAS.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use isa::addr::{Gra, Ra};
use proptest::prelude::*;

use super::{STUB, TABLE, token_of};
use crate::error::HCode::H_PARAMETER;
use crate::guest_ram::tests::memory;
use crate::guest_ram::{Extent, GuestRam};
use crate::host::DateTime;
use crate::partition::RunState;
use crate::serve::After;
use crate::serve::tests::{MEMORY, World};
use crate::table::number::H_RTAS;
use crate::term;

/// Where the tests have their argument block.
pub(crate) const BLOCK: u64 = 0x2_0000;
const BUFFER: u64 = 0x3_0000;
const NOT_WRITTEN: u32 = 0x5555_5555;

fn write_cells(world: &World, at: u64, cells: &[u32]) {
    for (i, cell) in (0..).zip(cells) {
        let to = Gra(at + 4 * i);
        world.partition.ram.write(to, &cell.to_be_bytes()).unwrap();
    }
}

fn read_cells(world: &World, at: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * count];
    world.partition.ram.read(Gra(at), &mut bytes).unwrap();
    let cell = |c: &[u8]| u32::from_be_bytes(c.try_into().unwrap());
    bytes.chunks(4).map(cell).collect()
}

/// Writes an argument block for a call by name.
pub(crate) fn block(world: &World, name: &str, args: &[u64], results: u32) {
    let args: Vec<u32> = args.iter().map(|a| (*a & 0xffff_ffff) as u32).collect();
    let count = u32::try_from(args.len()).unwrap();
    let head = [token_of(name).unwrap(), count, results];
    write_cells(
        world,
        BLOCK,
        &[&head[..], &args, &[NOT_WRITTEN; 10]].concat(),
    );
}

/// Makes a call that returns, with the row's number of results: the results.
fn call(world: &mut World, name: &str, args: &[u64]) -> Vec<i32> {
    let row = TABLE.iter().find(|row| row.name == name).unwrap();
    block(world, name, args, u32::try_from(row.results).unwrap());
    assert_eq!(world.call(H_RTAS, &[BLOCK]), 0, "{name}");
    let results = BLOCK + 12 + 4 * args.len() as u64;
    let cells = read_cells(world, results, row.results + 1);
    assert_eq!(cells[row.results], NOT_WRITTEN, "{name} wrote too much");
    cells[..row.results]
        .iter()
        .map(|c| c.cast_signed())
        .collect()
}

fn status(world: &mut World, name: &str, args: &[u64]) -> i32 {
    call(world, name, args)[0]
}

#[test]
fn rows_are_well_formed() {
    for (i, row) in TABLE.iter().enumerate() {
        assert!(row.args.len() + row.results <= 16 && row.results >= 1);
        assert!(!row.doc.is_empty() && row.name.len() < 64);
        let before = &TABLE[..i];
        assert!(
            before
                .iter()
                .all(|r| r.token < row.token && r.name != row.name)
        );
    }
}

#[test]
fn the_stub_is_the_hypercall() {
    let words: Vec<u32> = STUB
        .chunks(4)
        .map(|w| u32::from_be_bytes(w.try_into().unwrap()))
        .collect();
    assert_eq!(
        words,
        [
            0x7c64_1b78,
            0x3c60_0000,
            0x6063_f000,
            0x4400_0022,
            0x4e80_0020
        ]
    );
}

#[test]
fn counts_are_the_rows_or_refused() {
    let mut world = World::new(1);
    for row in TABLE {
        let good = row.args.len();
        for (nargs, nret) in [
            (good + 1, row.results),
            (good, row.results + 1),
            (good, row.results - 1),
        ] {
            let args = vec![0; nargs];
            block(&world, row.name, &args, u32::try_from(nret).unwrap());
            assert_eq!(world.call(H_RTAS, &[BLOCK]), H_PARAMETER.code());
            let results = read_cells(&world, BLOCK + 12 + 4 * nargs as u64, 2);
            let written = if nret > 0 {
                (-3_i32).cast_unsigned()
            } else {
                NOT_WRITTEN
            };
            assert_eq!(results[0], written, "{}", row.name);
        }
    }
}

#[test]
fn hostile_blocks_are_refused() {
    let mut world = World::new(1);
    let refused = H_PARAMETER.code();
    let token = token_of("event-scan").unwrap();
    for (nargs, nret) in [
        (17, 1),
        (16, 1),
        (4, 13),
        (u32::MAX, 1),
        (4, u32::MAX),
        (0x4000_0004, 1),
        (u32::MAX, u32::MAX),
    ] {
        write_cells(&world, BLOCK, &[token, nargs, nret]);
        let before = read_cells(&world, BLOCK, 64);
        assert_eq!(world.call(H_RTAS, &[BLOCK]), refused);
        assert_eq!(read_cells(&world, BLOCK, 64), before);
    }
    // The last cell of the results would be outside.
    let at = MEMORY - 28;
    write_cells(&world, at, &[token, 4, 1, 0, 0, 0, 0]);
    assert_eq!(world.call(H_RTAS, &[at]), refused);
    assert_eq!(world.call(H_RTAS, &[MEMORY - 8]), refused);
    assert_eq!(world.call(H_RTAS, &[1 << 32]), refused);
    assert_eq!(world.call(H_RTAS, &[u64::MAX - 3]), refused);
    // Unknown tokens.
    for token in [0, 0x1fff, 0x2000 + 0x40, u32::MAX] {
        write_cells(&world, BLOCK, &[token, 0, 1, NOT_WRITTEN]);
        assert_eq!(world.call(H_RTAS, &[BLOCK]), refused);
        let got = read_cells(&world, BLOCK, 4)[3];
        assert_eq!(got.cast_signed(), -3, "{token:#x}");
    }
}

#[test]
fn blocks_have_32_bit_addresses() {
    let four_gib = 1_u64 << 32;
    let extent = Extent {
        gra: Gra(four_gib - 0x1_0000),
        ra: Ra(four_gib - 0x1_0000),
        memory: memory(0x2_0000),
    };
    let mut world = World::with_ram(1, GuestRam::new(&[extent]).unwrap());
    let token = token_of("event-scan").unwrap();
    for (at, code) in [
        (four_gib - 32, 0),
        (four_gib - 28, H_PARAMETER.code()),
        (four_gib, H_PARAMETER.code()),
    ] {
        write_cells(&world, at, &[token, 4, 1]);
        assert_eq!(world.call(H_RTAS, &[at]), code, "{at:#x}");
    }
}

#[test]
fn characters_are_displayed() {
    let mut world = World::new(1);
    assert_eq!(status(&mut world, "display-character", &[0x1_0000 + 65]), 0);
    // Before a kernel has read the tree.
    write_cells(&world, BLOCK, &[0xa, 1, 1, 66, NOT_WRITTEN]);
    assert_eq!(world.call(H_RTAS, &[BLOCK]), 0);
    assert_eq!(*world.machine.output.lock(), b"AB");
    world.machine.output_room.store(0, Ordering::Relaxed);
    assert_eq!(status(&mut world, "display-character", &[65]), -2);
}

#[test]
fn the_clock_is_read_and_set() {
    let mut world = World::new(1);
    assert_eq!(
        call(&mut world, "get-time-of-day", &[]),
        [0, 2026, 2, 28, 23, 59, 58, 0]
    );
    let leap = [2028, 2, 29, 0, 0, 0, 999_999_999];
    assert_eq!(status(&mut world, "set-time-of-day", &leap), 0);
    let set = DateTime {
        year: 2028,
        month: 2,
        day: 29,
        hour: 0,
        minute: 0,
        second: 0,
    };
    assert_eq!(*world.machine.clock.lock(), Some(set));
    for bad in [
        [2027, 2, 29, 0, 0, 0, 0],
        [2100, 2, 29, 0, 0, 0, 0],
        [2028, 0, 1, 0, 0, 0, 0],
        [2028, 13, 1, 0, 0, 0, 0],
        [2028, 4, 31, 0, 0, 0, 0],
        [2028, 4, 0, 0, 0, 0, 0],
        [2028, 4, 1, 24, 0, 0, 0],
        [2028, 4, 1, 0, 60, 0, 0],
        [2028, 4, 1, 0, 0, 60, 0],
        [10_000, 4, 1, 0, 0, 0, 0],
        [0x1_0000_07ec, 4, 257, 0, 0, 0, 0],
    ] {
        assert_eq!(status(&mut world, "set-time-of-day", &bad), -3, "{bad:?}");
    }
    assert_eq!(*world.machine.clock.lock(), Some(set));
    *world.machine.clock.lock() = None;
    assert_eq!(
        call(&mut world, "get-time-of-day", &[]),
        [-1].into_iter()
            .chain([NOT_WRITTEN.cast_signed(); 7])
            .collect::<Vec<_>>()
    );
    assert_eq!(status(&mut world, "set-time-of-day", &leap), -1);
}

#[test]
fn vcpus_start_and_stop() {
    let mut world = World::new(2);
    let query = "query-cpu-stopped-state";
    let start = [1, 0x1_0000, 7];
    assert_eq!(call(&mut world, query, &[0]), [0, 2]);
    assert_eq!(call(&mut world, query, &[1]), [0, 0]);
    assert_eq!(status(&mut world, query, &[2]), -3);
    assert!(world.partition.take_start(1).is_none());
    assert_eq!(status(&mut world, "start-cpu", &[2, 0x1_0000, 7]), -3);
    assert_eq!(status(&mut world, "start-cpu", &[1, MEMORY, 7]), -3);
    assert_eq!(status(&mut world, "start-cpu", &[0, 0x1_0000, 7]), -1);
    assert_eq!(status(&mut world, "start-cpu", &start), 0);
    assert_eq!(world.machine.take_kicks(), [1]);
    assert_eq!(status(&mut world, "start-cpu", &start), -1);
    assert_eq!(call(&mut world, query, &[1]), [0, 2]);
    world.partition.vcpu(1).unwrap().prod();
    world.partition.vcpu(1).unwrap().reset();
    let context = world.partition.take_start(1).unwrap();
    assert!(!world.partition.vcpu(1).unwrap().is_wanted(), "from before");
    assert_eq!((context.nia, context.gpr[3]), (0x1_0000, 7));
    assert!(world.partition.take_start(1).is_none());

    // Now vCPU 0 may stop, and then vCPU 1 may not.
    block(&world, "stop-self", &[], 1);
    assert!(matches!(world.after(H_RTAS, &[BLOCK]), After::Stopped));
    assert_eq!(
        world.partition.vcpu(0).unwrap().run_state(),
        RunState::Stopped
    );
    assert!(!world.partition.stop_vcpu(1));
    let first = world.partition.vcpu(0).unwrap();
    assert!(world.partition.start_vcpu(first, Gra(0x2_0000), 1));
    assert!(world.partition.take_start(0).is_some());
    assert!(world.partition.stop_vcpu(1));
}

#[test]
fn the_last_vcpu_does_not_stop() {
    let mut world = World::new(2);
    assert_eq!(status(&mut world, "stop-self", &[]), -1);
    assert_eq!(
        world.partition.vcpu(0).unwrap().run_state(),
        RunState::Running
    );
}

#[test]
fn interrupt_sources_are_set_up() {
    let mut world = World::new(2);
    let source = u64::from(term::SOURCE);
    let xive = |world: &mut World| call(world, "ibm,get-xive", &[source]);
    assert_eq!(xive(&mut world), [0, 0, 255]);
    assert_eq!(status(&mut world, "ibm,set-xive", &[source, 1, 5]), 0);
    assert_eq!(xive(&mut world), [0, 1, 5]);
    assert_eq!(status(&mut world, "ibm,int-off", &[source]), 0);
    assert_eq!(status(&mut world, "ibm,int-off", &[source]), 0);
    assert_eq!(xive(&mut world), [0, 1, 255]);
    assert_eq!(status(&mut world, "ibm,int-on", &[source]), 0);
    assert_eq!(xive(&mut world), [0, 1, 5]);
    for (server, priority) in [(2, 5), (0, 256), (u64::from(u32::MAX), 5)] {
        let args = [source, server, priority];
        assert_eq!(status(&mut world, "ibm,set-xive", &args), -3);
    }
    assert_eq!(xive(&mut world), [0, 1, 5]);
    for bad in [0, 2, 0x1101] {
        assert_eq!(status(&mut world, "ibm,set-xive", &[bad, 0, 5]), -3);
        for name in ["ibm,get-xive", "ibm,int-on", "ibm,int-off"] {
            assert_eq!(status(&mut world, name, &[bad]), -3, "{name}");
        }
    }
}

#[test]
fn there_are_no_events() {
    let mut world = World::new(1);
    let scan = [u64::from(u32::MAX), 0, BUFFER, 64];
    assert_eq!(status(&mut world, "event-scan", &scan), 1);
    let check = [0x500, 0x1000, u64::from(u32::MAX), 0, BUFFER, 64];
    assert_eq!(status(&mut world, "check-exception", &check), 1);
}

#[test]
fn system_parameters_are_cut_to_the_buffer() {
    let mut world = World::new(2);
    let get = "ibm,get-system-parameter";
    let text = |world: &World, len| {
        let mut bytes = vec![0; len];
        world.partition.ram.read(Gra(BUFFER), &mut bytes).unwrap();
        bytes
    };
    assert_eq!(status(&mut world, get, &[55, BUFFER, 4000]), 0);
    assert_eq!(text(&world, 8), b"\0\x05test\0\0");
    assert_eq!(status(&mut world, get, &[20, BUFFER, 4000]), 0);
    let expected = b"\0\x31MaxEntCap=200,DesMem=1,DesProcs=2,MaxPlatProcs=2\0";
    assert_eq!(expected.len() - 2, usize::from(text(&world, 2)[1]));
    assert_eq!(text(&world, expected.len()), expected);
    assert_eq!(status(&mut world, get, &[55, BUFFER, 5]), 0);
    assert_eq!(text(&world, 8), b"\0\x05tesEnt"[..8]);
    for (bad, code) in [
        ([55, BUFFER, 1], -9999),
        ([55, MEMORY - 6, 4000], -9999),
        ([55, u64::from(u32::MAX), 4000], -9999),
        ([44, BUFFER, 4000], -3),
        ([48, BUFFER, 4000], -3),
    ] {
        assert_eq!(status(&mut world, get, &bad), code);
    }
    let set = "ibm,set-system-parameter";
    assert_eq!(status(&mut world, set, &[55, BUFFER]), -9002);
    assert_eq!(status(&mut world, set, &[44, BUFFER]), -3);
}

#[test]
fn last_words_are_read_to_their_end() {
    let mut world = World::new(1);
    world
        .partition
        .ram
        .write(Gra(BUFFER), b"oops\x1b[2J\0")
        .unwrap();
    assert_eq!(status(&mut world, "ibm,os-term", &[BUFFER]), 0);
    let end = Gra(MEMORY - 4);
    world.partition.ram.write(end, b"oops").unwrap();
    assert_eq!(status(&mut world, "ibm,os-term", &[end.0]), -3);
    let all = vec![b'x'; 4096];
    world.partition.ram.write(Gra(BUFFER), &all).unwrap();
    assert_eq!(status(&mut world, "ibm,os-term", &[BUFFER]), 0);
}

/// Counts the lines that the tests of one thread log.
struct Lines;

std::thread_local! {
    static LINES: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, _: &log::Record<'_>) {
        LINES.set(LINES.get() + 1);
    }
    fn flush(&self) {}
}

#[test]
fn last_words_do_not_flood_the_log() {
    // Another test of this process may have set it already.
    let _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Trace);
    let mut world = World::new(1);
    for _ in 0..1000 {
        assert_eq!(status(&mut world, "ibm,os-term", &[BUFFER]), 0);
    }
    assert!((1..=8).contains(&LINES.get()), "{}", LINES.get());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_block_panics(cells: [u32; 20], token in 0u32..20, counts in (0u32..9, 0u32..9), at in 0u64..MEMORY) {
        let mut world = World::new(2);
        let mut cells = cells;
        cells[..3].copy_from_slice(&[0x2000 + token, counts.0, counts.1]);
        if at + 80 <= MEMORY {
            write_cells(&world, at, &cells);
        }
        let _ = world.after(H_RTAS, &[at]);
    }
}
