//! Real memory by address. Owns the windows that no Rust object lives in: the low 32 KiB (vectors, words that the
//! assembly knows) and the arena. The surprising fact: there is no heap; every address is a constant of [`layout`].
#![expect(unsafe_code, reason = "memory by address is this module's purpose")]

use core::ptr;

/// Addresses that the assembly knows.
pub(crate) mod low {
    /// Where the vectors go.
    pub(crate) const VECTORS: u64 = 0x100;
    /// `opal-base-address`.
    pub(crate) const OPAL_BASE: u64 = 0x3f00;
    /// `opal-entry-address`.
    pub(crate) const OPAL_ENTRY: u64 = 0x3f08;
    /// The `Thread` of a thread that is being started.
    pub(crate) const NEWCOMER: u64 = 0x3f10;
    /// Counts the starts of the program since the power came on; survives a reboot.
    pub(crate) const END: u64 = 0x8000;
}

/// Addresses in the arena.
pub(crate) mod layout {
    /// Start of the arena.
    pub(crate) const START: u64 = 0x0200_0000;
    /// End of the arena.
    pub(crate) const END: u64 = 0x0400_0000;
    /// Small things: outputs of calls.
    pub(crate) const SCRATCH: u64 = START;
    /// A buffer of 64 KiB.
    pub(crate) const BUFFER: u64 = START + 0x1_0000;
    /// A page for an event queue or for tables, 64 KiB.
    pub(crate) const PAGE: u64 = START + 0x2_0000;
    /// What lasts over a reboot.
    pub(crate) const DIARY: u64 = START + 0x3_0000;
    /// Outputs of the threads, 4 KiB each.
    pub(crate) const OUTPUTS: u64 = START + 0x4_0000;
    /// 64 KiB of stacks for each thread: the upper half for the program, the lower one for its interrupts.
    pub(crate) const STACKS: u64 = START + 0x10_0000;
}

/// Checks that `addr..addr + len` lies in a window of this module.
fn check(addr: u64, len: u64) {
    let end = addr.checked_add(len).expect("address wraps");
    let low = addr >= low::VECTORS && end <= low::END;
    let arena = addr >= layout::START && end <= layout::END;
    assert!(low || arena, "payload bug: {addr:#x} is not in a window");
}

/// Reads bytes; any alignment.
fn read<const N: usize>(addr: u64) -> [u8; N] {
    check(addr, N as u64);
    let p = ptr::with_exposed_provenance::<[u8; N]>(addr as usize);
    // SAFETY: `check` passed: plain memory in which no Rust object lives; byte arrays have no alignment.
    unsafe { ptr::read_volatile(p) }
}

/// Writes bytes; any alignment.
fn write<const N: usize>(addr: u64, bytes: [u8; N]) {
    check(addr, N as u64);
    let p = ptr::with_exposed_provenance_mut::<[u8; N]>(addr as usize);
    // SAFETY: as for reading.
    unsafe { ptr::write_volatile(p, bytes) }
}

/// Reads a byte.
#[must_use]
pub(crate) fn read8(addr: u64) -> u8 {
    u8::from_be_bytes(read(addr))
}

/// Writes a byte.
pub(crate) fn write8(addr: u64, value: u8) {
    write(addr, value.to_be_bytes());
}

/// Reads a big-endian word.
#[must_use]
pub(crate) fn read_be32(addr: u64) -> u32 {
    u32::from_be_bytes(read(addr))
}

/// Reads a big-endian doubleword.
#[must_use]
pub(crate) fn read_be64(addr: u64) -> u64 {
    u64::from_be_bytes(read(addr))
}

/// Writes a big-endian doubleword.
pub(crate) fn write_be64(addr: u64, value: u64) {
    write(addr, value.to_be_bytes());
}

/// Writes a doubleword in the processor's byte order.
pub(crate) fn write64(addr: u64, value: u64) {
    write(addr, value.to_ne_bytes());
}

/// Reads a doubleword in the processor's byte order.
#[must_use]
pub(crate) fn read64(addr: u64) -> u64 {
    u64::from_ne_bytes(read(addr))
}

/// Fills `len` bytes.
pub(crate) fn fill(addr: u64, len: u64, byte: u8) {
    check(addr, len);
    let p = ptr::with_exposed_provenance_mut::<u8>(addr as usize);
    // SAFETY: as for writing.
    unsafe { ptr::write_bytes(p, byte, len as usize) }
}

/// Copies bytes into memory.
pub(crate) fn copy(addr: u64, bytes: &[u8]) {
    check(addr, bytes.len() as u64);
    let p = ptr::with_exposed_provenance_mut::<u8>(addr as usize);
    // SAFETY: the source is a slice, the destination passed `check`; a slice of the image cannot overlap a window.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), p, bytes.len()) };
}

/// Whether `len` bytes are what `bytes` says.
#[must_use]
pub(crate) fn equals(addr: u64, bytes: &[u8]) -> bool {
    (addr..).zip(bytes).all(|(at, byte)| read8(at) == *byte)
}

/// A doubleword of memory that is the firmware's: a kernel can read it, and looks whether a call has changed it.
#[must_use]
pub(crate) fn peek(addr: u64) -> u64 {
    let p = ptr::with_exposed_provenance::<[u8; 8]>(addr as usize);
    // SAFETY: callers name memory of the machine; the firmware may write it at the same time, so the value is only
    // compared with another. Bytes have no alignment.
    u64::from_ne_bytes(unsafe { ptr::read_volatile(p) })
}

/// Changes a doubleword that the firmware keeps, as a kernel with a wild pointer would.
pub(crate) fn damage(addr: u64) {
    let p = ptr::with_exposed_provenance_mut::<[u8; 8]>(addr as usize);
    let other = (peek(addr) ^ 1).to_ne_bytes();
    // SAFETY: callers name memory of the firmware that holds no code and no object, only a copy of the payload.
    unsafe { ptr::write_volatile(p, other) }
}

/// Copies code to where it runs and makes it visible to instruction fetch.
pub(crate) fn install(addr: u64, code: &[u8]) {
    copy(addr, code);
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
    // SAFETY: the entry contract: r3 is the address of a tree in memory. Bytes have no alignment.
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

/// The vectors, as the assembly has them.
#[must_use]
pub(crate) fn vectors() -> &'static [u8] {
    unsafe extern "C" {
        static vectors_start: u8;
        static vectors_end: u8;
    }
    let start = &raw const vectors_start;
    let end = &raw const vectors_end;
    let len = end.addr() - start.addr();
    // SAFETY: both labels are in one section, start first.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// First byte behind the image.
#[must_use]
pub(crate) fn image_end() -> u64 {
    unsafe extern "C" {
        static __bss_end: u8;
    }
    (&raw const __bss_end).addr() as u64
}
