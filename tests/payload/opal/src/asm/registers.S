# Every register that a call has to leave alone, loaded with patterns, and stored after the call.
# registers_round(r3 = token, r4 = eight arguments, r5 = area): the patterns at the area, what is left of them behind
# it at 0x1000. Layout: GPRs 13 to 30 at 8 * n, SPRs at 0x100, CR at 0x2f8, VSRs at 0x300.

# What the payload may write as it likes, and then what it only compares.
.macro each_pattern_spr op
    \op 0, 815             # TAR
    \op 1, 17              # DSCR
    \op 2, 272             # SPRG0
    \op 3, 273
    \op 4, 274
    \op 5, 275
    \op 6, 305             # HSPRG1
    \op 7, 256             # VRSAVE
    \op 8, 19              # DAR
    \op 9, 18              # DSISR
    \op 10, 29             # AMR
    \op 11, 804            # EBBHR
    \op 12, 805            # EBBRR
    \op 13, 787            # PMC1
    \op 14, 788            # PMC2
.endm
.macro each_fixed_spr op
    \op 15, 304            # HSPRG0
    \op 16, 318            # LPCR
    \op 17, 190            # HFSCR
    \op 18, 153            # FSCR
    \op 19, 319            # LPIDR
    \op 20, 48             # PIDR
    \op 21, 464            # PTCR
    \op 22, 855            # PSSCR
    \op 23, 313            # HRMOR
    \op 24, 337            # HMEER
    \op 25, 338            # PCR
    \op 26, 1008           # HID0
    \op 27, 349            # AMOR
    \op 28, 61             # IAMR
    \op 29, 157            # UAMOR
    \op 30, 795            # MMCR0
    \op 31, 187            # CIABR
    \op 32, 180            # DAWR0
    \op 33, 188            # DAWRX0
    \op 34, 896            # PPR
.endm
.macro load_spr index, spr
    ld 0, (0x100 + 8 * \index)(31)
    mtspr \spr, 0
.endm
.macro note_spr index, spr
    mfspr 0, \spr
    std 0, (0x100 + 8 * \index)(31)
.endm
.macro store_spr index, spr
    mfspr 0, \spr
    std 0, (0x1100 + 8 * \index)(31)
.endm
.macro each_vsr op
.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \op \n
.endr
.irp n, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63
    \op \n
.endr
.endm
.macro load_vsr n
    lxv \n, (0x300 + 16 * \n)(31)
.endm
.macro store_vsr n
    stxv \n, (0x1300 + 16 * \n)(31)
.endm

.text
.globl registers_round
.balign 16
registers_round:
    mflr 0
    std 0, 16(1)
    mfcr 0
    std 0, 8(1)
    stdu 1, -256(1)
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    std \n, (8 * \n)(1)
.endr
    mr 31, 5
    each_pattern_spr load_spr
    each_pattern_spr note_spr           # with the bits that the register has
    each_fixed_spr note_spr
    each_vsr load_vsr
    ld 0, 0x2f8(31)
    mtcr 0
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ld \n, (8 * \n)(31)
.endr
    li 5, 0
    li 6, 1
    bl opal_invoke
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    std \n, (0x1000 + 8 * \n)(31)
.endr
    mfcr 0
    std 0, 0x12f8(31)
    each_vsr store_vsr
    each_pattern_spr store_spr
    each_fixed_spr store_spr
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld \n, (8 * \n)(1)
.endr
    addi 1, 1, 256
    ld 0, 8(1)
    mtcr 0
    ld 0, 16(1)
    mtlr 0
    blr
