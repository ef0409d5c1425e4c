//! The flash: reads, writes and erases that end in a message, and requests that are wrong.
//!
//! The surprising fact: QEMU without a file has a flash of ones that lasts as long as the machine, so this program may do with
//! it what it likes.

use opal_calls::calls::token as t;
use opal_calls::error::OpalError;

use crate::call::{call, code, quietly};
use crate::mem::layout::{BUFFER, OUTPUTS, SCRATCH};
use crate::mem::{self, equals, read_be64, read8};
use crate::report::{case, holds, skip};
use crate::start::Machine;

const ASYNC: i64 = OpalError::OPAL_ASYNC_COMPLETION.code();
const ID: u64 = 0;
/// Where the cases write: whole erase blocks of every flash.
const PLACE: u64 = 0x10_0000;
const TEXT: &[u8] = b"written by the payload";

/// Waits for the end of the request with this token; its code.
pub(super) fn completion(token: u64) -> i64 {
    const MSG: u64 = OUTPUTS;
    // Each poll does a part; the bound ends the run instead of hanging it.
    for _ in 0..1_000_000 {
        let got = quietly(t::OPAL_CHECK_ASYNC_COMPLETION, [MSG, 72, token]);
        if got != code::BUSY {
            return match (got, read_be64(MSG + 8)) {
                (0, found) if found == token => read_be64(MSG + 16).cast_signed(),
                _ => got,
            };
        }
        quietly(t::OPAL_POLL_EVENTS, [0]);
    }
    code::BUSY
}

/// Makes a request and waits for its end.
fn done(name: &str, token: u64, args: [u64; 8]) {
    let got = call(token, args);
    case(format_args!("flash/{name}"), got, ASYNC);
    if got == ASYNC {
        let token = if token == t::OPAL_FLASH_ERASE {
            args[3]
        } else {
            args[4]
        };
        case(
            format_args!("flash/{name}-done"),
            completion(token),
            code::SUCCESS,
        );
    }
}

fn all_are(addr: u64, len: u64, byte: u8) -> bool {
    (addr..addr + len).all(|at| read8(at) == byte)
}

pub(super) fn run(machine: &Machine) {
    let [size, block] = machine.flash;
    holds("flash/in-the-tree", size >= 2 * PLACE && block != 0);
    if size < 2 * PLACE || block == 0 || block > 0x1_0000 {
        return;
    }
    let read = |at, len, token| [ID, at, BUFFER, len, token, 0, 0, 0];
    // The rest of QEMU's flash of ones is only looked at.
    mem::fill(BUFFER, 0x6000, 0);
    done("read", t::OPAL_FLASH_READ, read(0, 0x5000, 11));
    holds("flash/reads-ones", all_are(BUFFER, 0x5000, 0xff));
    holds("flash/reads-no-more", all_are(BUFFER + 0x5000, 0x1000, 0));

    mem::copy(BUFFER, TEXT);
    let odd = PLACE + block - 7;
    let args = [ID, odd, BUFFER, TEXT.len() as u64, 12, 0, 0, 0];
    done("write-over-a-block's-end", t::OPAL_FLASH_WRITE, args);
    mem::fill(BUFFER, 64, 0);
    done("read-it", t::OPAL_FLASH_READ, read(odd - 1, 32, 13));
    holds("flash/holds-it", equals(BUFFER + 1, TEXT));
    let around = [BUFFER, BUFFER + 1 + TEXT.len() as u64].map(read8);
    holds("flash/and-nothing-else", around == [0xff; 2]);

    let args = [ID, PLACE, 2 * block, 14, 0, 0, 0, 0];
    done("erase", t::OPAL_FLASH_ERASE, args);
    mem::fill(BUFFER, 64, 0);
    done("read-erased", t::OPAL_FLASH_READ, read(odd - 1, 32, 15));
    holds("flash/erased", all_are(BUFFER, 32, 0xff));

    done("read-the-end", t::OPAL_FLASH_READ, read(size - 16, 16, 16));
    done("read-nothing", t::OPAL_FLASH_READ, read(16, 0, 17));
    queue(machine);
    bad(machine, size, block);
}

/// Several requests at a time, each with one message.
fn queue(machine: &Machine) {
    for n in 0..8 {
        let args = [ID, PLACE, BUFFER + 0x100 * n, 0x100, 20 + n, 0, 0, 0];
        let got = call(t::OPAL_FLASH_READ, args);
        case(format_args!("flash/queued-{n}"), got, ASYNC);
    }
    if machine.on_skiboot {
        skip("flash/same-token", "skiboot takes any");
    } else {
        let args = [ID, PLACE, BUFFER, 0x100, 25, 0, 0, 0];
        let got = call(t::OPAL_FLASH_READ, args);
        case("flash/same-token", got, code::PARAMETER);
    }
    for n in (0..8).rev() {
        let got = completion(20 + n);
        case(format_args!("flash/dequeued-{n}"), got, code::SUCCESS);
    }
    let got = call(t::OPAL_GET_MSG, [BUFFER, 72]);
    case("flash/no-message-is-left", got, code::RESOURCE);
}

/// Requests that are wrong; none of them starts anything.
fn bad(machine: &Machine, size: u64, block: u64) {
    let ranges = [
        ("beyond", size - 8, 16),
        ("far", size, 1),
        ("wraps", u64::MAX - 7, 16),
        ("long", 8, u64::MAX),
        ("high", 1 << 32, 16),
    ];
    for (name, at, len) in ranges {
        for (what, token) in [("read", t::OPAL_FLASH_READ), ("write", t::OPAL_FLASH_WRITE)] {
            let got = call(token, [ID, at, SCRATCH, len, 30]);
            case(format_args!("flash/{what}-{name}"), got, code::PARAMETER);
        }
    }
    let last = !(block - 1);
    for (name, at, len) in [
        ("beyond", size - block, 2 * block),
        ("far", size, block),
        ("wraps", last, 2 * block),
        ("long", block, last),
    ] {
        let got = call(t::OPAL_FLASH_ERASE, [ID, at, len, 31]);
        case(format_args!("flash/erase-{name}"), got, code::PARAMETER);
    }
    if block > 1 {
        let got = call(t::OPAL_FLASH_ERASE, [ID, PLACE + 1, block, 32]);
        case("flash/erase-in-a-block", got, code::PARAMETER);
        let got = call(t::OPAL_FLASH_ERASE, [ID, PLACE, block - 1, 33]);
        case("flash/erase-half-a-block", got, code::PARAMETER);
    }
    if machine.on_skiboot {
        skip("flash/buffer-is-too-short", "skiboot writes behind memory");
    } else {
        let args = [ID, 0, machine.memory_end - 8, 16, 34];
        let got = call(t::OPAL_FLASH_READ, args);
        case("flash/buffer-is-too-short", got, code::PARAMETER);
    }
    let got = call(t::OPAL_GET_MSG, [BUFFER, 72]);
    case("flash/bad-requests-end-at-once", got, code::RESOURCE);
}
