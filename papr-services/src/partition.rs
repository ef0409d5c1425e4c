//! One partition (L1): its memory, its policy, its vCPUs, and the state that its hypercalls change.
//!
//! Services get `&Partition`: every vCPU may be in a hypercall at the same time, so what changes is an atomic or
//! behind a lock. Lock order: **no service holds two of these locks at once**, and none is held over a call to
//! [`Host::flush`](crate::host::Host::flush), [`Host::kick`](crate::host::Host::kick) or the console. The locks are
//! [`Vcpu`]'s run state, its registrations ([`crate::vpa`]), [`Partition::interrupts`], the process table, and
//! whatever [`crate::nested`] has.
//!
//! The surprising fact: a vCPU's registers are not here. They are a [`GuestContext`] owned by the thread that runs
//! it; what others want changed in them (byte order of interrupts, a system reset) is left here and taken over by
//! [`Partition::prepare_entry`].

use alloc::boxed::Box;
use alloc::string::String;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isa::addr::Gra;
use isa::context::{Changed, GuestContext};
use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::Msr;
use spin::Mutex;

use crate::guest_ram::GuestRam;
use crate::host::Host;
use crate::term::Term;

/// The processor level that a partition sees: its logical processor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// ISA 3.1 as POWER10 has it.
    Power10,
    /// ISA 3.1 as Power11 has it.
    Power11,
}

impl Level {
    /// The logical processor version register, `cpu-version` in the tree.
    #[must_use]
    pub const fn logical_pvr(self) -> u32 {
        match self {
            Self::Power10 => 0x0f00_0006,
            Self::Power11 => 0x0f00_0007,
        }
    }
}

/// What H_GET_CPU_CHARACTERISTICS says about speculation (LoPAR 14.5.6.12): bits in the manuals' numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Characteristics {
    /// What the processor has.
    pub character: u64,
    /// What the kernel should do.
    pub behaviour: u64,
}

impl Characteristics {
    /// POWER10 and Power11: they need no L1 data cache flush and no store-forwarding barrier; they do need the
    /// speculation barrier after bounds checks, and branch-cache and link-stack flushes, which the hardware assists.
    pub const POWER10: Self = Self {
        // ori 31,31,0 is a barrier; branch hints are honoured; bcctr flush assist; link stack flush assist.
        character: isa::ppc_bit(0) | isa::ppc_bit(5) | isa::ppc_bit(9) | isa::ppc_bit(11),
        // Favour security; bounds-check barrier; flush count cache and link stack; no flush on entry or user access;
        // no store-forwarding barrier.
        behaviour: isa::ppc_bit(0)
            | isa::ppc_bit(2)
            | isa::ppc_bit(5)
            | isa::ppc_bit(6)
            | isa::ppc_bit(7)
            | isa::ppc_bit(8)
            | isa::ppc_bit(9),
    };
}

/// What is decided for a partition before it starts, and never changes.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Processor level.
    pub level: Level,
    /// The partition's name.
    pub name: String,
    /// Whether random numbers are offered (H_RANDOM and its node).
    pub random: bool,
    /// Answer of H_GET_CPU_CHARACTERISTICS.
    pub characteristics: Characteristics,
}

/// Why a partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It powered off.
    PowerOff,
    /// It wants to start again.
    Reboot,
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Waits for RTAS `start-cpu`.
    Stopped,
    /// `start-cpu` was called; its thread has not taken it yet.
    Starting {
        /// First instruction.
        entry: Gra,
        /// For r3.
        argument: u64,
    },
    /// Runs, or is idle in H_CEDE.
    Running,
}

/// The part of a vCPU that others can touch.
pub struct Vcpu {
    run: Mutex<RunState>,
    /// H_PROD came and no H_CEDE or H_CONFER took it.
    prodded: AtomicBool,
    /// A system reset interrupt is owed.
    system_reset: AtomicBool,
}

impl Vcpu {
    fn new(run: RunState) -> Self {
        Self {
            run: Mutex::new(run),
            prodded: AtomicBool::new(false),
            system_reset: AtomicBool::new(false),
        }
    }

    /// Remembers a wake-up for the next H_CEDE.
    pub fn prod(&self) {
        self.prodded.store(true, Ordering::Release);
    }

    /// Takes a remembered wake-up.
    pub fn take_prod(&self) -> bool {
        self.prodded.swap(false, Ordering::AcqRel)
    }

    /// Whether something besides an interrupt ends this vCPU's H_CEDE: a prod or a system reset.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.prodded.load(Ordering::Acquire) || self.system_reset.load(Ordering::Acquire)
    }

    /// Owes it a system reset interrupt; delivered at its next entry.
    pub fn reset(&self) {
        self.system_reset.store(true, Ordering::Release);
    }

    /// What it does.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        *self.run.lock()
    }
}

/// LPCR bits that a partition chooses for all of its vCPUs.
const CHOSEN: Lpcr = Lpcr::ILE.union(Lpcr::AIL).union(Lpcr::GTSE);

/// LPCR of a partition when it starts: radix, no byte order or place of interrupts chosen, the partition's own
/// `tlbie` allowed, 56-bit decrementer, external interrupts in SRR0/1, default prefetch depth.
const START: Lpcr = Lpcr::GUEST_BASE
    .union(Lpcr::GTSE)
    .union(Lpcr::LD)
    .union(Lpcr::LPES)
    .union(Lpcr::from_bits_retain(4 << 52));

/// Facilities of a partition: all but `msgsndp`, whose thread numbers would be the machine's.
const FACILITIES: Hfscr = Hfscr::PREFIX
    .union(Hfscr::TAR)
    .union(Hfscr::EBB)
    .union(Hfscr::BHRB)
    .union(Hfscr::PM)
    .union(Hfscr::DSCR)
    .union(Hfscr::VECVSX)
    .union(Hfscr::FP);

/// A partition.
pub struct Partition {
    /// Its memory.
    pub ram: GuestRam,
    /// Its logical partition id, 1 or higher.
    pub lpid: u32,
    /// What was decided for it.
    pub policy: Policy,
    /// The virtual terminal.
    pub term: Term,
    /// First doubleword of its partition-table entry: the root of its partition-scoped tree.
    pub(crate) radix_root: u64,
    /// Second doubleword: the process table; 0 when none is registered.
    pub(crate) process_table: Mutex<u64>,
    /// [`CHOSEN`] bits as they are now.
    lpcr: AtomicU64,
    vcpus: Box<[Vcpu]>,
}

impl Partition {
    /// Makes a partition whose vCPU 0 runs and whose others are stopped. `radix_root` is the first doubleword of the
    /// partition-table entry of `lpid`.
    #[must_use]
    pub fn new(
        ram: GuestRam,
        lpid: u32,
        radix_root: u64,
        vcpus: NonZeroU16,
        policy: Policy,
    ) -> Self {
        let run = |id| match id {
            0 => RunState::Running,
            _ => RunState::Stopped,
        };
        Self {
            ram,
            lpid,
            policy,
            term: Term::new(),
            radix_root,
            process_table: Mutex::new(0),
            lpcr: AtomicU64::new(START.intersection(CHOSEN).bits()),
            vcpus: (0..vcpus.get()).map(|id| Vcpu::new(run(id))).collect(),
        }
    }

    /// The vCPUs; a vCPU's number is its index, which is also its interrupt server number in the tree.
    #[must_use]
    pub fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// A vCPU by the number a partition gave.
    #[must_use]
    pub fn vcpu(&self, number: u64) -> Option<&Vcpu> {
        self.vcpus.get(usize::try_from(number).ok()?)
    }

    /// Registers of a vCPU that starts at `entry` in real mode with `argument` in r3.
    #[must_use]
    pub fn start_context(&self, entry: Gra, argument: u64) -> GuestContext {
        let mut context = GuestContext::reset();
        context.nia = entry.0;
        context.msr = (Msr::SF | Msr::ME).bits();
        context.lpcr = self.lpcr();
        context.hfscr = FACILITIES;
        context.amor = u64::MAX;
        if let Some(r3) = context.gpr.get_mut(3) {
            *r3 = argument;
        }
        context.changed = Changed::all();
        context
    }

    /// Registers of vCPU 0 at the kernel's entry point: r3 is the flattened tree, r4 where the kernel was loaded,
    /// r5 is 0, which says that there is no Open Firmware.
    #[must_use]
    pub fn boot_context(&self, entry: Gra, kernel: Gra, tree: Gra) -> GuestContext {
        let mut context = self.start_context(entry, tree.0);
        if let Some(r4) = context.gpr.get_mut(4) {
            *r4 = kernel.0;
        }
        context
    }

    /// LPCR of every vCPU as of now.
    #[must_use]
    pub fn lpcr(&self) -> Lpcr {
        let chosen = Lpcr::from_bits_retain(self.lpcr.load(Ordering::Acquire));
        START.difference(CHOSEN).union(chosen)
    }

    /// Changes what the partition chose: `clear`, then `set`. Reaches other vCPUs at their next entry.
    pub(crate) fn choose(&self, clear: Lpcr, set: Lpcr) {
        let change = |old: u64| Some(old & !clear.bits() | set.intersection(CHOSEN).bits());
        // The closure never refuses, so there is no error to see.
        let _ = self
            .lpcr
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// What a thread does before each entry of vCPU `id`, besides timers and interrupts of its own: takes over what
    /// other vCPUs left for it. Cheap when there is nothing.
    pub fn prepare_entry<H: Host>(&self, vcpu: &mut GuestContext, id: u32, _host: &H) {
        let lpcr = vcpu.lpcr.difference(CHOSEN) | self.lpcr().intersection(CHOSEN);
        if lpcr != vcpu.lpcr {
            vcpu.lpcr = lpcr;
            vcpu.changed |= Changed::CONTROL;
        }
        let Some(shared) = self.vcpu(id.into()) else {
            return;
        };
        if shared.system_reset.load(Ordering::Acquire)
            && shared.system_reset.swap(false, Ordering::AcqRel)
        {
            vcpu.interrupt(0x100, 0);
        }
    }

    /// Takes a `start-cpu` that was asked for: registers to start vCPU `id` with.
    pub fn take_start(&self, id: u32) -> Option<GuestContext> {
        let mut run = self.vcpu(id.into())?.run.lock();
        let RunState::Starting { entry, argument } = *run else {
            return None;
        };
        *run = RunState::Running;
        drop(run);
        Some(self.start_context(entry, argument))
    }

    /// Whether the external interrupt line to vCPU `id` is up.
    #[must_use]
    pub fn interrupt_pending(&self, _id: u32) -> bool {
        false
    }

    /// Tells the partition that its terminal has input.
    pub fn console_input_arrived<H: Host>(&self, _host: &H) {}
}
