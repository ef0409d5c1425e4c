//! Exits of a partition (L1) that are not hypercalls: what the hardware could not do for it.
//!
//! Most become an interrupt of the partition's own. Pure: it changes the context only.

use isa::context::GuestContext;
use isa::msr::{PREFIXED, PROGRAM_ILLEGAL};
use isa::ppc_bit;

/// SRR1 of a machine check: the data access is to blame (POWER10 user manual, machine check).
const SRR1_DATA_SIDE: u64 = ppc_bit(42);
/// SRR1 of a machine check: an uncorrectable error on an instruction fetch.
const SRR1_FETCH_ERROR: u64 = 0x0004_0000;
/// DSISR of a machine check: uncorrectable error on a load or store, DAR is valid.
const DSISR_LOAD_STORE_ERROR: u64 = 0x8000;

/// What an exit was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionExit {
    /// `sc 1`.
    Hypercall,
    /// A clock of ours, or the request for an external-interrupt window: nothing for the partition.
    Ours,
    /// The partition got an interrupt for it.
    Reflected,
    /// The hypervisor maintenance interrupt: HMER says what.
    Maintenance,
    /// Nothing that should happen.
    Unexpected,
}

/// Sorts an exit, delivering what becomes an interrupt of the partition.
pub fn partition_exit(context: &mut GuestContext) -> PartitionExit {
    match context.trap {
        0xc00 => PartitionExit::Hypercall,
        0x980 | 0xe80 | 0x500 | 0xea0 => PartitionExit::Ours,
        0xe60 => PartitionExit::Maintenance,
        // Access to what is not memory of the partition: a bus would answer with an error.
        0xe00 => {
            context.dar = context.hdar;
            context.dsisr = DSISR_LOAD_STORE_ERROR;
            context.interrupt(0x200, SRR1_DATA_SIDE);
            context.changed |= isa::context::Changed::FAULT;
            PartitionExit::Reflected
        }
        0xe20 => {
            context.interrupt(0x200, SRR1_FETCH_ERROR);
            PartitionExit::Reflected
        }
        // An instruction or a facility that partitions do not have.
        0xe40 | 0xf80 => {
            let prefixed = context.msr & PREFIXED;
            context.interrupt(0x700, PROGRAM_ILLEGAL | prefixed);
            PartitionExit::Reflected
        }
        // A machine check or system reset while the partition ran: it is told with the cause that the hardware gave.
        0x100 | 0x200 => {
            let cause = context.msr & isa::msr::SRR1_CAUSE;
            context.interrupt(context.trap, cause);
            PartitionExit::Reflected
        }
        _ => PartitionExit::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use isa::context::GuestContext;
    use isa::msr::Msr;

    use super::{PartitionExit, partition_exit};

    fn after(trap: u64) -> (GuestContext, PartitionExit) {
        let mut context = GuestContext::reset();
        (context.nia, context.trap, context.hdar) = (0x5000, trap, 0xdead_0000);
        context.msr |= Msr::EE.bits() | 0x2000_0000;
        let exit = partition_exit(&mut context);
        (context, exit)
    }

    #[test]
    fn illegal_instruction_keeps_the_prefix_mark() {
        let (context, exit) = after(0xe40);
        assert_eq!(
            (exit, context.nia, context.srr0),
            (PartitionExit::Reflected, 0x700, 0x5000)
        );
        assert_eq!(context.srr1 & 0x783f_0000, 0x2008_0000);
    }

    #[test]
    fn access_outside_memory_is_a_machine_check() {
        let (context, exit) = after(0xe00);
        assert_eq!(
            (exit, context.nia, context.dar),
            (PartitionExit::Reflected, 0x200, 0xdead_0000)
        );
        assert_eq!(context.dsisr, 0x8000);
    }

    #[test]
    fn own_clock_changes_nothing() {
        let (context, exit) = after(0x980);
        assert_eq!(
            (exit, context.nia, context.srr0),
            (PartitionExit::Ours, 0x5000, 0)
        );
    }
}
