//! A virtual processor of a nested guest: its registers, kept in firmware memory between runs, and who has them.
//!
//! The surprising fact: to run a vCPU is to take its box out of the slot. Whoever finds the slot empty knows that the
//! vCPU is in a run, and no second flag can disagree with that.

use alloc::boxed::Box;
use alloc::vec::Vec;

use isa::addr::Gra;
use isa::context::GuestContext;
use spin::Mutex;

use super::quota::Charge;

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
    /// Reused copy of the run input.
    pub(super) scratch: Vec<u8>,
    /// Its part of the partition's heap quota.
    _charge: Charge,
}

/// Bytes that a vCPU keeps for copies of its run input; bigger inputs (the first one) are freed after use.
pub(super) const SCRATCH_BYTES: usize = 256;
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
            scratch: Vec::new(),
            _charge: charge,
            context,
        })
    }
}

/// Where an idle vCPU lies.
pub(super) struct Slot(Mutex<Option<Box<Vcpu>>>);

impl Slot {
    pub(super) fn new(vcpu: Box<Vcpu>) -> Self {
        Self(Mutex::new(Some(vcpu)))
    }

    /// Takes the vCPU to run it; `None` when it already runs.
    pub(super) fn take(&self) -> Option<Box<Vcpu>> {
        self.0.lock().take()
    }

    /// Brings it back.
    pub(super) fn put(&self, vcpu: Box<Vcpu>) {
        *self.0.lock() = Some(vcpu);
    }

    /// Works on the vCPU while it is idle; `None` when it runs.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vcpu) -> T) -> Option<T> {
        self.0.lock().as_deref_mut().map(work)
    }
}
