//! The partition's other threads: started by RTAS, then given one job after another, together with the first thread.
//!
//! The surprising fact: the vectors save to one place, so another thread must not take any interrupt. It runs with
//! external interrupts off and does nothing but hypercalls and accesses to memory that is there.
#![expect(
    unsafe_code,
    reason = "the symbol that the entry code calls, and functions as words"
)]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use papr_services::table::number::H_RTAS;

use crate::hcall::hcall;
use crate::mem::layout::SCRATCH;
use crate::probe;
use crate::rtas::{self, Rtas, block};

/// Most threads, the first included: as many as there are stacks (`payload.ld`).
pub(crate) const MOST: usize = 4;
/// 60 s: a machine that others use as well may be slow.
const PATIENCE: u64 = 30_720_000_000;

/// What all threads do, each with its number.
pub(crate) type Job = fn(usize);

/// The job; null sends the threads home.
static JOB: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// How many jobs there were.
static TURN: AtomicU64 = AtomicU64::new(0);
/// Threads that came, and threads that finished the job.
static CAME: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

/// Waits until a statement holds; false if it does not in time.
pub(crate) fn wait(mut statement: impl FnMut() -> bool) -> bool {
    let start = probe::time_base();
    while !statement() {
        if probe::time_base().wrapping_sub(start) > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The other threads.
pub(crate) struct Crew {
    others: u64,
    query: u32,
    stop: u32,
}

impl Crew {
    /// Starts those that wait to be started, at most [`MOST`] less the first one.
    pub(crate) fn start(rtas: &Rtas) -> Option<Self> {
        unsafe extern "C" {
            static secondary_entry: u8;
        }
        let entry = (&raw const secondary_entry).addr() as u32;
        let start = rtas.token("start-cpu")?;
        let query = rtas.token("query-cpu-stopped-state")?;
        let stop = rtas.token("stop-self")?;
        CAME.store(0, Ordering::SeqCst);
        let mut others = 0;
        for cpu in 1..MOST as u32 {
            if rtas::call(query, &[cpu], 2) == (0, 0)
                && rtas::call(start, &[cpu, entry, others as u32 + 1], 1) == (0, 0)
            {
                others += 1;
            }
        }
        let crew = Self {
            others,
            query,
            stop,
        };
        wait(|| CAME.load(Ordering::SeqCst) == others).then_some(crew)
    }

    /// Threads, the first included.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        self.others as usize + 1
    }

    /// Does a job on all threads at the same time; whether all came back from it.
    pub(crate) fn together(&self, job: Job) -> bool {
        DONE.store(0, Ordering::SeqCst);
        JOB.store(job as *mut (), Ordering::SeqCst);
        TURN.fetch_add(1, Ordering::SeqCst);
        job(0);
        wait(|| DONE.load(Ordering::SeqCst) == self.others)
    }

    /// Lets the threads stop; whether all did.
    pub(crate) fn dismiss(self) -> bool {
        STOP_SELF.store(self.stop.into(), Ordering::SeqCst);
        JOB.store(null_mut(), Ordering::SeqCst);
        TURN.fetch_add(1, Ordering::SeqCst);
        let stopped = |cpu: u32| {
            let answer = rtas::call(self.query, &[cpu], 2);
            answer == (0, 0) && rtas::result(SCRATCH, 1, 1) == 0
        };
        (1..=self.others as u32).all(|cpu| wait(|| stopped(cpu)))
    }
}

/// Token of `stop-self`.
static STOP_SELF: AtomicU64 = AtomicU64::new(0);

/// Called by the entry code on each thread but the first.
///
/// SAFETY: the name is the entry code's only reference; nothing else in the image has it.
#[unsafe(no_mangle)]
extern "C" fn secondary_start(number: u64) -> ! {
    let mut turn = TURN.load(Ordering::SeqCst);
    CAME.fetch_add(1, Ordering::SeqCst);
    loop {
        while TURN.load(Ordering::SeqCst) == turn {
            core::hint::spin_loop();
        }
        turn = turn.wrapping_add(1);
        let job = JOB.load(Ordering::SeqCst);
        if job.is_null() {
            let at = SCRATCH + 0x1000 * number;
            block(at, STOP_SELF.load(Ordering::SeqCst) as u32, &[], 1);
            hcall(H_RTAS, [at]);
        } else {
            // SAFETY: not null: `together` stored a `Job` there before it counted the turn.
            let job = unsafe { core::mem::transmute::<*mut (), Job>(job) };
            job(number as usize);
            DONE.fetch_add(1, Ordering::SeqCst);
        }
    }
}
