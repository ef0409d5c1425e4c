//! Costs in ticks of the time base: under `-icount shift=0` one instruction is one nanosecond, and a tick is
//! 1.953 of them. Not cases: lines `bench NAME ticks=T count=N` for a reader to divide.

use opal_calls::calls::token;

use crate::call::{code, quietly};
use crate::mem;
use crate::mem::layout::SCRATCH;
use crate::processor::time_base;
use crate::report::case;
use crate::say;
use crate::start::Machine;

/// A line of text, and where its length is.
const LENGTH: u64 = SCRATCH;
const TEXT: u64 = SCRATCH + 64;
const LINE: u64 = 64;

/// Times `count` rounds.
fn time(name: &str, count: u64, mut round: impl FnMut()) {
    round();
    let start = time_base();
    for _ in 0..count {
        round();
    }
    let ticks = time_base().wrapping_sub(start);
    say!("bench {name} ticks={ticks} count={count}");
}

pub(super) fn run(_: &Machine) {
    case("bench/call", quietly(token::OPAL_TEST, [0]), 0xfeed_f00d);
    time("nothing", 1000, || {
        core::hint::black_box(0);
    });
    time("opal-test", 1000, || {
        quietly(token::OPAL_TEST, [0]);
    });
    time("opal-check-token", 1000, || {
        quietly(token::OPAL_CHECK_TOKEN, [0]);
    });
    time("opal-poll-events", 1000, || {
        quietly(token::OPAL_POLL_EVENTS, [0]);
    });
    // To the end of it: what a firmware keeps for later costs there.
    mem::fill(TEXT, LINE, b'.');
    mem::fill(TEXT + LINE - 1, 1, b'\n');
    let mut lost = 0;
    time("opal-console", 8, || {
        mem::write_be64(LENGTH, LINE);
        quietly(token::OPAL_CONSOLE_WRITE, [0, LENGTH, TEXT]);
        let flush = || quietly(token::OPAL_CONSOLE_FLUSH, [0]) == code::SUCCESS;
        lost += LINE - mem::read_be64(LENGTH) + u64::from(!(0..1000).any(|_| flush()));
    });
    case("bench/console", lost, 0);
}
