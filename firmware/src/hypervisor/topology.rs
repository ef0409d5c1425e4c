//! Which hardware thread runs which vCPU of the partition, and how many vCPUs share a core.
//!
//! Pure. vCPU 0 is the thread that boots; the vCPUs of a core are neighbours, which is what a kernel takes from the tree.
//! The surprising fact: which threads come, and in which order, is chance, so what a core lacks must be expected.

use alloc::vec::Vec;

use crate::inputs::Core;

/// Most threads of a core.
const MOST_THREADS: usize = 8;

/// Threads in the order of their vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// PIRs.
    pub threads: Vec<u32>,
    /// That many vCPUs, from each multiple of it on, are one core; 1 when some core is not whole.
    pub threads_per_core: u32,
}

impl Topology {
    /// Orders `boot` and the other threads that can run vCPUs.
    #[must_use]
    pub fn new(boot: u32, others: &[u32], cores: &[Core]) -> Self {
        let mut all = others.to_vec();
        all.push(boot);
        all.sort_unstable();
        all.dedup();
        if let Some(whole) = whole_cores(boot, &all, cores) {
            return whole;
        }
        all.retain(|pir| *pir != boot);
        all.insert(0, boot);
        Self {
            threads: all,
            threads_per_core: 1,
        }
    }
}

/// The order when all threads belong to cores of one size that have all of theirs.
fn whole_cores(boot: u32, all: &[u32], cores: &[Core]) -> Option<Topology> {
    let here = |core: &&Core| core.threads.iter().any(|pir| all.contains(pir));
    let mut cores: Vec<&Core> = cores.iter().filter(here).collect();
    // The boot thread's core first; the others keep their order.
    cores.sort_by_key(|core| !core.threads.contains(&boot));
    let size = cores.first()?.threads.len();
    let mut threads = Vec::new();
    for core in cores {
        let mut own = core.threads.clone();
        own.sort_by_key(|pir| (*pir != boot, *pir));
        own.dedup();
        if own.len() != size || !own.iter().all(|pir| all.contains(pir)) {
            return None;
        }
        threads.extend(own);
    }
    let fits = size.is_power_of_two() && size <= MOST_THREADS && threads.len() == all.len();
    fits.then(|| Topology {
        threads,
        threads_per_core: u32::try_from(size).unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cores(list: &[&[u32]]) -> Vec<Core> {
        let core = |threads: &&[u32]| Core {
            pir: threads[0],
            chip: 0,
            threads: threads.to_vec(),
        };
        list.iter().map(core).collect()
    }

    #[test]
    fn vcpus_of_a_core_are_neighbours() {
        let cores = cores(&[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        let topology = Topology::new(5, &[3, 7, 0, 2, 6, 1, 4], &cores);
        assert_eq!(topology.threads, [5, 4, 6, 7, 0, 1, 2, 3]);
        assert_eq!(topology.threads_per_core, 4);
    }

    #[test]
    fn a_core_that_is_not_whole_makes_all_threads_cores() {
        let list = cores(&[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        let topology = Topology::new(4, &[0, 1, 2, 3, 6], &list);
        assert_eq!(topology.threads, [4, 0, 1, 2, 3, 6]);
        assert_eq!(topology.threads_per_core, 1);
        // Nor do cores of different sizes, sizes that are none, and threads that no core has.
        for list in [
            cores(&[&[0, 1], &[4]]),
            cores(&[&[0, 1, 4]]),
            cores(&[&[0, 1]]),
            cores(&[]),
        ] {
            let topology = Topology::new(0, &[1, 4], &list);
            assert_eq!(
                (topology.threads, topology.threads_per_core),
                (vec![0, 1, 4], 1)
            );
        }
    }

    #[test]
    fn cores_without_a_thread_that_came_do_not_count() {
        let list = cores(&[&[0, 1], &[4, 5], &[8, 9]]);
        let topology = Topology::new(8, &[0, 9, 1], &list);
        assert_eq!(topology.threads, [8, 9, 0, 1]);
        assert_eq!(topology.threads_per_core, 2);
    }

    proptest! {
        #[test]
        fn every_thread_has_one_vcpu(
            boot in 0..16_u32,
            others in prop::collection::vec(0..16_u32, 0..16),
            list in prop::collection::vec(prop::collection::vec(0..16_u32, 1..10), 0..5),
        ) {
            let list: Vec<&[u32]> = list.iter().map(Vec::as_slice).collect();
            let Topology { threads, threads_per_core } = Topology::new(boot, &others, &cores(&list));
            prop_assert_eq!(threads[0], boot);
            prop_assert!(threads.len().is_multiple_of(threads_per_core as usize));
            let mut sorted = threads.clone();
            sorted.sort_unstable();
            let mut expected = others;
            expected.push(boot);
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(sorted, expected);
        }
    }
}
