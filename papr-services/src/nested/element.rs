//! Guest state elements: one row each, with identity, scope, access, place and value rule. The parser, the emitter,
//! the hypercalls and the tests all come from these rows (kvm-nested.rst; reference "nested", 2.3).
//!
//! The surprising fact: HEIR is 8 bytes long although the document says 4. Every Linux demands 8 and ends its guest
//! otherwise.

use isa::addr::Gra;
use isa::lpcr::Lpcr;

use super::rule::{DAWRX, NO_VPA};
pub use super::rule::{LPCR_SETTABLE, Limits, MSR_SETTABLE, Own, Rule};
use super::vcpu::{Area, Vcpu};

/// Whose state an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A guest's.
    Guest,
    /// One vCPU's.
    Thread,
    /// The hypervisor's, on behalf of the calling partition.
    Host,
}

/// What a partition may do with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    R,
    /// Read and write.
    RW,
}

/// An element's value as doublewords, first in memory first. Values of 4 bytes are zero-extended.
pub type Words = [u64; 3];

/// Where an element's value lives.
#[derive(Clone, Copy)]
pub enum Place {
    /// Nowhere.
    Nothing,
    /// A register in a vCPU's state.
    Register {
        /// Reads it.
        get: fn(&Vcpu) -> u64,
        /// Gives its place.
        slot: fn(&mut Vcpu) -> &mut u64,
    },
    /// General purpose register of the element's number.
    Gpr,
    /// Vector-scalar register of the element's number.
    Vsr,
    /// The run input buffer of a vCPU.
    RunInput,
    /// The run output buffer of a vCPU.
    RunOutput,
    /// The virtual processor area of a vCPU.
    Vpa,
    /// A constant.
    Constant(u64),
    /// Architecture level of a guest.
    LogicalPvr,
    /// Time base offset of a guest.
    TbOffset,
    /// Partition-scoped tree of a guest, in its partition's memory.
    PartitionTable,
    /// Process table of a guest, in the guest's memory.
    ProcessTable,
    /// A counter of the partition's account.
    Counter(Counter),
}

/// The host-wide counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Bytes in use for management.
    Heap,
    /// Limit of that.
    HeapMax,
    /// Bytes in use for page tables.
    Tables,
    /// Limit of that.
    TablesMax,
    /// Page-table bytes that were taken back because of over-commitment, ever.
    Reclaimed,
}

/// One kind of element.
pub struct Element {
    /// Id, or the first of [`Element::count`] ids.
    pub id: u16,
    /// How many ids in a row; they differ in the register's number.
    pub count: u16,
    /// Name, without the register's number.
    pub name: &'static str,
    /// Bytes of the value.
    pub len: u16,
    /// Whose state.
    pub scope: Scope,
    /// Read or write.
    pub access: Access,
    /// Where the value lives.
    pub place: Place,
    /// Which values are taken.
    pub rule: Rule,
    /// Meaning, with the register's number.
    pub doc: &'static str,
}

macro_rules! place {
    (vcpu.$($field:tt)+) => {
        Place::Register { get: |vcpu| vcpu.$($field)+, slot: |vcpu| &mut vcpu.$($field)+ }
    };
    ($($other:tt)+) => { Place::$($other)+ };
}

macro_rules! elements {
    ($( $id:literal $(..= $last:literal)? $NAME:ident $len:literal $scope:ident $access:ident
        [$($place:tt)+] $rule:expr, $doc:literal; )*) => {
        $(
            #[doc = concat!("Element ", stringify!($id), ": ", $doc)]
            pub static $NAME: Element = Element {
                id: $id,
                count: elements!(@count $id $($last)?),
                name: stringify!($NAME),
                len: $len,
                scope: Scope::$scope,
                access: Access::$access,
                place: place!($($place)+),
                rule: $rule,
                doc: $doc,
            };
        )*

        /// All elements, ascending by id.
        pub static TABLE: &[&Element] = &[ $( &$NAME ),* ];

        /// The element of an id, and its number in a family (5 for GPR5).
        #[must_use]
        pub fn find(id: u16) -> Option<(&'static Element, u16)> {
            match id {
                $( $id $(..=$last)? => Some((&$NAME, id.wrapping_sub($id))), )*
                _ => None,
            }
        }
    };
    (@count $id:literal) => { 1 };
    (@count $id:literal $last:literal) => { $last - $id + 1 };
}

/// Smallest run output buffer. It holds every register that an exit can report: 32 GPRs of 12 bytes and 150 more.
pub const RUN_OUTPUT_MIN_SIZE: u64 = OUTPUT_BYTES as u64;
/// The same, for the buffer it is built in.
pub(super) const OUTPUT_BYTES: usize = 1024;
/// Bytes of a vCPU's image for a transfer of ownership, which this hypervisor does not offer: nothing to transfer.
const HOST_STATE_SIZE: u64 = 0x1000;

elements! {
    // Guest-wide.
    0x0001 HOST_STATE_SIZE_ELEMENT  8 Guest  R  [Constant(HOST_STATE_SIZE)]     Rule::Any,            "size of a vCPU's image for ownership transfer";
    0x0002 RUN_OUTPUT_MIN           8 Guest  R  [Constant(RUN_OUTPUT_MIN_SIZE)] Rule::Any,            "smallest run output buffer";
    0x0003 LOGICAL_PVR              4 Guest  RW [LogicalPvr]                    Rule::LogicalPvr,     "architecture level";
    0x0004 TB_OFFSET                8 Guest  RW [TbOffset]                      Rule::TbOffset,       "added to the partition's time base";
    0x0005 PARTITION_TABLE         24 Guest  RW [PartitionTable]                Rule::PartitionTable, "root, address bits, root bytes";
    0x0006 PROCESS_TABLE           16 Guest  RW [ProcessTable]                  Rule::ProcessTable,   "guest real address, bytes";
    // Host-wide.
    0x0800 L0_GUEST_HEAP            8 Host   R  [Counter(Counter::Heap)]        Rule::Any,            "bytes in use for management";
    0x0801 L0_GUEST_HEAP_MAX        8 Host   R  [Counter(Counter::HeapMax)]     Rule::Any,            "limit of 0x0800";
    0x0802 L0_GUEST_PGTABLE_SIZE    8 Host   R  [Counter(Counter::Tables)]      Rule::Any,            "bytes in use for page tables";
    0x0803 L0_GUEST_PGTABLE_SIZE_MAX 8 Host  R  [Counter(Counter::TablesMax)]   Rule::Any,            "limit of 0x0802";
    0x0804 L0_GUEST_PGTABLE_RECLAIM 8 Host   R  [Counter(Counter::Reclaimed)]   Rule::Any,            "bytes reclaimed, ever";
    // Buffers of a vCPU.
    0x0c00 RUN_INPUT               16 Thread RW [RunInput]                      Rule::RunBuffer,      "address, bytes";
    0x0c01 RUN_OUTPUT              16 Thread RW [RunOutput]                     Rule::RunBuffer,      "address, bytes";
    0x0c02 VPA                      8 Thread RW [Vpa]                           Rule::Vpa,            "address, or all ones";
    // Doublewords of a vCPU.
    0x1000 ..= 0x101f GPR            8 Thread RW [Gpr]                           Rule::Any,            "general purpose register";
    0x1020 HDEC_EXPIRY_TB           8 Thread RW [vcpu.hdec_expiry]              Rule::Any,            "partition's time base when a run ends";
    0x1021 NIA                      8 Thread RW [vcpu.context.nia]              Rule::Any,            "next instruction";
    0x1022 MSR                      8 Thread RW [vcpu.context.msr]              Rule::Msr,            "machine state";
    0x1023 LR                       8 Thread RW [vcpu.context.lr]               Rule::Any,            "link register";
    0x1024 XER                      8 Thread RW [vcpu.context.xer]              Rule::Any,            "fixed-point exceptions";
    0x1025 CTR                      8 Thread RW [vcpu.context.ctr]              Rule::Any,            "count register";
    0x1026 CFAR                     8 Thread RW [vcpu.context.cfar]             Rule::Any,            "come-from address";
    0x1027 SRR0                     8 Thread RW [vcpu.context.srr0]             Rule::Any,            "SPR 26";
    0x1028 SRR1                     8 Thread RW [vcpu.context.srr1]             Rule::Any,            "SPR 27";
    0x1029 DAR                      8 Thread RW [vcpu.context.dar]              Rule::Any,            "SPR 19";
    0x102a DEC_EXPIRY_TB            8 Thread RW [vcpu.dec_expiry]               Rule::Any,            "partition's time base when DEC goes negative";
    0x102b VTB                      8 Thread RW [vcpu.context.vtb]              Rule::Any,            "SPR 849";
    0x102c LPCR                     8 Thread RW [Register { get: |vcpu| vcpu.lpcr & !Lpcr::MER.bits(), slot: |vcpu| &mut vcpu.lpcr }] Rule::Lpcr, "SPR 318; read without MER";
    0x102d HFSCR                    8 Thread RW [vcpu.hfscr]                    Rule::Hfscr,          "SPR 190";
    0x102e FSCR                     8 Thread RW [vcpu.context.fscr]             Rule::Any,            "SPR 153";
    0x102f FPSCR                    8 Thread RW [vcpu.context.fpscr]            Rule::Any,            "floating-point status";
    0x1030 DAWR0                    8 Thread RW [vcpu.context.dawr[0]]          Rule::Any,            "SPR 180";
    0x1031 DAWR1                    8 Thread RW [vcpu.context.dawr[1]]          Rule::Any,            "SPR 181";
    0x1032 CIABR                    8 Thread RW [vcpu.context.ciabr]            Rule::Ciabr,          "SPR 187";
    0x1033 PURR                     8 Thread RW [vcpu.context.purr]             Rule::Any,            "SPR 309";
    0x1034 SPURR                    8 Thread RW [vcpu.context.spurr]            Rule::Any,            "SPR 308";
    0x1035 IC                       8 Thread RW [vcpu.context.ic]               Rule::Any,            "SPR 848";
    0x1036 SPRG0                    8 Thread RW [vcpu.context.sprg[0]]          Rule::Any,            "SPR 272";
    0x1037 SPRG1                    8 Thread RW [vcpu.context.sprg[1]]          Rule::Any,            "SPR 273";
    0x1038 SPRG2                    8 Thread RW [vcpu.context.sprg[2]]          Rule::Any,            "SPR 274";
    0x1039 SPRG3                    8 Thread RW [vcpu.context.sprg[3]]          Rule::Any,            "SPR 275";
    0x103a PPR                      8 Thread RW [vcpu.context.ppr]              Rule::Ppr,            "SPR 896";
    0x103b MMCR0                    8 Thread RW [vcpu.context.mmcr[0]]          Rule::Any,            "SPR 795";
    0x103c MMCR1                    8 Thread RW [vcpu.context.mmcr[1]]          Rule::Any,            "SPR 798";
    0x103d MMCR2                    8 Thread RW [vcpu.context.mmcr[2]]          Rule::Any,            "SPR 785";
    0x103e MMCR3                    8 Thread RW [vcpu.context.mmcr[3]]          Rule::Any,            "SPR 754";
    0x103f MMCRA                    8 Thread RW [vcpu.context.mmcra]            Rule::Any,            "SPR 786";
    0x1040 SIER                     8 Thread RW [vcpu.context.sier[0]]          Rule::Any,            "SPR 784";
    0x1041 SIER2                    8 Thread RW [vcpu.context.sier[1]]          Rule::Any,            "SPR 752";
    0x1042 SIER3                    8 Thread RW [vcpu.context.sier[2]]          Rule::Any,            "SPR 753";
    0x1043 BESCR                    8 Thread RW [vcpu.context.bescr]            Rule::Any,            "SPR 806";
    0x1044 EBBHR                    8 Thread RW [vcpu.context.ebbhr]            Rule::Any,            "SPR 804";
    0x1045 EBBRR                    8 Thread RW [vcpu.context.ebbrr]            Rule::Any,            "SPR 805";
    0x1046 AMR                      8 Thread RW [vcpu.context.amr]              Rule::Any,            "SPR 29";
    0x1047 IAMR                     8 Thread RW [vcpu.context.iamr]             Rule::Any,            "SPR 61";
    0x1048 AMOR                     8 Thread RW [vcpu.context.amor]             Rule::Amor,           "SPR 349";
    0x1049 UAMOR                    8 Thread RW [vcpu.context.uamor]            Rule::Any,            "SPR 157";
    0x104a SDAR                     8 Thread RW [vcpu.context.sdar]             Rule::Any,            "SPR 797";
    0x104b SIAR                     8 Thread RW [vcpu.context.siar]             Rule::Any,            "SPR 796";
    0x104c DSCR                     8 Thread RW [vcpu.context.dscr]             Rule::Any,            "SPR 17";
    0x104d TAR                      8 Thread RW [vcpu.context.tar]              Rule::Any,            "SPR 815";
    0x104e DEXCR                    8 Thread RW [vcpu.context.dexcr]            Rule::Any,            "SPR 828";
    0x104f HDEXCR                   8 Thread RW [vcpu.context.hdexcr]           Rule::Hdexcr,         "SPR 471";
    0x1050 HASHKEYR                 8 Thread RW [vcpu.context.hashkeyr]         Rule::Any,            "SPR 468";
    0x1051 HASHPKEYR                8 Thread RW [vcpu.context.hashpkeyr]        Rule::Any,            "SPR 469";
    0x1052 CTRL                     8 Thread RW [vcpu.context.ctrl]             Rule::Mask(1),        "SPR 136; the run latch";
    0x1053 DPDES                    8 Thread RW [vcpu.context.dpdes]            Rule::Mask(1),        "SPR 176; doorbell of this vCPU";
    // Words of a vCPU.
    0x2000 CR                       4 Thread RW [vcpu.context.cr]               Rule::Any,            "condition register";
    0x2001 PIDR                     4 Thread RW [vcpu.context.pidr]             Rule::Any,            "SPR 48";
    0x2002 DSISR                    4 Thread RW [vcpu.context.dsisr]            Rule::Any,            "SPR 18";
    0x2003 VSCR                     4 Thread RW [vcpu.context.vscr]             Rule::Any,            "vector status, low word";
    0x2004 VRSAVE                   4 Thread RW [vcpu.context.vrsave]           Rule::Any,            "SPR 256";
    0x2005 DAWRX0                   4 Thread RW [vcpu.context.dawrx[0]]         Rule::Mask(DAWRX),    "SPR 188";
    0x2006 DAWRX1                   4 Thread RW [vcpu.context.dawrx[1]]         Rule::Mask(DAWRX),    "SPR 189";
    0x2007 PMC1                     4 Thread RW [vcpu.context.pmc[0]]           Rule::Any,            "SPR 787";
    0x2008 PMC2                     4 Thread RW [vcpu.context.pmc[1]]           Rule::Any,            "SPR 788";
    0x2009 PMC3                     4 Thread RW [vcpu.context.pmc[2]]           Rule::Any,            "SPR 789";
    0x200a PMC4                     4 Thread RW [vcpu.context.pmc[3]]           Rule::Any,            "SPR 790";
    0x200b PMC5                     4 Thread RW [vcpu.context.pmc[4]]           Rule::Any,            "SPR 791";
    0x200c PMC6                     4 Thread RW [vcpu.context.pmc[5]]           Rule::Any,            "SPR 792";
    0x200d WORT                     4 Thread RW [vcpu.context.wort]             Rule::Any,            "SPR 895; stored only";
    0x200e PSPB                     4 Thread RW [vcpu.context.pspb]             Rule::Any,            "SPR 159";
    // Quadwords of a vCPU.
    0x3000 ..= 0x303f VSR           16 Thread RW [Vsr]                           Rule::Any,            "vector-scalar register";
    // Causes of the last exit.
    0xf000 HDAR                     8 Thread R  [vcpu.cause.hdar]               Rule::Any,            "effective address";
    0xf001 HDSISR                   4 Thread R  [vcpu.cause.hdsisr]             Rule::Any,            "cause of a storage interrupt";
    0xf002 HEIR                     8 Thread R  [vcpu.cause.heir]               Rule::Any,            "instruction; a prefix in the high word";
    0xf003 ASDR                     8 Thread R  [vcpu.cause.asdr]               Rule::Any,            "guest real address of a storage interrupt";
}

/// The id that is skipped, whatever its length.
pub const NOP: u16 = 0;

impl Element {
    /// The value as bytes in buffer order. Shorter than the array: the first [`Element::len`] count.
    #[must_use]
    pub fn bytes(&self, words: Words) -> [u8; 24] {
        let [first, second, third] = words;
        let first = if self.len == 4 { first << 32 } else { first };
        let mut bytes = [0; 24];
        let all = [first, second, third];
        for (to, from) in bytes
            .iter_mut()
            .zip(all.iter().flat_map(|w| w.to_be_bytes()))
        {
            *to = from;
        }
        bytes
    }

    /// The words of a value of this element's length; other lengths give zeros.
    #[must_use]
    pub fn words(&self, value: &[u8]) -> Words {
        if let Ok(double) = <[u8; 8]>::try_from(value) {
            return [u64::from_be_bytes(double), 0, 0];
        }
        let mut words = [0; 3];
        if let Ok(word) = <[u8; 4]>::try_from(value) {
            return [u32::from_be_bytes(word).into(), 0, 0];
        }
        for (to, chunk) in words.iter_mut().zip(value.chunks_exact(8)) {
            *to = <[u8; 8]>::try_from(chunk).map_or(0, u64::from_be_bytes);
        }
        words
    }

    /// A thread-scope value.
    #[must_use]
    pub fn read(&self, vcpu: &Vcpu, number: u16) -> Words {
        let index = usize::from(number);
        let area = |area: Option<Area>| area.map_or([0; 3], |a| [a.gra.0, a.len, 0]);
        match self.place {
            Place::Register { get, .. } => [get(vcpu), 0, 0],
            Place::Gpr => [vcpu.context.gpr.get(index).copied().unwrap_or(0), 0, 0],
            Place::Vsr => {
                let [high, low] = vcpu.context.vsr.get(index).copied().unwrap_or([0; 2]);
                [high, low, 0]
            }
            Place::RunInput => area(vcpu.input),
            Place::RunOutput => area(vcpu.output),
            Place::Vpa => [vcpu.vpa.map_or(NO_VPA, |gra| gra.0), 0, 0],
            Place::Constant(value) => [value, 0, 0],
            Place::Nothing
            | Place::LogicalPvr
            | Place::TbOffset
            | Place::PartitionTable
            | Place::ProcessTable
            | Place::Counter(_) => [0; 3],
        }
    }

    /// Stores a thread-scope value that [`Limits::accept`] gave.
    pub fn write(&self, vcpu: &mut Vcpu, number: u16, words: Words) {
        let index = usize::from(number);
        let [first, second, _] = words;
        let area = Some(Area {
            gra: Gra(first),
            len: second,
        });
        match self.place {
            Place::Register { slot, .. } => *slot(vcpu) = first,
            Place::Gpr => {
                if let Some(gpr) = vcpu.context.gpr.get_mut(index) {
                    *gpr = first;
                }
            }
            Place::Vsr => {
                if let Some(vsr) = vcpu.context.vsr.get_mut(index) {
                    *vsr = [first, second];
                }
            }
            Place::RunInput => vcpu.input = area,
            Place::RunOutput => vcpu.output = area,
            Place::Vpa => vcpu.vpa = (first != NO_VPA).then_some(Gra(first)),
            Place::Nothing
            | Place::Constant(_)
            | Place::LogicalPvr
            | Place::TbOffset
            | Place::PartitionTable
            | Place::ProcessTable
            | Place::Counter(_) => {}
        }
    }
}
