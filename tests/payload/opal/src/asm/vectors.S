# The payload's interrupt vectors, copied to real 0x100. HSPRG0 is the thread's `Thread`; HSPRG1 is used here only.
# System resets and decrementer interrupts call the thread's handler on a stack of its own and go back; everything
# else is unexpected.

.section .vectors, "ax"
.globl vectors_start
vectors_start:
.macro vector n, to
    .org \n - 0x100
    mtspr 305, 13
    mfspr 13, 304
    std 31, {t_r31}(13)
    li 31, \n
    b \to
.endm
    vector 0x100, by_srr
    vector 0x200, by_srr
    vector 0x300, by_srr
    vector 0x380, by_srr
    vector 0x400, by_srr
    vector 0x480, by_srr
    vector 0x500, by_hsrr
    vector 0x600, by_srr
    vector 0x700, by_srr
    vector 0x800, by_srr
    vector 0x900, by_srr
    vector 0x980, by_hsrr
    vector 0xa00, by_srr
    vector 0xc00, by_srr
    vector 0xd00, by_srr
    vector 0xe00, by_hsrr
    vector 0xe20, by_hsrr
    vector 0xe40, by_hsrr
    vector 0xe60, by_hsrr
    vector 0xe80, by_hsrr
    vector 0xea0, by_hsrr
    vector 0xf00, by_srr
    vector 0xf20, by_srr
    vector 0xf40, by_srr
    vector 0xf60, by_srr
    vector 0xf80, by_hsrr
    .org 0x1000 - 0x100
by_srr:
    std 31, {t_vector}(13)
    mfspr 31, 26
    std 31, {t_srr0}(13)
    mfspr 31, 27
    std 31, {t_srr1}(13)
    b 1f
by_hsrr:
    std 31, {t_vector}(13)
    mfspr 31, 314
    std 31, {t_srr0}(13)
    mfspr 31, 315
    std 31, {t_srr1}(13)
1:
    mfcr 31
    std 31, {t_cr}(13)
    mfspr 31, 19
    std 31, {t_dar}(13)
    mfspr 31, 18
    std 31, {t_dsisr}(13)
    ld 31, {t_vector}(13)
    std 1, {t_r1}(13)
    ld 1, {t_emergency}(13)
    cmpldi 31, 0x100
    beq 2f
    cmpldi 31, 0x900
    beq 2f
    li 31, 0
    std 31, 0(1)
    mr 3, 13
    ld 12, {t_fatal}(13)
    mtctr 12
    bctr
2:
    # A handler may be interrupted again: what the next one would overwrite goes on the stack.
    std 0, 64(1)
.irp n, 2,3,4,5,6,7,8,9,10,11,12
    std \n, (64 + 8 * \n)(1)
.endr
    mflr 31
    std 31, 176(1)
    mfctr 31
    std 31, 184(1)
    mfxer 31
    std 31, 192(1)
.irp pair, 1,2,3,4,5
    .if \pair == 1
    ld 31, {t_srr0}(13)
    .elseif \pair == 2
    ld 31, {t_srr1}(13)
    .elseif \pair == 3
    ld 31, {t_cr}(13)
    .elseif \pair == 4
    ld 31, {t_r1}(13)
    .else
    ld 31, {t_r31}(13)
    .endif
    std 31, (192 + 8 * \pair)(1)
.endr
    mfspr 31, 305
    std 31, 240(1)
    std 1, 248(1)
    addi 31, 1, -8192
    std 31, {t_emergency}(13)
    li 31, 0
    std 31, 0(1)
    li 2, 2
    mtmsrd 2, 1                         # RI
    li 2, 0
    mr 3, 13
    ld 4, 200(1)
    ld 5, 208(1)
    ld 12, {t_handler}(13)
    mtctr 12
    bctrl
    li 3, 0
    mtmsrd 3, 1
    mfspr 13, 304
    ld 31, 248(1)
    std 31, {t_emergency}(13)
    ld 31, 192(1)
    mtxer 31
    ld 31, 184(1)
    mtctr 31
    ld 31, 176(1)
    mtlr 31
    ld 31, 200(1)
    mtspr 26, 31
    ld 31, 208(1)
    mtspr 27, 31
    ld 31, 216(1)
    mtcr 31
    ld 31, 240(1)
    mtspr 305, 31
    ld 0, 64(1)
.irp n, 2,3,4,5,6,7,8,9,10,11,12
    ld \n, (64 + 8 * \n)(1)
.endr
    ld 31, 232(1)
    ld 1, 224(1)
    mfspr 13, 305
    rfid
.globl vectors_end
vectors_end:
.text
