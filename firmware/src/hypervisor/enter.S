// Entering a guest, and leaving it. The only world switch: an L1 and an L2 are both a GuestContext.
//
// enter_guest(r3 = GuestContext, r4 = Thread): called like any C function; returns when the guest left. Loads what the
// vectors save (GPRs, CR, LR, CTR, XER, CFAR, PPR, NIA, MSR); everything else of the guest is in the hardware already
// (registers.rs). Preserves what the ABI asks for: r14-r31, r1, CR2-4.
//
// guest_exit_common: reached from the vectors (entry/vectors.S) with
//   r13 = Thread; guest r13 in HSPRG1; guest r10, r11, r12, CR, CFAR in Thread; everything else still the guest's;
//   r12 = vector number, + 2 when the interrupt wrote HSRR0/1 instead of SRR0/1; r10, r11, CR free.
// It stores the guest's registers in the context that Thread names, takes the firmware's stack back and returns from
// enter_guest. It runs at physical 0 (section .low.text), so it branches nowhere but through LR.

.set FRAME, 256                     // 32 header, 18 non-volatile registers, CR, rounded up

.section .text.enter_guest, "ax"
.globl enter_guest
.type enter_guest, @function
.balign 32
enter_guest:
    mflr   0
    std    0, 16(1)
    stdu   1, -FRAME(1)
    mfcr   0
    std    0, 32(1)
    .irp   n, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    std    \n, 40 + 8*(\n - 14)(1)
    .endr
    std    1, {t_host_stack}(4)
    std    3, {t_guest_context}(4)

    ld     5, {c_nia}(3)
    ld     6, {c_msr}(3)
    mtspr  314, 5                   // HSRR0
    mtspr  315, 6                   // HSRR1
    ld     5, {c_lr}(3)
    ld     6, {c_ctr}(3)
    mtlr   5
    mtctr  6
    ld     5, {c_xer}(3)
    ld     6, {c_cr}(3)
    mtxer  5
    mtcr   6
    ld     5, {c_cfar}(3)
    mtspr  28, 5                    // CFAR: no branch may follow
    ld     5, {c_ppr}(3)
    .irp   n, 0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld     \n, {c_gpr} + 8*\n(3)
    .endr
    mtspr  896, 5                   // PPR last: the guest's priority may be low
    ld     5, {c_gpr} + 8*5(3)
    ld     3, {c_gpr} + 8*3(3)
    hrfid
    b      .                        // no speculation past the switch
.size enter_guest, . - enter_guest

.section .low.text, "ax"
.globl guest_exit_common
.type guest_exit_common, @function
.balign 128
guest_exit_common:
    ld     11, {t_guest_context}(13)
    .irp   n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    std    \n, {c_gpr} + 8*\n(11)
    .endr
    mfspr  3, 896                   // PPR
    or     2, 2, 2                  // the firmware runs at medium priority
    std    3, {c_ppr}(11)
    ld     3, {t_r10}(13)
    ld     4, {t_r11}(13)
    ld     5, {t_r12}(13)
    mfspr  6, 305                   // HSPRG1: guest r13
    std    3, {c_gpr} + 8*10(11)
    std    4, {c_gpr} + 8*11(11)
    std    5, {c_gpr} + 8*12(11)
    std    6, {c_gpr} + 8*13(11)
    ld     3, {t_cr}(13)
    ld     4, {t_cfar}(13)
    std    3, {c_cr}(11)
    std    4, {c_cfar}(11)
    mflr   3
    mfctr  4
    mfxer  5
    std    3, {c_lr}(11)
    std    4, {c_ctr}(11)
    std    5, {c_xer}(11)
    andi.  3, 12, 2
    clrrdi 12, 12, 2
    std    12, {c_trap}(11)
    bne    1f
    mfspr  3, 26                    // SRR0
    mfspr  4, 27                    // SRR1
    b      2f
1:  mfspr  3, 314                   // HSRR0
    mfspr  4, 315                   // HSRR1
2:  std    3, {c_nia}(11)
    std    4, {c_msr}(11)

    ld     1, {t_host_stack}(13)
    ld     0, 32(1)
    mtcr   0
    .irp   n, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld     \n, 40 + 8*(\n - 14)(1)
    .endr
    addi   1, 1, FRAME
    ld     0, 16(1)
    mtlr   0
    blr
.size guest_exit_common, . - guest_exit_common

// guest_load_vsrs(r3 = GuestContext) and guest_store_vsrs(r3): FPSCR, VSCR and the 64 vector-scalar registers.
// The firmware itself never uses them, so they stay the guest's from one call to the next. Leaves MSR as it was.
.section .text.guest_vsrs, "ax"
.macro facilities_on
    mfmsr  4
    lis    5, 0x0280                // VEC | VSX
    ori    5, 5, 0x2000             // FP
    or     5, 5, 4
    mtmsrd 5
    isync
.endm

.globl guest_store_vsrs
.type guest_store_vsrs, @function
.balign 32
guest_store_vsrs:
    facilities_on
    addi   6, 3, {c_vsr}
    .irp   n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    stxvd2x \n, 0, 6
    addi   6, 6, 16
    .endr
    .irp   n, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63
    stxvd2x \n, 0, 6
    addi   6, 6, 16
    .endr
    mffs   0
    stfd   0, {c_fpscr}(3)
    mfvscr 0
    mfvsrld 8, 32                   // the register's low doubleword holds VSCR
    std    8, {c_vscr}(3)
    addi   6, 3, {c_vsr}            // give back what mffs and mfvscr overwrote
    lxvd2x 0, 0, 6
    addi   6, 6, 32*16
    lxvd2x 32, 0, 6
    mtmsrd 4
    isync
    blr
.size guest_store_vsrs, . - guest_store_vsrs

.globl guest_load_vsrs
.type guest_load_vsrs, @function
.balign 32
guest_load_vsrs:
    facilities_on
    lfd    0, {c_fpscr}(3)
    mtfsf  0xff, 0, 1, 0
    ld     8, {c_vscr}(3)
    li     9, 0
    mtvsrdd 32, 9, 8
    mtvscr 0
    addi   6, 3, {c_vsr}
    .irp   n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    lxvd2x \n, 0, 6
    addi   6, 6, 16
    .endr
    .irp   n, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63
    lxvd2x \n, 0, 6
    addi   6, 6, 16
    .endr
    mtmsrd 4
    isync
    blr
.size guest_load_vsrs, . - guest_load_vsrs
