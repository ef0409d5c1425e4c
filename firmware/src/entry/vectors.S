// Exception vectors, and what an exception of the firmware itself does. Runs at physical 0 (see nidus.ld).
//
// A vector saves r13 in HSPRG1, loads this thread's Thread pointer from HSPRG0, saves r10, r11, r12, CR and CFAR there,
// and looks at MSR[HV] as it was: a guest's exit goes to `guest_exit_common` (hypervisor/enter.S) with
//
//   r13 = Thread; guest r13 in HSPRG1; guest r10, r11, r12, CR, CFAR in Thread; everything else still the guest's;
//   r12 = vector number, + 2 when the interrupt wrote HSRR0/1 instead of SRR0/1; r10, r11, CR free.
//
// The firmware runs with EE=0 and translation off, so whatever it takes itself is a fault of its own (or a machine check
// or system reset): registers go into a frame on the emergency stack and `firmware_exception` prints them.

.set SRR, 0
.set HSRR, 2

.section .head, "ax"

// Where there is room for eight instructions only.
.macro short_vector at, pair
.org \at
    mtspr  305, 13              // HSPRG1
    mfspr  13, 304              // HSPRG0
    std    12, {t_r12}(13)
    mfspr  12, 28               // CFAR, before a branch of ours replaces it
    std    12, {t_cfar}(13)
    li     12, \at + \pair
    .if \pair
    b      exit_hsrr
    .else
    b      exit_srr
    .endif
.endm

.macro rest_of_vector pair
    std    11, {t_r11}(13)
    std    10, {t_r10}(13)
    mfcr   10
    std    10, {t_cr}(13)
    .if \pair
    mfspr  10, 315              // HSRR1
    .else
    mfspr  10, 27               // SRR1
    .endif
    rldicl. 10, 10, 4, 63       // MSR[HV]
    bne    own_exception
    b      guest_exit_common
.endm

// The frequent ones: no branch before the test.
.macro long_vector at, pair
.org \at
    mtspr  305, 13
    mfspr  13, 304
    std    12, {t_r12}(13)
    mfspr  12, 28               // CFAR, before a branch of ours replaces it
    std    12, {t_cfar}(13)
    li     12, \at + \pair
    rest_of_vector \pair
.endm

    short_vector 0x100, SRR     // system reset, wake-up from stop

// Not a vector: the entry with HDAT instead of a device tree, big-endian; r3 means nothing there.
.org 0x180
    be 0x38600000               // li     r3, 0
    be 0x4bfffe8c               // b      0x10

    short_vector 0x200, SRR     // machine check
    short_vector 0x300, SRR     // data storage
    short_vector 0x380, SRR     // data segment
    short_vector 0x400, SRR     // instruction storage
    short_vector 0x480, SRR     // instruction segment
    long_vector 0x500, HSRR     // external (LPES0=0)
    short_vector 0x600, SRR     // alignment
    short_vector 0x700, SRR     // program
    short_vector 0x800, SRR     // floating-point unavailable
    short_vector 0x900, SRR     // decrementer
    long_vector 0x980, HSRR     // hypervisor decrementer
    short_vector 0xa00, SRR     // directed privileged doorbell
    long_vector 0xc00, SRR      // system call: hcall
    short_vector 0xd00, SRR     // trace
    short_vector 0xe00, HSRR    // hypervisor data storage
    short_vector 0xe20, HSRR    // hypervisor instruction storage
    short_vector 0xe40, HSRR    // hypervisor emulation assistance
    short_vector 0xe60, HSRR    // hypervisor maintenance
    short_vector 0xe80, HSRR    // directed hypervisor doorbell
    short_vector 0xea0, HSRR    // hypervisor virtualization
    short_vector 0xf00, SRR     // performance monitor
    short_vector 0xf20, SRR     // vector unavailable
    short_vector 0xf40, SRR     // VSX unavailable
    short_vector 0xf60, SRR     // facility unavailable
    short_vector 0xf80, HSRR    // hypervisor facility unavailable
    short_vector 0x1500, HSRR   // soft patch

.section .low.text, "ax"
exit_srr:
    rest_of_vector SRR
exit_hsrr:
    rest_of_vector HSRR

own_exception:
    std    1, {t_r1}(13)
    lwz    11, {t_exception_depth}(13)
    addi   11, 11, 1
    stw    11, {t_exception_depth}(13)
    ld     10, {t_emergency_stack}(13)
    addi   10, 10, -{frame_size}
    std    11, {f_depth}(10)
    std    12, {f_vector}(10)
    .irp   n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
    std    \n, {f_gpr} + 8*\n(10)
    .endr
    .irp   n, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    std    \n, {f_gpr} + 8*\n(10)
    .endr
    ld     3, {t_r10}(13)
    std    3, {f_gpr} + 8*10(10)
    ld     3, {t_r11}(13)
    std    3, {f_gpr} + 8*11(10)
    ld     3, {t_r12}(13)
    std    3, {f_gpr} + 8*12(10)
    mfspr  3, 305               // HSPRG1
    std    3, {f_gpr} + 8*13(10)
    ld     3, {t_cr}(13)
    std    3, {f_cr}(10)
    mflr   3
    std    3, {f_lr}(10)
    mfctr  3
    std    3, {f_ctr}(10)
    mfxer  3
    std    3, {f_xer}(10)
    andi.  4, 12, HSRR
    mfspr  3, 26
    mfspr  5, 27
    beq    1f
    mfspr  3, 314
    mfspr  5, 315
1:  std    3, {f_pc}(10)
    std    5, {f_msr}(10)

    // A stack frame below the register frame, its back chain leads to where the exception happened.
    mr     3, 10
    std    1, -{stack_header}(10)
    addi   1, 10, -{stack_header}
    cmplwi 11, 2
    bgt    dead                 // an exception in the report of an exception in the report: give up
    lis    12, {firmware_exception}@h
    ori    12, 12, {firmware_exception}@l
    b      enter_rust           // with RI and ME on again

dead:
    or     31, 31, 31
    b      dead
