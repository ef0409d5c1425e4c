# The payload's interrupt vectors, copied to L1 real 0x100. Everything is saved at absolute addresses (low.rs), so
# that no SPRG changes under a case that looks at them. A synchronous interrupt resumes at the armed address (once);
# 0x500, 0x900 and 0xa00 return with EE off and are only counted.

.section .vectors, "ax"
.globl vectors_start
vectors_start:
.macro vector n
    .org \n - 0x100
    std 31, 0x3000(0)
    mfcr 31
    std 31, 0x3008(0)
    li 31, \n
    b vector_common
.endm
    vector 0x100
    vector 0x200
    vector 0x300
    vector 0x380
    vector 0x400
    vector 0x480
    vector 0x500
    vector 0x600
    vector 0x700
    vector 0x800
    vector 0x900
    vector 0x980
    vector 0xa00
    vector 0xc00
    vector 0xd00
    vector 0xe00
    vector 0xe20
    vector 0xe40
    vector 0xe60
    vector 0xe80
    vector 0xea0
    vector 0xf00
    vector 0xf20
    vector 0xf40
    vector 0xf60
    vector 0xf80
    .org 0x1000 - 0x100
vector_common:
    std 31, 0x3010(0)
    mfspr 31, 26
    std 31, 0x3018(0)
    mfspr 31, 27
    std 31, 0x3020(0)
    mfspr 31, 19
    std 31, 0x3028(0)
    mfspr 31, 18
    std 31, 0x3030(0)
    ld 31, 0x3040(0)
    addi 31, 31, 1
    std 31, 0x3040(0)
    ld 31, 0x3010(0)
    cmpldi 31, 0x500
    beq 2f
    cmpldi 31, 0xa00
    beq 2f
    cmpldi 31, 0x900
    beq 1f
    ld 31, 0x3038(0)
    cmpldi 31, 0
    beq 4f
    mtspr 26, 31
    ld 31, 0x3048(0)
    mtspr 27, 31
    li 31, 0
    std 31, 0x3038(0)
    b 3f
1:  lis 31, 0x7fff
    mtdec 31
2:  mfspr 31, 27
    rldicl 31, 31, 48, 1                # clear EE
    rotldi 31, 31, 16
    mtspr 27, 31
3:  ld 31, 0x3008(0)
    mtcr 31
    ld 31, 0x3000(0)
    rfid
4:  # Nobody expects it: report and stop, on a stack of its own.
    ld 1, 0x3058(0)
    li 31, 0
    std 31, 0(1)
    ld 12, 0x3050(0)
    mtctr 12
    ld 3, 0x3010(0)
    bctr

# Return from RTAS, entered in 32-bit big-endian mode: back to where 0x4010 says with the MSR at 0x4018 (both
# stored big-endian).
    .org 0x2000 - 0x100
.macro bew value
    .byte ((\value) >> 24) & 0xff, ((\value) >> 16) & 0xff, ((\value) >> 8) & 0xff, (\value) & 0xff
.endm
    bew 0xe8804010                      # ld 4,0x4010(0)
    bew 0x7c9a03a6                      # mtsrr0 4
    bew 0xe8804018                      # ld 4,0x4018(0)
    bew 0x7c9b03a6                      # mtsrr1 4
    bew 0x4c000024                      # rfid
.globl vectors_end
vectors_end:
.text
