//! `/ibm,opal/power-mgt`: the states of `stop` that kernels may use (reference/opal.md 4.7).
//!
//! Surprising fact: which levels the processor has, the given tree says; a kernel gets no state whose level is not there.

use alloc::vec::Vec;

use papr_services::tree::Node;

/// Stop levels that every chip has, when the tree does not say: level 0 (bit 31 - n for level n).
const STOP_LEVELS: u32 = 1 << 31;

/// The states of `stop` that lose nothing a kernel would have to restore (reference/opal.md 4.7).
struct IdleState {
    name: &'static str,
    level: u32,
    latency_ns: u32,
    residency_ns: u32,
    psscr: u64,
    flags: u32,
}

const IDLE_STATES: [IdleState; 4] = [
    IdleState {
        name: "stop0_lite",
        level: 0,
        latency_ns: 1_000,
        residency_ns: 10_000,
        psscr: 0x300,
        flags: 0x10_0000,
    },
    IdleState {
        name: "stop0",
        level: 0,
        latency_ns: 10_000,
        residency_ns: 100_000,
        psscr: 0x30_0300,
        flags: 0x10_1000,
    },
    IdleState {
        name: "stop2",
        level: 2,
        latency_ns: 20_000,
        residency_ns: 200_000,
        psscr: 0x30_0322,
        flags: 0x10_1000,
    },
    IdleState {
        name: "stop3",
        level: 3,
        latency_ns: 45_000,
        residency_ns: 450_000,
        psscr: 0x30_0333,
        flags: 0x10_1000,
    },
];

pub(super) fn describe(node: &mut Node) {
    /// RL, MTL, TR, ESL, EC.
    const MASK: u64 = 0x30_03ff;
    let levels = node.cell("ibm,enabled-stop-levels").unwrap_or(STOP_LEVELS);
    let enabled = || {
        IDLE_STATES
            .iter()
            .filter(|state| levels & 1 << (31 - state.level) != 0)
    };
    let names: Vec<&str> = enabled().map(|state| state.name).collect();
    let cells = |of: fn(&IdleState) -> u32| enabled().map(of).collect::<Vec<u32>>();
    let psscrs: Vec<u64> = enabled().map(|state| state.psscr).collect();
    let masks: Vec<u64> = enabled().map(|_| MASK).collect();
    node.set("ibm,enabled-stop-levels", levels)
        .set("ibm,cpu-idle-state-names", names)
        .set("ibm,cpu-idle-state-latencies-ns", cells(|s| s.latency_ns))
        .set("ibm,cpu-idle-state-residency-ns", cells(|s| s.residency_ns))
        .set("ibm,cpu-idle-state-flags", cells(|s| s.flags))
        .set("ibm,cpu-idle-state-psscr", psscrs)
        .set("ibm,cpu-idle-state-psscr-mask", masks);
}
