//! From the hand-over to the first entry: makes the partition and everything that it needs.
#![expect(unsafe_code, reason = "writes PTCR")]

use alloc::string::ToString;
use alloc::sync::Arc;
use core::fmt;
use core::num::NonZeroU16;

use isa::addr::Gra;
use isa::barrier::{isync, ptesync};
use isa::spr::{self, mtspr};
use log::{error, info};
use papr_services::device_tree::{BadDescription, Boot, Caches, Machine, PartitionDescription};
use papr_services::guest_ram::{BadExtents, GuestRam, OutOfRange};
use papr_services::host::Flush;
use papr_services::nested::guest::{Lpids, Quotas};
use papr_services::nested::pool::{BadPool, TablePool, TableQuota};
use papr_services::partition::{Characteristics, Level, NestedShare, Partition, Policy, Stop};
use papr_services::radix::{BuildError, build_partition_tree};
use papr_services::rtas;
use papr_services::tree::TreeError;

use super::host::{Services, partition_table_control};
use super::partition_table::PartitionTable;
use super::run::RunLoop;
use super::{random, tlb};
use crate::handover::Handover;
use crate::machine::PowerAction;
use crate::payload::{KERNEL_AT, PayloadError, TREE_AREA};
use crate::stop;
use crate::thread::this_thread;

/// The partition's LPID; 0 is the firmware's own.
const LPID: u32 = 1;
/// One past the last LPID: 12 bits.
const LPIDS: u32 = 4096;
/// Where the RTAS page goes, and after it the device tree: kept free by the payload stage.
const RTAS: Gra = Gra(TREE_AREA.start);
const DEVICE_TREE: Gra = Gra(TREE_AREA.start + 0x10_0000);
/// What the partition's nested guests may use of the firmware: a vCPU is about 3 KiB of its 10 MiB heap.
const QUOTAS: Quotas = Quotas {
    guests: 256,
    vcpus: 1024,
    heap_bytes: 6 << 20,
};

/// Why the partition cannot be made. The memory stage rules these out; whoever breaks that sees which.
#[derive(Debug)]
enum StartError {
    Pool(BadPool),
    Extents(BadExtents),
    Tree(BuildError),
    Payload(PayloadError),
    Description(BadDescription),
    DeviceTree(TreeError),
    NoRoom(OutOfRange),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(why) => write!(f, "the table pool is unusable: {why:?}"),
            Self::Extents(why) => write!(f, "the partition's memory is unusable: {why:?}"),
            Self::Tree(why) => write!(f, "the partition's memory cannot be mapped: {why:?}"),
            Self::Payload(why) => why.fmt(f),
            Self::Description(why) => why.fmt(f),
            Self::DeviceTree(why) => write!(f, "its device tree cannot be written: {why:?}"),
            Self::NoRoom(why) => write!(f, "no memory at {} for what it needs", why.gra),
        }
    }
}

/// Makes the partition and runs it; when it stops, so does the machine.
pub fn start(handover: Handover) -> ! {
    let machine = handover.machine;
    let action = match run(handover) {
        Ok(Stop::PowerOff) => PowerAction::Off,
        Ok(Stop::Reboot) => PowerAction::Reset,
        Err(why) => {
            error!("cannot start the partition: {why}");
            PowerAction::Off
        }
    };
    stop::power(machine, action)
}

fn run(handover: Handover) -> Result<Stop, StartError> {
    let is_qemu = handover.inputs.is_qemu();
    let table = PartitionTable::take();
    let pool = TablePool::new(handover.pool.ra, handover.pool.words).map_err(StartError::Pool)?;
    let tree = build_partition_tree(&pool, &handover.extents).map_err(StartError::Tree)?;
    let ram = GuestRam::new(&handover.extents).map_err(StartError::Extents)?;
    handover.payload.place(&ram).map_err(StartError::Payload)?;

    table.set(LPID, [tree.partition_table_word(), 0]);
    // SAFETY: the firmware runs with translation off; the table's one valid entry maps the partition's memory only.
    unsafe { mtspr(spr::Ptcr(partition_table_control(table.ra()))) };
    ptesync();
    isync();
    tlb::run(Flush::Partition { lpid: LPID }, is_qemu);

    let level = match handover.pvr.family() {
        0x82 => Level::Power11,
        _ => Level::Power10,
    };
    let policy = Policy {
        level,
        name: "nidus".to_string(),
        random: random::next().is_some(),
        characteristics: Characteristics::POWER10,
    };
    let pool = Arc::new(pool);
    let share = NestedShare {
        quotas: QUOTAS,
        tables: Arc::new(TableQuota::new(pool, 8 * handover.pool.words.len() as u64)),
        lpids: Arc::new(Lpids::new(LPID + 1..LPIDS)),
    };
    let partition = Partition::new(
        ram,
        LPID,
        tree.partition_table_word(),
        NonZeroU16::MIN,
        policy,
        share,
    );
    describe(&partition, &handover)?;

    let services = Services::new(handover.machine, &partition, 0, table, is_qemu);
    let entry = handover.payload.entry;
    let vcpu = partition.boot_context(entry, Gra(KERNEL_AT), DEVICE_TREE);
    let megabytes: u64 = partition.ram.extents().iter().map(|e| e.len() >> 20).sum();
    info!("partition {LPID} with {megabytes} MiB starts");
    crate::boot::announce_payload(entry.0);
    Ok(RunLoop::new(this_thread(), &services, &partition, 0, vcpu).run())
}

/// Writes the device tree and the RTAS page into the partition's memory.
fn describe(partition: &Partition, handover: &Handover) -> Result<(), StartError> {
    let to_u32 = |hz: u64| u32::try_from(hz).unwrap_or(u32::MAX);
    let machine = Machine {
        timebase_hz: to_u32(handover.inputs.timebase_frequency),
        clock_hz: to_u32(handover.inputs.clock_frequency),
        caches: Caches::POWER10,
    };
    let mut seed = [0; 64];
    for (place, number) in seed.chunks_mut(8).zip(core::iter::from_fn(random::next)) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    let boot = Boot {
        arguments: &handover.bootargs,
        initrd: handover
            .payload
            .initrd()
            .map(|range| (Gra(range.start), range.end - range.start)),
        rtas: RTAS,
        seed: if partition.policy.random { &seed } else { &[] },
    };
    let tree = PartitionDescription::new(partition, machine, boot)
        .build()
        .map_err(StartError::Description)?;
    let blob = tree.flatten().map_err(StartError::DeviceTree)?;
    partition
        .ram
        .write(DEVICE_TREE, &blob)
        .map_err(StartError::NoRoom)?;
    partition
        .ram
        .write(RTAS, &rtas::STUB)
        .map_err(StartError::NoRoom)
}
