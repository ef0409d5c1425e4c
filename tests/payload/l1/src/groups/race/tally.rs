//! What the threads of a race have in common: how long it goes on, and what came of it.
//!
//! The surprising fact: each answer is counted by its code. A log says by that which sides of a race were seen; a race
//! of which only one side ever happened does not look like one.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::say;

/// From one wait to the next.
pub(super) const FREE: u64 = 256;
/// Rounds at the beginning in each of which the first thread waits.
pub(super) const FIRST: u64 = 32;

/// What is noted of a statement that did not hold: no code.
const FALSE: i64 = i64::MIN;

/// Whether the first thread waits in this round for the others.
pub(super) fn waits(round: u64) -> bool {
    round < FIRST || round.is_multiple_of(FREE)
}

/// See [`TALLY`].
pub(super) struct Tally {
    /// Rounds that the first thread makes.
    pub(super) rounds: AtomicU64,
    /// The race is over for the others.
    pub(super) over: AtomicBool,
    /// Seed of the random numbers.
    pub(super) seed: AtomicU64,
    /// The guest that it is about; 0 for none.
    pub(super) guest: AtomicU64,
    /// The guest that another thread dealt with last.
    pub(super) met: AtomicU64,
    /// Root of the tree of all guests.
    pub(super) root: AtomicU64,
    /// What happened: runs that were made, changes, refusals because of the others.
    pub(super) runs: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) refused: AtomicU64,
    /// The longest call, ticks, and the sum of those.
    pub(super) longest: AtomicU64,
    pub(super) total: AtomicU64,
    /// The first answer that is not allowed, and where.
    pub(super) wrong: AtomicI64,
    pub(super) wrong_at: AtomicU64,
    /// How often each code came.
    codes: [Count; 16],
}

/// A code, and how often it came.
struct Count {
    code: AtomicI64,
    times: AtomicU64,
}

/// No code yet.
const NONE: i64 = i64::MIN;

/// The one that all threads have.
pub(super) static TALLY: Tally = Tally {
    rounds: AtomicU64::new(0),
    over: AtomicBool::new(false),
    seed: AtomicU64::new(0),
    guest: AtomicU64::new(0),
    met: AtomicU64::new(0),
    root: AtomicU64::new(0),
    runs: AtomicU64::new(0),
    changes: AtomicU64::new(0),
    refused: AtomicU64::new(0),
    longest: AtomicU64::new(0),
    total: AtomicU64::new(0),
    wrong: AtomicI64::new(0),
    wrong_at: AtomicU64::new(0),
    codes: [const {
        Count {
            code: AtomicI64::new(NONE),
            times: AtomicU64::new(0),
        }
    }; 16],
};

impl Tally {
    pub(super) fn start(&self, rounds: u64, seed: u64) {
        self.rounds.store(rounds, Ordering::SeqCst);
        self.seed.store(seed, Ordering::SeqCst);
        self.over.store(false, Ordering::SeqCst);
        self.wrong.store(0, Ordering::SeqCst);
        for counter in [
            &self.guest,
            &self.met,
            &self.runs,
            &self.changes,
            &self.refused,
            &self.longest,
            &self.total,
            &self.wrong_at,
        ] {
            counter.store(0, Ordering::SeqCst);
        }
        for Count { code, times } in &self.codes {
            code.store(NONE, Ordering::SeqCst);
            times.store(0, Ordering::SeqCst);
        }
    }

    /// The first thread's rounds. Long races say how far they are.
    pub(super) fn rounds(&self) -> impl Iterator<Item = u64> {
        const EACH: u64 = 100_000;
        let rounds = self.rounds.load(Ordering::SeqCst);
        (0..rounds).inspect(|round| {
            if *round > 0 && round.is_multiple_of(EACH) && self.wrong.load(Ordering::SeqCst) == 0 {
                say!("race: {round} rounds");
            }
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits until another thread deals with this guest. It may not have a processor just now.
    pub(super) fn meet(&self, guest: u64) {
        crate::threads::wait(|| self.met.load(Ordering::SeqCst) == guest);
    }

    pub(super) fn count(&self, what: &AtomicU64) {
        what.fetch_add(1, Ordering::Relaxed);
    }

    /// A call took so long.
    pub(super) fn took(&self, ticks: u64) {
        self.longest.fetch_max(ticks, Ordering::Relaxed);
        self.total.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Counts an answer and looks at it; `at` is the place, for the report.
    pub(super) fn allow(&self, at: u64, code: i64, allowed: &[i64]) {
        let same = |count: &&Count| {
            let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
            // A place that another code took meanwhile is not this one's.
            count.code.load(get) == code
                || count.code.compare_exchange(NONE, code, set, get) == Ok(NONE)
                || count.code.load(get) == code
        };
        if let Some(count) = self.codes.iter().find(same) {
            count.times.fetch_add(1, Ordering::Relaxed);
        }
        if !allowed.contains(&code) {
            self.refute(at, code);
        }
    }

    /// Notes a statement that must hold.
    pub(super) fn must(&self, at: u64, statement: bool) {
        if !statement {
            self.refute(at, FALSE);
        }
    }

    /// Looks at why a run ended that was made: its code was 0.
    pub(super) fn reason(&self, at: u64, code: i64, reason: u64, allowed: &[u64]) {
        if code == 0 && !allowed.contains(&reason) {
            self.refute(at, reason.cast_signed());
        }
    }

    fn refute(&self, at: u64, code: i64) {
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        // Zero is a code as well, where it should not have come.
        let code = if code == 0 { i64::MAX } else { code };
        if self.wrong.compare_exchange(0, code, set, get).is_ok() {
            self.wrong_at.store(at, Ordering::SeqCst);
        }
    }

    /// Tells how often each code came.
    pub(super) fn say_codes(&self, name: &str) {
        for Count { code, times } in &self.codes {
            let code = code.load(Ordering::SeqCst);
            if code != NONE {
                say!(
                    "race {name}: code {code} {} times",
                    times.load(Ordering::SeqCst)
                );
            }
        }
    }
}
