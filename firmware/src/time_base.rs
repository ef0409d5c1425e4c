//! The time base of all cores: set from the chips' time of day at boot, and again when one has stopped.
//!
//! Owns the order: the boot thread starts the time of day and sets its own core; each other thread passes [`arrive`] before
//! it gets work, and the first of a core sets that core. Surprising fact: a time base that is valid is left alone, since clocks
//! and decrementers count on it, unless the time of day had to be started: then no two cores would agree.
#![expect(
    unsafe_code,
    reason = "writes TFMR, promises that the XSCOM windows are there"
)]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use isa::spr::{Pvr, Tfmr, mfspr, mtspr};
use isa::timebase::{self, Deadline};
use nest::chip::Chip;
use nest::chiptod::{self, Patience, TimeFacility, TodError};
use nest::core_control::Place;
use nest::lock::Mutex;
use nest::scom::{ChipIndex, Scom, ScomError};
use nest::xscom::{CiXscom, Xscom};
use spin::Once;

use crate::controllers::is_fused;
use crate::inputs::Inputs;
use crate::thread::pir;

/// The time base was not valid, and could not be set. The log says why.
#[derive(Clone, Copy, Debug)]
pub struct NotSet;

/// The TFMR of this thread.
struct ThisThread;

impl TimeFacility for ThisThread {
    fn read(&mut self) -> u64 {
        mfspr::<Tfmr>().0
    }

    fn write(&mut self, value: u64) {
        // SAFETY: no memory is touched; that the time base may jump is what the driver's caller asked for.
        unsafe { mtspr(Tfmr(value)) }
    }
}

/// What is the same for all cores.
struct TimeOfDay {
    /// Of TFMR.
    control: u64,
    is_fused: bool,
    /// The second half of a fused core is addressed as the first.
    even_only: bool,
}

impl TimeOfDay {
    fn here(&self) -> Option<Place> {
        Place::of_pir(pir(), self.is_fused)
    }

    fn set(&self, scom: &mut impl Scom, mut at: Place) -> Result<(), TodError> {
        if self.even_only {
            at.core &= !1;
        }
        let patience = Patience::MACHINE;
        chiptod::move_to_time_base(scom, &mut ThisThread, at, self.control, patience)
    }
}

/// There only when the machine has a time of day.
static TIME_OF_DAY: Once<TimeOfDay> = Once::new();

/// What boot keeps until all threads have come.
struct Setting {
    scom: Xscom<CiXscom>,
    /// The time of day was started, or a kernel ran before: valid time bases count too.
    all: bool,
    /// By chip: small cores that have been tried.
    tried: [u32; 16],
    set: usize,
    failed: usize,
}

static SETTING: Once<Mutex<Setting>> = Once::new();
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
/// Boot waits no more, and may use the XSCOM of the machine in other ways: who comes now finds it as it is. Not under the lock, for
/// which many cores may be waiting that would each take their time.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

impl Setting {
    /// Sets the core of this thread, if no other thread did and it is needed.
    fn core(&mut self, tod: &TimeOfDay) {
        let Some(at) = tod.here() else { return };
        let Some(tried) = self.tried.get_mut(usize::from(at.chip.0)) else {
            return;
        };
        let core = 1 << (at.core & 31);
        let is_good = chiptod::is_good(ThisThread.read());
        if IS_CLOSED.load(Ordering::SeqCst) {
            if *tried & core == 0 && !is_good {
                log::error!(
                    "time base of core {} on chip {}: its first thread came too late, it is not set",
                    at.core,
                    at.chip.0
                );
            }
            return;
        }
        if *tried & core != 0 || is_good && !self.all {
            return;
        }
        *tried |= core;
        match tod.set(&mut self.scom, at) {
            Ok(()) => self.set += 1,
            Err(why) => {
                self.failed += 1;
                log::error!("time base of core {} on chip {}: {why}", at.core, at.chip.0);
            }
        }
    }
}

/// Starts the time of day where it does not run, and sets the time base of this thread's core. Whatever fails is reported,
/// and boot goes on with the time base as it is.
pub fn start(chip: &Chip, pvr: Pvr, inputs: &Inputs) {
    let chips: Vec<ChipIndex> = (inputs.chips.iter())
        .filter_map(|chip| u8::try_from(*chip).ok().map(ChipIndex))
        .collect();
    // SAFETY: the chip's table says where the windows are; every chip is one that the tree names. The next engine is used
    // after `wait_for_all` has closed this one, or by the boot thread while no other has started.
    let bus = unsafe { CiXscom::new(chip.map.xscom, chip.map.chip_shift) };
    let mut scom = Xscom::new(bus, chips.iter().copied());
    let all = match run(&mut scom, &chips) {
        // A kernel before a fast reboot may have moved time bases for its guests.
        Ok(all) => all || inputs.fast_reboots > 0,
        Err(TodError::Scom(ScomError::Address)) => {
            log::warn!("no time of day in the chips: the time base stays as it is");
            return;
        }
        Err(why) => {
            log::error!("{why}: only time bases that are not valid are set");
            false
        }
    };
    let is_fused = is_fused(inputs);
    let tod = TIME_OF_DAY.call_once(|| TimeOfDay {
        control: chiptod::control(inputs.clock_frequency),
        is_fused,
        // Of second designs, both chips' (hardware.md 7.7); QEMU's machines are such.
        even_only: is_fused && pvr.revision().0 == 2,
    });
    let setting = SETTING.call_once(|| {
        Mutex::new(Setting {
            scom,
            all,
            tried: [0; 16],
            set: 0,
            failed: 0,
        })
    });
    setting.lock().core(tod);
}

/// Sees to it that the time of day runs on all chips; whether it had to be started.
fn run(scom: &mut impl Scom, chips: &[ChipIndex]) -> Result<bool, TodError> {
    let master = chiptod::master(scom, chips.iter().copied())?;
    let mut stopped = 0_usize;
    for chip in chips {
        stopped += usize::from(!chiptod::is_running(scom, *chip)?);
    }
    if stopped == 0 {
        log::info!("time of day: chip {} leads, runs", master.0);
        return Ok(false);
    }
    if chips.len() == 1 && chiptod::is_good(ThisThread.read()) {
        log::warn!("time of day does not run, but the time base does: left as it is");
        return Ok(false);
    }
    let (time, patience) = (timebase::now().0, Patience::MACHINE);
    chiptod::start(scom, master, chips.iter().copied(), time, patience)?;
    log::info!("time of day: chip {} leads, started", master.0);
    Ok(true)
}

/// What each thread does before it gets work.
pub fn arrive() {
    if let (Some(tod), Some(setting)) = (TIME_OF_DAY.get(), SETTING.get()) {
        setting.lock().core(tod);
    }
    ARRIVED.fetch_add(1, Ordering::Release);
}

/// Waits until this many threads have passed [`arrive`], but not for ever, and says what was done. Afterwards no thread uses
/// this module's XSCOM any more.
pub fn wait_for_all(threads: usize) {
    const PATIENCE_MS: u64 = 1000;
    let all = Deadline::after_ms(PATIENCE_MS)
        .wait_for(|| (ARRIVED.load(Ordering::Acquire) >= threads).then_some(()));
    if all.is_none() {
        log::warn!("not all threads have a time base yet: going on");
    }
    if let Some(setting) = SETTING.get() {
        IS_CLOSED.store(true, Ordering::SeqCst);
        // Without an end of its own: the holder has one, all its waits are numbers of reads.
        let setting = setting.lock();
        log::info!(
            "time base of {} cores set, {} failed",
            setting.set,
            setting.failed
        );
    }
}

/// Sets the time base of this thread's core again when it is not valid or has errors; whether that was needed.
///
/// # Errors
/// [`NotSet`].
pub fn resync(scom: &Mutex<Xscom<CiXscom>>) -> Result<bool, NotSet> {
    if chiptod::is_good(ThisThread.read()) {
        return Ok(false);
    }
    let place = TIME_OF_DAY.get().and_then(|tod| Some((tod, tod.here()?)));
    let Some((tod, at)) = place else {
        crate::limited!(
            error,
            "the time base is not valid, and there is no time of day"
        );
        return Err(NotSet);
    };
    let mut scom = scom.lock();
    // Another thread of the core may have done it meanwhile.
    if chiptod::is_good(ThisThread.read()) {
        return Ok(false);
    }
    match tod.set(&mut *scom, at) {
        Ok(()) => {
            crate::limited!(
                warn,
                "core {} on chip {}: its time base was set again",
                at.core,
                at.chip.0
            );
            Ok(true)
        }
        Err(why) => {
            crate::limited!(
                error,
                "time base of core {} on chip {}: {why}",
                at.core,
                at.chip.0
            );
            Err(NotSet)
        }
    }
}
