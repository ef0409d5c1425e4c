//! Random calls and random guests, from a fixed seed (`seed=N` in bootargs chooses another): nothing may hang or fall over, and every answer must be one that
//! the call has. Guests full of random instructions leave only for the reasons of nested.md 3.3.

use isa::pte::{PageSize, Pte};
use papr_services::error::CODES;
use papr_services::table::number as nr;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::gsb::{self, Writer};
use crate::guest::{self, GUEST_WIDE, Guest, HOST_WIDE, OUTPUT_SIZE};
use crate::hcall::hcall;
use crate::mem;
use crate::mem::layout::{BUFFER, L2_MEMORY, PAGES, RUN_INPUT, RUN_OUTPUT, TABLES};
use crate::radix::{ALL, set_entry};
use crate::registers::pattern;
use crate::report::{case, holds};
use crate::say;
use crate::start::Machine;

/// Random numbers (xorshift): the same in every run.
struct Random(u64);

impl Random {
    /// The group's own sequence, moved by `seed=` of the arguments.
    fn new(start: u64, machine: &Machine) -> Self {
        Self(start ^ pattern(machine.seed, 1) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn one<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An instruction word: any, or one of the opcodes with the system instructions (19, 31), or a register move.
    fn instruction(&mut self) -> u32 {
        let any = self.next() as u32;
        match self.below(8) {
            0 | 1 => any & 0x03ff_ffff | 31 << 26,
            2 => any & 0x03ff_ffff | 19 << 26,
            // mtspr and mfspr of any number.
            3 => any & 0x03ff_f800 | 31 << 26 | 467 << 1,
            4 => any & 0x03ff_f800 | 31 << 26 | 339 << 1,
            5 if any & 1 == 0 => any & 0x03ff_ffff | 1 << 26,
            5 => 0x4400_0022, // sc 1
            _ => any,
        }
    }

    /// A value that breaks things, or any value.
    fn value(&mut self, ids: &[u64]) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => self.below(64),
            2 => 1 << self.below(64),
            3 => self.one(&[0, u64::MAX, 1 << 63, BUFFER, BUFFER + 0xffe, 4096, 0x1_0000]),
            4 => self.one(&[u64::MAX - 7, 1 << 48, TABLES, 52, 65536, 0x0f00_0006]),
            _ => self.one(ids),
        }
    }
}

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    calls(machine);
    buffers(machine);
    instructions(machine);
    trees(machine);
}

/// A code of the table, or one of the flag codes.
fn known(code: i64) -> bool {
    code == 0 || CODES.iter().any(|c| c.1 == code) || (-319..=-256).contains(&code)
}

/// Nested calls, H_RPT_INVALIDATE and a few others with random arguments.
fn calls(machine: &Machine) {
    const NUMBERS: [u64; 12] = [
        nr::H_GUEST_GET_CAPABILITIES,
        nr::H_GUEST_CREATE,
        nr::H_GUEST_CREATE_VCPU,
        nr::H_GUEST_GET_STATE,
        nr::H_GUEST_SET_STATE,
        nr::H_GUEST_DELETE,
        nr::H_RPT_INVALIDATE,
        nr::H_IPOLL,
        nr::H_POLL_PENDING,
        nr::H_GET_TERM_CHAR,
        nr::H_PROD,
        nr::H_RANDOM,
    ];
    let mut random = Random::new(0x1234_5678_9abc_def1, machine);
    let mut ids = [0u64, 1, 2, machine.server];
    let mut strange = None;
    let heap = guest::counter(id::HEAP);
    for round in 0..20_000u64 {
        let number = random.one(&NUMBERS);
        let args: [u64; 6] = core::array::from_fn(|_| random.value(&ids));
        if number == nr::H_GUEST_GET_STATE {
            Writer::new(BUFFER).ask(random.next() as u16);
        }
        let ret = hcall(number, args);
        if number == nr::H_GUEST_CREATE && ret.code() == 0 {
            ids[(round % 3) as usize] = ret.r(4);
        }
        if !known(ret.code()) {
            strange = strange.or(Some((number, ret.code())));
        }
    }
    if let Some((number, code)) = strange {
        say!("fuzz: {number:#x} answered {code}");
    }
    holds("fuzz/calls-answers", strange.is_none());
    case(
        "fuzz/calls-delete-all",
        hcall(nr::H_GUEST_DELETE, [1 << 63, 0]).code(),
        0,
    );
    case("fuzz/calls-heap", guest::counter(id::HEAP), heap);
}

/// Buffers of random bytes, and of elements with random damage.
fn buffers(machine: &Machine) {
    let Some(g) = guest_or_fail("fuzz") else {
        return;
    };
    let mut random = Random::new(0xfeed_5678_9abc_def1, machine);
    let mut strange = None;
    for round in 0..5_000u64 {
        let size = match round % 2 {
            0 => {
                for at in (0..256).step_by(8) {
                    mem::write64(BUFFER + at, random.next());
                }
                if round % 4 == 0 {
                    mem::write32(BUFFER, (random.below(20) as u32).to_be());
                }
                random.below(300)
            }
            _ => {
                let mut w = Writer::new(BUFFER);
                for _ in 0..random.below(8) {
                    let e = random.one(&[
                        id::GPR0,
                        0x1005,
                        id::MSR,
                        0x2000,
                        id::VSR0,
                        id::LPCR,
                        0,
                        id::HDAR,
                        5,
                        6,
                        4,
                    ]);
                    w.element(e, random.next());
                }
                let used = w.size();
                let at = random.below(used);
                let byte = mem::read8(BUFFER + at) ^ (1 << random.below(8));
                mem::write8(BUFFER + at, byte);
                used
            }
        };
        let flags = random.one(&[0, 0, GUEST_WIDE, HOST_WIDE]);
        let number = random.one(&[nr::H_GUEST_GET_STATE, nr::H_GUEST_SET_STATE]);
        let code = hcall(number, [flags, g.id, 0, BUFFER, size]).code();
        if !(known(code) && code <= 0) {
            strange = strange.or(Some(code));
        }
    }
    case("fuzz/buffers-answers", strange.unwrap_or(0), 0);
    // Whatever was set, the vCPU is still one that can be set right.
    case("fuzz/buffers-tables", g.set_tables(), 0);
    case("fuzz/buffers-buffers", g.set_buffers(0), 0);
    case("fuzz/buffers-run", g.start(guest::program::SC, &[]), 0xc00);
    case("fuzz/buffers-delete", g.end(), 0);
}

/// Reasons that a run may end with.
const REASONS: [u64; 7] = [0, 0x980, 0xc00, 0xe00, 0xe20, 0xe40, 0xf80];

/// One run, at most a millisecond long: whether reason and output are good.
fn bounded_run(g: &Guest) -> Result<u64, i64> {
    Writer::new(RUN_INPUT).u64(id::HDEC_EXPIRY, guest::soon(512_000));
    let ret = guest::run(g.id);
    Writer::new(RUN_INPUT);
    match (ret.code(), ret.r(4)) {
        (0, reason) if REASONS.contains(&reason) && gsb::parses(RUN_OUTPUT, OUTPUT_SIZE) => {
            Ok(reason)
        }
        (0, reason) => Err(reason.cast_signed()),
        (code, _) => Err(code),
    }
}

/// L2 memory full of random words, executed with random registers in every mode.
fn instructions(machine: &Machine) {
    let Some(g) = guest_or_fail("fuzz") else {
        return;
    };
    let mut random = Random::new(0xabcd_5678_9abc_def1, machine);
    let (mut strange, mut seen) = (None, [0u32; REASONS.len()]);
    let mut runs = 0;
    for round in 0..600u64 {
        for at in (0..0x8000).step_by(4) {
            mem::write32(L2_MEMORY + at, random.instruction());
        }
        let code = g.prepare(0, random.below(0x7000) & !3);
        let msr = guest::L2_MSR.bits() ^ (random.next() & 0x2_803d);
        let set = guest::set_with(0, g.id, 0, |w| {
            for n in 0..32 {
                w.u64(
                    id::GPR0 + n,
                    pattern(round, u64::from(n)) >> random.below(64),
                );
            }
            w.u64(id::MSR, msr).u64(id::FSCR, random.next());
        })
        .code();
        if code | set != 0 {
            strange = strange.or(Some(code | set));
        }
        for _ in 0..8 {
            runs += 1;
            match bounded_run(&g) {
                Ok(reason) => {
                    for (count, known) in seen.iter_mut().zip(REASONS) {
                        *count += u32::from(known == reason);
                    }
                    // Step over what cannot go on by itself.
                    if matches!(reason, 0xe40 | 0xe00 | 0xe20 | 0xf80) {
                        let nia = guest::get(g.id, 0, id::NIA).wrapping_add(4) & 0x7ffc;
                        let _ = guest::set(g.id, 0, id::NIA, nia);
                    }
                }
                Err(what) => strange = strange.or(Some(what)),
            }
        }
    }
    say!("fuzz: {runs} runs of random code; exits by reason {seen:?} of {REASONS:x?}");
    case("fuzz/instructions-strange", strange.unwrap_or(0), 0);
    let kinds = seen.iter().filter(|count| **count > 0).count();
    holds("fuzz/instructions-many-exits", kinds >= 3);
    // L1 is as it was.
    mem::install(L2_MEMORY, mem::l2_image());
    case(
        "fuzz/instructions-then",
        g.start(guest::program::SC, &[]),
        0xc00,
    );
    case("fuzz/instructions-delete", g.end(), 0);
}

/// Trees of random entries that stay inside a few pages, and of any bits at all.
fn trees(machine: &Machine) {
    let Some(mut g) = guest_or_fail("fuzz") else {
        return;
    };
    let mut random = Random::new(0x7777_5678_9abc_def1, machine);
    let tables: [u64; 3] = core::array::from_fn(|_| g.tree.table(4096));
    let at = 0x10_0000_0000u64;
    let slot = g.tree.slot(at, PageSize::Size1G);
    let (mut strange, mut outside) = (None, 0u32);
    let (valid, leaf) = (Pte::VALID.bits(), Pte::LEAF.bits());
    for round in 0..400u64 {
        for table in tables {
            for n in 0..512 {
                let value = match random.below(5) {
                    0 => random.next(),
                    1 => valid | random.one(&tables) | random.one(&[9, 5, 9, 9, 13]),
                    2 => valid | leaf | ALL.bits() | (PAGES + (random.below(16) << 12)),
                    3 => valid | leaf | (random.next() & 0x1ff) | (PAGES + (random.below(4) << 21)),
                    _ => 0,
                };
                if n < 16 || round % 20 == 0 {
                    set_entry(table + 8 * n, value);
                }
            }
        }
        set_entry(slot, valid | tables[0] | 9);
        for _ in 0..6 {
            let offset = random.below(16) << 21 | random.below(16) << 12 | random.below(512) << 3;
            let program = random.one(&[
                guest::program::LOAD,
                guest::program::STORE,
                guest::program::JUMP,
            ]);
            let code = g.prepare(0, program);
            let set = guest::set(g.id, 0, id::GPR0 + 5, at + offset).code();
            match bounded_run(&g) {
                Ok(0xe00 | 0xe20) => outside += 1,
                Ok(_) => {}
                Err(what) => strange = strange.or(Some(what)),
            }
            if code | set != 0 {
                strange = strange.or(Some(code | set));
            }
        }
    }
    say!("fuzz: 2400 accesses through random trees, {outside} refused");
    case("fuzz/trees-strange", strange.unwrap_or(0), 0);
    holds("fuzz/trees-some-refused", outside > 0);
    case("fuzz/trees-then", g.start(guest::program::SC, &[]), 0xc00);
    case("fuzz/trees-delete", g.end(), 0);
}
