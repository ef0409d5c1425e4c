// Entry of the image: election, relocation, first stack.
//
// On entry (every hardware thread at once, at image offset 0x10): big-endian, real mode, HV=1, r3 = flattened device
// tree or 0. The image lies anywhere; it runs position-independently until it has been copied to its link address.
// On exit: the elected thread calls boot_entry(r3 = tree, r4 = where the image was loaded) on its own stack with r13 and
// HSPRG0 = its Thread and MSR = SF|HV|ME|RI|LE; the others go to `park` (park.S).
//
// The layout of the first 0x2000 bytes is fixed: offsets 0x10, 0xf0, 0xf4 and 0x180 are known outside, and 0x100 to
// 0x1520 are the exception vectors, which serve at physical 0.

.section .head, "ax"
head_start:

// A word as a big-endian processor fetches it.
.macro be word
    .long (((\word) & 0xff) << 24) | (((\word) & 0xff00) << 8) | (((\word) >> 8) & 0xff00) | (((\word) >> 24) & 0xff)
.endm

.org 0x10
.globl _start
_start:
    be 0x7d6000a6               // mfmsr  r11
    be 0x616b0001               // ori    r11, r11, MSR[LE]
    be 0x429f0005               // bcl    20, 31, .+4
    be 0x7d4802a6               // mflr   r10                 = image + 0x1c
    be 0x394a0014               // addi   r10, r10, 0x30 - 0x1c
    be 0x7d5a03a6               // mtsrr0 r10
    be 0x7d7b03a6               // mtsrr1 r11
    be 0x4c000024               // rfid
.org 0x30
    addi 30, 10, -0x30          // r30 = where the image was loaded
    mr   31, 3                  // r31 = tree
    b    head_main

.org 0x80
    .quad 0                     // pointer to a debug descriptor: none

.org 0xf0
    .long 0                     // election: 0 until a thread has won
    .long 0                     // release: 1 when the others may go to the relocated image
    .long 0                     // attention trigger words
    .long 0

.section .low.text, "ax"
.balign 0x80
head_main:
    // HRMOR is ORed into real-mode addresses unless address bit 0 is set. A loader may have used it; we do not. While it is
    // cleared, run at addresses that ignore it.
    mfspr  3, 313               // HRMOR
    cmpdi  3, 0
    beq    0f
    or     30, 30, 3
    li     5, 1
    sldi   5, 5, 63
    bcl    20, 31, 7f
7:  mflr   4
    addi   4, 4, 8f - 7b
    or     4, 4, 3              // where 8f really is
    or     6, 4, 5
    mtctr  6
    bctr
8:  li     6, 0
    mtspr  313, 6
    isync
    addi   4, 4, 0f - 8b
    mtctr  4
    bctr
0:
    // Only processors that have the instructions this image is built of go on.
    mfspr  3, 287               // PVR
    srdi   4, 3, 16
    cmplwi 4, 0x80
    beq    1f
    cmplwi 4, 0x82
    bne    unknown_processor
1:
    // HID0[4] HILE: exceptions that go to the hypervisor are taken little-endian.
    mfspr  3, 1008
    lis    4, 0x0800
    sldi   4, 4, 32
    or     3, 3, 4
    sync
    mtspr  1008, 3
    isync

    // Election.
    addi   4, 30, 0xf0
    li     5, 1
2:  lwarx  3, 0, 4
    cmpwi  3, 0
    bne    head_lost
    stwcx. 5, 0, 4
    bne-   2b
    isync

    // Copy the image to where it is linked, unless a loader has put it there.
    lis    5, __image_start@h
    ori    5, 5, __image_start@l
    cmpld  5, 30
    beq    4f
    lis    6, __image_end@h
    ori    6, 6, __image_end@l
    subf   6, 5, 6
    srdi   6, 6, 3
    mtctr  6
    addi   7, 30, -8
    addi   8, 5, -8
3:  ldu    9, 8(7)
    stdu   9, 8(8)
    bdnz   3b
4:
    // Vectors and exit code to physical 0, unless the image lies there.
    cmpdi  30, 0
    beq    6f
    li     7, 0xf8
    addi   8, 5, 0xf8
    lis    6, __low_end@h
    ori    6, 6, __low_end@l
    subf   6, 5, 6
    addi   6, 6, -0x100 + 7
    srdi   6, 6, 3
    mtctr  6
5:  ldu    9, 8(8)
    stdu   9, 8(7)
    bdnz   5b
6:
    // Clear bss, which ends on a doubleword.
    lis    7, __bss_start@h
    ori    7, 7, __bss_start@l
    lis    6, __bss_end@h
    ori    6, 6, __bss_end@l
    subf   6, 7, 6
    srdi.  6, 6, 3
    beq    8f
    mtctr  6
    addi   7, 7, -8
    li     9, 0
7:  stdu   9, 8(7)
    bdnz   7b
8:
    sync
    icbi   0, 5                 // the instruction cache snoops stores: any one icbi orders them
    sync
    isync

    // The boot thread's block, in bss: Thread at its base, stacks above. Boot itself has a stack of its own, a larger one.
    lis    13, {boot_block}@h
    ori    13, 13, {boot_block}@l
    mtspr  304, 13              // HSPRG0
    li     0, 0
    lis    1, {boot_stack}@h
    ori    1, 1, {boot_stack}@l
    addis  1, 1, {boot_stack_size} >> 16
    std    1, {t_normal_stack}(13)
    stdu   0, -64(1)            // back chain ends here
    mtlr   0
    ori    3, 0, {emergency_top}
    add    3, 3, 13
    std    3, {t_emergency_stack}(13)
    mfspr  3, 1023              // PIR
    stw    3, {t_pir}(13)

    // Release the others.
    lwsync
    li     3, 1
    stw    3, 0xf4(30)

    mr     3, 31
    mr     4, 30
    lis    12, {boot_entry}@h
    ori    12, 12, {boot_entry}@l
    b      enter_rust

head_lost:
    or     31, 31, 31           // very low priority
    lwz    3, 0xf4(30)
    cmpwi  3, 0
    beq    head_lost
    or     2, 2, 2              // medium
    isync
    lis    12, park@h
    ori    12, 12, park@l
    // Falls through with MSR as Rust wants it; park needs no stack.

// Enters r12 with MSR = SF|HV|ME|RI|LE: ME can be set only by a return from interrupt.
enter_rust:
    lis    10, 0x9000
    sldi   10, 10, 32
    ori    10, 10, 0x1003
    mtspr  314, 12              // HSRR0
    mtspr  315, 10              // HSRR1
    hrfid

// Neither POWER10 nor Power11: the rest of the image would be illegal instructions. Every processor since POWER9 has
// the UART behind the same address of its first chip, so say it there, then stop for good.
unknown_processor:
    lis    4, 0x0006            // LPC of chip 0: 0x0006030000000000
    ori    4, 4, 0x0300
    sldi   4, 4, 32
    lis    5, 0xd001            // its I/O space, UART at 0x3f8
    ori    5, 5, 0x03f8
    rldicl 5, 5, 0, 32
    add    4, 4, 5
    addi   5, 4, 5              // line status
    mfspr  3, 1023              // one thread speaks
    cmpdi  3, 0
    bne    4f
    bcl    20, 31, 1f
1:  mflr   6
    addi   6, 6, 5f - 1b - 1
2:  lbzu   7, 1(6)
    cmpwi  7, 0
    beq    4f
    lis    9, 0x10              // bounded wait for room
    mtctr  9
3:  .long  0x7d0026aa | (5 << 11)  // lbzcix r8, 0, r5
    andi.  8, 8, 0x20
    bdnzt  eq, 3b
    stbcix 7, 0, 4
    b      2b
4:  or     31, 31, 31
    b      4b
5:  .asciz "\r\nnidus: this processor is neither POWER10 nor Power11: use another firmware; stopped\r\n"
    .balign 4
