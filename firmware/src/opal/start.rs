//! From the hand-over to the kernel: threads, services, tree, jump.
#![expect(unsafe_code, reason = "promises that the XSCOM windows are there")]

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;

use nest::chip::Chip;
use nest::lock::Mutex;
use nest::occ::Occ;
use nest::occ_sensors::Sensors;
use nest::scom::ChipIndex;
use nest::xscom::{CiXscom, Xscom};
use opal_calls::console::Console;
use opal_calls::events::{EventSet, Events};
use opal_calls::flash::Flash;
use opal_calls::host_sync::HostSync;
use opal_calls::i2c::I2c;
use opal_calls::ipmi::Ipmi;
use opal_calls::messages::Messages;
use opal_calls::os_memory::BadRanges;
use opal_calls::power::Power;
use opal_calls::quiesce::Quiesce;
use opal_calls::table::{Facilities, Facility};
use opal_calls::xive::Xive;
use papr_services::level::Level;
use papr_services::partition::Characteristics;
use papr_services::tree::{Node, TreeError};
use pnor_image::ffs::Found;

use super::clock::Rtc;
use super::console::UartPort;
use super::entry::{self, BY_PIR, Launch};
use super::fast_reboot::{self, Piece};
use super::flash::FlashDevice;
use super::gather::LOWEST_PAYLOAD;
use super::i2c::I2cBuses;
use super::ipmi::{self, BmcPort};
use super::kernel::{self, Kernel};
use super::occ::Occs;
use super::reboot::Again;
use super::sensors::Blocks;
use super::serve::{OPAL, Opal};
use super::subtrees::KeptTree;
use super::threads::{self, AllThreads, MAX_PIR, OpalThread};
use super::tree::{self, Describe, Description, Interrupts};
use super::units::{self, Unit};
use super::xive::{self, Chips, XIVE};
use crate::controllers;
use crate::entry::ram::{self, OsRam, Ram};
use crate::fdt::{Fdt, FdtError};
use crate::flash::SystemFlash;
use crate::inputs::Inputs;
use crate::machine::{Machine, PowerAction};
use crate::memory::{FIRMWARE, LOW_SIZE, MEMORY_CONSOLE, PARTITION, Plan, firmware_parts};
use crate::nvram::Nvram;
use crate::payload::{KERNEL_AREA, Memory as _};
use crate::stop;
use crate::thread::{Thread, ThreadBlock, this_thread};

/// What boot has made for OPAL mode.
pub struct Handover {
    /// The tree's facts.
    pub inputs: Inputs,
    /// The tree itself, as it was given.
    pub tree: Vec<u8>,
    /// The chip as a table.
    pub chip: &'static Chip,
    /// Console, clock, power: the devices.
    pub machine: &'static Machine,
    /// What lies in the flash, if it has a table of that.
    pub flash_table: Option<Found>,
    /// The settings that outlive a boot.
    pub nvram: Nvram,
    /// Who owns which memory.
    pub plan: Plan,
    /// Blocks for the threads that are parked.
    pub blocks: Vec<&'static ThreadBlock>,
    /// What to start.
    pub kernel: Kernel,
    /// Whether kernel and initrd are to be kept for a fast reboot.
    pub keep: bool,
    /// Whether they are from the flash: then they can be read again.
    pub from_flash: bool,
    /// Where its initrd is, if the firmware loaded one; else the tree says it already.
    pub initrd: Option<Range<u64>>,
    /// The kernel's command line without the firmware's words.
    pub bootargs: String,
    /// The level that `cpu-version` has to say, if one was asked for.
    pub level: Option<Level>,
}

/// Why the kernel cannot be started.
#[derive(Debug)]
enum StartError {
    Memory(BadRanges),
    Given(FdtError),
    Tree(TreeError),
    Interrupts(controllers::StartError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(why) => write!(f, "the memory map is unusable: {why:?}"),
            Self::Given(why) => write!(f, "the device tree is unusable: {why}"),
            Self::Interrupts(why) => write!(f, "the interrupt controllers are unusable: {why}"),
            Self::Tree(why) => write!(f, "the device tree cannot be written: {why:?}"),
        }
    }
}

/// ePAPR's top of memory when nobody says: kernels of today ignore it.
const TOP_OF_MEMORY: u64 = 0x4000_0000;

/// Starts the kernel.
pub fn start(handover: Handover) -> ! {
    let machine = handover.machine;
    let kernel = handover.kernel;
    let tree = match prepare(handover) {
        Ok(tree) => tree,
        Err(why) => {
            log::error!("cannot start the kernel: {why}");
            stop::power(machine, PowerAction::Off)
        }
    };
    crate::boot::announce_payload(kernel.entry);
    machine.drain_console();
    entry::reset_for_kernel();
    entry::launch(
        kernel.entry,
        Launch {
            r3: tree,
            r7: TOP_OF_MEMORY,
            r8: FIRMWARE,
            r9: entry::entry_address(),
            is_64_bit: kernel.is_64_bit,
        },
    )
}

/// Makes all that a kernel may ask for from its first instruction on; the address of its tree.
fn prepare(handover: Handover) -> Result<u64, StartError> {
    let nvram = handover.nvram;
    let boot_pir = crate::thread::pir();
    let blocks = &handover.blocks;
    let threads = make_threads(boot_pir, &handover.inputs, blocks);
    let known: Vec<u32> = threads.iter().map(|thread| thread.pir).collect();
    let threads = AllThreads::new(threads, boot_pir);
    for thread in threads.each() {
        if let Some(slot) = usize::try_from(thread.pir)
            .ok()
            .and_then(|pir| BY_PIR.get(pir))
        {
            let address = core::ptr::from_ref(thread).expose_provenance();
            slot.store(address as u64, Ordering::Release);
        }
    }
    let chips = handover.inputs.chips.iter();
    // SAFETY: the chip's table says where the windows are; every chip is one that the tree names; this is the only engine.
    let bus = unsafe { CiXscom::new(handover.chip.map.xscom, handover.chip.map.chip_shift) };
    let mut xscom = Xscom::new(
        bus,
        chips.filter_map(|chip| u8::try_from(*chip).ok().map(ChipIndex)),
    );
    let (controllers, tables) = Chips::start(
        &mut xscom,
        &handover.chip.map,
        &handover.inputs,
        handover.machine.bus(),
    )
    .map_err(StartError::Interrupts)?;
    let served = controllers.bridges.served();
    let interrupts = Interrupts {
        area: handover.chip.map.xive_tm.0,
        chips: &handover.inputs.chips,
        capabilities: controllers.capabilities(),
        served: &served,
    };
    let bridges = controllers.bridges.described();
    let xive: &'static Xive<Chips> = XIVE.call_once(|| Xive::new(controllers));
    xive::push_thread(boot_pir);
    crate::threads::start(blocks.iter().copied(), Box::new(thread_came));
    // Kernels begin big-endian, whatever they are; they say when exceptions shall be otherwise.
    const BIG_ENDIAN_EXCEPTIONS: u64 = 1;
    if threads.reinit(boot_pir, BIG_ENDIAN_EXCEPTIONS).is_err() {
        log::error!("going on without the threads that do not answer");
    }

    let mut parts = firmware_parts(tables.end).to_vec();
    let (payload, kept) = match handover.from_flash {
        true => (
            threads_are_all_here(&handover.inputs).map(|()| vec![]),
            tables.end,
        ),
        false => keep_payload(handover.keep, &handover.inputs, &handover.plan, tables.end),
    };
    let firmware = FIRMWARE..kept;
    if kept > tables.end {
        parts.push(("payload", tables.end..kept));
    }
    let os = OsRam::new(&handover.plan, &firmware).map_err(StartError::Memory)?;
    let rtc = handover.machine.read_clock().is_ok();
    let missing: Vec<u32> = (handover.inputs.cores.iter())
        .flat_map(|core| &core.threads)
        .copied()
        .filter(|pir| !known.contains(pir))
        .collect();
    let given = Fdt::new(&handover.tree).map_err(StartError::Given)?;
    let mut root = Node::default();
    tree::copy(&given.root(), &mut root);
    let mut own: Vec<&dyn Describe> = vec![&nvram, &bridges];
    if rtc {
        own.push(&Rtc);
    }
    let mut tree = Description {
        chip: handover.chip,
        is_qemu: handover.inputs.is_qemu(),
        boot_cpu: boot_pir,
        missing: &missing,
        bootargs: &handover.bootargs,
        initrd: handover.initrd.as_ref(),
        firmware: &parts,
        characteristics: Characteristics::POWER10,
        entry: entry::entry_address(),
        fast_reboot: payload.as_ref().err().copied().unwrap_or("okay"),
        memory_console: MEMORY_CONSOLE.start,
        interrupts,
        units: own,
        level: handover.level,
    }
    .apply(root);
    let nest_mmus: Vec<Unit> = units::find(&tree.root, "ibm,power9-nest-mmu")
        .into_iter()
        .map(|(unit, _)| unit)
        .collect();
    let chips = || handover.inputs.chips.iter();
    // All controllers share the memory that the bridge of the first chip names.
    let first = chips().find_map(|chip| u8::try_from(*chip).ok().map(ChipIndex));
    let blocks = Blocks::new((0..).zip(chips()).filter_map(|(n, chip)| {
        let chip = ChipIndex(u8::try_from(*chip).ok()?);
        Some((
            chip,
            Sensors::new(ram::occ_sensors(&mut xscom, first?, n)?)?,
        ))
    }));
    blocks.describe(&mut tree.root, controllers::is_fused(&handover.inputs));
    let occs = Occs::new(handover.inputs.chips.iter().filter_map(|chip| {
        let chip = ChipIndex(u8::try_from(*chip).ok()?);
        Some((chip, Occ::new(ram::occ_area(&mut xscom, chip)?)?))
    }));
    occs.describe(&mut tree.root);
    let i2c_buses = I2cBuses::find(&mut tree.root);
    let events = Events::new();
    let ipmi = handover.machine.has_bmc().then(|| {
        let event = events.allocate().unwrap_or(EventSet::NONE);
        ipmi::describe(&mut tree.root, event);
        if let Err(error) = handover.machine.start_bmc_interrupts() {
            log::warn!("the BMC does not interrupt: {error}");
        }
        handover.machine.share_bmc_events();
        (Ipmi::new(event), BmcPort(handover.machine))
    });
    let flash = FlashDevice::find(SystemFlash(handover.machine)).map(|mut device| {
        device.describe(&mut tree.root, handover.flash_table.as_ref());
        (Flash::new(), device)
    });
    let blob = tree.flatten().map_err(StartError::Tree)?;
    if !nvram.lasts() {
        log::warn!("NVRAM is in memory only: what the kernel writes there will not last");
    }
    log::info!(
        "OPAL at {:#x}, the firmware keeps {:#x}..{:#x}, {} threads, tree of {} bytes",
        entry::entry_address(),
        firmware.start,
        firmware.end,
        known.len(),
        blob.len()
    );

    let mut have = Facilities::NONE
        .with(Facility::Console)
        .with(Facility::Nvram)
        .with(Facility::Lpc)
        .with(Facility::Xive);
    if rtc {
        have = have.with(Facility::Rtc);
    }
    if ipmi.is_some() {
        have = have.with(Facility::Ipmi);
    }
    if flash.is_some() {
        have = have.with(Facility::Flash);
    }
    if !i2c_buses.is_empty() {
        have = have.with(Facility::I2c);
    }
    if !occs.is_empty() {
        have = have.with(Facility::Occ);
    }
    if !blocks.is_empty() {
        have = have.with(Facility::Sensors);
    }
    if !nest_mmus.is_empty() {
        have = have.with(Facility::Nmmu);
    }
    OPAL.call_once(|| Opal {
        machine: handover.machine,
        have,
        os,
        threads,
        quiesce: Quiesce::new(),
        events,
        messages: Messages::new(),
        host_sync: HostSync::new(),
        console: Console::new(UartPort(handover.machine)),
        ipmi,
        flash,
        nvram: Mutex::new(nvram),
        xscom: Mutex::new(xscom),
        nest_mmus,
        i2c: I2c::new(),
        i2c_buses,
        occs,
        sensors: blocks,
        power: Power::new(),
        tree: KeptTree::new(tree.root),
        again: Again::new(handover.tree, payload),
        is_fused: controllers::is_fused(&handover.inputs),
        xive,
    });
    Ok(leak_aligned(&blob))
}

/// Kernel and initrd as a fast reboot has them again, or why it does not; and where what the firmware keeps ends, now that
/// copies of them may lie from `from` on.
fn keep_payload(
    keep: bool,
    inputs: &Inputs,
    plan: &Plan,
    from: u64,
) -> (Result<Vec<Piece>, &'static str>, u64) {
    if !keep {
        let why = "the kernel was loaded and not kept: nidus.fast-reboot=keep keeps it";
        return (Err(why), from);
    }
    match copy_payload(inputs, plan, from) {
        Ok(pieces) => {
            let end = |piece: &Piece| piece.copy.base + piece.copy.words.len() as u64 * 8;
            let end = pieces.iter().map(end).fold(from, u64::max);
            let end = end.next_multiple_of(LOW_SIZE);
            log::info!(
                "kept for a fast reboot: {} KiB of kernel and initrd",
                (end - from) >> 10
            );
            (Ok(pieces), end)
        }
        Err(why) => {
            log::warn!("nothing is kept for a fast reboot: {why}");
            (Err("nothing could be kept"), from)
        }
    }
}

/// A thread that stays parked would be in the way of the next boot.
fn threads_are_all_here(inputs: &Inputs) -> Result<(), &'static str> {
    if crate::threads::parked().len() + 1 == inputs.threads() {
        Ok(())
    } else {
        Err("not all threads of the tree are here, and no others")
    }
}

fn copy_payload(inputs: &Inputs, plan: &Plan, from: u64) -> Result<Vec<Piece>, String> {
    threads_are_all_here(inputs)?;
    let ram = Ram::new(plan);
    let mut homes = Vec::new();
    let loaded = ram.loaded(KERNEL_AREA).ok_or("no kernel")?;
    let length = kernel::file_length(loaded);
    homes.push(("kernel", KERNEL_AREA.start..KERNEL_AREA.start + length));
    if let Some(initrd) = &inputs.initrd {
        homes.push(("initrd", initrd.start / 8 * 8..initrd.end));
    }
    let lengths: Vec<u64> = (homes.iter())
        .map(|(_, home)| home.end.saturating_sub(home.start))
        .collect();
    let places = fast_reboot::places(&(from..PARTITION), &lengths).map_err(|e| e.to_string())?;
    let pieces = homes.into_iter().zip(places).map(|((name, home), place)| {
        let home = ram.loaded(home).filter(|at| at.base >= LOWEST_PAYLOAD);
        let copy = ram.part_of_pool(&place);
        let (home, copy) = home.zip(copy).ok_or("it lies where nothing can be kept")?;
        Ok(Piece::keep(name, home, copy))
    });
    pieces.collect()
}

/// What OPAL keeps of each thread, and the blocks of those that are parked, in their order. A thread for which there is no
/// block, or that the tree does not name, is left out.
fn make_threads(
    boot_pir: u32,
    inputs: &Inputs,
    blocks: &[&'static ThreadBlock],
) -> Vec<OpalThread> {
    let mut made = vec![OpalThread::new(boot_pir, this_thread())];
    let named = |pir: u32| inputs.cores.iter().any(|core| core.threads.contains(&pir));
    let is_low = |pir: u32| usize::try_from(pir).is_ok_and(|pir| pir < MAX_PIR);
    for (pir, block) in crate::threads::parked().into_iter().zip(blocks) {
        if named(pir) && is_low(pir) {
            made.push(OpalThread::new(pir, &block.thread));
        } else {
            log::warn!("thread {pir:#x} is not in the device tree: it stays parked");
        }
    }
    made
}

/// A thread that was parked, on its own stack.
fn thread_came(thread: &'static Thread) {
    let pir = thread.pir.load(Ordering::Relaxed);
    match entry::by_pir(pir) {
        Some(opal_thread) => threads::wait_for_work(opal_thread),
        None => loop {
            entry::doze();
        },
    }
}

/// The bytes at an address that is a multiple of 8, for ever.
fn leak_aligned(bytes: &[u8]) -> u64 {
    let words: Vec<u64> = bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(to, from)| *to = *from);
            u64::from_ne_bytes(word)
        })
        .collect();
    Box::leak(words.into_boxed_slice())
        .as_ptr()
        .expose_provenance() as u64
}
