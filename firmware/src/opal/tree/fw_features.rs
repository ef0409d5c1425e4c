//! `/ibm,opal/fw-features`: what kernels have to do, and need not do, about speculative execution.
//!
//! The facts are those that H_GET_CPU_CHARACTERISTICS tells a partition; here is only their other form, as Linux
//! `arch/powerpc/platforms/powernv/setup.c` and `arch/powerpc/kvm/powerpc.c` read it. Surprising fact: without the node a kernel
//! assumes the worst and empties its data cache by reading one of that size at every return to a program.

use isa::ppc_bit;
use papr_services::partition::Characteristics;
use papr_services::tree::Node;

use Bit::{Behaviour, Character};

/// Where H_GET_CPU_CHARACTERISTICS has it.
enum Bit {
    Character(u32),
    Behaviour(u32),
}

/// The words of hostboot for it. A partition is not asked about leaving the hypervisor: that flush has the reason of the other.
const FEATURES: [(&str, Bit); 17] = [
    ("inst-spec-barrier-ori31,31,0", Character(0)),
    ("fw-bcctrl-serialized", Character(1)),
    ("inst-l1d-flush-ori30,30,0", Character(2)),
    ("inst-l1d-flush-trig2", Character(3)),
    ("fw-l1d-thread-split", Character(4)),
    ("fw-count-cache-disabled", Character(7)),
    ("fw-count-cache-flush-bcctr2,0,0", Character(9)),
    ("fw-link-stack-flush-bcctr2,0,0", Character(11)),
    ("speculation-policy-favor-security", Behaviour(0)),
    ("needs-l1d-flush-msr-pr-0-to-1", Behaviour(1)),
    ("needs-l1d-flush-msr-hv-1-to-0", Behaviour(1)),
    ("needs-spec-barrier-for-bound-checks", Behaviour(2)),
    ("needs-count-cache-flush-on-context-switch", Behaviour(5)),
    ("needs-link-stack-flush-on-context-switch", Behaviour(6)),
    ("no-need-l1d-flush-msr-pr-1-to-0", Behaviour(7)),
    ("no-need-l1d-flush-kernel-on-user-access", Behaviour(8)),
    ("no-need-store-drain-on-priv-state-switch", Behaviour(9)),
];

/// Adds the node to `/ibm,opal`.
pub(super) fn describe(opal: &mut Node, characteristics: Characteristics) {
    opal.node("fw-features", |features| {
        for (name, bit) in &FEATURES {
            let is_set = match bit {
                Character(n) => characteristics.character & ppc_bit(*n) != 0,
                Behaviour(n) => characteristics.behaviour & ppc_bit(*n) != 0,
            };
            features.node(name, |node| {
                node.set(if is_set { "enabled" } else { "disabled" }, ());
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power10_needs_no_flush_of_the_data_cache() {
        let mut opal = Node::default();
        describe(&mut opal, Characteristics::POWER10);
        let features = opal.child("fw-features").unwrap();
        let has = |name, state| {
            let feature = features.child(name).unwrap();
            feature.property(state).is_some()
        };
        assert!(has("needs-l1d-flush-msr-pr-0-to-1", "disabled"));
        assert!(has("needs-l1d-flush-msr-hv-1-to-0", "disabled"));
        assert!(has("no-need-l1d-flush-msr-pr-1-to-0", "enabled"));
        assert!(has("needs-spec-barrier-for-bound-checks", "enabled"));
        assert!(has("fw-count-cache-flush-bcctr2,0,0", "enabled"));
        assert!(has("fw-link-stack-flush-bcctr2,0,0", "disabled"));
        for feature in features.children() {
            assert_eq!(feature.properties().count(), 1, "{}", feature.name());
        }
    }
}
