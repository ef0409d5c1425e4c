//! The second and third level of cache of each core, of which kernels tell programs, and by which they place them.
//!
//! Surprising fact: in this tree `l2-cache` means the next level, whichever that is: it leads from the second level to the
//! third too.

use alloc::format;

use papr_services::device_tree::{Cache, Caches};
use papr_services::tree::Node;

use super::Phandles;

/// Where the unit addresses of the levels begin; the core's number is added.
const LEVELS: [(&str, u32); 2] = [("l3-cache", 0x3000_0000), ("l2-cache", 0x2000_0000)];

/// Adds the caches of a core to `/cpus`, unless its node names one already.
pub(super) fn describe(cpus: &mut Node, core: &str, caches: Caches, phandles: &mut Phandles) {
    let Some(cpu) = cpus.child(core) else { return };
    if cpu.property("l2-cache").is_some() {
        return;
    }
    let pir = cpu.cell("reg").unwrap_or(0);
    let mut next = None;
    for ((name, base), cache) in LEVELS.into_iter().zip([caches.third, caches.second]) {
        let Some(Cache { size, sets }) = cache else {
            continue;
        };
        let phandle = phandles.allocate();
        let address = base | pir;
        cpus.node(&format!("{name}@{address:x}"), |node| {
            node.set("device_type", "cache")
                .set("reg", address)
                .set("status", "okay")
                .set("cache-unified", ())
                .set("d-cache-size", size)
                .set("d-cache-sets", sets)
                .set("i-cache-size", size)
                .set("i-cache-sets", sets)
                .set("phandle", phandle);
            if let Some(next) = next {
                node.set("l2-cache", next);
            }
        });
        next = Some(phandle);
    }
    if let (Some(cpu), Some(next)) = (cpus.child_mut(core), next) {
        cpu.set("l2-cache", next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_leads_to_its_second_level_and_that_to_the_third() {
        let mut cpus = Node::default();
        cpus.node("PowerPC,POWER10@18", |cpu| {
            cpu.set("reg", 0x18_u32);
        });
        let mut phandles = Phandles::after(&cpus);
        let core = "PowerPC,POWER10@18";
        describe(&mut cpus, core, Caches::POWER10, &mut phandles);
        let cell = |name, property| cpus.child(name).unwrap().cell(property);
        let (second, third) = ("l2-cache@20000018", "l3-cache@30000018");
        assert_eq!(cell(core, "l2-cache"), cell(second, "phandle"));
        assert_eq!(cell(second, "l2-cache"), cell(third, "phandle"));
        assert_eq!(cell(third, "l2-cache"), None);
        assert_eq!(cell(second, "d-cache-size"), Some(1 << 20));
        let before = cpus.clone();
        describe(&mut cpus, core, Caches::POWER10, &mut phandles);
        assert_eq!(cpus, before, "what is named already stays");
    }
}
