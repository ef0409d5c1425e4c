//! The cost of waking another vCPU: two of them play ball with H_PROD and H_CEDE. Lines as `bench` has them.
//!
//! The surprise: with the exact clock the instructions of all threads count, one after the other, so that the figure is
//! the sum of what both execute, and nothing of it is waiting.

use core::sync::atomic::{AtomicU64, Ordering};

use papr_services::table::number::{H_CEDE, H_PROD};

use super::bench::median;
use crate::hcall::hcall;
use crate::report::{case, holds};
use crate::start::Machine;
use crate::threads::Crew;
use crate::{probe, say};

/// Times that the ball goes there and back.
const ROUNDS: u64 = 200;
/// Which thread has the ball.
static BALL: AtomicU64 = AtomicU64::new(0);
/// Ticks of the last game.
static TICKS: AtomicU64 = AtomicU64::new(0);

pub(super) fn run(machine: &Machine) {
    let Some(crew) = Crew::start(&machine.rtas) else {
        holds("bench-threads/start", false);
        return;
    };
    case("bench-threads/threads", crew.size() as u64, 2);
    let mut done = true;
    let ticks = median([(); 5].map(|()| {
        done &= crew.together(play);
        TICKS.load(Ordering::SeqCst)
    }));
    holds("bench-threads/played", done);
    say!("bench ping-pong ticks={ticks} count={ROUNDS}");
    holds("bench-threads/dismiss", crew.dismiss());
}

/// A vCPU is numbered as its thread is here: the crew started them so.
fn play(number: usize) {
    let me = number as u64;
    if me > 1 {
        return;
    }
    // No interrupt may come while H_CEDE has them enabled.
    probe::set_decrementer(0x7fff_ffff);
    let start = probe::time_base();
    for _ in 0..ROUNDS {
        while BALL.load(Ordering::SeqCst) != me {
            hcall(H_CEDE, []);
            probe::set_msr(probe::MSR);
        }
        BALL.store(1 - me, Ordering::SeqCst);
        hcall(H_PROD, [1 - me]);
    }
    if me == 0 {
        TICKS.store(probe::time_base().wrapping_sub(start), Ordering::SeqCst);
    }
}
