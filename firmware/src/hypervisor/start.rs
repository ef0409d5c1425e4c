//! From the hand-over to the first entry: makes the partition and everything that it needs.
#![expect(unsafe_code, reason = "writes PTCR")]

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use isa::addr::{Gra, Ra};
use isa::barrier::{isync, ptesync};
use isa::context::GuestContext;
use isa::lock::Mutex;
use isa::lpcr::Lpcr;
use isa::spr::{self, mfspr, mtspr};
use log::{error, info};
use papr_services::device_tree::{BadDescription, Boot, Caches, Machine, PartitionDescription};
use papr_services::guest_ram::{BadExtents, GuestRam, OutOfRange};
use papr_services::host::{Flush, Host};
use papr_services::nested::guest::{Lpids, Quotas};
use papr_services::nested::pool::{BadPool, TablePool, TableQuota};
use papr_services::partition::{Characteristics, NestedShare, Partition, Policy, RunState, Stop};
use papr_services::radix::{BuildError, PageKind, PartitionTree, build_partition_tree};
use papr_services::tree::TreeError;
use papr_services::{exit_counters, rtas};

use super::host::{Services, Shared, partition_table_control};
use super::interrupts::PartitionInterrupts;
use super::own::{self, OwnInterrupts};
use super::partition_table::PartitionTable;
use super::run::{End, RunLoop};
use super::topology::Topology;
use super::{idle, random, tlb};
use crate::handover::Handover;
use crate::machine::PowerAction;
use crate::payload::{KERNEL_AT, PayloadError, TREE_AREA};
use crate::stop;
use crate::thread::{Thread, ThreadBlock, this_thread};
use crate::threads;

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
    let (shared, blocks, vcpu) = match make(handover) {
        Ok(made) => made,
        Err(why) => {
            error!("cannot start the partition: {why}");
            stop::power(machine, PowerAction::Off)
        }
    };
    threads::start(
        blocks.into_iter(),
        Box::new(|thread| {
            let pir = thread.pir.load(Ordering::Relaxed);
            match shared.threads.iter().position(|known| *known == pir) {
                Some(vcpu_id) => run_vcpu(shared, thread, vcpu_id, None),
                None => error!("thread {pir:#x} has no vCPU to run"),
            }
        }),
    );
    run_vcpu(shared, this_thread(), 0, Some(vcpu))
}

/// What a thread does for good: runs one vCPU, whenever that is started.
fn run_vcpu(
    shared: &'static Shared,
    thread: &'static Thread,
    vcpu_id: usize,
    first: Option<GuestContext>,
) -> ! {
    use_partition_table(&shared.table);
    let id = u32::try_from(vcpu_id).unwrap_or(u32::MAX);
    let services = Services::new(shared, id);
    let prepared = shared.own.map(|own| own.prepare_thread(id));
    let prepared = prepared.unwrap_or(Ok(())).and_then(|()| {
        let partitions = shared.interrupts;
        partitions.map_or(Ok(()), |interrupts| interrupts.prepare_thread(id))
    });
    match (prepared, shared.own) {
        (Err(why), _) => error!("vCPU {id} gets no interrupts: {why}"),
        (Ok(()), Some(own)) => own.open(id),
        (Ok(()), None) => {}
    }
    let mut next = first;
    loop {
        if shared.is_stopping() {
            shared.come_home();
        }
        let Some(vcpu) = next.take().or_else(|| shared.partition.take_start(id)) else {
            if shared
                .partition
                .vcpus()
                .iter()
                .all(|vcpu| vcpu.run_state() == RunState::Stopped)
            {
                error!("all vCPUs of the partition stopped themselves, nothing can start one");
                stop::power(shared.machine, PowerAction::Off);
            }
            let now = services.timebase();
            services.poll(now);
            idle::stop_until(Lpcr::LD, services.next_poll(), now);
            threads::clear_doorbell();
            services.take_interrupts();
            continue;
        };
        if let Ok(xive) = shared.partition.interrupts.xive()
            && let Err(why) = xive.vcpu_starts(id)
        {
            crate::limited!(error, "vCPU {id} gets no interrupts: {why:?}");
        }
        let end = RunLoop::new(thread, &services, vcpu).run();
        if let Some(interrupts) = shared.interrupts {
            interrupts.stop_vcpu();
        }
        match end {
            End::Stopped | End::Stopping => {}
            End::Partition(stop) => {
                services.gather();
                let action = match stop {
                    Stop::PowerOff => PowerAction::Off,
                    Stop::Reboot => PowerAction::Reset,
                };
                stop::power(shared.machine, action)
            }
        }
    }
}

/// Lets this thread translate by the partition table.
fn use_partition_table(table: &PartitionTable) {
    // SAFETY: the firmware runs with translation off; the table's valid entries map partitions' memory only.
    unsafe { mtspr(spr::Ptcr(partition_table_control(table.ra()))) };
    // SAFETY: a 56-bit decrementer for the firmware's own waits, which it, doorbells and interrupts end; EE is 0.
    unsafe { mtspr(mfspr::<Lpcr>() | Lpcr::LD | Lpcr::PECE | Lpcr::HVICE) };
    ptesync();
    isync();
}

/// The partition, blocks for its other threads, the registers of its first vCPU.
type Made = (&'static Shared, Vec<&'static ThreadBlock>, GuestContext);

fn make(handover: Handover) -> Result<Made, StartError> {
    let is_qemu = handover.inputs.is_qemu();
    let table = PartitionTable::take();
    let pool = TablePool::new(handover.pool.ra, handover.pool.words).map_err(StartError::Pool)?;
    let tree = build_partition_tree(&pool, &handover.extents).map_err(StartError::Tree)?;
    let mut others = threads::parked();
    others.truncate(handover.blocks.len());
    let boot = this_thread().pir.load(Ordering::Relaxed);
    let Topology {
        threads,
        threads_per_core,
    } = Topology::new(boot, &others, &handover.inputs.cores);
    let vcpus = u16::try_from(threads.len())
        .ok()
        .and_then(NonZeroU16::new)
        .unwrap_or(NonZeroU16::MIN);
    let (own, interrupts) = interrupts(&handover, &threads, vcpus, &tree, &pool);
    let counters = exit_counters();
    tree.map_page(&pool, exit_counters::PLACE, counters.0, PageKind::ReadOnly)
        .map_err(StartError::Tree)?;
    let ram = GuestRam::new(&handover.extents).map_err(StartError::Extents)?;
    handover.payload.place(&ram).map_err(StartError::Payload)?;

    table.set(LPID, [tree.partition_table_word(), 0]);
    use_partition_table(&table);
    tlb::run(Flush::Partition { lpid: LPID }, is_qemu);

    let level = handover.level;
    let policy = Policy {
        level,
        name: "nidus".to_string(),
        random: random::next().is_some(),
        characteristics: Characteristics::POWER10,
    };
    let pool = Arc::new(pool);
    let all = 8 * handover.pool.words.len() as u64;
    let limit = handover.tables.map_or(all, |most| most.min(all));
    let share = NestedShare {
        quotas: QUOTAS,
        tables: Arc::new(TableQuota::new(pool, limit)),
        lpids: Arc::new(Lpids::new(LPID + 1..LPIDS)),
    };
    let mut partition =
        Partition::new(ram, LPID, tree.partition_table_word(), vcpus, policy, share);
    if let Some(interrupts) = interrupts {
        partition = partition.with_exploitation(interrupts.exploitation(vcpus));
    }
    describe(&partition, &handover, threads_per_core)?;

    let entry = handover.payload.entry;
    let vcpu = partition.boot_context(entry, Gra(KERNEL_AT), DEVICE_TREE);
    let megabytes: u64 = partition.ram.extents().iter().map(|e| e.len() >> 20).sum();
    info!("partition {LPID} with {megabytes} MiB and {vcpus} vCPUs starts at level {level}");
    crate::boot::announce_payload(entry.0);
    let shared = Shared {
        machine: handover.machine,
        partition,
        table,
        threads,
        is_qemu,
        own,
        interrupts,
        exit_counters: counters.1,
        terminal: Mutex::default(),
        stopping: AtomicBool::new(false),
        home: AtomicUsize::new(0),
    };
    Ok((Box::leak(Box::new(shared)), handover.blocks, vcpu))
}

/// The firmware's own interrupts, if the machine's controllers work.
type Own = Option<&'static OwnInterrupts>;
/// XIVE exploitation mode, if it is wanted and they do.
type Partitions = Option<&'static PartitionInterrupts>;

/// Brings the controllers up for the firmware and for the partition.
fn interrupts(
    handover: &Handover,
    threads: &[u32],
    vcpus: NonZeroU16,
    tree: &PartitionTree,
    pool: &TablePool,
) -> (Own, Partitions) {
    let started = own::start_controllers(handover)
        .inspect_err(|why| error!("no XIVE, the console is polled: {why}"));
    let Ok(controllers) = started else {
        return (None, None);
    };
    let own = OwnInterrupts::start(controllers, handover, threads)
        .inspect_err(|why| error!("the firmware has no interrupts: {why}"));
    let area = handover.chip.map.xive_tm;
    // The partition's come through only where the thread's own context is there.
    let Some(own) = own.ok() else {
        return (None, None);
    };
    if !handover.exploitation {
        return (Some(own), None);
    }
    let started = PartitionInterrupts::start(controllers, area, threads, vcpus)
        .inspect_err(|why| error!("no XIVE exploitation mode: {why}"));
    let Ok((interrupts, pages)) = started else {
        return (Some(own), None);
    };
    let pages = pages.iter().map(|page| (page.gra, page.ra));
    let mapped = tree.map_pages(pool, pages, PageKind::Device);
    if let Err(why) = mapped {
        error!("no XIVE exploitation mode: its pages cannot be mapped: {why:?}");
        return (Some(own), None);
    }
    (Some(own), Some(interrupts))
}

/// The page of exit counters, nothing else on it: its real address and its words.
fn exit_counters() -> (Ra, &'static [AtomicU64]) {
    #[repr(C, align(65536))]
    struct Page([AtomicU64; exit_counters::BYTES / 8]);
    static PAGE: Page = Page([const { AtomicU64::new(0) }; exit_counters::BYTES / 8]);
    let base = core::ptr::from_ref(&PAGE).expose_provenance();
    (Ra(base as u64), &PAGE.0)
}

/// Writes the device tree and the RTAS page into the partition's memory.
fn describe(
    partition: &Partition,
    handover: &Handover,
    threads_per_core: u32,
) -> Result<(), StartError> {
    let to_u32 = |hz: u64| u32::try_from(hz).unwrap_or(u32::MAX);
    let machine = Machine {
        timebase_hz: to_u32(handover.inputs.timebase_frequency),
        clock_hz: to_u32(handover.inputs.clock_frequency),
        caches: Caches::POWER10,
        threads_per_core,
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
