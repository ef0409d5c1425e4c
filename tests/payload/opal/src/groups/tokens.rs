//! OPAL_CHECK_TOKEN for every number, and what the calls that are not served answer.

use opal_calls::calls::{TABLE, token};
use opal_calls::table::{Facility, State};

use crate::call::{call, code, quietly};
use crate::report::{case, skip};
use crate::start::Machine;

/// Numbers that are no call's.
const UNKNOWN: [u64; 7] = [181, 999, 1000, 0xffff_ffff, 1 << 32, 1 << 63, u64::MAX];

pub(super) fn run(machine: &Machine) {
    for row in TABLE {
        let is_known = call(token::OPAL_CHECK_TOKEN, [row.token]);
        // Of what a machine can lack, these machines lack at most these.
        let is_lacking = match row.needs {
            Facility::Nmmu => !machine.has_nest_mmu,
            Facility::Sensors => !machine.has_sensors,
            _ => false,
        };
        let is_there = !is_lacking;
        let is_served = row.state == State::Served && is_there;
        case(
            format_args!("check/{}", row.name),
            is_known,
            is_served.into(),
        );
        if is_served {
            continue;
        }
        let name = format_args!("unserved/{}", row.name);
        if is_known == 1 {
            // Only skiboot: on Nidus the case above has failed.
            if machine.on_skiboot {
                skip(name, "skiboot serves it");
            }
            continue;
        }
        let want = match row.state {
            State::Unused => code::PARAMETER,
            State::Served | State::Absent => code::UNSUPPORTED,
        };
        case(name, quietly(row.token, [u64::MAX; 8]), want);
    }
    for number in UNKNOWN {
        case(
            format_args!("check/unknown-{number:#x}"),
            call(token::OPAL_CHECK_TOKEN, [number]),
            0,
        );
        case(
            format_args!("unserved/unknown-{number:#x}"),
            quietly(number, [u64::MAX; 8]),
            code::PARAMETER,
        );
    }
    // The table's names and numbers are those of the public header; this is what it means to be called.
    case(
        "check/takes-64-bits",
        call(token::OPAL_CHECK_TOKEN, [1 << 32 | token::OPAL_TEST]),
        0,
    );
}
