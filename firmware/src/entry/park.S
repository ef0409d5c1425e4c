// Where the threads wait that lost the election, until firmware has work for them.
//
// On entry: relocated, little-endian, MSR = SF|HV|ME|RI|LE, no stack. Each claims the next slot of `PARK_SLOTS`, says in
// it who it is, and sleeps until the slot names a Thread; a directed hypervisor doorbell ends the sleep (threads::wake).
// On exit: calls secondary_entry(r3 = Thread) on that thread's stack with r13 and HSPRG0 set.

.section .text.park, "ax"
.globl park
park:
    lis    13, {parked_block}@h // for an exception while parked: shared, good enough to print it
    ori    13, 13, {parked_block}@l
    mtspr  304, 13              // HSPRG0

    lis    4, {parked}@h
    ori    4, 4, {parked}@l
1:  lwarx  3, 0, 4
    cmplwi 3, {max_threads}
    bge    4f
    addi   5, 3, 1
    stwcx. 5, 0, 4
    bne-   1b

    lis    4, {park_slots}@h
    ori    4, 4, {park_slots}@l
    mulli  3, 3, {slot_size}
    add    14, 4, 3
    mfspr  3, 1023              // PIR
    stw    3, {slot_pir}(14)
    lwsync
    li     3, 1
    stw    3, {slot_present}(14)

    mfspr  3, 318               // LPCR
    oris   3, 3, 2              // LD: the decrementer has 56 bits
    ori    3, 3, 0x8000         // PECE: a directed hypervisor doorbell ends stop
    mtspr  318, 3
    isync
    li     3, -1                // with PSSCR[EC]=0 every exception ends stop, a run-down decrementer for good:
    srdi   3, 3, 9              // let both run for years
    mtspr  22, 3                // DEC
    mtspr  310, 3               // HDEC
    li     3, 0x300             // PSSCR: TR 3, level 0, no state loss, resume after stop
    mtspr  855, 3
2:  ld     13, {slot_thread}(14)
    cmpdi  13, 0
    bne    3f
    sync
    stop
    lis    3, 0x2800            // doorbell type 5
    .long  0x7c0019dc           // msgclr r3
    .long  0x7c0006ec           // msgsync
    b      2b

3:  isync
    mtspr  304, 13
    ld     1, {t_normal_stack}(13)
    li     0, 0
    stdu   0, -64(1)
    mr     3, 13
    bl     {secondary_entry}@notoc

4:  or     31, 31, 31           // more threads than the table has room for
    b      4b
