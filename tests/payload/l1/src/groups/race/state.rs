//! Races of GET, SET and RUN about one vCPU, and buffers that change while a call reads them.

use core::sync::atomic::Ordering;

use papr_services::table::number::{H_GUEST_GET_STATE, H_GUEST_SET_STATE};

use super::{Caller, IN_USE, TALLY};
use crate::elements::id;
use crate::guest::{self, GUEST_WIDE, HOST_WIDE, program};
use crate::hcall::hcall;
use crate::{gsb, mem};

const VCPU: u64 = 5;
/// Registers that the programs of L2 leave alone.
const KEPT: [u16; 4] = [id::GPR0 + 14, id::GPR0 + 15, id::GPR0 + 20, id::GPR0 + 31];

/// Makes the guest of a race, or ends it.
fn begin(me: &Caller, at: u64) -> u64 {
    let made = me.make(&[VCPU]);
    let guest = made.unwrap_or(0);
    TALLY.allow(at, made.err().unwrap_or(0), &[0]);
    let prepared = me.prepare(guest, VCPU, program::CALLS, 0, &[]);
    TALLY.allow(at + 1, prepared, &[0]);
    TALLY.guest.store(guest, Ordering::SeqCst);
    guest
}

/// One thread runs the vCPU, the others set and get it, and the settings of its guest: what is set at once is seen at
/// once, and nothing is set in a run.
pub(super) fn run_and_set(number: usize) {
    let mut me = Caller::new(number);
    if number == 0 {
        let guest = begin(&me, 0x50);
        for _ in TALLY.rounds() {
            let (code, reason) = me.run(0, guest, VCPU);
            TALLY.allow(0x52, code, &[0, IN_USE]);
            TALLY.reason(0x53, code, reason, &[0, 0xc00, 0x980]);
            TALLY.count(&TALLY.changes);
        }
        TALLY.over.store(true, Ordering::SeqCst);
        TALLY.allow(0x54, guest::delete(guest), &[0]);
        return;
    }
    const P2: i64 = super::P2;
    while !TALLY.is_over() {
        let guest = TALLY.guest.load(Ordering::SeqCst);
        if guest == 0 {
            continue;
        }
        // What is guest-wide ends in a flush on all threads: too much of it, and nothing else happens.
        match me.below(16) {
            0..=6 => {
                let value = me.random;
                let code = me.set(0, guest, VCPU, |w| {
                    for register in KEPT {
                        w.u64(register, value);
                    }
                });
                TALLY.allow(0x55, code, &[0, IN_USE, P2]);
            }
            7..=13 => {
                let code = me.get(guest, VCPU, &KEPT);
                TALLY.allow(0x56, code, &[0, IN_USE, P2]);
                let seen = KEPT.map(|register| gsb::find(me.buffer(), 4096, register));
                TALLY.must(
                    0x57,
                    code != 0 || seen.iter().all(|value| *value == seen[0]),
                );
            }
            14 => {
                let root = TALLY.root.load(Ordering::SeqCst);
                let code = me.set(GUEST_WIDE, guest, 0, |w| {
                    w.words(id::PARTITION_TABLE, &[root, 52, 65536]);
                });
                TALLY.allow(0x58, code, &[0, P2]);
            }
            _ => {
                let bytes = 4096 << me.below(3);
                let code = me.set(GUEST_WIDE, guest, 0, |w| {
                    w.words(id::PROCESS_TABLE, &[0, bytes])
                        .u64(id::TB_OFFSET, bytes << 24);
                });
                TALLY.allow(0x59, code, &[0, P2]);
            }
        }
    }
}

/// What SET, GET and RUN may say about a buffer that they were given: anything but success without sense.
const BUFFER_CODES: &[i64] = &[0, -57, -58, -77, -79, -80, -81, -83];
/// Who has the buffers that nobody writes into, and the run input.
const PRIVATE: usize = 7;

/// The first thread calls with its buffers, the others write into them meanwhile: counts, ids, lengths. Nothing is
/// written behind the buffer.
pub(super) fn rewrite(number: usize) {
    const SIZE: u64 = 0x200;
    const CANARY: u64 = 0x1b1b_1b1b_1b1b_1b1b;
    let me = Caller::new(number);
    if number != 0 {
        return write_into_theirs(me);
    }
    let private = Caller::new(PRIVATE);
    let guest = begin(&private, 0x60);
    let elements = [
        0x1000u16, 0x1001, 0x1002, 0x1025, 0x1026, 0x100e, 0x100f, 0x1010,
    ];
    let behind = me.buffer() + SIZE;
    for offset in (0..0x1000).step_by(8) {
        mem::write64(behind + offset, CANARY);
    }
    for round in TALLY.rounds() {
        // Whatever the last input made of it, the vCPU calls, and a run ends.
        let prepared = private.set(0, guest, VCPU, |w| {
            w.u64(id::NIA, program::CALLS)
                .u64(id::MSR, guest::L2_MSR.bits())
                .u64(id::HDEC_EXPIRY, guest::soon(512_000));
        });
        TALLY.allow(0x62, prepared, &[0]);
        for buffer in [me.buffer(), private.input()] {
            let mut writer = gsb::Writer::new(buffer);
            for element in elements {
                writer.ask(element);
            }
        }
        let args = |flags| [flags, guest, VCPU, me.buffer(), SIZE];
        let code = match round % 4 {
            0 => hcall(H_GUEST_GET_STATE, args(0)).code(),
            1 => hcall(H_GUEST_SET_STATE, args(0)).code(),
            2 => hcall(H_GUEST_GET_STATE, args(GUEST_WIDE)).code(),
            _ => hcall(H_GUEST_GET_STATE, args(HOST_WIDE)).code(),
        };
        TALLY.allow(0x63, code, BUFFER_CODES);
        let (code, _) = private.run(0, guest, VCPU);
        TALLY.allow(0x64, code, &[0, -79, -80, -81, -83]);
        TALLY.count(&TALLY.changes);
    }
    TALLY.over.store(true, Ordering::SeqCst);
    let whole = (0..0x1000)
        .step_by(8)
        .all(|offset| mem::read64(behind + offset) == CANARY);
    TALLY.must(0x65, whole);
    TALLY.allow(0x66, guest::delete(guest), &[0]);
}

/// Spoils the first thread's buffers until the race is over.
fn write_into_theirs(mut me: Caller) {
    const IDS: [u16; 13] = [
        0, 1, 3, 5, 0x800, 0xc00, 0x1000, 0x1021, 0x1022, 0x2000, 0x3000, 0xf000, 0xffff,
    ];
    const LENGTHS: [u16; 6] = [0, 4, 8, 16, 24, 0xffff];
    let (buffer, input) = (Caller::new(0).buffer(), Caller::new(PRIVATE).input());
    while !TALLY.is_over() {
        let at = if me.below(3) == 0 { input } else { buffer };
        match me.below(4) {
            0 => mem::write32(at, (me.below(48) as u32).to_be()),
            1 => mem::write32(at, u32::MAX),
            2 => {
                let id = IDS[me.below(13) as usize];
                mem::write16(at + 4 + 12 * me.below(40), id.to_be());
            }
            _ => {
                let len = LENGTHS[me.below(6) as usize];
                mem::write16(at + 6 + 12 * me.below(40), len.to_be());
            }
        }
    }
}
