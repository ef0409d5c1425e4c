# opal_invoke(r3 = token, r4 = eight arguments, r5 = MSR bits for the call, r6 = 1 to call big-endian, 0 little-endian)
# An OPAL call as a kernel makes it. RI and EE are off while HSRR0/1 hold what must not be lost, so that an interrupt
# which is taken anywhere else may make a call of its own. Trusts the firmware with r1 and r31 only.
.text
.globl opal_invoke
.balign 16
opal_invoke:
    mflr 0
    std 0, 16(1)
    stdu 1, -128(1)
    std 2, 32(1)
    std 31, 40(1)
    mfmsr 31
    mr 0, 3
    mr 11, 4
    or 12, 31, 5
    andc 12, 12, 6
    li 9, 0
    mtmsrd 9, 1
    ld 2, {opal_base}(0)
    ld 10, {opal_entry}(0)
    mtspr 314, 10
    mtspr 315, 12
    cmpdi 6, 0
    bcl 20, 31, .+4
1:  mflr 12
    addi 9, 12, 3f - 1b
    addi 12, 12, 2f - 1b
    mtlr 12
    bne 4f
    mtlr 9
4:
    ld 3, 0(11)
    ld 4, 8(11)
    ld 5, 16(11)
    ld 6, 24(11)
    ld 7, 32(11)
    ld 8, 40(11)
    ld 9, 48(11)
    ld 10, 56(11)
    hrfid
2:  be 0x39600000                       # li 11,0
    be 0x7d610164                       # mtmsrd 11,1
    be 0x429f0005                       # bcl 20,31,.+4
5:  be_mfspr 12, 8
    be 0x398c0000 | (6f - 5b)           # addi 12,12,(6f - 5b)
    be_mtspr 314, 12
    be_mtspr 315, 31
    be 0x4c000224                       # hrfid
3:  mtmsrd 31, 1
6:  ld 2, 32(1)
    ld 31, 40(1)
    addi 1, 1, 128
    ld 0, 16(1)
    mtlr 0
    blr
