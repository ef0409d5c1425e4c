//! RTAS from the caller's side: argument blocks, the direct call by H_RTAS and the real entry in 32-bit mode.
#![expect(unsafe_code, reason = "leaves for RTAS in another mode")]

use core::arch::asm;

use papr_services::table::number::H_RTAS;

use crate::hcall::hcall;
use crate::mem::layout::SCRATCH;
use crate::tree::{Tree, cell, text};
use crate::{low, mem, probe};

/// Tokens by name.
pub(crate) struct Rtas {
    tokens: [(&'static str, u32); 64],
    count: usize,
    /// `linux,rtas-base`.
    pub base: u32,
    /// `linux,rtas-entry`, else the base.
    pub entry: u32,
    /// `rtas-size`.
    pub size: u32,
}

/// Properties of /rtas that are no call.
const NOT_CALLS: [&str; 12] = [
    "name",
    "phandle",
    "linux,phandle",
    "linux,rtas-base",
    "linux,rtas-entry",
    "rtas-size",
    "rtas-error-log-max",
    "rtas-event-scan-rate",
    "rtas-version",
    "ibm,max-associativity-domains",
    "ibm,associativity-reference-points",
    "ibm,display-line-length",
];

/// What this program calls on QEMU's own pseries machine, which shows its tree by the client interface only: the token
/// of that machine's table.
const OF_QEMU: [(&str, u32); 1] = [("power-off", 0x2003)];

impl Rtas {
    /// Reads /rtas; without a tree the tokens are QEMU's.
    #[must_use]
    pub(crate) fn new(tree: Option<&Tree<'static>>) -> Self {
        let mut rtas = Self {
            tokens: [("", 0); 64],
            count: 0,
            base: 0,
            entry: 0,
            size: 0,
        };
        let Some(tree) = tree else {
            for (slot, token) in rtas.tokens.iter_mut().zip(OF_QEMU) {
                *slot = token;
                rtas.count += 1;
            }
            return rtas;
        };
        tree.properties(&["rtas"], |name, value| {
            if value.len() == 4 && !NOT_CALLS.contains(&name) {
                if let (Some(slot), Some(token)) = (rtas.tokens.get_mut(rtas.count), cell(value, 0))
                {
                    *slot = (name, token);
                    rtas.count += 1;
                }
            }
        });
        rtas.base = tree.number(&["rtas"], "linux,rtas-base").unwrap_or(0);
        rtas.entry = tree
            .number(&["rtas"], "linux,rtas-entry")
            .unwrap_or(rtas.base);
        rtas.size = tree.number(&["rtas"], "rtas-size").unwrap_or(0);
        rtas
    }

    /// All calls of the tree.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.tokens.iter().take(self.count).copied()
    }

    /// Token of a call.
    #[must_use]
    pub(crate) fn token(&self, name: &str) -> Option<u32> {
        self.calls().find(|call| call.0 == name).map(|call| call.1)
    }
}

/// Writes an argument block at `at`; results are preset with a value no call returns.
pub(crate) fn block(at: u64, token: u32, args: &[u32], rets: u32) {
    let cells = [token, args.len() as u32, rets];
    for (i, value) in cells.iter().chain(args).enumerate() {
        mem::write32(at + 4 * i as u64, value.to_be());
    }
    for i in 0..u64::from(rets.min(32)) {
        mem::write32(at + 12 + 4 * (args.len() as u64 + i), 0x7777_7777);
    }
}

/// Result cell `n` of the block at `at`; 0 is the status.
#[must_use]
pub(crate) fn result(at: u64, args: usize, n: u64) -> u32 {
    u32::from_be(mem::read32(at + 12 + 4 * (args as u64 + n)))
}

/// Calls by H_RTAS: code in r3 and status.
pub(crate) fn call(token: u32, args: &[u32], rets: u32) -> (i64, i64) {
    block(SCRATCH, token, args, rets);
    let code = hcall(H_RTAS, [SCRATCH]).code();
    let status = result(SCRATCH, args.len(), 0).cast_signed();
    (code, i64::from(status))
}

/// Calls through the entry of the tree in 32-bit big-endian mode, as a kernel does; the status.
pub(crate) fn call_entry(entry: u32, token: u32, args: &[u32], rets: u32) -> i64 {
    block(SCRATCH, token, args, rets);
    mem::write64(low::RTAS_RETURN + 8, probe::MSR.bits().to_be());
    // SAFETY: RTAS keeps r1, r2, r13..r31 as a kernel expects of it (their low halves at least: r14..r31 are saved
    // here in full), returns to LR in the mode it was entered in, where the trampoline of the vectors brings us back.
    unsafe {
        asm!(
            "stdu 1, -208(1)",
            ".irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "std \\n, (8 * \\n - 64)(1)",
            ".endr",
            "std 2, 32(1)",
            "std 1, 0x4020(0)",
            "addpcis 5, 0",
            "2: addi 5, 5, (3f - 2b)",
            "li 6, 0x4010",
            "stdbrx 5, 0, 6",
            "li 5, 0x2000",
            "mtlr 5",
            "mtspr 26, 4",
            "li 5, 0x1002",
            "mtspr 27, 5",
            "rfid",
            "3:",
            "ld 1, 0x4020(0)",
            "ld 2, 32(1)",
            ".irp n, 13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "ld \\n, (8 * \\n - 64)(1)",
            ".endr",
            "addi 1, 1, 208",
            inout("r3") SCRATCH => _, inout("r4") u64::from(entry) => _, out("r5") _, out("r6") _, out("r7") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r0") _, out("lr") _,
            out("ctr") _, out("xer") _, out("cr0") _, out("cr1") _, out("cr2") _, out("cr3") _, out("cr4") _,
            out("cr5") _, out("cr6") _, out("cr7") _,
        );
    }
    i64::from(result(SCRATCH, args.len(), 0).cast_signed())
}

/// Words of `bootargs`, or of the ramdisk where there is no tree.
pub(crate) fn bootargs(tree: Option<&Tree<'static>>) -> &'static str {
    tree.and_then(|t| t.property(&["chosen"], "bootargs"))
        .and_then(text)
        .or_else(mem::arguments_of_ramdisk)
        .unwrap_or("")
}
