//! `/cpus/ibm,powerpc-cpu-features`: what the processor can do, as the binding tells it (one row per feature).
//!
//! Binding: Linux `arch/powerpc/kernel/dt_cpu_ftrs.c` and reference/opal.md 4.3. Surprising fact: the node is the only
//! list that Linux looks at; a feature that is missing here is unusable, whatever `ibm,pa-features` says.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use papr_services::tree::Node;

use super::tree::Phandles;

/// Usable in problem state (bit 0), by an operating system (1), by a hypervisor (2).
const P: u32 = 1;
const O: u32 = 2;
const H: u32 = 4;

/// What enabling takes.
#[derive(Clone, Copy)]
enum Support {
    /// Nothing.
    None,
    /// What its name means, for hypervisor and operating system as far as they can use it.
    ByName,
    /// The same, but for the operating system only, or the hypervisor only.
    OsByName,
    HvByName,
    /// Setting its bits in HFSCR and FSCR.
    Bits,
}

struct Feature {
    name: &'static str,
    isa: u32,
    usable: u32,
    support: Support,
    hfscr: Option<u32>,
    fscr: Option<u32>,
    /// 0-31 in AT_HWCAP, 32-63 in AT_HWCAP2.
    hwcap: Option<u32>,
    needs: &'static [&'static str],
    /// Only on Power11.
    p11: bool,
}

macro_rules! features {
    ($( $name:literal $isa:literal $($usable:ident)|+ $support:ident $(hfscr $hfscr:literal)? $(fscr $fscr:literal)?
        $(hwcap $hwcap:literal)? $(needs $($needs:literal)+)? $([$only:ident])?; )*) => {
        &[ $( Feature {
            name: $name,
            isa: $isa,
            usable: $($usable)|+,
            support: Support::$support,
            hfscr: features!(@option $($hfscr)?),
            fscr: features!(@option $($fscr)?),
            hwcap: features!(@option $($hwcap)?),
            needs: &[$($($needs),+)?],
            p11: features!(@p11 $($only)?),
        } ),* ]
    };
    (@option $value:literal) => { Some($value) };
    (@option) => { None };
    (@p11 p11) => { true };
    (@p11) => { false };
}

/// Every feature after those that it needs.
const FEATURES: &[Feature] = features! {
    "big-endian" 0 H|O|P ByName;
    "little-endian" 0 H|O|P ByName;
    "hypervisor" 0 H ByName;
    "interrupt-facilities" 0 H|O ByName;
    "smt" 0 H|O|P ByName hwcap 14;
    "program-priority-register" 0 H|O|P None;
    "virtual-page-class-key-protection" 0 H|O|P ByName;
    "strong-access-ordering" 0 H|O|P ByName;
    "no-execute" 0 H|O ByName;
    "cache-inhibited-large-page" 0 H|O ByName;
    "debug-facilities" 0 H|O ByName;
    "debug-facilities-v31" 3100 H|O ByName;
    "come-from-address-register" 0 H|O ByName needs "debug-facilities";
    "branch-tracing" 0 H|O ByName needs "debug-facilities";
    "floating-point" 0 H|O|P ByName hfscr 0 hwcap 27;
    "vector" 0 H|O|P ByName hfscr 1 hwcap 28 needs "floating-point";
    "vector-scalar" 0 H|O|P ByName hwcap 7 needs "vector";
    "vector-crypto" 0 H|O|P None hwcap 57 needs "vector";
    "quadword-load-store" 0 H|O|P None;
    "decimal-integer" 0 H|O|P None;
    "decimal-floating-point" 0 H|O|P None hwcap 10 needs "floating-point";
    "data-stream-control-register" 0 H|O|P ByName hfscr 2 fscr 2 hwcap 61;
    "branch-history-rolling-buffer" 0 H|O|P ByName hfscr 4;
    "event-based-branch" 0 H|O|P ByName hfscr 7 fscr 7 hwcap 60;
    "target-address-register" 0 H|O|P ByName hfscr 8 fscr 8 hwcap 58;
    "control-register" 0 H|O ByName;
    "processor-utilization-of-resources-register" 0 H|O ByName;
    "mmu-radix" 3000 H|O ByName;
    "mmu-hash-v3" 3000 H|O ByName;
    "wait-v3" 3000 H|O|P None;
    "idle-stop" 3000 H|O ByName;
    "hypervisor-virtualization-interrupt" 3000 H ByName;
    "machine-check-power10" 3000 H|O ByName;
    "machine-check-power11" 3000 H|O ByName [p11];
    "performance-monitor-power10" 3100 H|O ByName;
    "performance-monitor-power11" 3100 H|O ByName [p11];
    "system-call-vectored" 3000 O|P OsByName fscr 12 hwcap 52;
    "processor-control-facility-v3" 3000 H|O HvByName hfscr 10;
    "pc-relative-addressing" 3000 H|O|P None;
    "timer-facilities" 0 H|O None;
    "timer-facilities-v3" 3000 H|O None needs "timer-facilities";
    "random-number-generator" 3000 H|O|P None hwcap 53;
    "fixed-point-v3" 3000 H|O|P None;
    "decimal-integer-v3" 3000 H|O|P None needs "fixed-point-v3" "decimal-integer";
    "floating-point-v3" 3000 H|O|P None needs "floating-point";
    "decimal-floating-point-v3" 3000 H|O|P None needs "floating-point-v3" "decimal-floating-point";
    "vector-v3" 3000 H|O|P None needs "vector";
    "vector-scalar-v3" 3000 H|O|P None needs "vector-v3" "vector-scalar";
    "vector-binary128" 3000 H|O|P None hwcap 54 needs "vector-scalar-v3";
    "vector-binary16" 3000 H|O|P None needs "vector-v3";
    "event-based-branch-v3" 3000 H|O|P None needs "event-based-branch";
    "atomic-memory-operations" 3000 H|O|P None;
    "copy-paste" 3000 H|O|P None;
    "matrix-multiply-accumulate" 3100 P None hwcap 49;
    "prefix-instructions" 3100 H|O|P Bits hfscr 13 fscr 13;
};

/// Fills the node for a POWER10, or with `p11` for a Power11.
pub(super) fn describe(node: &mut Node, phandles: &mut Phandles, p11: bool) {
    node.set("compatible", "ibm,powerpc-cpu-features")
        .set("isa", 3100_u32)
        .set("device_type", "cpu-features")
        .set("display-name", if p11 { "Power11" } else { "POWER10" })
        .set("phandle", phandles.allocate());
    let mut made: Vec<(&str, u32)> = Vec::new();
    for feature in FEATURES.iter().filter(|feature| p11 || !feature.p11) {
        let phandle = phandles.allocate();
        let needs: Vec<u32> = feature
            .needs
            .iter()
            .filter_map(|needed| made.iter().find(|(name, _)| name == needed))
            .map(|(_, phandle)| *phandle)
            .collect();
        node.node(feature.name, |node| feature.describe(node, phandle, &needs));
        made.push((feature.name, phandle));
    }
}

impl Feature {
    fn describe(&self, node: &mut Node, phandle: u32, needs: &[u32]) {
        node.set("isa", self.isa)
            .set("usable-privilege", self.usable)
            .set("phandle", phandle);
        let (hv, os, value) = match self.support {
            Support::None => (false, false, 0_u32),
            Support::ByName => (true, true, 0),
            Support::OsByName => (false, true, 0),
            Support::HvByName => (true, false, 0),
            Support::Bits => (true, true, 1),
        };
        if hv && self.usable & H != 0 {
            node.set("hv-support", value);
            if let Some(bit) = self.hfscr {
                node.set("hfscr-bit-nr", bit);
            }
        }
        if os && self.usable & O != 0 {
            node.set("os-support", value);
            if let Some(bit) = self.fscr {
                node.set("fscr-bit-nr", bit);
            }
        }
        if let Some(bit) = self.hwcap {
            node.set("hwcap-bit-nr", bit);
        }
        if !needs.is_empty() {
            node.set("dependencies", needs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(p11: bool) -> Node {
        let mut node = Node::default();
        describe(&mut node, &mut Phandles::after(&Node::default()), p11);
        node
    }

    #[test]
    fn every_need_comes_before_and_no_bit_lacks_its_support() {
        for (n, feature) in FEATURES.iter().enumerate() {
            for needed in feature.needs {
                assert!(
                    FEATURES[..n].iter().any(|before| before.name == *needed),
                    "{} needs {needed}",
                    feature.name
                );
            }
            assert!(FEATURES[..n].iter().all(|other| other.name != feature.name));
        }
        for child in node(true).children() {
            let has = |name| child.property(name).is_some();
            assert!(
                !has("hfscr-bit-nr") || has("hv-support"),
                "{}",
                child.name()
            );
            assert!(!has("fscr-bit-nr") || has("os-support"), "{}", child.name());
        }
    }

    #[test]
    fn rows_become_nodes() {
        let node = node(false);
        let vector = node.child("vector").unwrap();
        let float = node.child("floating-point").unwrap();
        assert_eq!(vector.cell("hfscr-bit-nr"), Some(1));
        assert_eq!(vector.cell("dependencies"), float.cell("phandle"));
        assert_eq!(vector.cell("usable-privilege"), Some(7));
        let scv = node.child("system-call-vectored").unwrap();
        assert_eq!(
            (scv.cell("hv-support"), scv.cell("os-support")),
            (None, Some(0))
        );
        let msgsnd = node.child("processor-control-facility-v3").unwrap();
        assert_eq!(
            (msgsnd.cell("hv-support"), msgsnd.cell("os-support")),
            (Some(0), None)
        );
        let prefix = node.child("prefix-instructions").unwrap();
        assert_eq!(
            (prefix.cell("hv-support"), prefix.cell("fscr-bit-nr")),
            (Some(1), Some(13))
        );
    }

    #[test]
    fn power11_has_two_names_more() {
        let (p10, p11) = (node(false), node(true));
        assert!(p10.child("machine-check-power11").is_none());
        assert!(p11.child("machine-check-power11").is_some());
        assert!(p11.child("machine-check-power10").is_some());
        assert_eq!(p11.children().len(), p10.children().len() + 2);
    }
}
