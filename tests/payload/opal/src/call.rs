//! The caller's side of OPAL calls. Owns the record of which tokens were called by a case of their own.
#![expect(unsafe_code, reason = "the call's assembly")]

use core::sync::atomic::{AtomicU64, Ordering};

use isa::msr::Msr;
use opal_calls::calls::token;
use opal_calls::error::{CODES, OpalError};
use payload_common::report::Sink;

use crate::mem;
use crate::mem::layout::SCRATCH;

unsafe extern "C" {
    fn opal_invoke(token: u64, args: &[u64; 8], set: u64, clear: u64) -> i64;
}

/// Codes of answers, for cases to name.
pub(crate) mod code {
    use super::OpalError;

    /// All is well.
    pub(crate) const SUCCESS: i64 = 0;
    /// OPAL_PARAMETER.
    pub(crate) const PARAMETER: i64 = OpalError::OPAL_PARAMETER.code();
    /// OPAL_BUSY.
    pub(crate) const BUSY: i64 = OpalError::OPAL_BUSY.code();
    /// OPAL_CONSTRAINED.
    pub(crate) const CONSTRAINED: i64 = OpalError::OPAL_CONSTRAINED.code();
    /// OPAL_HARDWARE.
    pub(crate) const HARDWARE: i64 = OpalError::OPAL_HARDWARE.code();
    /// OPAL_UNSUPPORTED.
    pub(crate) const UNSUPPORTED: i64 = OpalError::OPAL_UNSUPPORTED.code();
    /// OPAL_RESOURCE.
    pub(crate) const RESOURCE: i64 = OpalError::OPAL_RESOURCE.code();
    /// OPAL_INTERNAL_ERROR.
    pub(crate) const INTERNAL_ERROR: i64 = OpalError::OPAL_INTERNAL_ERROR.code();
    /// OPAL_BUSY_EVENT.
    pub(crate) const BUSY_EVENT: i64 = OpalError::OPAL_BUSY_EVENT.code();
    /// OPAL_WRONG_STATE.
    pub(crate) const WRONG_STATE: i64 = OpalError::OPAL_WRONG_STATE.code();
    /// OPAL_XIVE_FREE_ACTIVE.
    pub(crate) const FREE_ACTIVE: i64 = OpalError::OPAL_XIVE_FREE_ACTIVE.code();
}

/// Makes a call; missing arguments are zero. The token counts as one that has cases.
pub(crate) fn call<const N: usize>(token: u64, args: [u64; N]) -> i64 {
    mark(token);
    quietly(token, args)
}

/// The same, for sweeps over many tokens: this is not a case of the token's own.
pub(crate) fn quietly<const N: usize>(token: u64, args: [u64; N]) -> i64 {
    let mut all = [0; 8];
    for (slot, value) in all.iter_mut().zip(args) {
        *slot = value;
    }
    with_msr(token, all, Msr::empty(), Msr::LE)
}

/// The same, with bits of the MSR set and cleared for the call.
pub(crate) fn with_msr(token: u64, args: [u64; 8], set: Msr, clear: Msr) -> i64 {
    // SAFETY: an OPAL call preserves what the ABI says, and what it writes is memory that arguments name: windows
    // of `mem`, in which no Rust object lives, or, when a case tries that, memory that is not the payload's at all.
    unsafe { opal_invoke(token, &args, set.bits(), clear.bits()) }
}

/// Bytes of what [`registers`] loads, and of what it stores behind that.
pub(crate) const REGISTERS: u64 = 0x1000;

/// Makes a call with every register that it must leave alone loaded from `area`; what they hold afterwards is stored
/// behind that. Layout: `asm/registers.S`.
pub(crate) fn registers(token: u64, args: &[u64; 8], area: u64) -> i64 {
    unsafe extern "C" {
        fn registers_round(token: u64, args: &[u64; 8], area: u64) -> i64;
    }
    // SAFETY: as for a call; the routine keeps the program's own registers and writes 8 KiB in a window of `mem`.
    unsafe { registers_round(token, args, area) }
}

/// A bit per token.
static CALLED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn bit(token: u64) -> Option<(&'static AtomicU64, u64)> {
    let word = CALLED.get(usize::try_from(token / 64).ok()?)?;
    Some((word, 1 << (token % 64)))
}

/// Counts a token as one that has cases.
pub(crate) fn mark(token: u64) {
    if let Some((word, bit)) = bit(token) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// Whether a case of its own called this token.
#[must_use]
pub(crate) fn called(token: u64) -> bool {
    bit(token).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// Where the report goes: the firmware's terminal, a line at a time.
pub(crate) const SINK: Sink = Sink {
    write,
    code_name,
    shows_answers: true,
};

/// What `write` gives the firmware: the length, then the text. Only the boot thread writes.
const TEXT: u64 = SCRATCH + 0x8000;

fn write(text: &str) {
    let mut rest = text.as_bytes();
    // Bounded, so that a dead terminal ends the run instead of hanging it.
    for _ in 0..1_000_000 {
        let room = rest.len().min(0x4000);
        mem::copy(TEXT + 8, &rest[..room]);
        mem::write_be64(TEXT, room as u64);
        let code = quietly(token::OPAL_CONSOLE_WRITE, [0, TEXT, TEXT + 8]);
        let taken = if code == code::SUCCESS {
            mem::read_be64(TEXT) as usize
        } else {
            0
        };
        rest = rest.get(taken..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        quietly(token::OPAL_POLL_EVENTS, [0]);
    }
    // A call that the machine does not survive must not take the lines before it along.
    for _ in 0..1000 {
        if quietly(token::OPAL_CONSOLE_FLUSH, [0]) == code::SUCCESS {
            return;
        }
    }
}

fn code_name(code: i64) -> Option<&'static str> {
    let known = CODES.iter().find(|known| known.code() == code);
    known.map(|known| known.name())
}
