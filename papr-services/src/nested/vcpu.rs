//! A virtual processor of a nested guest: its registers, kept in firmware memory between runs, and who has them.
//!
//! The surprising fact: to run a vCPU is to take its box out of the slot. Whoever finds the slot empty knows that the
//! vCPU is in a run, and no second flag can disagree with that.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use isa::addr::Gra;
use isa::context::GuestContext;
use isa::lock::{Mutex, rank};

use super::quota::Charge;
use super::shadow::PageFault;
use crate::sync::{AtomicU32, fence};

/// A registered buffer in the partition's memory. It was inside that memory when it was registered and is checked
/// again whenever it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub gra: Gra,
    /// Bytes.
    pub len: u64,
}

/// Why the guest left last time, as far as the partition may know. Faults that the hypervisor resolves itself leave
/// no trace here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Effective address.
    pub hdar: u64,
    /// Cause.
    pub hdsisr: u64,
    /// Instruction.
    pub heir: u64,
    /// Guest real address.
    pub asdr: u64,
}

/// A vCPU's state. All of it is exact while the vCPU is idle.
pub struct Vcpu {
    /// Registers. In a run the time-like and control registers here are composed for the hardware; the fields below
    /// are what the partition set and reads.
    pub context: GuestContext,
    /// LPCR as the partition wrote it.
    pub(super) lpcr: u64,
    /// HFSCR as the partition may have it, with the cause of the last facility interrupt.
    pub(super) hfscr: u64,
    /// The partition's time base at which a run ends; all ones for never.
    pub(super) hdec_expiry: u64,
    /// The partition's time base at which the decrementer goes negative.
    pub(super) dec_expiry: u64,
    /// Run input buffer.
    pub(super) input: Option<Area>,
    /// Run output buffer.
    pub(super) output: Option<Area>,
    /// The guest's VPA. The partition keeps its counters; here it is only stored, for the register-in-use hints that
    /// lazy switching of vector and PMU registers will read.
    pub(super) vpa: Option<Gra>,
    /// Why the guest left last time.
    pub(super) cause: Cause,
    /// The fault that went to the partition with the last exit, when it will probably map the page.
    pub(super) expected: Option<PageFault>,
    /// Reused copy of the run input.
    pub(super) scratch: Vec<u8>,
    /// Its part of the partition's heap quota.
    _charge: Charge,
}

/// Bytes that a vCPU keeps for copies of its run input; bigger inputs (the first one) are freed after use.
pub(super) const SCRATCH_BYTES: usize = 1024;
/// Heap bytes of a vCPU: itself, its slot with reference counts, its place in the guest's map, its scratch.
pub(super) const VCPU_BYTES: u64 =
    (size_of::<Vcpu>() + size_of::<Slot>() + 64 + SCRATCH_BYTES) as u64;

impl Vcpu {
    pub(super) fn new(charge: Charge) -> Box<Self> {
        let context = GuestContext::reset();
        Box::new(Self {
            lpcr: 0,
            hfscr: 0,
            hdec_expiry: u64::MAX,
            dec_expiry: context.dec_expiry,
            input: None,
            output: None,
            vpa: None,
            cause: Cause::default(),
            expected: None,
            scratch: Vec::new(),
            _charge: charge,
            context,
        })
    }
}

/// Where an idle vCPU lies, and who runs it meanwhile.
pub(super) struct Slot {
    idle: Mutex<Option<Box<Vcpu>>, rank::VcpuSlot>,
    /// The vCPU of the partition that runs it, or [`NOBODY`].
    runner: AtomicU32,
}

/// No vCPU of a partition has this number.
const NOBODY: u32 = u32::MAX;

impl Slot {
    pub(super) fn new(vcpu: Box<Vcpu>) -> Self {
        Self {
            idle: Mutex::new(Some(vcpu)),
            runner: AtomicU32::new(NOBODY),
        }
    }

    /// Takes the vCPU for `runner` to run it; `None` when it already runs. Who then looks whether the guest is to stop
    /// looks after whoever stops it can see the runner: there is a full barrier here.
    pub(super) fn take(&self, runner: u32) -> Option<Box<Vcpu>> {
        let vcpu = self.idle.lock().take()?;
        self.runner.store(runner, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Some(vcpu)
    }

    /// Brings it back.
    pub(super) fn put(&self, vcpu: Box<Vcpu>) {
        self.runner.store(NOBODY, Ordering::Relaxed);
        *self.idle.lock() = Some(vcpu);
    }

    /// Who runs it.
    pub(super) fn runner(&self) -> Option<u32> {
        Some(self.runner.load(Ordering::SeqCst)).filter(|runner| *runner != NOBODY)
    }

    /// Works on the vCPU while it is idle; `None` when it runs.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vcpu) -> T) -> Option<T> {
        self.idle.lock().as_deref_mut().map(work)
    }
}
