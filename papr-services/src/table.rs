//! The hypercalls: one row each. Constants, decoding, documentation, `ibm,hypertas-functions` and the tests come
//! from the rows.
//!
//! A row of the first part is served: adding one does not compile until `serve` has an arm for it. Rows of the
//! second part are calls that exist and are not served: they answer H_FUNCTION and belong to no function set that is
//! announced. Numbers: LoPAR 14.5, and `H_GUEST_*` of the nested API.

use isa::addr::Gra;

/// Makes an argument out of a register.
pub trait FromReg {
    /// Every register value is some value of the type; checks come later.
    fn from_reg(raw: u64) -> Self;
}

impl FromReg for u64 {
    fn from_reg(raw: u64) -> Self {
        raw
    }
}

impl FromReg for Gra {
    fn from_reg(raw: u64) -> Self {
        Self(raw)
    }
}

/// One hypercall as data.
#[derive(Debug)]
pub struct Row {
    /// Number in r3.
    pub number: u64,
    /// Name as in the specification.
    pub name: &'static str,
    /// Names of the arguments, r4 first.
    pub args: &'static [&'static str],
    /// Most output registers, r4 first.
    pub outputs: usize,
    /// Function set of `ibm,hypertas-functions`; empty when it belongs to none.
    pub set: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Whether it is served.
    pub served: bool,
}

macro_rules! hcalls {
    (
        served { $( $(#[doc = $doc:literal])* $number:literal $C:ident ( $($arg:ident : $ty:ty),* ) -> $outputs:literal in $set:literal ; )* }
        absent { $( $absent_number:literal $A:ident ; )* }
    ) => {
        /// Hypercall numbers (r3), served or not.
        pub mod number {
            $( $(#[doc = $doc])* pub const $C: u64 = $number; )*
            $( #[doc = "Not served."] pub const $A: u64 = $absent_number; )*
        }

        /// A served call with its arguments decoded.
        #[expect(non_camel_case_types, reason = "the ABI's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Hcall {
            $( $(#[doc = $doc])* $C {
                $( #[expect(missing_docs, reason = "named in the row's documentation")] $arg: $ty ),*
            } ),*
        }

        impl Hcall {
            /// Decodes r3 and r4..=r12. `None`: not served, the answer is H_FUNCTION.
            #[must_use]
            pub fn decode(number: u64, regs: [u64; 9]) -> Option<Self> {
                let mut regs = regs.into_iter();
                let _ = &mut regs;
                match number {
                    $( $number => Some(Self::$C { $($arg: FromReg::from_reg(regs.next()?)),* }), )*
                    _ => None,
                }
            }
        }

        /// The table, in the order of the rows above.
        pub const TABLE: &[Row] = &[
            $( Row {
                number: $number, name: stringify!($C), args: &[$(stringify!($arg)),*], outputs: $outputs, set: $set,
                doc: concat!($($doc),*), served: true,
            }, )*
            $( Row {
                number: $absent_number, name: stringify!($A), args: &[], outputs: 0, set: "", doc: "", served: false,
            }, )*
        ];
    };
}

hcalls! {
served {
    /// Sets SPRG0 of the caller.
    0x024 H_SET_SPRG0(value: u64)                                              -> 0 in "hcall-sprg0";
    /// Zeroes or copies a 4 KiB page.
    0x02c H_PAGE_INIT(flags: u64, destination: Gra, source: Gra)               -> 0 in "hcall-copy";
    /// Loads 1, 2, 4 or 8 bytes of the partition's memory.
    0x044 H_LOGICAL_CACHE_LOAD(size: u64, addr: Gra)                           -> 1 in "";
    /// Stores 1, 2, 4 or 8 bytes in the partition's memory.
    0x048 H_LOGICAL_CACHE_STORE(size: u64, addr: Gra, value: u64)              -> 0 in "";
    /// Reads up to 16 bytes from a virtual terminal: r4 count, r5 and r6 the bytes.
    0x054 H_GET_TERM_CHAR(unit: u64)                                           -> 3 in "hcall-term";
    /// Writes up to 16 bytes to a virtual terminal, all or none.
    0x058 H_PUT_TERM_CHAR(unit: u64, len: u64, high: u64, low: u64)            -> 0 in "hcall-term";
    /// Ends an interrupt.
    0x064 H_EOI(xirr: u64)                                                     -> 0 in "hcall-interrupt";
    /// Sets the processor's priority.
    0x068 H_CPPR(cppr: u64)                                                    -> 0 in "hcall-interrupt";
    /// Sets the most favoured request of a server: raises an inter-processor interrupt.
    0x06c H_IPI(server: u64, mfrr: u64)                                        -> 0 in "hcall-interrupt";
    /// Reads the pending interrupt without accepting it: r4 XIRR, r5 MFRR.
    0x070 H_IPOLL(server: u64)                                                 -> 2 in "hcall-interrupt";
    /// Accepts the pending interrupt: r4 XIRR.
    0x074 H_XIRR()                                                             -> 1 in "hcall-interrupt";
    /// Registers a VPA, a dispatch trace log or an SLB shadow buffer.
    0x0dc H_REGISTER_VPA(flags: u64, vcpu: u64, area: Gra)                     -> 0 in "hcall-splpar";
    /// Gives up the processor until an interrupt.
    0x0e0 H_CEDE()                                                             -> 0 in "hcall-splpar";
    /// Gives the processor to another vCPU.
    0x0e4 H_CONFER(vcpu: u64, dispatch_count: u64)                             -> 0 in "hcall-splpar";
    /// Wakes a vCPU.
    0x0e8 H_PROD(vcpu: u64)                                                    -> 0 in "hcall-splpar";
    /// Characteristics and behaviour for speculation mitigations: r4, r5.
    0x1c8 H_GET_CPU_CHARACTERISTICS()                                          -> 2 in "";
    /// H_PENDING when an interrupt waits.
    0x1d8 H_POLL_PENDING()                                                     -> 0 in "hcall-splpar";
    /// Accepts the pending interrupt: r4 XIRR, r5 time base of its arrival.
    0x2fc H_XIRR_X(cppr: u64)                                                  -> 2 in "hcall-interrupt";
    /// 64 random bits: r4.
    0x300 H_RANDOM()                                                           -> 1 in "";
    /// Sets a mode of the processor: CIABR, DAWR0/1, AIL, byte order of interrupts.
    0x31c H_SET_MODE(flags: u64, resource: u64, value1: u64, value2: u64)      -> 0 in "hcall-set-mode";
    /// Registers the process table and the translation mode.
    0x37c H_REGISTER_PROC_TBL(flags: u64, base: u64, page_size: u64, size: u64) -> 0 in "";
    /// Delivers a system reset interrupt to vCPUs.
    0x380 H_SIGNAL_SYS_RESET(target: u64)                                      -> 0 in "";
    /// Pages of an interrupt source: r4 flags, r5 management, r6 trigger, r7 log2 of their bytes.
    0x3a8 H_INT_GET_SOURCE_INFO(flags: u64, lisn: u64)                         -> 4 in "";
    /// Routes an interrupt source.
    0x3ac H_INT_SET_SOURCE_CONFIG(flags: u64, lisn: u64, target: u64, priority: u64, eisn: u64) -> 0 in "";
    /// Where an interrupt source is routed: r4 target, r5 priority, r6 data for the queue.
    0x3b0 H_INT_GET_SOURCE_CONFIG(flags: u64, lisn: u64)                       -> 3 in "";
    /// Page of a queue's notification: r4, r5 log2 of its bytes.
    0x3b4 H_INT_GET_QUEUE_INFO(flags: u64, target: u64, priority: u64)         -> 2 in "";
    /// Sets a queue of interrupts up, or takes it away.
    0x3b8 H_INT_SET_QUEUE_CONFIG(flags: u64, target: u64, priority: u64, page: u64, size: u64) -> 0 in "";
    /// A queue of interrupts: r4 flags, r5 page, r6 log2 of its bytes, r7 next entry.
    0x3bc H_INT_GET_QUEUE_CONFIG(flags: u64, target: u64, priority: u64)       -> 4 in "";
    /// Where the caller's acknowledgements report to.
    0x3c0 H_INT_SET_OS_REPORTING_LINE(flags: u64, lines: u64)                  -> 0 in "";
    /// Where a vCPU's acknowledgements report to: r4.
    0x3c4 H_INT_GET_OS_REPORTING_LINE(flags: u64, target: u64)                 -> 1 in "";
    /// Loads from or stores to a source's management page: r4.
    0x3c8 H_INT_ESB(flags: u64, lisn: u64, offset: u64, data: u64)             -> 1 in "";
    /// Waits until what a source sent is in its queue.
    0x3cc H_INT_SYNC(flags: u64, lisn: u64)                                    -> 0 in "";
    /// Takes all routes and queues back.
    0x3d0 H_INT_RESET(flags: u64)                                              -> 0 in "";
    /// Invalidates radix translations, of the caller or of a nested guest.
    0x448 H_RPT_INVALIDATE(id: u64, target: u64, kind: u64, page_sizes: u64, start: u64, end: u64) -> 0 in "hcall-rpt-invalidate";
    /// Levels at which nested guests can run: r4.
    0x460 H_GUEST_GET_CAPABILITIES(flags: u64)                                 -> 1 in "";
    /// Chooses from these levels; also (re)initialises the nested API.
    0x464 H_GUEST_SET_CAPABILITIES(flags: u64, capabilities: u64)              -> 2 in "";
    /// Makes a nested guest: r4 its id.
    0x470 H_GUEST_CREATE(flags: u64, token: u64)                               -> 1 in "";
    /// Makes a vCPU of a nested guest.
    0x474 H_GUEST_CREATE_VCPU(flags: u64, guest: u64, vcpu: u64)               -> 0 in "";
    /// Reads guest state elements.
    0x478 H_GUEST_GET_STATE(flags: u64, guest: u64, vcpu: u64, buffer: Gra, size: u64) -> 1 in "";
    /// Writes guest state elements.
    0x47c H_GUEST_SET_STATE(flags: u64, guest: u64, vcpu: u64, buffer: Gra, size: u64) -> 1 in "";
    /// Runs a vCPU until something needs the caller: r4 why.
    0x480 H_GUEST_RUN_VCPU(flags: u64, guest: u64, vcpu: u64)                  -> 1 in "";
    /// Deletes a nested guest, or all of them.
    0x488 H_GUEST_DELETE(flags: u64, guest: u64)                               -> 0 in "";
    /// Calls RTAS with the argument block at `args`.
    0xf000 H_RTAS(args: Gra)                                                   -> 0 in "";
}
absent {
    // Hash page tables: partitions are radix only.
    0x004 H_REMOVE; 0x008 H_ENTER; 0x00c H_READ; 0x010 H_CLEAR_MOD; 0x014 H_CLEAR_REF; 0x018 H_PROTECT;
    0x124 H_BULK_REMOVE; 0x328 H_BLOCK_REMOVE; 0x358 H_CLEAR_HPT; 0x36c H_RESIZE_HPT_PREPARE; 0x370 H_RESIZE_HPT_COMMIT;
    // Input/output translation and virtual devices.
    0x01c H_GET_TCE; 0x020 H_PUT_TCE; 0x138 H_STUFF_TCE; 0x13c H_PUT_TCE_INDIRECT; 0x078 H_MIGRATE_DMA;
    0x0fc H_REG_CRQ; 0x100 H_FREE_CRQ; 0x104 H_VIO_SIGNAL; 0x108 H_SEND_CRQ; 0x110 H_COPY_RDMA; 0x2b0 H_ENABLE_CRQ;
    0x114 H_REGISTER_LOGICAL_LAN; 0x118 H_FREE_LOGICAL_LAN; 0x11c H_ADD_LOGICAL_LAN_BUFFER; 0x120 H_SEND_LOGICAL_LAN;
    0x130 H_MULTICAST_CTRL; 0x14c H_CHANGE_LOGICAL_LAN_MAC; 0x1d4 H_FREE_LOGICAL_LAN_BUFFER; 0x244 H_ILLAN_ATTRIBUTES;
    0x248 H_ADD_LOGICAL_LAN_BUFFERS; 0x150 H_VTERM_PARTNER_INFO; 0x154 H_REGISTER_VTERM; 0x158 H_FREE_VTERM;
    0x2a0 H_VASI_SIGNAL; 0x2a4 H_VASI_STATE; 0x2a8 H_VIOCTL; 0x2dc H_REG_SUB_CRQ; 0x2e0 H_FREE_SUB_CRQ;
    0x2e4 H_SEND_SUB_CRQ; 0x2e8 H_SEND_SUB_CRQ_INDIRECT; 0x1e4 H_QUERY_INT_STATE;
    // Debugging and facilities that the processor does not have.
    0x028 H_SET_DABR; 0x030 H_SET_ASR; 0x034 H_ASR_ON; 0x038 H_ASR_OFF; 0x03c H_LOGICAL_CI_LOAD;
    0x040 H_LOGICAL_CI_STORE; 0x04c H_LOGICAL_ICBI; 0x050 H_LOGICAL_DCBF; 0x05c H_REAL_TO_LOGICAL; 0x060 H_HYPERVISOR_DATA; 0x07c H_PERFMON; 0x134 H_SET_XDABR;
    // Shared processors, energy, migration.
    0x0ec H_GET_PPP; 0x0f0 H_SET_PPP; 0x0f4 H_PURR; 0x0f8 H_PIC; 0x298 H_JOIN; 0x2b8 H_GET_EM_PARMS; 0x2d0 H_SET_MPP;
    0x2d4 H_GET_MPP; 0x2ec H_HOME_NODE_ASSOCIATIVITY; 0x2f4 H_BEST_ENERGY; 0x314 H_GET_MPP_X; 0x360 H_REQUEST_VMC;
    0x450 H_GET_ENERGY_SCALE_INFO; 0x458 H_HTM; 0x45c H_WATCHDOG;
    // Coprocessors.
    0x304 H_COP; 0x388 H_ALLOCATE_VAS_WINDOW; 0x38c H_MODIFY_VAS_WINDOW; 0x390 H_DEALLOCATE_VAS_WINDOW;
    0x394 H_QUERY_VAS_WINDOW; 0x398 H_QUERY_VAS_CAPABILITIES; 0x39c H_QUERY_NX_CAPABILITIES; 0x3a0 H_GET_NX_FAULT;
    // Storage class memory and the key store.
    0x3e4 H_SCM_READ_METADATA; 0x3e8 H_SCM_WRITE_METADATA; 0x3ec H_SCM_BIND_MEM; 0x3f0 H_SCM_UNBIND_MEM;
    0x3f4 H_SCM_QUERY_BLOCK_MEM_BINDING; 0x3f8 H_SCM_QUERY_LOGICAL_MEM_BINDING; 0x3fc H_SCM_UNBIND_ALL;
    0x400 H_SCM_HEALTH; 0x418 H_SCM_PERFORMANCE_STATS; 0x44c H_SCM_FLUSH;
    0x41c H_PKS_GET_CONFIG; 0x420 H_PKS_SET_PASSWORD; 0x424 H_PKS_GEN_PASSWORD; 0x42c H_PKS_WRITE_OBJECT;
    0x430 H_PKS_GEN_KEY; 0x434 H_PKS_READ_OBJECT; 0x438 H_PKS_REMOVE_OBJECT; 0x43c H_PKS_CONFIRM_OBJECT_FLUSHED;
    0x454 H_PKS_SIGNED_UPDATE; 0x490 H_PKS_WRAP_OBJECT; 0x494 H_PKS_UNWRAP_OBJECT;
    // Nested guests: a call without public semantics, and the older interface.
    0x484 H_GUEST_COPY_MEMORY; 0xf800 H_SET_PARTITION_TABLE; 0xf804 H_ENTER_NESTED; 0xf808 H_TLB_INVALIDATE;
    0xf80c H_COPY_TOFROM_GUEST;
    // Performance counters and private numbers of other hypervisors.
    0xf078 H_GET_24X7_CATALOG_PAGE; 0xf07c H_GET_24X7_DATA; 0xf080 H_GET_PERF_COUNTER_INFO;
    0xf001 H_LOGICAL_MEMOP; 0xf002 H_CAS; 0xf003 H_UPDATE_DT; 0xf005 H_VOF_CLIENT;
}
}

/// The function sets that are announced in `ibm,hypertas-functions`: every set of a served row, once, in table order.
pub fn function_sets() -> impl Iterator<Item = &'static str> {
    TABLE.iter().enumerate().filter_map(|(i, row)| {
        let first = TABLE.iter().take(i).all(|earlier| earlier.set != row.set);
        (row.served && first && !row.set.is_empty()).then_some(row.set)
    })
}

/// The row of a number, served or not.
#[must_use]
pub fn row(number: u64) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.number == number)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::{Hcall, TABLE, function_sets, number};
    use crate::error::MAX_OUTPUTS;

    #[test]
    fn served_rows_ascend() {
        let numbers: Vec<u64> = TABLE
            .iter()
            .filter(|row| row.served)
            .map(|row| row.number)
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn numbers_and_names_are_unique() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..i]
                    .iter()
                    .all(|r| r.number != row.number && r.name != row.name),
                "{}",
                row.name
            );
        }
    }

    /// Names and numbers as Linux and QEMU have them.
    const GOLDEN: &str = include_str!("../../tests/golden/papr-hcalls.txt");

    #[test]
    fn numbers_are_the_worlds() {
        let mut rows: Vec<_> = TABLE.iter().map(|row| (row.number, row.name)).collect();
        rows.sort_unstable();
        let lines = rows
            .iter()
            .map(|(number, name)| format!("{number:#06x},{name}"));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            GOLDEN.lines().collect::<Vec<_>>()
        );
    }

    #[test]
    fn rows_are_well_formed() {
        for row in TABLE {
            assert!(row.number % 4 == 0 || row.number >= 0xef00, "{}", row.name);
            assert!(
                row.outputs <= MAX_OUTPUTS && row.args.len() <= 9,
                "{}",
                row.name
            );
            assert_eq!(row.served, !row.doc.is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn announced_sets_are_known_names() {
        let sets: Vec<_> = function_sets().collect();
        assert_eq!(
            sets,
            [
                "hcall-sprg0",
                "hcall-copy",
                "hcall-term",
                "hcall-interrupt",
                "hcall-splpar",
                "hcall-set-mode",
                "hcall-rpt-invalidate"
            ]
        );
    }

    #[test]
    fn arguments_come_from_r4_up() {
        let call = Hcall::decode(number::H_IPI, [7, 8, 9, 0, 0, 0, 0, 0, 0]);
        assert_eq!(call, Some(Hcall::H_IPI { server: 7, mfrr: 8 }));
    }

    proptest! {
        #[test]
        fn any_registers_decode_as_the_table_says(n in 0u64..0x1_0000, regs: [u64; 9]) {
            let served = TABLE.iter().any(|row| row.served && row.number == n);
            prop_assert_eq!(Hcall::decode(n, regs).is_some(), served);
        }
    }
}
