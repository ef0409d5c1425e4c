//! Costs in ticks of the time base: under `-icount shift=0` one instruction is one nanosecond, and a tick is
//! 1.953 of them. Not cases: lines `bench NAME ticks=T count=N` for a reader to divide.

use opal_calls::calls::token;

use crate::call::quietly;
use crate::processor::time_base;
use crate::report::case;
use crate::say;
use crate::start::Machine;

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
}
