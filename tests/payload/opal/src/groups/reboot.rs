//! The calls that start the machine anew, one after the other: what was reached stands in memory, which a reboot
//! leaves alone. Only when named, and in a boot of its own.

use opal_calls::calls::token as t;

use crate::call::{call, code};
use crate::mem::layout::{DIARY, SCRATCH};
use crate::mem::{copy, read_be64, write_be64};
use crate::report::{case, holds};
use crate::say;
use crate::start::Machine;
use crate::thread::{PATIENCE, wait};

/// Says that memory holds a diary. The number behind it is how often the machine was rebooted.
const MAGIC: u64 = 0x6e69_6475_735f_6f70;

/// In this order: name, token, arguments.
const REBOOTS: [(&str, u64, [u64; 2]); 4] = [
    ("plain", t::OPAL_CEC_REBOOT, [0, 0]),
    ("normal", t::OPAL_CEC_REBOOT2, [0, 0]),
    ("full", t::OPAL_CEC_REBOOT2, [2, 0]),
    ("normal-with-a-reason", t::OPAL_CEC_REBOOT2, [0, SCRATCH]),
];

pub(super) fn run(_: &Machine) {
    if read_be64(DIARY) != MAGIC {
        write_be64(DIARY, MAGIC);
        write_be64(DIARY + 8, 0);
    }
    let done = read_be64(DIARY + 8);
    let Some((name, token, args)) = REBOOTS.get(done as usize) else {
        // Each of them came back here: the lines are those of the last start, and so is the count.
        for (name, ..) in REBOOTS {
            holds(format_args!("reboot/{name}"), true);
        }
        case("reboot/count", done, REBOOTS.len() as u64);
        // The program was loaded and nobody keeps a copy of it, and dumps are not served.
        for (name, kind) in [("fast", 4), ("for-a-dump", 3)] {
            let got = call(t::OPAL_CEC_REBOOT2, [kind, 0]);
            case(format_args!("reboot/{name}"), got, code::UNSUPPORTED);
        }
        write_be64(DIARY, 0);
        return;
    };
    say!("payload: reboot {name}");
    copy(SCRATCH, b"because\0");
    write_be64(DIARY + 8, done + 1);
    let got = call(*token, *args);
    // The BMC needs a moment.
    let is_polled = |_: ()| call(t::OPAL_POLL_EVENTS, [0]) != 0;
    wait(PATIENCE, || is_polled(()));
    case(format_args!("reboot/{name}"), got, 0);
    holds("reboot/came-back-to-its-caller", false);
}
