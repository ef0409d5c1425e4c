# The nested guest: an image for L2 real 0. Vectors tell L1 which interrupt came by a hypercall (r3 = vector,
# r4 = SRR0, r5 = SRR1); the programs start at the addresses of guest.rs, with arguments in GPRs from L1.

.section .l2, "ax"
.globl l2_start
l2_start:
.macro l2_vector n
    .org \n
    li 3, \n
    mfspr 4, 26
    mfspr 5, 27
    sc 1
    b .
.endm
    l2_vector 0x100
    l2_vector 0x200
    l2_vector 0x300
    l2_vector 0x380
    l2_vector 0x400
    l2_vector 0x480
    l2_vector 0x500
    l2_vector 0x600
    l2_vector 0x700
    l2_vector 0x800
    l2_vector 0x900
    l2_vector 0x980
    l2_vector 0xa00
    l2_vector 0xc00
    l2_vector 0xd00
    l2_vector 0xe00
    l2_vector 0xe20
    l2_vector 0xe40
    l2_vector 0xe60
    l2_vector 0xe80
    l2_vector 0xea0
    l2_vector 0xf00
    l2_vector 0xf20
    l2_vector 0xf40
    l2_vector 0xf60
    l2_vector 0xf80
    .org 0x2000                         # SC
    sc 1
    b .
    .org 0x2010                         # LOAD
    ld 4, 0(5)
    sc 1
    b .
    .org 0x2020                         # STORE
    std 4, 0(5)
    sc 1
    b .
    .org 0x2030                         # JUMP
    mtctr 5
    bctr
    .org 0x2040                         # ILLEGAL
    .long 0x00dddd00
    sc 1
    b .
    .org 0x2080                         # ILLEGAL_PREFIXED
    .long 0x07f00000
    .long 0x00dddd00
    sc 1
    b .
    .org 0x2090                         # PREFIXED: no operation
    .long 0x07000000
    .long 0x00000000
    sc 1
    b .
    .org 0x20a0                         # MSGSNDP
    .long 0x7c00211c
    sc 1
    b .
    .org 0x20b0                         # EBB
    mfspr 4, 806
    sc 1
    b .
    .org 0x20c0                         # LOOP
    b .
    .org 0x20d0                         # ENABLE: r6 says that it came this far
    li 6, 0x77
    mfmsr 7
    ori 7, 7, 0x8000
    mtmsrd 7, 1
    b .
    .org 0x2100                         # USER_SC: sc 1 at 0x2120 in problem state
    mfmsr 7
    ori 7, 7, 0x4000
    mtspr 27, 7
    li 7, 0x2120
    mtspr 26, 7
    rfid
    .org 0x2120
    sc 1
    b .
    .org 0x2140                         # CALL: a hypercall by L2, its answer in r4 of the next one
    sc 1
    mr 4, 3
    li 3, 0x4244
    sc 1
    b .
    .org 0x2160                         # TIMER: r5 ticks, then wait
    mtdec 5
    mfmsr 7
    ori 7, 7, 0x8000
    mtmsrd 7, 1
    b .
    .org 0x2180                         # SET_DEC: r5 ticks, then call
    mtdec 5
    sc 1
    b .
    .org 0x2190                         # READ_TB
    mftb 4
    mfdec 5
    sc 1
    b .
    .org 0x21b0                         # HV_SPR: LPCR
    mfspr 4, 318
    sc 1
    b .
    .org 0x21c0                         # TOUCH: r6 loads from r5, r7 apart
    mtctr 6
1:  ld 4, 0(5)
    add 5, 5, 7
    bdnz 1b
    sc 1
    b .
    .org 0x21e0                         # WRITE: r6 stores of r8 from r5, r7 apart
    mtctr 6
1:  std 8, 0(5)
    add 5, 5, 7
    bdnz 1b
    sc 1
    b .
    .org 0x2200                         # CALLS: for ever
    sc 1
    b .-4
    .org 0x2210                         # BHRB
    .long 0x7c00035c                    # clrbhrb
    sc 1
    b .
    .org 0x2220                         # SYSCALL: sc 0 and back
    sc 0
    b .
    .org 0x2240                         # REMAP: load at r5, change the entry at r6 to r7, invalidate, load again
    ld 10, 0(5)
    mr 11, 5
    std 7, 0(6)
    ptesync
    li 3, 0x448
    li 4, 0
    li 5, 1
    li 6, 2
    li 7, -1
    li 8, 0
    li 9, -1
    sc 1
    mr 6, 3
    ld 4, 0(11)
    mr 5, 10
    li 3, 0x4248
    sc 1
    b .
    .org 0x2290                         # BIG_SC: big-endian sc 1
    .byte 0x44, 0x00, 0x00, 0x22
    .byte 0x48, 0x00, 0x00, 0x00
    .org 0x22a0                         # BIG_ILLEGAL
    .byte 0x00, 0x01, 0x02, 0x04
    .byte 0x48, 0x00, 0x00, 0x00
    .org 0x22b0                         # LITTLE_ILLEGAL
    .long 0x00010204
    b .
    .org 0x22c0                         # PREFIXED_LOAD: pld 4,0(5)
    .long 0x04000000
    .long 0xe4850000
    sc 1
    b .
    .org 0x22e0                         # PREFIXED_STORE: pstd 4,0(5)
    .long 0x04000000
    .long 0xf4850000
    sc 1
    b .
    .org 0x2300                         # DUMP_LOAD: dump all, load all, call with what was loaded
    dump_all
    load_files
    load_gprs
    sc 1
    b .
    .org 0x2a00                         # COUNT: one more in r4 and at r6, call, again
1:  addi 4, 4, 1
    ld 5, 0(6)
    addi 5, 5, 1
    std 5, 0(6)
    sc 1
    b 1b
    .org 0x2a20                         # FLOOD: stores of r8 at r5 and, r7 further, for ever
1:  std 8, 0(5)
    stdx 8, 5, 7
    b 1b
# Where AIL = 3 sends interrupts: r3 is 0x4000 more.
.macro l2_relocated n
    .org 0x4000 + \n
    li 3, 0x4000 + \n
    mfspr 4, 26
    mfspr 5, 27
    mfspr 6, 19
    sc 1
    b .
.endm
    l2_relocated 0x300
    l2_relocated 0x380
    l2_relocated 0x400
    l2_relocated 0x480
    l2_relocated 0x500
    l2_relocated 0x700
    l2_relocated 0x900
    l2_relocated 0xa00
    l2_relocated 0xc00
    l2_relocated 0xd00
    .org 0x4f00
.globl l2_end
l2_end:
.text
