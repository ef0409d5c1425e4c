//! The assembly files, with what they know of Rust: one unit, since they share macros.
#![expect(unsafe_code, reason = "assembly files, writes TFMR")]

use core::mem::offset_of;

use isa::spr::{Tfmr, mfspr, mtspr};

use crate::mem::low;
use crate::start::payload_start;
use crate::thread::{Thread, secondary_start};

core::arch::global_asm!(
    include_str!("asm/big_endian.S"),
    include_str!("asm/entry.S"),
    include_str!("asm/call.S"),
    include_str!("asm/registers.S"),
    include_str!("asm/vectors.S"),
    payload_start = sym payload_start,
    secondary_start = sym secondary_start,
    newcomer = const low::NEWCOMER,
    opal_base = const low::OPAL_BASE,
    opal_entry = const low::OPAL_ENTRY,
    t_stack = const offset_of!(Thread, stack),
    t_r31 = const offset_of!(Thread, r31),
    t_r1 = const offset_of!(Thread, r1),
    t_cr = const offset_of!(Thread, cr),
    t_vector = const offset_of!(Thread, vector),
    t_srr0 = const offset_of!(Thread, srr0),
    t_srr1 = const offset_of!(Thread, srr1),
    t_dar = const offset_of!(Thread, dar),
    t_dsisr = const offset_of!(Thread, dsisr),
    t_emergency = const offset_of!(Thread, emergency),
    t_handler = const offset_of!(Thread, handler),
    t_fatal = const offset_of!(Thread, fatal),
);

/// Whether TFMR says that this core's time base is valid.
pub(crate) fn time_base_is_valid() -> bool {
    mfspr::<Tfmr>().0 & isa::ppc_bit(41) != 0
}

/// Takes this core's time base back to its reset state, as an error of the hardware does: it is not valid then.
pub(crate) fn reset_time_base() {
    const ECLIPZ: u64 = isa::ppc_bit(14);
    const CLEAR_ERRORS: u64 = isa::ppc_bit(24);
    // SAFETY: touches no memory; nothing in this program waits by the time base until it is set again.
    unsafe { mtspr(Tfmr(ECLIPZ | CLEAR_ERRORS)) }
}
