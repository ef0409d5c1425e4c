# Instructions as a big-endian processor fetches them: OPAL is entered and left in that byte order.

.macro be value
    .byte ((\value) >> 24) & 0xff, ((\value) >> 16) & 0xff, ((\value) >> 8) & 0xff, (\value) & 0xff
.endm
.macro be_mfspr rt, spr
    be 0x7c0002a6 | (\rt << 21) | ((\spr & 0x1f) << 16) | ((\spr >> 5) << 11)
.endm
.macro be_mtspr spr, rs
    be 0x7c0003a6 | (\rs << 21) | ((\spr & 0x1f) << 16) | ((\spr >> 5) << 11)
.endm
# Goes on little-endian behind itself; clobbers r30, r31 and LR, leaves the MSR that was in r29.
.macro to_little_endian
    be 0x7fa000a6                       # mfmsr 29
    be 0x63bf0001                       # ori 31,29,MSR_LE
    be_mtspr 27, 31
    be 0x429f0005                       # bcl 20,31,.+4
771: be_mfspr 30, 8
    be 0x3bde0000 | (772f - 771b)       # addi 30,30,(772f - 771b)
    be_mtspr 26, 30
    be 0x4c000024                       # rfid
772:
.endm
