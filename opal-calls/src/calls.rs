//! The OPAL calls: one row each, in the order of their tokens. Constants, decoding, documentation, OPAL_CHECK_TOKEN
//! and the tests come from the rows.
//!
//! To serve a call, change its `absent` to `served`: the dispatcher does not compile until it has an arm for it.
//! The column after that is what the machine must have; `Fsp`, `OlderChip` and `Never` are the calls that no machine
//! of ours has, whatever we do. Numbers and arguments: open-power/skiboot `include/opal-api.h` and `doc/opal-api`,
//! and Linux `arch/powerpc/include/asm/opal.h`.
//!
//! The surprising fact: addresses in arguments are real or in the kernel's linear map as the caller likes, and all
//! that is read or written through them is big-endian.

use crate::args::{
    AsyncToken, Bdfn, ChipId, FlashId, Girq, Handle, I2cBus, IpmiInterface, Isn, OsAddr, PciId, Pe,
    Phandle, PhbId, Server, ServerOrOthers, Term, VpId,
};
use crate::error::OpalError;
use crate::table::{Facilities, Row, State};

/// Most arguments a call can have (r3 to r10).
pub const MAX_ARGS: usize = 8;

crate::opal_calls! {
    /// Proves that OPAL answers: 0xfeedf00d.
    0   OPAL_TEST(arg: u64)                                                             served Always;
    /// Writes `*len` bytes to a terminal; stores how many were taken.
    1   OPAL_CONSOLE_WRITE(term: Term, len: OsAddr, buf: OsAddr)                        served Console [reentrant];
    /// Reads up to `*len` bytes from a terminal; stores how many there were.
    2   OPAL_CONSOLE_READ(term: Term, len: OsAddr, buf: OsAddr)                         served Console [reentrant];
    /// Reads the date and the time of day, in BCD.
    3   OPAL_RTC_READ(ymd: OsAddr, hmsm: OsAddr)                                        served Rtc;
    /// Sets the date and the time of day, in BCD.
    4   OPAL_RTC_WRITE(ymd: u32, hmsm: u64)                                             served Rtc;
    /// Powers the machine off.
    5   OPAL_CEC_POWER_DOWN(request: u64)                                               served Always [no_return];
    /// Reboots the machine.
    6   OPAL_CEC_REBOOT()                                                               served Always [reentrant no_return];
    /// Copies out of NVRAM.
    7   OPAL_READ_NVRAM(buf: OsAddr, size: u64, offset: u64)                            served Nvram;
    /// Copies into NVRAM.
    8   OPAL_WRITE_NVRAM(buf: OsAddr, size: u64, offset: u64)                           served Nvram;
    /// Serves an interrupt of the firmware; stores the pending events.
    9   OPAL_HANDLE_INTERRUPT(isn: Isn, events: OsAddr)                                 served Always [reports_events];
    /// Runs the firmware's pollers and timers; stores the pending events.
    10  OPAL_POLL_EVENTS(events: OsAddr)                                                served Always [reentrant];
    /// Gives an I/O hub memory for translation tables.
    11  OPAL_PCI_SET_HUB_TCE_MEMORY(hub: u64, addr: OsAddr, size: u64)                  absent OlderChip;
    /// Gives a host bridge memory for translation tables.
    12  OPAL_PCI_SET_PHB_TCE_MEMORY(phb: PhbId, addr: OsAddr, size: u64)                absent OlderChip;
    /// Reads a byte of configuration space.
    13  OPAL_PCI_CONFIG_READ_BYTE(phb: PhbId, bdfn: Bdfn, offset: u64, data: OsAddr)    absent Phb;
    /// Reads a halfword of configuration space.
    14  OPAL_PCI_CONFIG_READ_HALF_WORD(phb: PhbId, bdfn: Bdfn, offset: u64, data: OsAddr) absent Phb;
    /// Reads a word of configuration space.
    15  OPAL_PCI_CONFIG_READ_WORD(phb: PhbId, bdfn: Bdfn, offset: u64, data: OsAddr)    absent Phb;
    /// Writes a byte of configuration space.
    16  OPAL_PCI_CONFIG_WRITE_BYTE(phb: PhbId, bdfn: Bdfn, offset: u64, data: u8)       absent Phb;
    /// Writes a halfword of configuration space.
    17  OPAL_PCI_CONFIG_WRITE_HALF_WORD(phb: PhbId, bdfn: Bdfn, offset: u64, data: u16) absent Phb;
    /// Writes a word of configuration space.
    18  OPAL_PCI_CONFIG_WRITE_WORD(phb: PhbId, bdfn: Bdfn, offset: u64, data: u32)      absent Phb;
    /// Routes an interrupt, XICS style.
    19  OPAL_SET_XIVE(isn: Isn, server: u16, priority: u8)                              absent OlderChip;
    /// Says how an interrupt is routed, XICS style.
    20  OPAL_GET_XIVE(isn: Isn, server: OsAddr, priority: OsAddr)                       absent OlderChip;
    /// Had no handler ever; its arguments are not on record.
    21  OPAL_GET_COMPLETION_TOKEN_STATUS()                                              absent Never;
    /// Gives an exception of the kernel to the firmware.
    22  OPAL_REGISTER_OPAL_EXCEPTION_HANDLER(exception: u64, handler: OsAddr, glue: OsAddr) absent OlderChip;
    /// Says whether an endpoint is frozen, and by what.
    23  OPAL_PCI_EEH_FREEZE_STATUS(phb: PhbId, pe: Pe, state: OsAddr, error: OsAddr, phb_status: OsAddr) absent Phb;
    /// Controls a hot-plug slot.
    24  OPAL_PCI_SHPC(phb: PhbId, action: u64, state: OsAddr)                           absent Never;
    /// Stores how many bytes a terminal would take now.
    25  OPAL_CONSOLE_WRITE_BUFFER_SPACE(term: Term, len: OsAddr)                        served Console [reentrant];
    /// Thaws an endpoint.
    26  OPAL_PCI_EEH_FREEZE_CLEAR(phb: PhbId, pe: Pe, action: u64)                      absent Phb;
    /// Opens or closes a memory window of a host bridge.
    27  OPAL_PCI_PHB_MMIO_ENABLE(phb: PhbId, window_type: u16, window: u16, enable: u16) absent Phb;
    /// Places a memory window of a host bridge.
    28  OPAL_PCI_SET_PHB_MEM_WINDOW(phb: PhbId, window_type: u16, window: u16, addr: u64, pci_addr: u64, size: u64) absent Phb;
    /// Gives a segment of a memory window to an endpoint.
    29  OPAL_PCI_MAP_PE_MMIO_WINDOW(phb: PhbId, pe: Pe, window_type: u16, window: u16, segment: u16) absent Phb;
    /// Gives a host bridge memory for its tables.
    30  OPAL_PCI_SET_PHB_TABLE_MEMORY(phb: PhbId, rtt: OsAddr, ivt: OsAddr, ivt_len: u64, reject: OsAddr, peltv: OsAddr) absent Never;
    /// Puts PCI functions into an endpoint, or out of it.
    31  OPAL_PCI_SET_PE(phb: PhbId, pe: Pe, bdfn: Bdfn, bus: u8, device: u8, function: u8, action: u8) absent Phb;
    /// Makes an endpoint freeze with its parent, or not.
    32  OPAL_PCI_SET_PELTV(phb: PhbId, parent: u32, child: u32, state: u8)              absent Phb;
    /// Gives a message window to an endpoint.
    33  OPAL_PCI_SET_MVE(phb: PhbId, mve: u32, pe: u32)                                 absent Never;
    /// Opens or closes a message window.
    34  OPAL_PCI_SET_MVE_ENABLE(phb: PhbId, mve: u32, state: u32)                       absent Never;
    /// Reads the P and Q bits of a message interrupt.
    35  OPAL_PCI_GET_XIVE_REISSUE(phb: PhbId, ive: u32, p: OsAddr, q: OsAddr)           absent Never;
    /// Writes the P and Q bits of a message interrupt.
    36  OPAL_PCI_SET_XIVE_REISSUE(phb: PhbId, ive: u32, p: u8, q: u8)                   absent Never;
    /// Gives a message interrupt to an endpoint.
    37  OPAL_PCI_SET_XIVE_PE(phb: PhbId, pe: Pe, ive: u32)                              absent Phb;
    /// Says which interrupt source a message interrupt is.
    38  OPAL_GET_XIVE_SOURCE(phb: PhbId, ive: u32, isn: OsAddr)                         absent OlderChip;
    /// Says what a device must write where, below 4 GiB, for a message interrupt.
    39  OPAL_GET_MSI_32(phb: PhbId, mve: u32, ive: u32, range: u8, addr: OsAddr, data: OsAddr) absent Phb;
    /// Says what a device must write where for a message interrupt.
    40  OPAL_GET_MSI_64(phb: PhbId, mve: u32, ive: u32, range: u8, addr: OsAddr, data: OsAddr) absent Phb;
    /// Starts a hardware thread at an address.
    41  OPAL_START_CPU(server: Server, addr: OsAddr)                                    served Always;
    /// Says whether a hardware thread is in the firmware, started or not available.
    42  OPAL_QUERY_CPU_STATUS(server: Server, status: OsAddr)                           served Always;
    /// Writes to the operator panel.
    43  OPAL_WRITE_OPPANEL(lines: OsAddr, count: u64)                                   absent Never;
    /// Gives an endpoint a translation table for DMA.
    44  OPAL_PCI_MAP_PE_DMA_WINDOW(phb: PhbId, pe: Pe, window: u16, levels: u16, table: OsAddr, size: u64, page_size: u64) absent Phb;
    /// Gives an endpoint DMA without translation.
    45  OPAL_PCI_MAP_PE_DMA_WINDOW_REAL(phb: PhbId, pe: Pe, window: u16, start: u64, size: u64) absent Phb;
    /// The number has no meaning; the name is ours.
    46  OPAL_UNUSED_46()                                                                unused Never;
    /// The number has no meaning; the name is ours.
    47  OPAL_UNUSED_47()                                                                unused Never;
    /// The number has no meaning; the name is ours.
    48  OPAL_UNUSED_48()                                                                unused Never;
    /// Begins or ends a reset of a host bridge or slot; answers the ms to wait.
    49  OPAL_PCI_RESET(id: PciId, scope: u8, assert: u8)                                absent Phb;
    /// Reads the diagnostic data of an I/O hub.
    50  OPAL_PCI_GET_HUB_DIAG_DATA(hub: u64, buf: OsAddr, len: u64)                     absent OlderChip;
    /// Reads the diagnostic data of a host bridge, old form.
    51  OPAL_PCI_GET_PHB_DIAG_DATA(phb: PhbId, buf: OsAddr, len: u64)                   absent Never;
    /// Fences a host bridge.
    52  OPAL_PCI_FENCE_PHB(phb: PhbId)                                                  absent Never;
    /// Sets up a device again after a reset.
    53  OPAL_PCI_REINIT(phb: PhbId, scope: u64, data: u64)                              absent Phb;
    /// Masks an error of an endpoint.
    54  OPAL_PCI_MASK_PE_ERROR(phb: PhbId, pe: u16, error: u8, action: u8)              absent Never;
    /// Sets the LED of a slot.
    55  OPAL_SET_SLOT_LED_STATUS(phb: PhbId, slot: u64, led: u8, action: u8)            absent Never;
    /// Reads warnings of power and environment.
    56  OPAL_GET_EPOW_STATUS(status: OsAddr, count: OsAddr)                             absent Fsp;
    /// Sets the attention LED.
    57  OPAL_SET_SYSTEM_ATTENTION_LED(action: u8)                                       absent Never;
    /// Reserved by the ABI.
    58  OPAL_RESERVED1()                                                                absent Never;
    /// Reserved by the ABI.
    59  OPAL_RESERVED2()                                                                absent Never;
    /// Reports one pending error of a host bridge.
    60  OPAL_PCI_NEXT_ERROR(phb: PhbId, pe: OsAddr, error: OsAddr, severity: OsAddr)    absent Phb;
    /// Withdrawn in favour of token 23; its arguments are not on record.
    61  OPAL_PCI_EEH_FREEZE_STATUS2()                                                   absent Never;
    /// Steps a reset of a host bridge or slot; answers the ms to wait.
    62  OPAL_PCI_POLL(id: PciId)                                                        absent Phb;
    /// Ends a message interrupt.
    63  OPAL_PCI_MSI_EOI(phb: PhbId, hwirq: u32)                                        absent OlderChip;
    /// Reads the diagnostic data of a host bridge.
    64  OPAL_PCI_GET_PHB_DIAG_DATA2(phb: PhbId, buf: OsAddr, len: u64)                  absent Phb;
    /// Reads a SCOM register.
    65  OPAL_XSCOM_READ(chip: ChipId, pcb_addr: u64, value: OsAddr)                     served Always;
    /// Writes a SCOM register.
    66  OPAL_XSCOM_WRITE(chip: ChipId, pcb_addr: u64, value: u64)                       served Always;
    /// Reads from the LPC bus.
    67  OPAL_LPC_READ(chip: ChipId, space: u32, addr: u32, data: OsAddr, size: u32)     served Lpc;
    /// Writes to the LPC bus.
    68  OPAL_LPC_WRITE(chip: ChipId, space: u32, addr: u32, data: u32, size: u32)       served Lpc;
    /// Gives the calling hardware thread back to the firmware.
    69  OPAL_RETURN_CPU()                                                               served Always [no_return];
    /// Changes the interrupts' byte order or the MMU of all hardware threads.
    70  OPAL_REINIT_CPUS(flags: u64)                                                    served Always;
    /// Reads an error log.
    71  OPAL_ELOG_READ(buf: OsAddr, size: u64, id: u64)                                 absent Fsp;
    /// Writes an error log.
    72  OPAL_ELOG_WRITE(buf: OsAddr, size: u64, offset: u64)                            absent Never;
    /// Acknowledges an error log.
    73  OPAL_ELOG_ACK(id: u64)                                                          absent Fsp;
    /// Asks for all error logs again.
    74  OPAL_ELOG_RESEND()                                                              absent Fsp;
    /// Says which error log is next, and its size.
    75  OPAL_ELOG_SIZE(id: OsAddr, size: OsAddr, kind: OsAddr)                          absent Fsp;
    /// Checks a firmware update.
    76  OPAL_FLASH_VALIDATE(buf: OsAddr, size: OsAddr, result: OsAddr)                  absent Fsp;
    /// Commits or rejects a firmware update.
    77  OPAL_FLASH_MANAGE(op: u8)                                                       absent Fsp;
    /// Takes a firmware update.
    78  OPAL_FLASH_UPDATE(list: OsAddr)                                                 absent Fsp;
    /// Loads the time base of the calling core from the chip's time of day.
    79  OPAL_RESYNC_TIMEBASE()                                                          served Always [slow];
    /// Says whether a token is served: 1 or 0.
    80  OPAL_CHECK_TOKEN(token: u64)                                                    served Always [reentrant];
    /// Starts a dump.
    81  OPAL_DUMP_INIT(kind: u8)                                                        absent Fsp;
    /// Says which dump is next, and its size.
    82  OPAL_DUMP_INFO(id: OsAddr, size: OsAddr)                                        absent Fsp;
    /// Reads a dump.
    83  OPAL_DUMP_READ(id: u32, list: OsAddr)                                           absent Fsp;
    /// Acknowledges a dump.
    84  OPAL_DUMP_ACK(id: u32)                                                          absent Fsp;
    /// Fetches the next message.
    85  OPAL_GET_MSG(buf: OsAddr, size: u64)                                            served Always;
    /// Fetches the message that ends one operation.
    86  OPAL_CHECK_ASYNC_COMPLETION(buf: OsAddr, size: u64, token: AsyncToken)          served Always;
    /// Ends all access of the firmware to memory of the kernel, before another kernel starts.
    87  OPAL_SYNC_HOST_REBOOT()                                                         served Always;
    /// Reads a sensor, 32 bits.
    88  OPAL_SENSOR_READ(sensor: Handle, token: AsyncToken, data: OsAddr)               served Sensors;
    /// Reads a system parameter.
    89  OPAL_GET_PARAM(token: AsyncToken, id: u32, buf: OsAddr, len: u64)               absent Fsp;
    /// Writes a system parameter.
    90  OPAL_SET_PARAM(token: AsyncToken, id: u32, buf: OsAddr, len: u64)               absent Fsp;
    /// Asks for all dumps again.
    91  OPAL_DUMP_RESEND()                                                              absent Fsp;
    /// Had no handler ever; its arguments are not on record.
    92  OPAL_ELOG_SEND()                                                                absent Never;
    /// Puts a host bridge into CAPI mode.
    93  OPAL_PCI_SET_PHB_CAPI_MODE(phb: PhbId, mode: u64, pe: Pe)                       absent OlderChip;
    /// Says which dump is next, its size and its kind.
    94  OPAL_DUMP_INFO2(id: OsAddr, size: OsAddr, kind: OsAddr)                         absent Fsp;
    /// Writes to the operator panel.
    95  OPAL_WRITE_OPPANEL_ASYNC(token: AsyncToken, lines: OsAddr, count: u64)          absent Fsp;
    /// Injects an error into an endpoint.
    96  OPAL_PCI_ERR_INJECT(phb: PhbId, pe: Pe, kind: u32, function: u32, addr: u64, mask: u64) absent Phb;
    /// Freezes an endpoint.
    97  OPAL_PCI_EEH_FREEZE_SET(phb: PhbId, pe: Pe, action: u64)                        absent Phb;
    /// Serves a hypervisor maintenance interrupt.
    98  OPAL_HANDLE_HMI()                                                               served Always [reports_events];
    /// Turns a workaround of an idle state on or off.
    99  OPAL_CONFIG_CPU_IDLE_STATE(state: u64, enter: u64)                              absent OlderChip;
    /// Sets a register that a deep idle state restores.
    100 OPAL_SLW_SET_REG(pir: Server, sprn: u64, value: u64)                            absent DeepStop;
    /// Names memory that belongs into a dump.
    101 OPAL_REGISTER_DUMP_REGION(id: u32, start: OsAddr, end: OsAddr)                  absent Fsp;
    /// Takes memory out of the dump.
    102 OPAL_UNREGISTER_DUMP_REGION(id: u32)                                            absent Fsp;
    /// Sets the time at which the machine powers on.
    103 OPAL_WRITE_TPO(token: AsyncToken, ymd: u32, hm: u32)                            absent Fsp;
    /// Reads the time at which the machine powers on.
    104 OPAL_READ_TPO(token: AsyncToken, ymd: OsAddr, hm: OsAddr)                       absent Fsp;
    /// Says how long until a delayed power-off.
    105 OPAL_GET_DPO_STATUS(seconds: OsAddr)                                            absent Fsp;
    /// Withdrawn in favour of token 109; its arguments are not on record.
    106 OPAL_OLD_I2C_REQUEST()                                                          absent Never;
    /// Sends an IPMI message to the BMC.
    107 OPAL_IPMI_SEND(interface: IpmiInterface, msg: OsAddr, len: u64)                 served Ipmi;
    /// Fetches an IPMI message of the BMC.
    108 OPAL_IPMI_RECV(interface: IpmiInterface, msg: OsAddr, len: OsAddr)              served Ipmi;
    /// Reads from or writes to an I2C device.
    109 OPAL_I2C_REQUEST(token: AsyncToken, bus: I2cBus, request: OsAddr)               served I2c;
    /// Reads flash.
    110 OPAL_FLASH_READ(id: FlashId, offset: u64, buf: OsAddr, size: u64, token: AsyncToken) served Flash;
    /// Writes flash.
    111 OPAL_FLASH_WRITE(id: FlashId, offset: u64, buf: OsAddr, size: u64, token: AsyncToken) served Flash;
    /// Erases flash.
    112 OPAL_FLASH_ERASE(id: FlashId, offset: u64, size: u64, token: AsyncToken)        served Flash;
    /// Passes a message of the diagnostics daemon.
    113 OPAL_PRD_MSG(msg: OsAddr)                                                       absent Prd;
    /// Reads LEDs.
    114 OPAL_LEDS_GET_INDICATOR(location: OsAddr, mask: OsAddr, value: OsAddr, max: OsAddr) absent Fsp;
    /// Sets LEDs.
    115 OPAL_LEDS_SET_INDICATOR(token: AsyncToken, location: OsAddr, mask: u64, value: u64, max: OsAddr) absent Fsp;
    /// Reboots the machine in a given way, with a reason.
    116 OPAL_CEC_REBOOT2(kind: u32, reason: OsAddr)                                     served Always [reentrant no_return];
    /// Moves buffered output of a terminal on.
    117 OPAL_CONSOLE_FLUSH(term: Term)                                                  served Console [reentrant];
    /// Flattens a part of the device tree.
    118 OPAL_GET_DEVICE_TREE(node: Phandle, buf: OsAddr, len: u64)                      served Always;
    /// Says whether a slot holds something.
    119 OPAL_PCI_GET_PRESENCE_STATE(id: PciId, state: OsAddr)                           absent Phb;
    /// Says whether a slot has power.
    120 OPAL_PCI_GET_POWER_STATE(id: PciId, state: OsAddr)                              absent Phb;
    /// Turns the power of a slot on or off.
    121 OPAL_PCI_SET_POWER_STATE(token: AsyncToken, id: PciId, state: OsAddr)           absent Phb;
    /// Accepts an interrupt, XICS style.
    122 OPAL_INT_GET_XIRR(xirr: OsAddr, just_poll: bool)                                absent OlderChip;
    /// Sets the priority of the calling thread, XICS style.
    123 OPAL_INT_SET_CPPR(cppr: u8)                                                     absent OlderChip;
    /// Ends an interrupt, XICS style.
    124 OPAL_INT_EOI(xirr: u32)                                                         absent OlderChip;
    /// Raises an inter-processor interrupt, XICS style.
    125 OPAL_INT_SET_MFRR(server: u32, mfrr: u8)                                        absent OlderChip;
    /// Drops cached DMA translations.
    126 OPAL_PCI_TCE_KILL(phb: PhbId, kind: u32, pe: Pe, tce_size: u32, dma_addr: u64, pages: u32) absent Phb;
    /// Sets the partition table of the nest MMU, of one chip or (-1) all.
    127 OPAL_NMMU_SET_PTCR(chip: u64, ptcr: u64)                                        served Nmmu;
    /// Resets interrupt routing.
    128 OPAL_XIVE_RESET(mode: u64)                                                      served Xive;
    /// Describes an interrupt source.
    129 OPAL_XIVE_GET_IRQ_INFO(girq: Girq, flags: OsAddr, eoi_page: OsAddr, trigger_page: OsAddr, esb_shift: OsAddr, chip: OsAddr) served Xive;
    /// Says how an interrupt is routed.
    130 OPAL_XIVE_GET_IRQ_CONFIG(girq: Girq, vp: OsAddr, priority: OsAddr, lirq: OsAddr) served Xive;
    /// Routes an interrupt; priority 0xff masks it.
    131 OPAL_XIVE_SET_IRQ_CONFIG(girq: Girq, vp: VpId, priority: u8, lirq: u32)         served Xive;
    /// Describes an event queue.
    132 OPAL_XIVE_GET_QUEUE_INFO(vp: VpId, priority: u32, page: OsAddr, size: OsAddr, eoi_page: OsAddr, escalation: OsAddr, flags: OsAddr) served Xive;
    /// Sets up an event queue.
    133 OPAL_XIVE_SET_QUEUE_INFO(vp: VpId, priority: u32, page: OsAddr, size: u64, flags: u64) served Xive;
    /// Gives the firmware 64 KiB for indirect tables.
    134 OPAL_XIVE_DONATE_PAGE(chip: ChipId, page: OsAddr)                               served Xive;
    /// Allocates 2^order virtual processors; answers the first.
    135 OPAL_XIVE_ALLOCATE_VP_BLOCK(order: u32)                                         served Xive;
    /// Frees a block of virtual processors.
    136 OPAL_XIVE_FREE_VP_BLOCK(vp: VpId)                                               served Xive;
    /// Describes a virtual processor.
    137 OPAL_XIVE_GET_VP_INFO(vp: VpId, flags: OsAddr, cam: OsAddr, report: OsAddr, chip: OsAddr) served Xive;
    /// Sets up a virtual processor.
    138 OPAL_XIVE_SET_VP_INFO(vp: VpId, flags: u64, report: OsAddr)                     served Xive;
    /// Allocates an interrupt of a chip, or of any (0xffffffff); answers its number.
    139 OPAL_XIVE_ALLOCATE_IRQ(chip: ChipId)                                            served Xive;
    /// Frees an interrupt.
    140 OPAL_XIVE_FREE_IRQ(girq: Girq)                                                  served Xive;
    /// Waits until interrupts in flight have landed.
    141 OPAL_XIVE_SYNC(kind: u32, id: u32)                                              served Xive;
    /// Logs state of the interrupt controller.
    142 OPAL_XIVE_DUMP(kind: u32, id: u32)                                              served Xive;
    /// Reads the position of an event queue.
    143 OPAL_XIVE_GET_QUEUE_STATE(vp: VpId, priority: u32, toggle: OsAddr, index: OsAddr) served Xive;
    /// Sets the position of an event queue.
    144 OPAL_XIVE_SET_QUEUE_STATE(vp: VpId, priority: u32, toggle: u32, index: u32)     served Xive;
    /// Delivers a system reset to a hardware thread.
    145 OPAL_SIGNAL_SYSTEM_RESET(target: ServerOrOthers)                                served Always [reentrant];
    /// Sets up a context of an NVLink unit.
    146 OPAL_NPU_INIT_CONTEXT(phb: PhbId, pid: i32, msr: u64, bdfn: Bdfn)               absent OlderChip;
    /// Ends a context of an NVLink unit.
    147 OPAL_NPU_DESTROY_CONTEXT(phb: PhbId, pid: u64, bdfn: Bdfn)                      absent OlderChip;
    /// Gives an NVLink device to a partition.
    148 OPAL_NPU_MAP_LPAR(phb: PhbId, bdfn: Bdfn, lpid: u64, lpcr: u64)                 absent OlderChip;
    /// Sets up in-memory counters.
    149 OPAL_IMC_COUNTERS_INIT(kind: u32, addr: OsAddr, pir: Server)                    absent Imc;
    /// Starts in-memory counters.
    150 OPAL_IMC_COUNTERS_START(kind: u32, pir: Server)                                 absent Imc;
    /// Stops in-memory counters.
    151 OPAL_IMC_COUNTERS_STOP(kind: u32, pir: Server)                                  absent Imc;
    /// Reads a power limit.
    152 OPAL_GET_POWERCAP(handle: Handle, token: AsyncToken, limit: OsAddr)             served Occ;
    /// Sets a power limit.
    153 OPAL_SET_POWERCAP(handle: Handle, token: AsyncToken, limit: u32)                served Occ;
    /// Reads how power is shared between processor and accelerators.
    154 OPAL_GET_POWER_SHIFT_RATIO(handle: Handle, token: AsyncToken, ratio: OsAddr)    served Occ;
    /// Sets how power is shared between processor and accelerators.
    155 OPAL_SET_POWER_SHIFT_RATIO(handle: Handle, token: AsyncToken, ratio: u32)       served Occ;
    /// Clears the extremes of a group of sensors.
    156 OPAL_SENSOR_GROUP_CLEAR(group: Handle, token: AsyncToken)                       absent Sensors;
    /// Lets one host bridge store to another.
    157 OPAL_PCI_SET_P2P(initiator: PhbId, target: PhbId, descriptor: u64, pe: u16)     absent Phb;
    /// Keeps other hardware threads out of the firmware, or lets them in again.
    158 OPAL_QUIESCE(kind: u32, target: ServerOrOthers)                                 served Always;
    /// Gives an OpenCAPI link its table of processes.
    159 OPAL_NPU_SPA_SETUP(phb: PhbId, bdfn: u32, addr: OsAddr, pe_mask: u64)           absent OpenCapi;
    /// Drops a cached entry of that table.
    160 OPAL_NPU_SPA_CLEAR_CACHE(phb: PhbId, bdfn: u32, pe_handle: u64)                 absent OpenCapi;
    /// Sets the templates of an OpenCAPI link.
    161 OPAL_NPU_TL_SET(phb: PhbId, bdfn: u32, capabilities: u64, rates: OsAddr, size: u32) absent OpenCapi;
    /// Reads a sensor, 64 bits.
    162 OPAL_SENSOR_READ_U64(sensor: Handle, token: AsyncToken, data: OsAddr)           served Sensors;
    /// Turns a group of sensors on or off.
    163 OPAL_SENSOR_GROUP_ENABLE(group: Handle, token: AsyncToken, enable: bool)        absent Sensors;
    /// Reads the tunnel address of a host bridge.
    164 OPAL_PCI_GET_PBCQ_TUNNEL_BAR(phb: PhbId, addr: OsAddr)                          absent OlderChip;
    /// Sets the tunnel address of a host bridge.
    165 OPAL_PCI_SET_PBCQ_TUNNEL_BAR(phb: PhbId, addr: u64)                             absent OlderChip;
    /// Serves a hypervisor maintenance interrupt; stores what was lost.
    166 OPAL_HANDLE_HMI2(flags: OsAddr)                                                 served Always [reports_events];
    /// Arms the receive FIFO of a coprocessor again.
    167 OPAL_NX_COPROC_INIT(chip: ChipId, coprocessor: u32)                             absent Nx;
    /// Turns relaxed ordering of an NVLink device on or off.
    168 OPAL_NPU_SET_RELAXED_ORDER(phb: PhbId, bdfn: u16, enable: bool)                 absent OlderChip;
    /// Says whether an NVLink device uses relaxed ordering.
    169 OPAL_NPU_GET_RELAXED_ORDER(phb: PhbId, bdfn: u16)                               absent OlderChip;
    /// Reads the state of a virtual processor.
    170 OPAL_XIVE_GET_VP_STATE(vp: VpId, state: OsAddr)                                 served Xive;
    /// Places memory of an OpenCAPI device.
    171 OPAL_NPU_MEM_ALLOC(phb: PhbId, bdfn: u32, size: u64, bar: OsAddr)               absent OpenCapi;
    /// Takes memory of an OpenCAPI device away.
    172 OPAL_NPU_MEM_RELEASE(phb: PhbId, bdfn: u32)                                     absent OpenCapi;
    /// Changes what a memory-preserving IPL preserves.
    173 OPAL_MPIPL_UPDATE(op: u32, source: OsAddr, destination: OsAddr, size: u64)      absent Mpipl;
    /// Keeps an address across a memory-preserving IPL.
    174 OPAL_MPIPL_REGISTER_TAG(tag: u32, addr: u64)                                    absent Mpipl;
    /// Reads an address that was kept.
    175 OPAL_MPIPL_QUERY_TAG(tag: u32, addr: OsAddr)                                    absent Mpipl;
    /// Reads a secure variable.
    176 OPAL_SECVAR_GET(key: OsAddr, key_len: u64, data: OsAddr, size: OsAddr)          absent Secvar;
    /// Names the secure variable after a given one.
    177 OPAL_SECVAR_GET_NEXT(key: OsAddr, key_len: OsAddr, key_size: u64)               absent Secvar;
    /// Queues a change of a secure variable for the next boot.
    178 OPAL_SECVAR_ENQUEUE_UPDATE(key: OsAddr, key_len: u64, data: OsAddr, size: u64)  absent Secvar;
    /// Sets a control of a host bridge.
    179 OPAL_PHB_SET_OPTION(phb: PhbId, option: u64, value: u64)                        absent Phb;
    /// Reads a control of a host bridge.
    180 OPAL_PHB_GET_OPTION(phb: PhbId, option: u64, value: OsAddr)                     absent Phb;
}

/// The row of a token, served or not.
#[must_use]
pub fn row(token: u64) -> Option<&'static Row> {
    // The rows are dense: the token is the index.
    TABLE
        .get(usize::try_from(token).ok()?)
        .filter(|row| row.token == token)
}

/// Whether a token is served on a machine with `have`: the answer of OPAL_CHECK_TOKEN.
#[must_use]
pub fn is_served(token: u64, have: Facilities) -> bool {
    row(token).is_some_and(|row| row.is_served(have))
}

/// Decodes r0 and r3..=r10 of a call that this machine serves.
///
/// # Errors
/// OPAL_UNSUPPORTED when the call exists but is not served, or the machine lacks what it needs; OPAL_PARAMETER when
/// there is no such call.
pub fn admit(token: u64, regs: [u64; MAX_ARGS], have: Facilities) -> Result<Call, OpalError> {
    let row = row(token)
        .filter(|row| row.state != State::Unused)
        .ok_or(OpalError::OPAL_PARAMETER)?;
    if row.is_served(have) {
        // A served row decodes; if not, the table is broken.
        Call::decode(token, regs).ok_or(OpalError::OPAL_INTERNAL_ERROR)
    } else {
        Err(OpalError::OPAL_UNSUPPORTED)
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{Call, MAX_ARGS, TABLE, admit, is_served, row, token};
    use crate::error::OpalError;
    use crate::table::{Facilities, Facility, State};

    /// `token,name` of each call, taken from the public header (open-power/skiboot, include/opal-api.h).
    const GOLDEN: &str = include_str!("../../tests/golden/opal-tokens.txt");

    /// A machine that has everything a machine can have.
    fn full() -> Facilities {
        TABLE
            .iter()
            .fold(Facilities::NONE, |have, row| have.with(row.needs))
    }

    #[test]
    fn tokens_are_dense_from_zero() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.token, i as u64, "{}", row.name);
            assert!(core::ptr::eq(super::row(row.token).unwrap(), row));
        }
        assert_eq!(TABLE.len(), 181);
        assert!(row(181).is_none() && row(u64::MAX).is_none());
    }

    #[test]
    fn tokens_and_names_are_those_of_the_public_header() {
        let mut ours = String::new();
        for row in TABLE.iter().filter(|row| row.state != State::Unused) {
            ours += &format!("{},{}\n", row.token, row.name);
        }
        assert_eq!(ours, GOLDEN);
    }

    #[test]
    fn rows_are_well_formed() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(row.args.len() <= MAX_ARGS, "{}", row.name);
            assert!(
                row.doc.starts_with(' ') && row.doc.ends_with('.'),
                "{}",
                row.name
            );
            assert!(
                TABLE[..i].iter().all(|r| r.name != row.name),
                "{}",
                row.name
            );
            for (j, arg) in row.args.iter().enumerate() {
                assert!(
                    row.args[..j].iter().all(|a| a.name != arg.name),
                    "{}",
                    row.name
                );
            }
            // A handler for what no machine has would never run.
            assert!(
                row.state != State::Served || row.needs.can_exist(),
                "{}",
                row.name
            );
            assert_eq!(
                row.state == State::Unused,
                row.name.starts_with("OPAL_UNUSED_")
            );
        }
    }

    #[test]
    fn only_these_calls_may_nest() {
        let nests: Vec<_> = TABLE
            .iter()
            .filter(|row| row.flags.reentrant)
            .map(|row| row.token)
            .collect();
        assert_eq!(
            nests,
            [
                token::OPAL_CONSOLE_WRITE,
                token::OPAL_CONSOLE_READ,
                token::OPAL_CEC_REBOOT,
                token::OPAL_POLL_EVENTS,
                token::OPAL_CONSOLE_WRITE_BUFFER_SPACE,
                token::OPAL_CHECK_TOKEN,
                token::OPAL_CEC_REBOOT2,
                token::OPAL_CONSOLE_FLUSH,
                token::OPAL_SIGNAL_SYSTEM_RESET,
            ]
        );
    }

    #[test]
    fn refusals_say_why() {
        let refuse = |token, have| admit(token, [0; 8], have).unwrap_err();
        // Numbers that are no call.
        for token in [46, 47, 48, 181, 1000, 0x8000_0000_0000_0000, u64::MAX] {
            assert_eq!(refuse(token, full()), OpalError::OPAL_PARAMETER);
        }
        // Calls that no machine of ours has.
        for row in TABLE
            .iter()
            .filter(|row| row.state != State::Unused && !row.needs.can_exist())
        {
            assert_eq!(refuse(row.token, full()), OpalError::OPAL_UNSUPPORTED);
        }
        // Calls whose device this machine lacks.
        for row in TABLE
            .iter()
            .filter(|row| row.needs.can_exist() && row.needs != Facility::Always)
        {
            assert_eq!(
                refuse(row.token, Facilities::NONE),
                OpalError::OPAL_UNSUPPORTED
            );
        }
    }

    #[test]
    fn async_calls_take_a_token() {
        assert!(row(token::OPAL_I2C_REQUEST).unwrap().is_async());
        assert!(!row(token::OPAL_XSCOM_READ).unwrap().is_async());
    }

    proptest! {
        #[test]
        fn any_registers_decode_as_the_table_says(low in 0_u64..256, any: u64, regs: [u64; 8]) {
            for n in [low, any, low | any << 8] {
                let served = TABLE.iter().any(|row| row.token == n && row.state == State::Served);
                prop_assert_eq!(Call::decode(n, regs).is_some(), served);
                prop_assert_eq!(admit(n, regs, full()).is_ok(), served);
                prop_assert_eq!(is_served(n, full()), served);
            }
        }
    }
}
