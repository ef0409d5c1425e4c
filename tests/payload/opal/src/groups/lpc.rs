//! The part of the group `services` that is about the LPC bus: a device that is there, and what is not.
//!
//! Surprising fact: an access that nobody answers is no fault for the processor; only the bus's controller knows of it.

use opal_calls::calls::token as t;

use crate::call::{call, code};
use crate::mem::layout::SCRATCH as P;
use crate::mem::{read_be32, write_be64};
use crate::report::case;

/// The cases of the group `services` about the bus.
pub(super) fn run() {
    const IO: u64 = 1;
    /// The scratch register of the UART.
    const PORT: u64 = 0x3ff;
    for value in [0x5a, 0xa5] {
        let got = call(t::OPAL_LPC_WRITE, [0, IO, PORT, value, 1]);
        case(format_args!("lpc/write-{value:#x}"), got, code::SUCCESS);
        let got = call(t::OPAL_LPC_READ, [0, IO, PORT, P, 1]);
        case(format_args!("lpc/read-{value:#x}"), got, code::SUCCESS);
        case(
            format_args!("lpc/holds-{value:#x}"),
            u64::from(read_be32(P)),
            value,
        );
    }
    for size in [0, 3, 5, 8, 0x1_0000] {
        let got = call(t::OPAL_LPC_READ, [0, IO, PORT, P, size]);
        case(format_args!("lpc/read-{size}-bytes"), got, code::PARAMETER);
        let got = call(t::OPAL_LPC_WRITE, [0, IO, PORT, 0, size]);
        case(format_args!("lpc/write-{size}-bytes"), got, code::PARAMETER);
    }
    let got = call(t::OPAL_LPC_READ, [0, 7, PORT, P, 1]);
    case("lpc/no-such-space", got, code::PARAMETER);
    let got = call(t::OPAL_LPC_READ, [0, IO, 0x1_0000, P, 1]);
    case("lpc/port-beyond-the-space", got, code::PARAMETER);
    nobody();
}

/// Ranges that leave their space, and ones where no device is.
fn nobody() {
    for (name, space, at) in [
        ("io", 1, 0xfffe),
        ("memory", 0, 0x0fff_fffe),
        ("firmware", 2, 0xffff_fffe),
    ] {
        for (call_name, call_number) in [("read", t::OPAL_LPC_READ), ("write", t::OPAL_LPC_WRITE)] {
            // The fourth is the buffer of the one and the data of the other.
            let got = call(call_number, [0, space, at, P, 4]);
            case(
                format_args!("lpc/{call_name}-across-the-end-of-{name}"),
                got,
                code::PARAMETER,
            );
        }
    }
    for (name, space, at) in [("port", 1, 0x9000), ("memory", 0, 0x0800_0000)] {
        write_be64(P, 0x55 << 32);
        let got = call(t::OPAL_LPC_READ, [0, space, at, P, 1]);
        case(format_args!("lpc/read-no-{name}"), got, code::HARDWARE);
        case(
            format_args!("lpc/no-{name}-writes-nothing"),
            u64::from(read_be32(P)),
            0x55,
        );
        let got = call(t::OPAL_LPC_WRITE, [0, space, at, 0, 1]);
        case(format_args!("lpc/write-no-{name}"), got, code::HARDWARE);
    }
}
