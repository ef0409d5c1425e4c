# Every register that a supervisor can write, dumped to and loaded from absolute addresses: the same code in L1 and
# in L2. Areas (low.rs): 0x5000 dump, 0x6000 load; offsets: GPRs 0x000, SPRs 0x100, VSRs 0x300 (registers.rs).

.macro each_spr op
    \op 0, 8, 8             # LR
    \op 1, 9, 9             # CTR
    \op 2, 1, 1             # XER
    \op 3, 26, 26           # SRR0
    \op 4, 27, 27           # SRR1
    \op 5, 19, 19           # DAR
    \op 6, 18, 18           # DSISR
    \op 7, 272, 272         # SPRG0
    \op 8, 273, 273
    \op 9, 274, 274
    \op 10, 275, 275
    \op 13, 153, 153        # FSCR, before what it governs
    \op 11, 17, 17          # DSCR
    \op 12, 815, 815        # TAR
    \op 16, 157, 157        # UAMOR
    \op 14, 29, 29          # AMR
    \op 15, 61, 61          # IAMR
    \op 17, 806, 806        # BESCR
    \op 18, 804, 804        # EBBHR
    \op 19, 805, 805        # EBBRR
    \op 20, 159, 159        # PSPB
    \op 21, 256, 256        # VRSAVE
    \op 22, 896, 896        # PPR
    \op 23, 795, 795        # MMCR0
    \op 24, 798, 798        # MMCR1
    \op 25, 785, 785        # MMCR2
    \op 26, 754, 754        # MMCR3
    \op 27, 786, 786        # MMCRA
    \op 28, 787, 787        # PMC1
    \op 29, 788, 788
    \op 30, 789, 789
    \op 31, 790, 790
    \op 32, 791, 791
    \op 33, 792, 792
    \op 34, 784, 784        # SIER
    \op 35, 752, 752        # SIER2
    \op 36, 753, 753        # SIER3
    \op 37, 796, 796        # SIAR
    \op 38, 797, 797        # SDAR
    \op 39, 828, 828        # DEXCR
    \op 40, 468, 468        # HASHKEYR
    \op 42, 48, 48          # PIDR
    \op 43, 136, 152        # CTRL
.endm
.macro dump_spr index, from, to
    mfspr 31, \from
    std 31, (0x5100 + 8 * \index)(0)
.endm
.macro load_spr index, from, to
    ld 31, (0x6100 + 8 * \index)(0)
    mtspr \to, 31
.endm
.macro each_vsr op
.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \op \n
.endr
.irp n, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63
    \op \n
.endr
.endm
.macro dump_vsr n
    stxv \n, (0x5300 + 16 * \n)(0)
.endm
.macro load_vsr n
    lxv \n, (0x6300 + 16 * \n)(0)
.endm

# Clobbers r31 and the condition register last, VSR0 and VSR32 after they were stored.
.macro dump_all
.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    std \n, (0x5000 + 8 * \n)(0)
.endr
    mfcr 31
    std 31, (0x5100 + 8 * 48)(0)
    each_spr dump_spr
    mfmsr 31
    std 31, (0x5100 + 8 * 51)(0)
    mfspr 31, 849                       # VTB
    std 31, (0x5100 + 8 * 52)(0)
    mfspr 31, 309                       # PURR
    std 31, (0x5100 + 8 * 53)(0)
    mfspr 31, 308                       # SPURR
    std 31, (0x5100 + 8 * 54)(0)
    mfspr 31, 848                       # IC
    std 31, (0x5100 + 8 * 55)(0)
    mfdec 31
    std 31, (0x5100 + 8 * 56)(0)
    mftb 31
    std 31, (0x5100 + 8 * 57)(0)
    each_vsr dump_vsr
    mffs 0
    stfd 0, (0x5100 + 8 * 49)(0)
    mfvscr 0
    stxv 32, (0x5100 + 8 * 60)(0)
.endm

# Loads everything but the GPRs.
.macro load_files
    lfd 0, (0x6100 + 8 * 49)(0)
    mtfsf 255, 0, 1, 0
    lxv 32, (0x6100 + 8 * 60)(0)
    mtvscr 0
    each_vsr load_vsr
    each_spr load_spr
    ld 31, (0x6100 + 8 * 48)(0)
    mtcr 31
.endm
.macro load_gprs
.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld \n, (0x6000 + 8 * \n)(0)
.endr
.endm

.text
.macro keep_rust
    mflr 0
    std 0, 16(1)
    mfcr 0
    std 0, 8(1)
    stdu 1, -256(1)
    std 2, 32(1)
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    std \n, (8 * \n)(1)
.endr
    std 1, 0x4028(0)
.endm
.macro restore_rust
    ld 1, 0x4028(0)
    ld 2, 32(1)
.irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld \n, (8 * \n)(1)
.endr
    addi 1, 1, 256
    ld 0, 8(1)
    mtcr 0
    ld 0, 16(1)
    mtlr 0
.endm

# Loads all registers from 0x6000, makes the hypercall that r3..r12 then say, and dumps all to 0x5000.
.globl registers_call
registers_call:
    keep_rust
    load_files
    load_gprs
    sc 1
    dump_all
    restore_rust
    blr

# The same without the call.
.globl registers_round_trip
registers_round_trip:
    keep_rust
    load_files
    load_gprs
    dump_all
    restore_rust
    blr

# Dumps all.
.globl registers_dump
registers_dump:
    keep_rust
    dump_all
    restore_rust
    blr
