//! The boot list: what happens between the first line of Rust and the payload.
//!
//! Surprising fact: nothing is kept in statics on the way. Each stage returns what it made and the next takes it, so no
//! stage can run before what it needs exists.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use isa::spr::Pvr;
use isa::timebase::Deadline;
use nest::chip::{Chip, Machine as Board};
use nest::hiomap::Hiomap;
use nest::ipmi::Event;
use nest::lpc::CiLpc;
use papr_services::guest_ram::{Extent, MAX_EXTENTS};
use papr_services::level::Level;
use pnor_image::content::Trust;
use pnor_image::ffs::Found;

use crate::command_line::{CommandLine, Mode};
use crate::entry::ram::{self, NoTree, Ram};
use crate::entry::{self, park};
use crate::fdt::Fdt;
use crate::files::{self, Files, Origin, Told};
use crate::flash::{SystemFlash, writable_partition};
use crate::handover::Handover;
use crate::inputs::Inputs;
use crate::machine::{Machine, PowerAction};
use crate::memory::{FIRMWARE, PARTITION, Plan};
use crate::nvram::{InFlash, Nvram};
use crate::opal;
use crate::opal::kernel::Kernel;
use crate::payload::Payload;
use crate::stages::{self, Stage};
use crate::thread::ThreadBlock;
use crate::{chips, console, settings, stack, stop, time_base};

/// What the loader gave.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Address of the device tree, or 0.
    pub tree: u64,
    /// Where the image was.
    pub loaded_at: u64,
}

/// Why boot cannot go on, as one line.
struct Fatal(String);

impl<E: fmt::Display> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

fn stage<T>(stage: Stage, machine: &Machine, body: impl FnOnce() -> Result<T, Fatal>) -> T {
    match stages::run(
        stage,
        |code| machine.progress(code),
        || body().map_err(|fatal| fatal.0),
    ) {
        Ok(made) => made,
        Err(failed) => {
            log::error!("{failed}");
            stop::power(machine, PowerAction::Off)
        }
    }
}

/// Boots and hands over; every failure ends in one line and a stopped machine.
pub fn boot(entry: Entry, chip: &'static Chip) -> ! {
    #[cfg(debug_assertions)]
    isa::lock::check_order(|| &crate::thread::this_thread().locks_held);
    let pvr = isa::spr::mfspr::<Pvr>();
    let machine = start_console(entry, chip, pvr);
    let (inputs, blob) = stage(Stage::Tree, machine, || tree(entry));
    let board = stage(Stage::Chips, machine, || Ok(chips(chip, pvr, &inputs)));
    let plan = stage(Stage::Memory, machine, || memory(entry, &inputs));
    stage(Stage::Threads, machine, || {
        threads(&inputs);
        Ok(())
    });
    stage(Stage::Time, machine, || {
        time_base::start(chip, pvr, &inputs);
        Ok(())
    });
    let (mut flash, nvram) = stage(Stage::Devices, machine, || {
        devices(machine, chip, &inputs);
        let flash = SystemFlash::start(machine);
        let nvram = nvram(machine, flash.as_ref());
        Ok((flash, nvram))
    });
    let (line, level) = stage(Stage::Mode, machine, || {
        let line = mode(&inputs, &nvram);
        let level = level(line.compat, chip);
        Ok((line, level))
    });
    if line.mode.unwrap_or_default() == Mode::Opal {
        let (kernel, files) = stage(Stage::Payload, machine, || {
            let files = load(&inputs, &plan, flash.as_mut(), &line)?;
            Ok((kernel(&files)?, files))
        });
        obey(machine);
        opal::start(opal::Handover {
            inputs,
            tree: blob,
            chip,
            machine,
            flash_table: flash.map(|(_, found)| found),
            nvram,
            blocks: thread_blocks(&plan),
            plan,
            kernel,
            keep: line.keep.unwrap_or(false),
            from_flash: files.origin == Origin::Flash,
            initrd: files.initrd.filter(|_| files.origin == Origin::Flash),
            bootargs: line.payload,
            level: line.compat.map(|_| level),
        })
    }
    drop(blob);
    let (extents, payload) = stage(Stage::Payload, machine, || {
        let files = load(&inputs, &plan, flash.as_mut(), &line)?;
        payload(&files, &plan)
    });
    obey(machine);
    let handover = Handover {
        chip,
        board,
        pvr,
        machine,
        extents,
        pool: Ram::new(&plan).pool(inputs.chips.len()),
        blocks: thread_blocks(&plan),
        payload,
        exploitation: line.exploitation(),
        tables: line.tables,
        bootargs: line.payload,
        level,
        inputs,
    };
    crate::hypervisor::start(handover)
}

/// Blocks for the parked threads, in their order. Their stacks and those of this thread are watched from now on.
fn thread_blocks(plan: &Plan) -> Vec<&'static ThreadBlock> {
    let pirs: Vec<u32> = park::parked().collect();
    let blocks = Ram::new(plan).thread_blocks();
    let blocks: Vec<_> = blocks.take(pirs.len()).collect();
    let others = pirs.iter().zip(&blocks);
    let others = others.flat_map(|(pir, block)| block.stacks(*pir));
    stack::watch(entry::boot_stacks().chain(others));
    blocks
}

/// The line that says that the payload runs from now on; tests wait for it. `at` is where.
pub fn announce_payload(at: u64) {
    stack::boot_is_over();
    log::info!("INIT: Starting kernel at {at:#x}");
}

fn start_console(entry: Entry, chip: &'static Chip, pvr: Pvr) -> &'static Machine {
    console::start(ram::memory_console);
    let machine: &'static Machine = Box::leak(Box::new(Machine::start(ram::lpc(chip))));
    console::add_sink(machine);
    stage(Stage::Console, machine, || {
        log::info!(
            "Nidus {}, loaded at {:#x}, tree at {:#x}",
            env!("CARGO_PKG_VERSION"),
            entry.loaded_at,
            entry.tree
        );
        log::info!("CPU: {} (PVR {:08x})", chip.generation, pvr.0);
        Ok(machine)
    })
}

impl fmt::Display for NoTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(
                f,
                "no device tree was given, and HDAT is not supported yet: start with a device tree in r3"
            ),
            Self::BadAddress(address) => write!(
                f,
                "a device tree cannot be at {address:#x}: it must be aligned to 8 bytes, between 0x10000 and 0x2fe00000"
            ),
            Self::Broken(address, error) => write!(
                f,
                "the device tree at {address:#x} is broken: {error}; correct it"
            ),
        }
    }
}

/// The tree's facts, and the tree itself.
fn tree(entry: Entry) -> Result<(Inputs, Vec<u8>), Fatal> {
    let blob = ram::copy_tree(entry.tree)?;
    let tree = Fdt::new(&blob).map_err(|error| NoTree::Broken(entry.tree, error))?;
    let inputs = Inputs::read(tree)?;
    log::info!(
        "machine {} ({}), {} bytes of tree",
        inputs.compatible.join(" "),
        inputs.model,
        blob.len()
    );
    if inputs.fast_reboots > 0 {
        log::info!(
            "fast reboot {} since the machine was reset",
            inputs.fast_reboots
        );
    }
    Ok((inputs, blob))
}

/// Names what the tables know about the machine. An unknown board runs too: all it has is found by asking.
fn chips(chip: &Chip, pvr: Pvr, inputs: &Inputs) -> Option<&'static Board> {
    let (major, minor) = pvr.revision();
    log::info!(
        "{} chips, {} cores, {} threads, revision {major}.{minor}",
        inputs.chips.len(),
        inputs.cores.len(),
        inputs.threads()
    );
    for erratum in chip
        .errata
        .iter()
        .filter(|erratum| erratum.applies(pvr.revision()))
    {
        log::info!("erratum {}: {}", erratum.name(), erratum.why());
    }
    let board = chips::board(&inputs.compatible);
    match board {
        Some(board) => log::info!("board: {}", board.name),
        None => log::warn!("no table knows this board: going on with what every machine has"),
    }
    board
}

fn memory(entry: Entry, inputs: &Inputs) -> Result<Plan, Fatal> {
    let plan = Plan::new(inputs.ram.clone(), inputs.reserved.clone())?;
    for region in &plan.ram {
        log::info!(
            "memory {:#x}..{:#x} on chip {}",
            region.base,
            region.base + region.len,
            region.chip
        );
    }
    Ram::new(&plan).clear_loaded_image(entry.loaded_at);
    let pool = plan.pool(inputs.chips.len());
    log::info!(
        "firmware keeps 0..0x10000 and 0x30000000..0x40000000, of it {} MiB for tables",
        (pool.end - pool.start) >> 20
    );
    Ok(plan)
}

/// Waits until every thread of the tree is parked, but not for ever: a thread that never comes is not worth the machine.
fn threads(inputs: &Inputs) {
    const PATIENCE_MS: u64 = 1000;
    let expected = inputs.threads().saturating_sub(1);
    let all = Deadline::after_ms(PATIENCE_MS)
        .wait_for(|| (park::parked().count() >= expected).then_some(()));
    let parked = park::parked().count();
    if all.is_none() {
        log::warn!("{parked} of {expected} other threads came, going on without the rest");
    }
    log::info!(
        "thread {:#x} boots, {parked} are parked",
        crate::thread::pir()
    );
}

fn devices(machine: &Machine, chip: &Chip, inputs: &Inputs) {
    if inputs.lpc.is_some_and(|base| base != chip.map.lpc.0) {
        log::warn!("the tree's primary LPC bus is not chip 0's, whose UART and BMC are in use");
    }
    machine.start_others();
}

/// The settings that outlive a boot: in the flash, if there is one that can be used.
fn nvram(machine: &'static Machine, flash: Option<&(SystemFlash<CiLpc>, Found)>) -> Nvram {
    let open = || {
        let (_, found) = flash?;
        let place = writable_partition(found, "NVRAM")?;
        let flash = SystemFlash(machine);
        let store = InFlash { flash, place };
        let blocks = store.blocks();
        Nvram::open(Box::new(store), blocks)
            .inspect_err(|error| log::warn!("NVRAM in flash: {error}"))
            .ok()
    };
    open().unwrap_or_else(Nvram::in_memory)
}

/// The command line, then what NVRAM says about what the line does not.
fn mode(inputs: &Inputs, nvram: &Nvram) -> CommandLine {
    let mut line = CommandLine::parse(&inputs.bootargs);
    let given = line.payload.clone();
    let levels = settings::take(nvram.settings(), &mut line, |text| log::warn!("{text}"));
    if line.payload != given {
        log::info!("command line from NVRAM: {}", line.payload);
    }
    console::set_levels(levels.uart, levels.memory);
    for word in &line.unknown {
        log::warn!("\"{word}\" on the command line means nothing to the firmware");
    }
    line
}

/// Kernel and initrd in memory: as somebody put them there, or from the flash.
fn load(
    inputs: &Inputs,
    plan: &Plan,
    flash: Option<&mut (SystemFlash<CiLpc>, Found)>,
    line: &CommandLine,
) -> Result<Files, Fatal> {
    let told = Told {
        is_qemu: inputs.is_qemu(),
        initrd: inputs.initrd.as_ref(),
        reserved: &plan.reserved,
        trust: if inputs.secure || line.secure {
            log::info!(
                "secure mode: hashes and keys of what comes from flash have to be right; nobody checks signatures"
            );
            Trust::Enforce(inputs.key_hash)
        } else {
            Trust::Report
        },
    };
    let flash = flash.map(|(flash, found)| (flash, &*found));
    Ok(files::find(&Ram::new(plan), ram::note(), told, flash)?)
}

/// Does what the BMC asked for while the firmware itself took its events, which was until now.
fn obey(machine: &Machine) {
    let wish = machine
        .flash_driver()
        .lock()
        .as_mut()
        .and_then(Hiomap::take_wish);
    let action = match wish {
        Some(Event::SoftPowerOff) => PowerAction::Off,
        Some(Event::SoftReboot) => PowerAction::Reset,
        Some(Event::Oem { .. } | Event::Other) | None => return,
    };
    log::info!("the BMC asks for this before anything was started: {action:?}");
    stop::power(machine, action)
}

/// What opal mode starts.
fn kernel(files: &Files) -> Result<Kernel, Fatal> {
    if let Some(initrd) = &files.initrd
        && initrd.start < PARTITION
        && initrd.end > FIRMWARE
    {
        return Err(Fatal(format!(
            "the initrd at {:#x}..{:#x} lies where the firmware is: load it elsewhere, below {FIRMWARE:#x}",
            initrd.start, initrd.end
        )));
    }
    log::info!("opal mode has no PCI yet: the kernel does without");
    let kernel = Kernel::find(files.kernel)?;
    log::info!("kernel: {}, entry {:#x}", kernel.form, kernel.entry);
    Ok(kernel)
}

/// The level of the processor that the kernel is told: the chip's own, or a lower one that was asked for. Like every wrong
/// word for the firmware, a level that the chip does not reach is reported and ignored: a machine that should run Power11
/// software and cannot still boots, and the kernel says at which level.
fn level(asked: Option<Level>, chip: &Chip) -> Level {
    // The table of a chip names the highest level by its logical version.
    let own = Level::from_logical_pvr(chip.logical_pvr.into()).unwrap_or(Level::Power10);
    Level::granted(asked, own).unwrap_or_else(|asked| {
        log::warn!("nidus.compat={asked} is above this processor, whose level is {own}");
        own
    })
}

fn payload(files: &Files, plan: &Plan) -> Result<(Vec<Extent>, Payload), Fatal> {
    let ram = Ram::new(plan);
    let parts = plan.partition_extents(MAX_EXTENTS)?;
    for part in &parts {
        log::info!(
            "partition {}..{:#x} is {}",
            part.gra,
            part.gra.0 + part.len,
            part.ra
        );
    }
    let payload = Payload::read(&ram, files.kernel, files.initrd.clone(), &parts)?;
    log::info!("kernel up to {}", payload.kernel_end);
    if let Some(initrd) = payload.initrd() {
        log::info!("initrd at {:#x}..{:#x}", initrd.start, initrd.end);
    }
    let extents = parts.iter().filter_map(|part| ram.extent(part)).collect();
    Ok((extents, payload))
}
