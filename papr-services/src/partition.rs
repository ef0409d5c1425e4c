//! One partition (L1): its memory, its policy, its vCPUs, and the state that its hypercalls change.
//!
//! Services get `&Partition`: every vCPU may be in a hypercall at the same time, so what changes is an atomic or
//! behind a lock. Lock order: **no service holds two of these locks at once**, and none is held over a call to
//! [`Host::flush`](crate::host::Host::flush), [`Host::kick`](crate::host::Host::kick) or the console. The locks are
//! [`Vcpu`]'s run state, its registrations ([`crate::vpa`]), those of [`Partition::interrupts`], and the process
//! table. Below that of exploitation mode are the locks of the interrupt controllers' driver.
//!
//! The surprising fact: a vCPU's registers are not here. They are a [`GuestContext`] owned by the thread that runs
//! it; what others want changed in them (byte order of interrupts, a system reset) is left here and taken over by
//! [`Partition::prepare_entry`].

use alloc::boxed::Box;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use isa::addr::Gra;
use isa::context::{Changed, GuestContext};
use isa::lock::{Mutex, rank};
use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::Msr;

use crate::guest_ram::GuestRam;
use crate::host::Host;
use crate::interrupt::{Controller, Risen, Trigger, Xics};
use crate::level::Level;
use crate::nested::element::Own;
use crate::nested::{Env, Nested, NestedConfig};
use crate::term::{self, Term};
use crate::vpa::Registrations;
use crate::xive::Exploitation;

mod policy;

pub use policy::{Characteristics, NestedShare, Policy};

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

impl RunState {
    /// What RTAS `query-cpu-stopped-state` says; nothing here is ever 1, stopping.
    pub(crate) const fn stopped_state(self) -> u32 {
        match self {
            Self::Stopped => 0,
            Self::Starting { .. } | Self::Running => 2,
        }
    }
}

/// The part of a vCPU that others can touch.
pub struct Vcpu {
    run: Mutex<RunState, rank::RunState>,
    /// Its areas in the partition's memory.
    pub(crate) registrations: Mutex<Registrations, rank::Registrations>,
    /// It gave its processor away and was not dispatched since.
    ceded: AtomicBool,
    /// H_PROD came and no H_CEDE or H_CONFER took it.
    prodded: AtomicBool,
    /// A system reset interrupt is owed.
    system_reset: AtomicBool,
}

impl Vcpu {
    fn new(run: RunState) -> Self {
        Self {
            run: Mutex::new(run),
            registrations: Mutex::new(Registrations::default()),
            ceded: AtomicBool::new(false),
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
        take(&self.prodded)
    }

    /// It gives its processor away: the dispatch that follows is owed.
    pub(crate) fn cede(&self) {
        self.ceded.store(true, Ordering::Release);
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

/// Facilities of a partition, as far as its level has them: all but `msgsndp`, whose thread numbers would be the
/// machine's.
const FACILITIES: Hfscr = Hfscr::PREFIX
    .union(Hfscr::TAR)
    .union(Hfscr::EBB)
    .union(Hfscr::BHRB)
    .union(Hfscr::PM)
    .union(Hfscr::DSCR)
    .union(Hfscr::VECVSX)
    .union(Hfscr::FP);

/// [`FACILITIES`] of a level.
fn facilities(level: Level) -> Hfscr {
    FACILITIES.difference(level.row().absent)
}

/// AMOR: a partition may use every storage key.
const AUTHORITY: u64 = u64::MAX;

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
    /// The interrupt controller.
    pub interrupts: Controller,
    /// Its nested guests.
    pub nested: Nested,
    /// First doubleword of its partition-table entry: the root of its partition-scoped tree.
    pub(crate) radix_root: u64,
    /// Second doubleword: the process table; 0 when none is registered.
    pub(crate) process_table: Mutex<u64, rank::ProcessTable>,
    /// [`CHOSEN`] bits as they are now.
    lpcr: AtomicU64,
    /// How many vCPUs are not stopped.
    started: AtomicU16,
    /// How often it said that its operating system ended.
    last_words: AtomicU32,
    vcpus: Box<[Vcpu]>,
}

/// The interrupt sources of every partition.
const SOURCES: &[(u32, Trigger)] = &[(term::SOURCE, Trigger::Edge)];

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
        share: NestedShare,
    ) -> Self {
        let nested = NestedConfig {
            level: policy.level,
            own: Own {
                hfscr: facilities(policy.level).bits(),
                amor: AUTHORITY,
                hdexcr: 0,
                pcr: policy.level.row().pcr,
            },
            quotas: share.quotas,
        };
        let run = |id| match id {
            0 => RunState::Running,
            _ => RunState::Stopped,
        };
        Self {
            ram,
            lpid,
            policy,
            term: Term::new(),
            interrupts: Controller::Xics(Xics::new(vcpus, SOURCES)),
            nested: Nested::new(&nested, share.tables, share.lpids),
            radix_root,
            process_table: Mutex::new(0),
            lpcr: AtomicU64::new(START.intersection(CHOSEN).bits()),
            started: AtomicU16::new(1),
            last_words: AtomicU32::new(0),
            vcpus: (0..vcpus.get()).map(|id| Vcpu::new(run(id))).collect(),
        }
    }

    /// The same in XIVE exploitation mode, before it first runs.
    #[must_use]
    pub fn with_exploitation(mut self, xive: Exploitation) -> Self {
        self.interrupts = Controller::Xive(xive);
        self
    }

    /// The partition and the machine, as calls about nested guests want them.
    pub fn env<'a, H>(&'a self, host: &'a H) -> Env<'a, H> {
        Env {
            ram: &self.ram,
            host,
            lpid: self.lpid,
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
        context.hfscr = facilities(self.policy.level);
        context.pcr = self.policy.level.row().pcr;
        context.amor = AUTHORITY;
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

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let lens = self.ram.extents().iter().map(crate::guest_ram::Extent::len);
        lens.fold(0, u64::saturating_add)
    }

    /// What a thread does before each entry of vCPU `id`, besides timers and interrupts of its own: takes over what
    /// other vCPUs left for it, and counts its dispatch after it gave the processor away. Cheap when there is
    /// nothing.
    pub fn prepare_entry<H: Host>(&self, vcpu: &mut GuestContext, id: u32, host: &H) {
        let lpcr = vcpu.lpcr.difference(CHOSEN) | self.lpcr().intersection(CHOSEN);
        if lpcr != vcpu.lpcr {
            vcpu.lpcr = lpcr;
            vcpu.changed |= Changed::CONTROL;
        }
        let Some(shared) = self.vcpu(id.into()) else {
            return;
        };
        if take(&shared.ceded) {
            let why = self.wake_reason(shared, id);
            shared.take_prod();
            let (now, at) = (host.timebase(), (vcpu.nia, vcpu.msr));
            let mut registrations = shared.registrations.lock();
            registrations.dispatched(&self.ram, id, why, now, at);
        }
        if take(&shared.system_reset) {
            vcpu.interrupt(0x100, 0);
        }
    }

    /// Why vCPU `id` leaves H_CEDE, in the words of the dispatch trace log.
    fn wake_reason(&self, shared: &Vcpu, id: u32) -> crate::vpa::Dispatch {
        use crate::vpa::Dispatch;
        if shared.system_reset.load(Ordering::Acquire) {
            Dispatch::SystemReset
        } else if self.interrupt_waits(id) {
            Dispatch::External
        } else if shared.prodded.load(Ordering::Acquire) {
            Dispatch::Prod
        } else {
            Dispatch::Decrementer
        }
    }

    /// Takes a `start-cpu` that was asked for: registers to start vCPU `id` with.
    pub fn take_start(&self, id: u32) -> Option<GuestContext> {
        let shared = self.vcpu(id.into())?;
        let mut run = shared.run.lock();
        let RunState::Starting { entry, argument } = *run else {
            return None;
        };
        *run = RunState::Running;
        drop(run);
        // What others wanted of it before it stopped.
        for flag in [&shared.ceded, &shared.prodded, &shared.system_reset] {
            flag.store(false, Ordering::Release);
        }
        Some(self.start_context(entry, argument))
    }

    /// RTAS `start-cpu`: whether the vCPU was stopped.
    pub(crate) fn start_vcpu(&self, vcpu: &Vcpu, entry: Gra, argument: u64) -> bool {
        let mut run = vcpu.run.lock();
        if *run != RunState::Stopped {
            return false;
        }
        *run = RunState::Starting { entry, argument };
        self.started.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// RTAS `stop-self`: whether vCPU `id` may stop. The last one may not: nobody could start it again.
    pub(crate) fn stop_vcpu(&self, id: u32) -> bool {
        let Some(vcpu) = self.vcpu(id.into()) else {
            return false;
        };
        let one_less = |count: u16| count.checked_sub(1).filter(|left| *left > 0);
        let left = self
            .started
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if left.is_ok() {
            *vcpu.run.lock() = RunState::Stopped;
        }
        left.is_ok()
    }

    /// Whether the external interrupt line to vCPU `id` is up that the firmware drives: to be taken when its MSR enables
    /// external interrupts. In exploitation mode the controllers drive it.
    #[must_use]
    pub fn interrupt_pending(&self, id: u32) -> bool {
        self.interrupts.pending(id)
    }

    /// Whether vCPU `id` is wanted while a nested guest runs in its place: an external interrupt or a system reset is
    /// owed to it. A prod is not: it is for a vCPU that waits.
    #[must_use]
    pub fn is_wanted_back(&self, id: u32) -> bool {
        let reset = |vcpu: &Vcpu| vcpu.system_reset.load(Ordering::Acquire);
        self.interrupt_pending(id) || self.vcpu(id.into()).is_some_and(reset)
    }

    /// Whether an interrupt waits for vCPU `id`, whoever delivers it. Only for the thread that runs it.
    #[must_use]
    pub fn interrupt_waits(&self, id: u32) -> bool {
        match &self.interrupts {
            Controller::Xics(xics) => xics.pending(id),
            Controller::Xive(xive) => xive.presents(),
        }
    }

    /// Tells the partition that its terminal has input: called once or more per arrival, as it is seen.
    pub fn console_input_arrived<H: Host>(&self, host: &H) {
        if self.term.notify() {
            match &self.interrupts {
                Controller::Xics(xics) => {
                    // The source is one of SOURCES.
                    let risen = xics.raise(term::SOURCE, host.timebase());
                    self.kick(risen.unwrap_or(None), u32::MAX, host);
                }
                Controller::Xive(xive) => xive.trigger(term::SOURCE),
            }
        }
    }

    /// Wakes the vCPU whose interrupt line rose, unless it is the caller, who sees it on his way out.
    pub(crate) fn kick<H: Host>(&self, risen: Risen, caller: u32, host: &H) {
        if let Some(server) = risen.filter(|server| *server != caller) {
            host.kick(server);
        }
    }

    /// Counts that the partition said that its operating system ended; answers how often it had before.
    pub(crate) fn count_last_words(&self) -> u32 {
        let more = |count: u32| Some(count.saturating_add(1));
        self.last_words
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .unwrap_or(u32::MAX)
    }

    /// Adds to the counters of nested guests' time in the VPA of vCPU `id`, in time base ticks: from the call until
    /// the nested guest ran, from its exit until the return, and between.
    pub fn count_nested_run(&self, id: u32, entering: u64, leaving: u64, running: u64) {
        if let Some(vcpu) = self.vcpu(id.into()) {
            let registrations = vcpu.registrations.lock();
            registrations.count_nested_run(&self.ram, [entering, leaving, running]);
        }
    }
}

/// Takes a flag; one load when it is clear.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
}
