//! The levels of the processor: what the partition may choose for its guests at its own level, every processor
//! version as LOGICAL_PVR, before there is a vCPU, before its first run and after it, and a guest at each level.
//!
//! Unlike elsewhere the expectations come from the firmware's own table, `papr_services::level`: what is tried here is
//! that the table is what a partition meets. That it is the right one is its own tests' business.

use papr_services::level::{Level, NO_LEVELS, Row, TABLE};
use papr_services::table::number::{
    H_GUEST_CREATE_VCPU, H_GUEST_GET_CAPABILITIES, H_GUEST_SET_CAPABILITIES,
};

use super::hcalls::P2;
use super::nested_args::setup;
use crate::elements::id;
use crate::guest::{self, GUEST_WIDE, Guest, program};
use crate::hcall::hcall;
use crate::report::{case, holds, skip};
use crate::say;
use crate::start::Machine;

const BAD_VALUE: i64 = -81;

pub(super) fn run(machine: &Machine) {
    let version = machine.cpu_version;
    let Some(own) = Level::from_logical_pvr(version.into()) else {
        case("levels/cpu-version", u64::from(version), 0x0f00_0006);
        return;
    };
    say!("levels: the partition's own is {own}");
    let offered = hcall(H_GUEST_GET_CAPABILITIES, [0]);
    case("levels/offered", offered.r(4), own.offered());
    for bits in 1..8u64 {
        let chosen = bits << 60;
        let ret = hcall(H_GUEST_SET_CAPABILITIES, [0, chosen]);
        let name = format_args!("levels/choose-{bits:03b}");
        if chosen & !own.offered() == 0 {
            if case(name, ret.code(), 0) {
                versions(chosen, chosen == own.offered());
            }
        } else {
            let told = ret.r(4) == 1 && ret.r(5) == 0;
            case(name, if told { ret.code() } else { 0 }, P2);
        }
    }
    if setup() {
        for row in TABLE.into_iter().filter(|row| row.level <= own) {
            at_level(row);
        }
    }
    setup();
}

/// Every version in each phase of a guest's life. A line for each when `all`, else a line for each phase.
fn versions(chosen: u64, all: bool) {
    let Ok(id) = guest::create() else {
        case("levels/create", -1i64, 0);
        return;
    };
    let start = Level::highest(chosen).map_or(0, Level::logical_pvr);
    case("levels/new-guest", kept(id), start.into());
    each(id, chosen, "no-vcpu", all);
    let code = hcall(H_GUEST_CREATE_VCPU, [0, id, 3]).code();
    case("levels/vcpu", code | guest::delete(id), 0);
    match Guest::new() {
        Ok(g) => {
            each(g.id, chosen, "first-run", all);
            case("levels/run", g.run(), 0xc00);
            each(g.id, chosen, "ran", all);
            case("levels/run-again", g.start(program::SC, &[]), 0xc00);
            case("levels/delete", g.end(), 0);
        }
        Err(code) => {
            case("levels/guest", code, 0);
        }
    }
}

fn kept(guest: u64) -> u64 {
    guest::get_with(GUEST_WIDE, guest, 0, id::LOGICAL_PVR).unwrap_or(u64::MAX)
}

/// Every version once.
fn each(guest: u64, chosen: u64, phase: &str, all: bool) {
    let levels = TABLE.into_iter().map(|row| row.logical_pvr);
    let mut wrong = 0;
    for pvr in levels.chain(NO_LEVELS) {
        let good = set(guest, chosen, pvr);
        if all {
            holds(format_args!("levels/{phase}-{pvr:#010x}"), good);
        } else if !good && wrong == 0 {
            wrong = u64::from(pvr) | 1 << 32;
        }
    }
    if !all {
        let bits = chosen >> 60;
        case(
            format_args!("levels/{phase}-of-{bits:03b}-first-wrong"),
            wrong,
            0,
        );
    }
}

/// Sets a version behind another element: taken, and read back; or refused with its index, and neither was set.
fn set(guest: u64, chosen: u64, pvr: u32) -> bool {
    const OFFSET: u64 = 1 << 24;
    let offset = || guest::get_with(GUEST_WIDE, guest, 0, id::TB_OFFSET).unwrap_or(u64::MAX);
    let before = kept(guest);
    let clear = guest::set_wide(guest, id::TB_OFFSET, &[0]).code();
    let ret = guest::set_with(GUEST_WIDE, guest, 0, |w| {
        w.u64(id::TB_OFFSET, OFFSET).u32(id::LOGICAL_PVR, pvr);
    });
    let now = (ret.code(), kept(guest), offset());
    let reset = guest::set_wide(guest, id::TB_OFFSET, &[0]).code();
    let done = match Level::accepted(pvr.into(), chosen) {
        Some(level) => now == (0, level.logical_pvr().into(), OFFSET),
        None => now == (BAD_VALUE, before, 0) && ret.r(4) == 1,
    };
    clear == 0 && reset == 0 && done
}

/// A guest that runs at a level, and meets what the level lacks.
fn at_level(row: &Row) {
    let name = row.word;
    let g = match Guest::new() {
        Ok(g) => g,
        Err(code) => {
            case(format_args!("levels/{name}-guest"), code, 0);
            return;
        }
    };
    let code = guest::set_wide(g.id, id::LOGICAL_PVR, &[row.logical_pvr.into()]).code();
    case(format_args!("levels/{name}-set"), code, 0);
    let reason = g.start(program::SC, &[]);
    case(format_args!("levels/{name}-runs"), reason, 0xc00);
    let reason = g.start(program::PREFIXED, &[]);
    let prefixed = format_args!("levels/{name}-prefixed-instruction");
    if row.absent.is_empty() {
        case(prefixed, reason, 0xc00);
    } else if reason == 0xc00 {
        skip(
            prefixed,
            "executed: the model enforces neither HFSCR[PREFIX] nor PCR",
        );
    } else {
        // The facility is off for this guest, so the partition hears of it.
        case(prefixed, reason, 0xf80);
    }
    // A special purpose register that no level lets a guest read.
    let reason = g.start(program::HV_SPR, &[]);
    holds(
        format_args!("levels/{name}-unknown-register"),
        reason == 0xe40 || reason == 0xc00 && g.gpr(3) == 0x700,
    );
    case(format_args!("levels/{name}-delete"), g.end(), 0);
}
