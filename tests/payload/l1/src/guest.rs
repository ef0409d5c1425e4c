//! A nested guest from L1's side: creation, state, run, and the addresses of its programs.

use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::Msr;
use isa::pte::PageSize;
use papr_services::table::number::{
    H_GUEST_CREATE, H_GUEST_CREATE_VCPU, H_GUEST_DELETE, H_GUEST_GET_STATE, H_GUEST_RUN_VCPU,
    H_GUEST_SET_STATE,
};

use crate::elements::id;
use crate::gsb::{self, Writer};
use crate::hcall::{Ret, hcall};
use crate::mem::layout::{BUFFER, L2_MEMORY, L2_MEMORY_SIZE, RUN_INPUT, RUN_OUTPUT};
use crate::radix::{ALL, Tree};
use crate::{mem, probe};

/// Guest-wide flag of GET and SET.
pub(crate) const GUEST_WIDE: u64 = 1 << 63;
/// Host-wide flag of GET.
pub(crate) const HOST_WIDE: u64 = 1 << 62;

/// L2's programs (`asm/l2.S`).
pub(crate) mod program {
    pub(crate) const SC: u64 = 0x2000;
    pub(crate) const LOAD: u64 = 0x2010;
    pub(crate) const STORE: u64 = 0x2020;
    pub(crate) const JUMP: u64 = 0x2030;
    pub(crate) const ILLEGAL: u64 = 0x2040;
    pub(crate) const ILLEGAL_PREFIXED: u64 = 0x2080;
    pub(crate) const PREFIXED: u64 = 0x2090;
    pub(crate) const MSGSNDP: u64 = 0x20a0;
    pub(crate) const EBB: u64 = 0x20b0;
    pub(crate) const LOOP: u64 = 0x20c0;
    pub(crate) const ENABLE: u64 = 0x20d0;
    pub(crate) const USER_SC: u64 = 0x2100;
    pub(crate) const USER_SC_AT: u64 = 0x2120;
    pub(crate) const CALL: u64 = 0x2140;
    pub(crate) const TIMER: u64 = 0x2160;
    pub(crate) const SET_DEC: u64 = 0x2180;
    pub(crate) const READ_TB: u64 = 0x2190;
    pub(crate) const HV_SPR: u64 = 0x21b0;
    pub(crate) const TOUCH: u64 = 0x21c0;
    pub(crate) const WRITE: u64 = 0x21e0;
    pub(crate) const CALLS: u64 = 0x2200;
    pub(crate) const BHRB: u64 = 0x2210;
    pub(crate) const SYSCALL: u64 = 0x2220;
    pub(crate) const REMAP: u64 = 0x2240;
    pub(crate) const BIG_SC: u64 = 0x2290;
    pub(crate) const BIG_ILLEGAL: u64 = 0x22a0;
    pub(crate) const LITTLE_ILLEGAL: u64 = 0x22b0;
    pub(crate) const PREFIXED_LOAD: u64 = 0x22c0;
    pub(crate) const PREFIXED_STORE: u64 = 0x22e0;
    pub(crate) const DUMP_LOAD: u64 = 0x2300;
    pub(crate) const COUNT: u64 = 0x2a00;
    pub(crate) const FLOOD: u64 = 0x2a20;
}

/// MSR that L2 starts with: real mode, little-endian, all register files on.
pub(crate) const L2_MSR: Msr = Msr::SF
    .union(Msr::ME)
    .union(Msr::RI)
    .union(Msr::LE)
    .union(Msr::FP)
    .union(Msr::VEC)
    .union(Msr::VSX);

/// HFSCR that L2 starts with.
pub(crate) const L2_HFSCR: Hfscr = Hfscr::PREFIX
    .union(Hfscr::TAR)
    .union(Hfscr::EBB)
    .union(Hfscr::PM)
    .union(Hfscr::DSCR)
    .union(Hfscr::VECVSX)
    .union(Hfscr::FP);

/// Bytes of the run output buffer.
pub(crate) const OUTPUT_SIZE: u64 = 4096;

/// A guest with one vCPU or more.
pub(crate) struct Guest {
    /// Its id.
    pub id: u64,
    /// The tree L1 made for it.
    pub tree: Tree,
}

/// Creates a guest and nothing else.
pub(crate) fn create() -> Result<u64, i64> {
    let ret = hcall(H_GUEST_CREATE, [0, u64::MAX]);
    match ret.code() {
        0 => Ok(ret.r(4)),
        code => Err(code),
    }
}

/// Deletes a guest.
pub(crate) fn delete(guest: u64) -> i64 {
    // Busy answers are for other threads' runs and for long work; they end.
    let mut code = 0;
    crate::threads::wait(|| {
        code = hcall(H_GUEST_DELETE, [0, guest]).code();
        code != 1 && !(9900..=9905).contains(&code)
    });
    code
}

/// SET with what `build` puts into the buffer.
pub(crate) fn set_with(flags: u64, guest: u64, vcpu: u64, build: impl FnOnce(&mut Writer)) -> Ret {
    let mut writer = Writer::new(BUFFER);
    build(&mut writer);
    hcall(
        H_GUEST_SET_STATE,
        [flags, guest, vcpu, BUFFER, writer.size()],
    )
}

/// SET of one element of the vCPU.
pub(crate) fn set(guest: u64, vcpu: u64, id: u16, value: u64) -> Ret {
    set_with(0, guest, vcpu, |w| {
        w.element(id, value);
    })
}

/// SET of one guest-wide element.
pub(crate) fn set_wide(guest: u64, id: u16, values: &[u64]) -> Ret {
    set_with(GUEST_WIDE, guest, 0, |w| match (id, values) {
        (id::LOGICAL_PVR, [value]) => {
            w.u32(id, *value as u32);
        }
        _ => {
            w.words(id, values);
        }
    })
}

/// GET of one element: its first 8 (or 4) bytes.
pub(crate) fn get_with(flags: u64, guest: u64, vcpu: u64, id: u16) -> Result<u64, i64> {
    let mut writer = Writer::new(BUFFER);
    writer.ask(id);
    let code = hcall(
        H_GUEST_GET_STATE,
        [flags, guest, vcpu, BUFFER, writer.size()],
    )
    .code();
    if code != 0 {
        return Err(code);
    }
    gsb::find(BUFFER, writer.size(), id).ok_or(i64::MIN)
}

/// GET of one element of the vCPU; a refusal shows as a value that no register has.
pub(crate) fn get(guest: u64, vcpu: u64, id: u16) -> u64 {
    get_with(0, guest, vcpu, id).unwrap_or(0xbad0_0bad_0bad_0bad)
}

/// A host-wide counter.
pub(crate) fn counter(id: u16) -> u64 {
    get_with(HOST_WIDE, 0, 0, id).unwrap_or(0xbad0_0bad_0bad_0bad)
}

/// Runs vCPU 0: code and reason.
pub(crate) fn run(guest: u64) -> Ret {
    hcall(H_GUEST_RUN_VCPU, [0, guest, 0])
}

impl Guest {
    /// A guest with one vCPU, buffers and memory: 1 MiB at L2 real 0 by 4K leaves, holding the programs.
    pub(crate) fn new() -> Result<Self, i64> {
        let mut tree = Tree::new();
        tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
        Self::with_tree(tree)
    }

    /// The same with a tree of the caller's, which must map L2 real 0 to [`L2_MEMORY`].
    pub(crate) fn with_tree(tree: Tree) -> Result<Self, i64> {
        let guest = create()?;
        let made = Self { id: guest, tree };
        let code = made.complete();
        if code == 0 {
            Ok(made)
        } else {
            delete(guest);
            Err(code)
        }
    }

    fn complete(&self) -> i64 {
        mem::fill(L2_MEMORY, L2_MEMORY_SIZE, 0);
        mem::install(L2_MEMORY, mem::l2_image());
        let steps: [&dyn Fn() -> i64; 4] = [
            &|| self.set_tables(),
            &|| hcall(H_GUEST_CREATE_VCPU, [0, self.id, 0]).code(),
            &|| self.set_buffers(0),
            &|| self.prepare(0, program::SC),
        ];
        steps
            .iter()
            .map(|step| step())
            .find(|c| *c != 0)
            .unwrap_or(0)
    }

    /// Tells the firmware the tree.
    pub(crate) fn set_tables(&self) -> i64 {
        set_with(GUEST_WIDE, self.id, 0, |w| {
            w.words(id::PARTITION_TABLE, &[self.tree.root, 52, 65536])
                .words(id::PROCESS_TABLE, &[0, 4096]);
        })
        .code()
    }

    /// Registers the run buffers of a vCPU.
    pub(crate) fn set_buffers(&self, vcpu: u64) -> i64 {
        Writer::new(RUN_INPUT);
        set_with(0, self.id, vcpu, |w| {
            w.words(id::RUN_INPUT, &[RUN_INPUT, 4096])
                .words(id::RUN_OUTPUT, &[RUN_OUTPUT, OUTPUT_SIZE]);
        })
        .code()
    }

    /// The state a vCPU starts a case with.
    pub(crate) fn prepare(&self, vcpu: u64, nia: u64) -> i64 {
        set_with(0, self.id, vcpu, |w| {
            w.u64(id::NIA, nia)
                .u64(id::MSR, L2_MSR.bits())
                .u64(id::LPCR, Lpcr::ILE.bits() | Lpcr::LD.bits())
                .u64(id::HFSCR, L2_HFSCR.bits())
                .u64(id::FSCR, 0x3184)
                .u64(id::AMOR, u64::MAX)
                .u64(id::DPDES, 0)
                .u64(id::DEC_EXPIRY, far())
                .u64(id::HDEC_EXPIRY, far());
        })
        .code()
    }

    /// Starts a program with r3 and r4..: SETs `elements` too, runs, and answers the exit reason (or the refusal as
    /// a negative number).
    pub(crate) fn start(&self, nia: u64, elements: &[(u16, u64)]) -> i64 {
        let code = self.prepare(0, nia);
        if code != 0 {
            return code;
        }
        let code = set_with(0, self.id, 0, |w| {
            for (id, value) in elements {
                w.element(*id, *value);
            }
        })
        .code();
        if code != 0 {
            return code;
        }
        self.run()
    }

    /// Runs on: the exit reason, or the refusal as a negative number.
    pub(crate) fn run(&self) -> i64 {
        self.run_vcpu(0)
    }

    /// An element of the run output.
    #[must_use]
    pub(crate) fn output(&self, id: u16) -> Option<u64> {
        gsb::find(RUN_OUTPUT, OUTPUT_SIZE, id)
    }

    /// GPR `n`: from the output when it is there, else by GET.
    #[must_use]
    pub(crate) fn gpr(&self, n: u16) -> u64 {
        self.output(id::GPR0 + n)
            .unwrap_or_else(|| get(self.id, 0, id::GPR0 + n))
    }

    /// An element from the output when it is there, else by GET.
    #[must_use]
    pub(crate) fn element(&self, id: u16) -> u64 {
        self.output(id).unwrap_or_else(|| get(self.id, 0, id))
    }

    /// Runs another vCPU.
    pub(crate) fn run_vcpu(&self, vcpu: u64) -> i64 {
        let ret = hcall(H_GUEST_RUN_VCPU, [0, self.id, vcpu]);
        if ret.code() == 0 {
            ret.r(4).cast_signed()
        } else {
            ret.code()
        }
    }

    /// Deletes it.
    pub(crate) fn end(self) -> i64 {
        delete(self.id)
    }
}

/// A time far from now.
#[must_use]
pub(crate) fn far() -> u64 {
    probe::time_base().wrapping_add(1 << 40)
}

/// 50 ms: long enough for L2 to run even when the machine below is busy.
pub(crate) const LONG: u64 = 25_600_000;

/// 8 s: ends a run that should have ended by itself.
pub(crate) const BOUND: u64 = 4_096_000_000;

/// A time `ticks` from now.
#[must_use]
pub(crate) fn soon(ticks: u64) -> u64 {
    probe::time_base().wrapping_add(ticks)
}
