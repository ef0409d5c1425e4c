//! L1 real memory by address. Owns the windows that no Rust object lives in: the low 32 KiB and the arena.
//! The surprising fact: there is no heap; every address of the arena is a constant of [`layout`].
#![expect(unsafe_code, reason = "memory by address is this module's purpose")]

use core::ptr;

/// Addresses in the arena (L1 real).
pub(crate) mod layout {
    /// Start of the arena.
    pub(crate) const START: u64 = 0x0100_0000;
    /// End of the arena: the payload needs this much memory.
    pub(crate) const END: u64 = 0x0800_0000;
    /// Argument block of RTAS and other small things.
    pub(crate) const SCRATCH: u64 = START;
    /// Guest state buffer for GET and SET.
    pub(crate) const BUFFER: u64 = START + 0x1_0000;
    /// Run input of the first vCPU; others follow at 64 KiB steps.
    pub(crate) const RUN_INPUT: u64 = START + 0x2_0000;
    /// Run output of the first vCPU.
    pub(crate) const RUN_OUTPUT: u64 = START + 0x3_0000;
    /// VPA of L1 and of L2.
    pub(crate) const VPA: u64 = START + 0x4_0000;
    /// Second buffer, for cases that need two.
    pub(crate) const BUFFER2: u64 = START + 0x5_0000;
    /// Process table of L1.
    pub(crate) const PROCESS_TABLE: u64 = START + 0x6_0000;
    /// Process-scoped root table of L1's process 0, and the table below it.
    pub(crate) const PROCESS_ROOT: u64 = START + 0x7_0000;
    /// Below the root.
    pub(crate) const PROCESS_DIRECTORY: u64 = START + 0x8_0000;
    /// L2's memory: 1 MiB, backs L2 real 0.
    pub(crate) const L2_MEMORY: u64 = START + 0x10_0000;
    /// Bytes of it.
    pub(crate) const L2_MEMORY_SIZE: u64 = 0x10_0000;
    /// Page tables that L1 builds for L2: 4 MiB.
    pub(crate) const TABLES: u64 = START + 0x40_0000;
    /// End of the page tables.
    pub(crate) const TABLES_END: u64 = START + 0x80_0000;
    /// 64 MiB of pages for the shadow cases, aligned to 2 MiB.
    pub(crate) const PAGES: u64 = START + 0x200_0000;
}

/// Checks that `addr..addr + len` lies in a window of this module.
fn check(addr: u64, len: u64) {
    let end = addr.checked_add(len).expect("address wraps");
    let low = addr >= crate::low::VECTORS && end <= crate::low::END;
    let arena = addr >= layout::START && end <= layout::END;
    assert!(low || arena, "payload bug: {addr:#x} is not in a window");
}

macro_rules! access {
    ($read:ident, $write:ident, $ty:ty) => {
        /// Reads in the processor's byte order; any alignment.
        #[must_use]
        pub(crate) fn $read(addr: u64) -> $ty {
            check(addr, size_of::<$ty>() as u64);
            let p = ptr::with_exposed_provenance::<[u8; size_of::<$ty>()]>(addr as usize);
            // SAFETY: `check` passed: plain L1 memory in which no Rust object lives; byte arrays have no alignment.
            <$ty>::from_ne_bytes(unsafe { ptr::read_volatile(p) })
        }

        /// Writes in the processor's byte order; any alignment.
        pub(crate) fn $write(addr: u64, value: $ty) {
            check(addr, size_of::<$ty>() as u64);
            let p = ptr::with_exposed_provenance_mut::<[u8; size_of::<$ty>()]>(addr as usize);
            // SAFETY: as for reading.
            unsafe { ptr::write_volatile(p, value.to_ne_bytes()) }
        }
    };
}

access!(read8, write8, u8);
access!(read16, write16, u16);
access!(read32, write32, u32);
access!(read64, write64, u64);

/// Fills `len` bytes.
pub(crate) fn fill(addr: u64, len: u64, byte: u8) {
    check(addr, len);
    let p = ptr::with_exposed_provenance_mut::<u8>(addr as usize);
    // SAFETY: as for reading.
    unsafe { ptr::write_bytes(p, byte, len as usize) }
}

/// Copies bytes into L1 memory and makes them visible to instruction fetch.
pub(crate) fn install(addr: u64, code: &[u8]) {
    check(addr, code.len() as u64);
    let p = ptr::with_exposed_provenance_mut::<u8>(addr as usize);
    // SAFETY: source is a slice, destination passed `check`; a slice of the image cannot overlap a window.
    unsafe { ptr::copy_nonoverlapping(code.as_ptr(), p, code.len()) };
    for line in (addr & !127..addr + code.len() as u64).step_by(128) {
        // SAFETY: cache maintenance of memory that passed `check`, rounded to its cache line.
        unsafe {
            core::arch::asm!("dcbst 0,{0}", "sync", "icbi 0,{0}", "sync", "isync", in(reg) line);
        }
    }
}

/// The flattened tree at `addr` as bytes: the header's length, if there is a tree of less than 1 MiB.
#[must_use]
pub(crate) fn tree(addr: u64) -> Option<&'static [u8]> {
    if addr == 0 || !addr.is_multiple_of(4) || addr >= 0x1_0000_0000 {
        return None;
    }
    let header = ptr::with_exposed_provenance::<[u8; 8]>(addr as usize);
    // SAFETY: the entry contract: r3 is the address of a tree in L1 memory. Bytes have no alignment.
    let header = unsafe { ptr::read_volatile(header) };
    let [m0, m1, m2, m3, s0, s1, s2, s3] = header;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if u32::from_be_bytes([m0, m1, m2, m3]) != 0xd00d_feed || size > 0x10_0000 {
        return None;
    }
    let first = ptr::with_exposed_provenance::<u8>(addr as usize);
    // SAFETY: same contract: the tree has as many bytes as its header says, and nobody writes it while we run.
    Some(unsafe { core::slice::from_raw_parts(first, size) })
}

/// The initial ramdisk as text, where a client interface in r5 at entry says that r3 and r4 are its address and size
/// (Open Firmware's binding): such a machine has no tree for us, so this is how arguments come.
#[must_use]
pub(crate) fn arguments_of_ramdisk() -> Option<&'static str> {
    let [address, size, interface] = [3, 4, 5].map(|n| read64(crate::low::ENTRY_GPR + n * 8));
    if address == 0 || interface == 0 || size >= 0x1000 {
        return None;
    }
    let first = ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: the entry contract of the binding: so many bytes at this address, which nobody writes while we run.
    let bytes = unsafe { core::slice::from_raw_parts(first, size as usize) };
    core::str::from_utf8(bytes).ok()
}

/// Code blobs of the assembly files.
macro_rules! blob {
    ($name:ident, $start:ident, $end:ident) => {
        /// Bytes between two labels of the assembly.
        #[must_use]
        pub(crate) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            let start = &raw const $start;
            let end = &raw const $end;
            let len = end.addr() - start.addr();
            // SAFETY: both labels are in one section, start first.
            unsafe { core::slice::from_raw_parts(start, len) }
        }
    };
}

blob!(vectors, vectors_start, vectors_end);
blob!(l2_image, l2_start, l2_end);

/// Addresses of linker symbols.
macro_rules! symbol {
    ($name:ident, $symbol:ident) => {
        /// Address of a linker symbol.
        #[must_use]
        pub(crate) fn $name() -> u64 {
            unsafe extern "C" {
                static $symbol: u8;
            }
            (&raw const $symbol).addr() as u64
        }
    };
}

symbol!(fatal_top, __fatal_top);
symbol!(image_end, __bss_end);
