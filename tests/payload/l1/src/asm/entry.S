# Entry of the payload in either byte order, nothing lost: every register that can tell something about what ran
# before is stored (absolute addresses below 32 KiB need no register) before it is used.
# Layout of the save area: low.rs.

.macro be value
    .byte ((\value) >> 24) & 0xff, ((\value) >> 16) & 0xff, ((\value) >> 8) & 0xff, (\value) & 0xff
.endm
.macro be_std rs, where
    be 0xf8000000 | (\rs << 21) | (\where)
.endm
.macro be_mfspr rt, spr
    be 0x7c0002a6 | (\rt << 21) | ((\spr & 0x1f) << 16) | ((\spr >> 5) << 11)
.endm
.macro be_mtspr spr, rs
    be 0x7c0003a6 | (\rs << 21) | ((\spr & 0x1f) << 16) | ((\spr >> 5) << 11)
.endm

.section .entry, "ax"
.globl _start
_start:
    .long 0x08000048                    # little-endian: tdi 0,0,0x48 (nothing); big-endian: b .+8
    b 2f
    be_std 31, 0x3100
    be_std 30, 0x3108
    be_mfspr 31, 26                     # SRR0
    be_std 31, 0x3110
    be_mfspr 31, 27                     # SRR1
    be_std 31, 0x3118
    be 0x7fe000a6                       # mfmsr 31
    be_std 31, 0x3120
    be_mfspr 30, 8                      # LR
    be_std 30, 0x3128
    be 0x3bc00001                       # li 30,1
    be_std 30, 0x3130
    be 0x63ff0001                       # ori 31,31,MSR_LE
    be_mtspr 27, 31
    be 0x429f0005                       # bcl 20,31,.+4
1:  be_mfspr 30, 8
    be 0x3bde0000 | (3f - 1b)           # addi 30,30,(3f - 1b)
    be_mtspr 26, 30
    be 0x4c000024                       # rfid
2:
    std 31, 0x3100(0)
    std 30, 0x3108(0)
    mfspr 31, 26
    std 31, 0x3110(0)
    mfspr 31, 27
    std 31, 0x3118(0)
    mfmsr 31
    std 31, 0x3120(0)
    mflr 30
    std 30, 0x3128(0)
    li 30, 0
    std 30, 0x3130(0)
3:
    mfcr 30
    std 30, 0x3138(0)
    mfctr 30
    std 30, 0x3140(0)
    mfxer 30
    std 30, 0x3148(0)
.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
    std \n, (0x3200 + 8 * \n)(0)
.endr

    # Where do we run, and where do we belong?
    bcl 20, 31, 4f
4:  mflr 30
    addi 30, 30, _start - 4b            # runtime address of _start
    lis 29, _start@ha
    addi 29, 29, _start@l
    cmpd 29, 30
    beq 6f
    # Move down (or up: the areas do not overlap, the image is smaller than 4 MiB).
    lis 28, __image_end@ha
    addi 28, 28, __image_end@l
    subf 28, 29, 28
    srdi 28, 28, 3
    addi 28, 28, 1
    mtctr 28
    addi 27, 30, -8
    addi 26, 29, -8
5:  ldu 25, 8(27)
    stdu 25, 8(26)
    dcbst 0, 26
    sync
    icbi 0, 26
    bdnz 5b
    sync
    isync
6:
    lis 28, 7f@ha
    addi 28, 28, 7f@l
    mtctr 28
    bctr
7:
    # Zero the part of the image that is not in the file.
    lis 28, __bss_start@ha
    addi 28, 28, __bss_start@l
    lis 27, __bss_end@ha
    addi 27, 27, __bss_end@l
    subf 27, 28, 27
    srdi 27, 27, 3
    mtctr 27
    addi 28, 28, -8
    li 0, 0
8:  stdu 0, 8(28)
    bdnz 8b
    lis 1, __stack_top@ha
    addi 1, 1, __stack_top@l
    addi 1, 1, -256
    std 0, 0(1)
    li 2, 0
    li 13, 0
    li 31, 0
    ld 3, (0x3200 + 8 * 3)(0)
    bl payload_start@notoc
9:  b 9b

# Where RTAS start-cpu sends another thread: big-endian (or little-endian, if the partition chose so), real mode,
# r3 = its number. Its stack is the one of that number; 0 is the first thread's, which is not here.
.globl secondary_entry
secondary_entry:
    .long 0x08000048                    # as at _start
    b 2f
    be 0x7fe000a6                       # mfmsr 31
    be 0x63ff0001                       # ori 31,31,MSR_LE
    be_mtspr 27, 31
    be 0x429f0005                       # bcl 20,31,.+4
1:  be_mfspr 30, 8
    be 0x3bde0000 | (2f - 1b)           # addi 30,30,(2f - 1b)
    be_mtspr 26, 30
    be 0x4c000024                       # rfid
2:  sldi 4, 3, 15
    lis 1, __thread_stacks@ha
    addi 1, 1, __thread_stacks@l
    add 1, 1, 4
    addi 1, 1, -256
    li 0, 0
    std 0, 0(1)
    li 2, 0
    li 13, 0
    li 31, 0
    bl secondary_start@notoc
3:  b 3b
