// OPAL calls: the way in from the kernel and back, and the ways into a kernel.
//
// opal_entry: r0 = token, r2 = opal-base-address, r3-r10 = arguments, r1 = the kernel's stack (not ours to use),
//   LR = return address; real mode, HV=1, EE=0, big-endian as the ABI has it, or little-endian. HSPRG0/1, SPRG0-3 and
//   the vectors are the kernel's. Clobbers only r11, r12, CTR, cr0, cr1, cr5, HSRR0/1 before it has a stack, so that a
//   machine check or system reset of the kernel at any point may call again.
//   On return: r3 = answer; r1, r2, r13-r31, CR, MSR as they were.
// opal_launch(r3 = kernel's r3, r4 = address, r5 = kernel's r7, r6 = r8, r7 = r9, r8 = MSR): enters a kernel for good.
// opal_restart(r3 = OpalThread): gives the thread's stack up and goes to `opal_returned` on a fresh one.

.set OPAL_FRAME, {frame_size}

// A word as a big-endian processor fetches it.
.macro opal_be word
    .long (((\word) & 0xff) << 24) | (((\word) & 0xff00) << 8) | (((\word) >> 8) & 0xff00) | (((\word) >> 24) & 0xff)
.endm

.section .text.opal_entry, "ax"
.globl opal_entry
.balign 128
opal_entry:
    .long 0x48000008            // little-endian: b .+8; big-endian sees 08000048: tdi 0, r0, 72, which never traps
opal_entry_big_endian:
    opal_be 0x480001fc               // big-endian: b opal_from_big_endian
    li     11, 1
opal_common:
    cmpdi  1, 11, 0             // cr1: eq when the caller is big-endian
    mfspr  12, 1023             // PIR
    cmplwi 12, {max_pir}
    bge    opal_unknown_thread
    sldi   12, 12, 3
    lis    11, {by_pir}@h
    ori    11, 11, {by_pir}@l
    ldx    12, 11, 12
    cmpdi  12, 0
    beq    opal_unknown_thread

opal_arrive:                    // r12 = OpalThread; count the call, then look at the bar (opal_calls::entry)
    lwarx  11, 0, 12
    addi   11, 11, 1
    stwcx. 11, 0, 12
    bne-   opal_arrive
    sync
    lwz    11, {bar}(12)
    cmpwi  11, 0
    bne-   opal_barred
    lwz    11, 0(12)
    cmplwi 11, 1
    ld     11, {normal_stack}(12)
    beq+   1f
    lwz    11, 0(12)
    cmplwi 11, {max_depth}
    bgt    opal_too_deep
    ld     11, {emergency_stack}(12)
1:  addi   11, 11, -OPAL_FRAME
    std    1, {f_r1}(11)
    mr     1, 11
    li     11, 0
    std    11, 0(1)             // the back chain ends here
    std    2, {f_r2}(1)
    std    13, {f_r13}(1)
    mfcr   11
    std    11, {f_cr}(1)
    mflr   11
    std    11, {f_lr}(1)
    mfmsr  11
    std    11, {f_msr}(1)
    std    12, {f_thread}(1)
    std    0, {f_token}(1)
    .irp   n, 3, 4, 5, 6, 7, 8, 9, 10
    std    \n, {f_regs} + 8*(\n - 3)(1)
    .endr
    ld     13, {thread}(12)
    addi   3, 1, {f_token}
    mr     4, 12
    bl     {opal_call}@notoc

    ld     12, {f_thread}(1)
    ld     10, {f_lr}(1)
    ld     9, {f_msr}(1)
    ld     11, {f_cr}(1)
    mtcr   11
    ld     2, {f_r2}(1)
    ld     13, {f_r13}(1)
    ld     1, {f_r1}(1)         // from here the frame may be overwritten by the next call
    sync
2:  lwarx  11, 0, 12
    cmpwi  11, 0                // another thread may have forgotten this call
    beq-   3f
    addi   11, 11, -1
    stwcx. 11, 0, 12
    bne-   2b
3:  bne    1, 4f
    clrrdi 9, 9, 1              // MSR[LE]
4:  li     11, 0
    mtmsrd 11, 1                // RI = 0 while HSRR0/1 hold what must not be lost
    mtspr  314, 10
    mtspr  315, 9
    hrfid

opal_barred:
    cmpwi  5, 11, {hold}
5:  lwarx  11, 0, 12
    addi   11, 11, -1
    stwcx. 11, 0, 12
    bne-   5b
    bne    5, opal_busy
6:  or     31, 31, 31           // very low priority
    lwz    11, {bar}(12)
    cmpwi  11, {hold}
    beq    6b
    or     2, 2, 2
    b      opal_arrive
opal_too_deep:
    lwarx  11, 0, 12
    addi   11, 11, -1
    stwcx. 11, 0, 12
    bne-   opal_too_deep
opal_unknown_thread:
    li     3, {internal_error}
    b      7f
opal_busy:
    li     3, {busy}
7:  mfmsr  12
    bne    1, 8f
    clrrdi 12, 12, 1
8:  li     11, 0
    mtmsrd 11, 1
    mflr   11
    mtspr  314, 11
    mtspr  315, 12
    hrfid

.org opal_entry + 0x200         // a constant of the branches between the two byte orders
opal_from_big_endian:
    opal_be 0x7d8802a6               // mflr   r12
    opal_be 0x429f0005               // bcl    20, 31, .+4
    opal_be 0x7d6802a6               // mflr   r11                 = opal_entry + 0x208
    opal_be 0x7d8803a6               // mtlr   r12
    opal_be 0x396bfe04               // addi   r11, r11, opal_common - (opal_entry + 0x208)
    opal_be 0x7d8000a6               // mfmsr  r12
    opal_be 0x618c0001               // ori    r12, r12, MSR[LE]
    opal_be 0x7d8903a6               // mtctr  r12
    opal_be 0x39800000               // li     r12, 0
    opal_be 0x7d810164               // mtmsrd r12, 1              RI = 0: a call from an interrupt would change HSRR0/1
    opal_be 0x7d7a4ba6               // mthsrr0 r11
    opal_be 0x7d8902a6               // mfctr  r12
    opal_be 0x7d9b4ba6               // mthsrr1 r12
    opal_be 0x39600000               // li     r11, 0
    opal_be 0x4c000224               // hrfid

.globl opal_launch
.balign 32
opal_launch:
    mtspr  314, 4
    mtspr  315, 8
    mtlr   4
    mr     11, 5
    mr     8, 6
    mr     9, 7
    mr     7, 11
    lis    6, 0x6550            // ePAPR
    ori    6, 6, 0x4150
    li     5, 0
    sync
    icbi   0, 4                 // the instruction cache snoops stores: any one icbi orders them
    sync
    isync
    li     4, 0
    hrfid

.globl opal_restart
.balign 32
opal_restart:
    ld     1, {normal_stack}(3)
    ld     13, {thread}(3)
    li     0, 0
    stdu   0, -64(1)
    b      {opal_returned}@notoc
