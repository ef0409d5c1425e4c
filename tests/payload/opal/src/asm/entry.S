# The ways in: of the boot thread, in either byte order (the image's own or OPAL's), and of threads that
# OPAL_START_CPU starts, which come big-endian as OPAL has it.

.section .entry, "ax"
.globl _start
_start:
    .long 0x08000048                    # little-endian: tdi 0,0,0x48 (nothing); big-endian: b .+8
    b 2f
    be_mfspr 21, 268                    # the time base, before anything is done
    to_little_endian
    b 3f
2:
    mfspr 21, 268
    mfmsr 29
3:
    mr 14, 3
    mr 15, 8
    mr 16, 9

    # Where do we run, and where do we belong?
    bcl 20, 31, 4f
4:  mflr 30
    addi 30, 30, _start - 4b            # runtime address of _start
    lis 28, _start@ha
    addi 28, 28, _start@l
    cmpd 28, 30
    beq 6f
    # Move (the areas do not overlap, the image is smaller than 4 MiB).
    lis 27, __image_end@ha
    addi 27, 27, __image_end@l
    subf 27, 28, 27
    srdi 27, 27, 3
    addi 27, 27, 1
    mtctr 27
    addi 27, 30, -8
    addi 26, 28, -8
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
    mr 3, 14
    mr 4, 15
    mr 5, 16
    mr 6, 29
    mr 7, 21
    bl {payload_start}@notoc
9:  b 9b

# r3 = PIR. The Thread that this is for is at {newcomer}.
.text
.globl secondary_entry
.balign 16
secondary_entry:
    to_little_endian
    ld 13, {newcomer}(0)
    mtspr 304, 13
    ld 1, {t_stack}(13)
    li 0, 0
    std 0, 0(1)
    li 2, 0
    mr 4, 3
    mr 3, 13
    mr 5, 29
    bl {secondary_start}@notoc
1:  b 1b
