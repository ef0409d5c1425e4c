//! Calls of several threads about the same guests at the same time. No order is fixed: what is checked holds in every
//! order. Each answer is one that the call documents, what one thread took away no other still uses, and the host-wide
//! counters are at the end what they were at the start.
//!
//! `rounds=N` chooses how many rounds each race has, `race=NAME,NAME` which races there are; without them each takes about half
//! a second. In most rounds no thread waits for another, so that a host with as many processors as there are threads does
//! tens of thousands in a second; in some the first thread waits until the others were there ([`waits`]), so that also a host with
//! one processor, where a thread has it for milliseconds, has races and not turns.
//!
//! The surprising fact: the other threads never
//! print; what they see goes into the atomics of [`TALLY`], and the first thread makes cases of it.

mod memory;
mod runs;
mod state;
mod tally;

use core::sync::atomic::{AtomicU64, Ordering};

use isa::lpcr::Lpcr;
use isa::pte::PageSize;
use papr_services::table::number::{
    H_GUEST_CREATE_VCPU, H_GUEST_GET_STATE, H_GUEST_RUN_VCPU, H_GUEST_SET_STATE,
};

use super::nested_args::setup;
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, GUEST_WIDE, L2_HFSCR, L2_MSR};
use crate::hcall::hcall;
use crate::mem::layout::{L2_MEMORY, L2_MEMORY_SIZE, PAGES, TABLES};
use crate::radix::{ALL, Tree};
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::threads::{Crew, Job};
use crate::{mem, probe, say};

use self::tally::{FIRST, FREE, TALLY, waits};

/// Codes, as far as races lead to them.
const BUSY: i64 = 1;
const NOT_ENOUGH: i64 = -44;
const P2: i64 = -55;
const P3: i64 = -56;
const IN_USE: i64 = -77;

/// One thread, with buffers of its own.
struct Caller {
    number: usize,
    random: u64,
}

impl Caller {
    fn new(number: usize) -> Self {
        let seed = TALLY.seed.load(Ordering::SeqCst);
        Self {
            number,
            random: (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(2 * number as u64 + 1),
        }
    }

    /// A number below `limit`: xorshift64.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// Waits some ticks.
    fn pause(&mut self, most: u64) {
        let (start, ticks) = (probe::time_base(), self.below(most));
        while probe::time_base().wrapping_sub(start) < ticks {
            core::hint::spin_loop();
        }
    }

    /// The buffer of GET and SET. Behind the 4 KiB that are used, 4 KiB stay as they are.
    fn buffer(&self) -> u64 {
        PAGES + 0x100_0000 + 0x4_0000 * self.number as u64
    }

    fn input(&self) -> u64 {
        self.buffer() + 0x1_0000
    }

    fn output(&self) -> u64 {
        self.buffer() + 0x2_0000
    }

    fn set(&self, flags: u64, guest: u64, vcpu: u64, build: impl FnOnce(&mut Writer)) -> i64 {
        let mut writer = Writer::new(self.buffer());
        build(&mut writer);
        let args = [flags, guest, vcpu, self.buffer(), writer.size()];
        hcall(H_GUEST_SET_STATE, args).code()
    }

    fn get(&self, guest: u64, vcpu: u64, elements: &[u16]) -> i64 {
        let mut writer = Writer::new(self.buffer());
        for element in elements {
            writer.ask(*element);
        }
        let args = [0, guest, vcpu, self.buffer(), writer.size()];
        hcall(H_GUEST_GET_STATE, args).code()
    }

    /// Runs a vCPU: the code, and the reason if that is 0.
    fn run(&self, flags: u64, guest: u64, vcpu: u64) -> (i64, u64) {
        let ret = hcall(H_GUEST_RUN_VCPU, [flags, guest, vcpu]);
        if ret.code() == 0 {
            TALLY.count(&TALLY.runs);
        } else {
            TALLY.count(&TALLY.refused);
        }
        (ret.code(), ret.r(4))
    }

    /// A guest with these vCPUs, whose run buffers are this thread's.
    fn make(&self, vcpus: &[u64]) -> Result<u64, i64> {
        let guest = guest::create()?;
        match self.complete(guest, vcpus) {
            0 => Ok(guest),
            code => {
                guest::delete(guest);
                Err(code)
            }
        }
    }

    fn complete(&self, guest: u64, vcpus: &[u64]) -> i64 {
        let root = TALLY.root.load(Ordering::SeqCst);
        let tables = self.set(GUEST_WIDE, guest, 0, |w| {
            w.words(id::PARTITION_TABLE, &[root, 52, 65536])
                .words(id::PROCESS_TABLE, &[0, 4096]);
        });
        if tables != 0 {
            return tables;
        }
        let codes = vcpus.iter().map(|vcpu| {
            let made = hcall(H_GUEST_CREATE_VCPU, [0, guest, *vcpu]).code();
            if made == 0 {
                self.set_buffers(guest, *vcpu)
            } else {
                made
            }
        });
        codes.into_iter().find(|code| *code != 0).unwrap_or(0)
    }

    fn set_buffers(&self, guest: u64, vcpu: u64) -> i64 {
        Writer::new(self.input());
        self.set(0, guest, vcpu, |w| {
            w.words(id::RUN_INPUT, &[self.input(), 4096])
                .words(id::RUN_OUTPUT, &[self.output(), guest::OUTPUT_SIZE]);
        })
    }

    /// Lets a vCPU begin a program, with these registers (GPR number, value); `msr` is added to what all have.
    fn prepare(&self, guest: u64, vcpu: u64, nia: u64, msr: u64, gprs: &[(u16, u64)]) -> i64 {
        self.set(0, guest, vcpu, |w| {
            w.u64(id::NIA, nia)
                .u64(id::MSR, L2_MSR.bits() | msr)
                .u64(id::LPCR, Lpcr::ILE.bits() | Lpcr::LD.bits())
                .u64(id::HFSCR, L2_HFSCR.bits())
                .u64(id::DPDES, 0)
                .u64(id::DEC_EXPIRY, guest::far())
                // Races may last for hours.
                .u64(id::HDEC_EXPIRY, u64::MAX);
            for (number, value) in gprs {
                w.u64(id::GPR0 + number, *value);
            }
        })
    }
}

/// A race: its name, and what each thread does.
struct Race {
    name: &'static str,
    /// Rounds of a boot that says nothing else.
    rounds: u64,
    /// The first thread is number 0. It sets [`Tally::over`] when its rounds are done.
    job: Job,
}

const RACES: &[Race] = &[
    Race {
        name: "run-delete",
        rounds: 500,
        job: runs::run_and_delete,
    },
    Race {
        name: "create-delete",
        rounds: 100,
        job: runs::create_and_delete,
    },
    Race {
        name: "migrate",
        rounds: 2000,
        job: runs::migrate,
    },
    Race {
        name: "doorbell",
        rounds: 40,
        job: runs::doorbell,
    },
    Race {
        name: "run-set",
        rounds: 2000,
        job: state::run_and_set,
    },
    Race {
        name: "rewrite",
        rounds: 1000,
        job: state::rewrite,
    },
    Race {
        name: "invalidate",
        rounds: 2000,
        job: memory::invalidate,
    },
    Race {
        name: "tables",
        rounds: 2000,
        job: memory::tables,
    },
];

pub(super) fn run(machine: &Machine) {
    let Some(crew) = Crew::start(&machine.rtas) else {
        holds("race/threads-start", false);
        return;
    };
    if crew.size() < 2 {
        skip("race/threads", "the partition has one thread");
        return;
    }
    if setup() {
        races(machine, &crew);
    }
    holds("race/threads-stop", crew.dismiss());
}

fn races(machine: &Machine, crew: &Crew) {
    mem::fill(L2_MEMORY, L2_MEMORY_SIZE, 0);
    mem::install(L2_MEMORY, mem::l2_image());
    let mut tree = Tree::at(TABLES);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    TALLY.root.store(tree.root, Ordering::SeqCst);
    let counters = || [0, 2].map(|n| guest::counter(id::HEAP + n));
    let before = counters();
    runs::prepare_line(machine);
    for race in RACES {
        let name = race.name;
        if machine
            .races
            .is_some_and(|names| !names.split(',').any(|wanted| wanted == name))
        {
            continue;
        }
        let rounds = match machine.rounds {
            0 => race.rounds,
            rounds => rounds,
        };
        TALLY.start(rounds, machine.seed ^ rounds);
        runs::THREADS.store(crew.size() as u64, Ordering::SeqCst);
        let start = probe::time_base();
        let back = crew.together(race.job);
        if !holds(format_args!("race/{name}-all-came-back"), back) {
            return;
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let milliseconds = probe::time_base().wrapping_sub(start) / 512_000;
        let changes = get(&TALLY.changes);
        say!(
            "race {name}: {rounds} rounds, {milliseconds} ms, {} runs, {changes} changes, {} refusals, longest call {} us, mean {} us",
            get(&TALLY.runs),
            get(&TALLY.refused),
            get(&TALLY.longest) / 512,
            get(&TALLY.total) / 512 / changes.max(1)
        );
        TALLY.say_codes(name);
        // Where the first wrong thing was seen, then what it was.
        case(format_args!("race/{name}-place"), get(&TALLY.wrong_at), 0);
        case(
            format_args!("race/{name}-answers"),
            TALLY.wrong.load(Ordering::SeqCst),
            0,
        );
        // Else nothing was tried.
        holds(
            format_args!("race/{name}-ran"),
            get(&TALLY.runs) > 0 && changes >= rounds,
        );
        let after = counters();
        case(format_args!("race/{name}-heap"), after[0], before[0]);
        case(format_args!("race/{name}-tables"), after[1], before[1]);
    }
}
