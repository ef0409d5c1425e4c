// How the other threads come back for a fast reboot, wherever the kernel has them, and how all enter the image anew.
//
// opal_landing .. opal_landing_end: copied to the system reset vector, 0x100. Any byte order, real mode, HV=1, all registers
//   the kernel's. Finds the thread by PIR and calls opal_gathered(r3 = OpalThread) on its empty stack.
// opal_waiting_room .. opal_waiting_room_end: copied to memory that the next boot does not touch, since the image and all
//   its data are overwritten while threads wait. On entry: r3 = tree, r4 = the gate, r5 = a word to set to 1 by which the
//   thread says that it needs nothing of the firmware any more. Waits until the gate is not 0, then enters the image at
//   0x10 as after a reset: big-endian, MSR = SF|HV.
// opal_begin_again(r3 = tree, r4 = gate, r5 = waiting room, r6 = first contents of .data): puts the image at 0 and
//   opens the gate. Nothing of the firmware may be used by any other thread.

// A word as a big-endian processor fetches it.
.macro gather_be word
    .long (((\word) & 0xff) << 24) | (((\word) & 0xff00) << 8) | (((\word) >> 8) & 0xff00) | (((\word) >> 24) & 0xff)
.endm

.section .text.opal_gather, "ax"
.globl opal_landing
.balign 8
opal_landing:
    .long 0x48000008                 // little-endian: b .+8; big-endian sees 08000048: tdi 0, r0, 72, which never traps
opal_landing_big_endian:
    gather_be 0x48000014               // big-endian: b .+0x14
    lis    10, opal_landed@h
    ori    10, 10, opal_landed@l
    mtctr  10
    bctr
opal_landing_from_big_endian:
    gather_be 0x7d6000a6               // mfmsr  r11
    gather_be 0x616b0001               // ori    r11, r11, MSR[LE]
    gather_be 0x429f0005               // bcl    20, 31, .+4
    gather_be 0x7d4802a6               // mflr   r10                 = opal_landing + 0x24
    gather_be 0x394affe4               // addi   r10, r10, 8 - 0x24
    gather_be 0x7d5a03a6               // mtsrr0 r10
    gather_be 0x7d7b03a6               // mtsrr1 r11
    gather_be 0x4c000024               // rfid
.globl opal_landing_end
opal_landing_end:

opal_landed:
    mfspr  12, 1023                  // PIR
    cmplwi 12, {max_pir}
    bge    1f
    sldi   12, 12, 3
    lis    11, {by_pir}@h
    ori    11, 11, {by_pir}@l
    ldx    3, 11, 12
    cmpdi  3, 0
    beq    1f
    ld     1, {normal_stack}(3)
    ld     13, {thread}(3)
    mtspr  304, 13                   // HSPRG0
    li     0, 0
    stdu   0, -64(1)
    b      {opal_gathered}@notoc
1:  or     31, 31, 31                // nobody knows it, and nobody waits for it
    b      1b

.globl opal_waiting_room
.balign 8
opal_waiting_room:
    li     7, 1
    sync
    stw    7, 0(5)
1:  or     31, 31, 31                // very low priority
    lwz    7, 0(4)
    cmpwi  7, 0
    beq    1b
    or     2, 2, 2                   // medium
    isync
    li     7, 0x10
    mtspr  314, 7                    // HSRR0
    lis    8, 0x9000
    sldi   8, 8, 32
    mtspr  315, 8                    // HSRR1
    sync
    icbi   0, 7                      // the instruction cache snoops stores: any one icbi orders them
    sync
    isync
    hrfid
.globl opal_waiting_room_end
opal_waiting_room_end:

.globl opal_begin_again
.balign 32
opal_begin_again:
    lis    7, __image_start@h
    ori    7, 7, __image_start@l
    lis    8, __image_end@h
    ori    8, 8, __image_end@l
    subf   9, 7, 8
    srdi   9, 9, 3
    mtctr  9
    addi   10, 7, -8
    li     11, -8
1:  ldu    12, 8(10)
    stdu   12, 8(11)
    bdnz   1b

    // What has changed since: the election, and .data.
    li     12, 0
    std    12, 0xf0(0)
    lis    10, __data_start@h
    ori    10, 10, __data_start@l
    subf   9, 10, 8                  // bytes up to __image_end
    subf   11, 7, 10                 // offset in the image
    srdi.  9, 9, 3
    beq    3f
    mtctr  9
    addi   11, 11, -8
    addi   6, 6, -8
2:  ldu    12, 8(6)
    stdu   12, 8(11)
    bdnz   2b
3:  mtctr  5
    mr     5, 4                      // its own word is the gate
    sync
    icbi   0, 4
    sync
    isync
    bctr
