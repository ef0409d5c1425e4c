//! Value rules of guest state elements: what a partition may put in its guests' registers (reference "nested", 3.8, 6.4
//! and 7). A value is refused, or it is stored as the rule gives it back.
//!
//! The surprising fact: most excess is not an error. Linux sends what it has and expects the hypervisor to take the
//! allowed part; only bits that it masks itself are refused.

use isa::addr::Gra;
use isa::lpcr::{HFSCR_CAUSE, Lpcr};
use isa::msr::Msr;

use super::buffer;
use super::element::Words;
use crate::guest_ram::GuestRam;
use crate::level::Level;
pub(super) use crate::set_mode::DAWRX_PARTITION as DAWRX;

/// What values an element takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All.
    Any,
    /// Bits outside the mask are dropped.
    Mask(u64),
    /// See [`accept_msr`].
    Msr,
    /// See [`accept_lpcr`].
    Lpcr,
    /// And with what the partition has itself; the cause byte is kept.
    Hfscr,
    /// And with the partition's own.
    Amor,
    /// See [`accept_hdexcr`].
    Hdexcr,
    /// Never matches in hypervisor state.
    Ciabr,
    /// See [`accept_ppr`].
    Ppr,
    /// A multiple of 2^24: what TBU40 can set.
    TbOffset,
    /// See [`Level::accepted`].
    LogicalPvr,
    /// 52 bits, a root of 64 KiB in the partition's memory, aligned.
    PartitionTable,
    /// Aligned power of two of 4 KiB to 64 GiB, within 52 bits. It is an address of the guest: no memory check.
    ProcessTable,
    /// 4 bytes to 64 KiB in the partition's memory.
    RunBuffer,
    /// 640 bytes in the partition's memory that do not cross 4 KiB, or all ones for none.
    Vpa,
}

/// What a partition may give its guests, for the value rules.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The partition's memory.
    pub ram: &'a GuestRam,
    /// What the partition has itself.
    pub own: Own,
    /// The levels that the partition chose, as capability bits.
    pub levels: u64,
}

/// Control registers of a partition: a guest of it never has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// HFSCR without its cause byte.
    pub hfscr: u64,
    /// AMOR.
    pub amor: u64,
    /// HDEXCR.
    pub hdexcr: u64,
    /// PCR.
    pub pcr: u64,
}

/// A VPA element that says: none.
pub const NO_VPA: u64 = !0;
/// Bytes of a VPA.
const VPA_BYTES: u64 = 640;
/// What an LPCR element may have: data prefetch depth, ILE, AIL, LD, MER, GTSE.
pub const LPCR_SETTABLE: u64 = 0x0070_0000_0382_0c00;
/// What an MSR element may have and keep, ME apart.
pub const MSR_SETTABLE: u64 = Msr::SF.bits()
    | Msr::VEC.bits()
    | Msr::VSX.bits()
    | Msr::EE.bits()
    | Msr::PR.bits()
    | Msr::FP.bits()
    | MSR_FE0_SE_BE_FE1
    | Msr::IR.bits()
    | Msr::DR.bits()
    | MSR_PMM
    | Msr::RI.bits()
    | Msr::LE.bits();
/// Floating-point exception modes, single-step and branch trace.
const MSR_FE0_SE_BE_FE1: u64 = 0xf00;
/// Performance monitor mark.
const MSR_PMM: u64 = 4;
/// The PRIV field of CIABR; 3 is hypervisor state.
const CIABR_PRIV: u64 = 3;
/// Restrictions that HDEXCR can add for problem state: all aspects but the first (SBHE), which is a permission.
const HDEXCR_SETTABLE: u64 = 0x7fff_ffff;
/// What an HDEXCR element may have at all.
const HDEXCR_DEFINED: u64 = 0xffff_ffff;

/// MSR: HV and S are refused; bits that no guest has, and causes that the caller echoes, are dropped; ME is set.
fn accept_msr(value: u64) -> Option<u64> {
    let forbidden = Msr::HV | Msr::S;
    (value & forbidden.bits() == 0).then_some(value & MSR_SETTABLE | Msr::ME.bits())
}

/// LPCR: other bits than the partition's are refused; AIL 1 and 2 do not exist any more and mean 0.
fn accept_lpcr(value: u64) -> Option<u64> {
    let ail = Lpcr::AIL.bits();
    let value = if value & ail == ail {
        value
    } else {
        value & !ail
    };
    (value & !LPCR_SETTABLE == 0).then_some(value)
}

/// HDEXCR: a partition can add restrictions, never take away its own.
fn accept_hdexcr(value: u64, own: u64) -> Option<u64> {
    (value & !HDEXCR_DEFINED == 0).then_some(value & HDEXCR_SETTABLE | own)
}

/// PPR: the priority alone. The highest is the hypervisor's; a partition that asks for it gets the next one.
fn accept_ppr(value: u64) -> u64 {
    const PRIORITY: u64 = 7 << 50;
    const HIGH: u64 = 6 << 50;
    (value & PRIORITY).min(HIGH)
}

/// Smallest and largest process table, log2 of the bytes.
const PROCESS_TABLE_SHIFTS: core::ops::RangeInclusive<u32> = 12..=36;

impl Limits<'_> {
    /// The value that is stored when the partition asks for `words`; `None` when it is forbidden. Pure: the same
    /// input has the same answer, so it can be asked in both phases of a SET.
    #[must_use]
    pub fn accept(&self, rule: Rule, words: Words) -> Option<Words> {
        let [first, second, third] = words;
        let one = |value: Option<u64>| value.map(|value| [value, 0, 0]);
        match rule {
            Rule::Any => Some(words),
            Rule::Mask(mask) => Some([first & mask, 0, 0]),
            Rule::Msr => one(accept_msr(first)),
            Rule::Lpcr => one(accept_lpcr(first)),
            Rule::Hfscr => Some([first & (self.own.hfscr | HFSCR_CAUSE), 0, 0]),
            Rule::Amor => Some([first & self.own.amor, 0, 0]),
            Rule::Ppr => Some([accept_ppr(first), 0, 0]),
            Rule::Hdexcr => one(accept_hdexcr(first, self.own.hdexcr)),
            Rule::Ciabr => {
                let hypervisor = first & CIABR_PRIV == CIABR_PRIV;
                Some([
                    if hypervisor {
                        first & !CIABR_PRIV
                    } else {
                        first
                    },
                    0,
                    0,
                ])
            }
            Rule::TbOffset => (first & 0xff_ffff == 0).then_some(words),
            Rule::LogicalPvr => Level::accepted(first, self.levels).map(|_| words),
            Rule::PartitionTable => {
                let root = Gra(first);
                let good = second == u64::from(isa::pte::ADDRESS_BITS)
                    && third == isa::pte::ROOT_BYTES
                    && root.is_aligned(isa::pte::ROOT_BYTES)
                    && self.ram.contains(root, isa::pte::ROOT_BYTES);
                good.then_some(words)
            }
            Rule::ProcessTable => {
                let space = 1 << isa::pte::ADDRESS_BITS;
                let good = second.is_power_of_two()
                    && PROCESS_TABLE_SHIFTS.contains(&second.trailing_zeros())
                    && Gra(first).is_aligned(second)
                    && first.checked_add(second).is_some_and(|end| end <= space);
                good.then_some(words)
            }
            Rule::RunBuffer => {
                let good = buffer::SIZES.contains(&second) && self.ram.contains(Gra(first), second);
                good.then_some(words)
            }
            Rule::Vpa => {
                let in_one_page = (first & 0xfff).saturating_add(VPA_BYTES) <= 0x1000;
                let good =
                    first == NO_VPA || in_one_page && self.ram.contains(Gra(first), VPA_BYTES);
                good.then_some(words)
            }
        }
    }
}
