//! The assembly of the world switch, with the offsets it needs. See `enter.S` for the register contracts.
#![expect(unsafe_code, reason = "the assembly seam of the world switch")]

use core::mem::offset_of;

use isa::context::GuestContext;

use crate::thread::Thread;

core::arch::global_asm!(
    include_str!("enter.S"),
    t_r10 = const offset_of!(Thread, scratch_r10),
    t_r11 = const offset_of!(Thread, scratch_r11),
    t_r12 = const offset_of!(Thread, scratch_r12),
    t_cr = const offset_of!(Thread, scratch_cr),
    t_cfar = const offset_of!(Thread, scratch_cfar),
    t_guest_context = const offset_of!(Thread, guest_context),
    t_host_stack = const offset_of!(Thread, host_stack),
    c_gpr = const offset_of!(GuestContext, gpr),
    c_nia = const offset_of!(GuestContext, nia),
    c_msr = const offset_of!(GuestContext, msr),
    c_cr = const offset_of!(GuestContext, cr),
    c_lr = const offset_of!(GuestContext, lr),
    c_ctr = const offset_of!(GuestContext, ctr),
    c_xer = const offset_of!(GuestContext, xer),
    c_cfar = const offset_of!(GuestContext, cfar),
    c_ppr = const offset_of!(GuestContext, ppr),
    c_trap = const offset_of!(GuestContext, trap),
    c_fpscr = const offset_of!(GuestContext, fpscr),
    c_vscr = const offset_of!(GuestContext, vscr),
    c_vsr = const offset_of!(GuestContext, vsr),
);

unsafe extern "C" {
    fn enter_guest(context: *mut GuestContext, thread: *const Thread);
    fn guest_load_vsrs(context: *const GuestContext);
    fn guest_store_vsrs(context: *mut GuestContext);
}

/// Runs the guest whose registers are resident until it leaves; `context.trap` says why it left.
///
/// # Safety
/// The context's special purpose registers are in the hardware, its MSR has HV=0 and ME=1, and the partition-scoped
/// tables of its LPID map no memory of the firmware.
pub(super) unsafe fn enter(context: &mut GuestContext, thread: &Thread) {
    // SAFETY: `context` and `thread` are valid for the whole run; the caller vouches for what the guest can reach.
    unsafe { enter_guest(context, thread) }
}

/// Loads the vector-scalar registers, FPSCR and VSCR.
pub(super) fn load_vector_registers(context: &GuestContext) {
    // SAFETY: the firmware keeps nothing in these registers.
    unsafe { guest_load_vsrs(context) }
}

/// Stores the vector-scalar registers, FPSCR and VSCR.
pub(super) fn store_vector_registers(context: &mut GuestContext) {
    // SAFETY: it writes the context only.
    unsafe { guest_store_vsrs(context) }
}
