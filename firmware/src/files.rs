//! Kernel and initrd before anything looks into them: where a loader put them, or read from the flash.
//!
//! The order is QEMU's `-kernel`, then BOOTKERNEL of the flash with ROOTFS (or INITRAMFS) as its initrd, then what lies in
//! memory. Generic over memory and flash. Surprising fact: QEMU's loader tells nobody that it has put a kernel into memory, and a
//! reset does not clear memory; so the firmware leaves itself a note when it had to read the kernel from the flash.
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use pnor_image::content::{self, Content, HashState, Place, Rules, Trust};
use pnor_image::ffs::{self, Found, Kind, Table};
use pnor_image::flash::Flash;

use crate::payload::{KERNEL_AREA, Loaded, Memory};

/// Where an initrd from the flash is loaded.
pub const INITRD_AREA: Range<u64> = 0x2800_0000..0x3000_0000;

/// Bytes of the heap for unpacking: what `xz` takes when nothing else is said.
const DICTIONARY: usize = 8 << 20;

const KERNEL: &str = "BOOTKERNEL";
/// The first that is there and not empty.
const INITRDS: [&str; 2] = ["ROOTFS", "INITRAMFS"];

/// The note that the last boot since power-on took the kernel from the flash: so what lies in memory now is not a loader's.
const FROM_FLASH: u64 = u64::from_be_bytes(*b"pnorboot");

/// Where the files are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody put them into memory before we started, and only they could do it again.
    Loader,
    /// The flash, which can be read as often as one likes.
    Flash,
}

/// What is to be started, as bytes that nobody has looked into yet.
#[derive(Clone, Debug)]
pub struct Files {
    /// The kernel. From the flash it has its length (in whole words), else as much as there may be.
    pub kernel: Loaded,
    /// Where the initrd is, if there is one.
    pub initrd: Option<Range<u64>>,
    /// Where they are from.
    pub origin: Origin,
}

/// What the tree says about it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Whether the machine is QEMU's model: its loader puts a kernel into memory and leaves no trace of that in the tree. On
    /// a board nobody does so, and memory may hold anything.
    pub is_qemu: bool,
    /// Where a loader put the initrd.
    pub initrd: Option<&'a Range<u64>>,
    /// Memory that whoever started us keeps.
    pub reserved: &'a [Range<u64>],
    /// What a wrong hash means.
    pub trust: Trust,
}

/// Why there are no files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesError {
    /// The load areas are not memory, or somebody else's.
    NoMemory,
    /// The flash gave nothing, for reasons that were logged, and there is nothing else.
    Nothing,
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => write!(
                f,
                "no memory for a kernel at {:#x}: the device tree reserves it or has none there; correct the tree",
                KERNEL_AREA.start
            ),
            Self::Nothing => write!(
                f,
                "no kernel: the flash gave none (see above); write one into {KERNEL}, or give one (QEMU: -kernel vmlinux)"
            ),
        }
    }
}

/// Finds the files, and reads them from the flash if it has to. `note` is memory of the firmware's own that a reset leaves alone.
///
/// This may be called again: what a loader gave has to be in its place again then, the flash is read anew.
///
/// # Errors
/// [`FilesError`]; what is wrong with the flash is logged.
pub fn find<F: Flash<Error: fmt::Display>>(
    memory: &impl Memory,
    note: &AtomicU64,
    told: Told<'_>,
    flash: Option<(&mut F, &Found)>,
) -> Result<Files, FilesError> {
    let area = memory.loaded(KERNEL_AREA).ok_or(FilesError::NoMemory)?;
    let given = Files {
        kernel: area,
        initrd: told.initrd.cloned(),
        origin: Origin::Loader,
    };
    let is_stale = note.load(Ordering::Relaxed) == FROM_FLASH;
    if told.is_qemu && !is_stale && !is_empty(area) {
        if flash.is_some() {
            log::info!("the kernel is QEMU's; {KERNEL} of the flash is not looked at");
        }
        return Ok(given);
    }
    let has_flash = flash.is_some();
    let read = flash.and_then(|(flash, found)| from_flash(memory, told, flash, found));
    if let Some(files) = read {
        note.store(FROM_FLASH, Ordering::Relaxed);
        return Ok(files);
    }
    // Memory that was written in part, or by an earlier boot, is worth nothing.
    if told.is_qemu && (is_stale || (has_flash && !is_empty(area))) {
        return Err(FilesError::Nothing);
    }
    Ok(given)
}

/// Whether nobody has put anything there.
fn is_empty(area: Loaded) -> bool {
    const HEADER: usize = 8;
    (area.words.iter().take(HEADER)).all(|word| word.load(Ordering::Relaxed) == 0)
}

/// The files of the flash; of the other side if this one's are no good.
fn from_flash<F: Flash<Error: fmt::Display>>(
    memory: &impl Memory,
    told: Told<'_>,
    flash: &mut F,
    found: &Found,
) -> Option<Files> {
    if let Some(files) = from_side(memory, told, flash, &found.table) {
        return Some(files);
    }
    match ffs::other_side(flash, &found.table) {
        Ok(Some(table)) => {
            log::warn!("flash: trying the other side");
            from_side(memory, told, flash, &table)
        }
        Ok(None) => None,
        Err(error) => {
            log::warn!("flash, table of the other side: {error}");
            None
        }
    }
}

fn from_side<F: Flash<Error: fmt::Display>>(
    memory: &impl Memory,
    told: Told<'_>,
    flash: &mut F,
    table: &Table,
) -> Option<Files> {
    let mut take =
        |name, area: Range<u64>, unpacks| take(memory, told, flash, table, name, area, unpacks);
    let kernel = match take(KERNEL, KERNEL_AREA, true) {
        Ok(kernel) => kernel,
        Err(Missing::Silently) => {
            log::info!("the flash has no {KERNEL}");
            return None;
        }
        Err(Missing::Told) => return None,
    };
    let mut initrd = None;
    for name in INITRDS {
        match take(name, INITRD_AREA, false) {
            Ok((area, size)) => {
                initrd = Some(area.base..area.base.saturating_add(size));
                break;
            }
            Err(Missing::Silently) => {}
            Err(Missing::Told) => {
                log::warn!("the kernel starts without {name}");
                break;
            }
        }
    }
    Some(Files {
        kernel: kernel.0,
        initrd,
        origin: Origin::Flash,
    })
}

/// A partition that gives nothing.
enum Missing {
    /// It is not there, or empty.
    Silently,
    /// It is no good, and a line says why.
    Told,
}

/// Reads a partition into an area: the part of it that is filled, in whole words, and the bytes.
fn take<F: Flash<Error: fmt::Display>>(
    memory: &impl Memory,
    told: Told<'_>,
    flash: &mut F,
    table: &Table,
    name: &str,
    area: Range<u64>,
    unpacks: bool,
) -> Result<(Loaded, u64), Missing> {
    let entry = table.get(name).ok_or(Missing::Silently)?;
    if entry.kind != Kind::Data {
        log::warn!("flash: {name} is no partition with content: it is not used");
        return Err(Missing::Told);
    }
    let place = Place::of(table, entry);
    let is_free = |taken: &Range<u64>| taken.end <= area.start || area.end <= taken.start;
    let Some(loaded) = (memory.loaded(area.clone())).filter(|_| told.reserved.iter().all(is_free))
    else {
        log::warn!("{name}: no memory at {:#x} to load it to", area.start);
        return Err(Missing::Told);
    };
    let mut writer = Writer::new(loaded);
    let rules = Rules {
        room: area.end - area.start,
        unpacks,
        dictionary: DICTIONARY,
        trust: told.trust,
    };
    match content::read(flash, place, rules, |bytes| writer.put(bytes)) {
        Ok(content) => {
            writer.finish();
            report(name, &content);
            let loaded = loaded.cut(content.size);
            Ok((loaded, content.size))
        }
        Err(content::Error::Empty) => Err(Missing::Silently),
        Err(error) => {
            log::warn!("{name} in flash: {error}");
            Err(Missing::Told)
        }
    }
}

fn report(name: &str, content: &Content) {
    let packed = if content.is_packed { ", with xz" } else { "" };
    log::info!(
        "{name} from flash: {} KiB{packed}, {} KiB read",
        content.size.div_ceil(1 << 10),
        content.read.div_ceil(1 << 10)
    );
    if content.corrected > 0 {
        log::warn!(
            "{name} in flash: {} wrong bits corrected",
            content.corrected
        );
    }
    match content.hash {
        HashState::Good => {}
        HashState::Unknown => log::info!("{name} has no container, so nobody knows its hash"),
        HashState::Wrong => log::warn!(
            "{name} in flash: its hash is not what its container says; secure mode is off, so it is taken"
        ),
    }
}

/// Bytes that come in order, into memory that is words.
struct Writer {
    words: &'static [AtomicU64],
    held: [u8; 8],
    held_count: usize,
}

impl Writer {
    const fn new(loaded: Loaded) -> Self {
        Self {
            words: loaded.words,
            held: [0; 8],
            held_count: 0,
        }
    }

    fn store(&mut self, word: [u8; 8]) {
        // More than there is room for was erased flash, which nobody wants.
        if let Some((first, rest)) = self.words.split_first() {
            first.store(u64::from_ne_bytes(word), Ordering::Relaxed);
            self.words = rest;
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while self.held_count > 0 {
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            self.hold(*first);
            bytes = rest;
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        let (now, later) = self.words.split_at(whole.len().min(self.words.len()));
        for (word, bytes) in now.iter().zip(whole) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.words = later;
        for byte in rest {
            self.hold(*byte);
        }
    }

    fn hold(&mut self, byte: u8) {
        if let Some(place) = self.held.get_mut(self.held_count) {
            *place = byte;
        }
        self.held_count += 1;
        if self.held_count >= self.held.len() {
            self.finish();
        }
    }

    /// Writes what is held, with zeroes behind it.
    fn finish(&mut self) {
        if self.held_count > 0 {
            self.store(self.held);
            self.held = [0; 8];
            self.held_count = 0;
        }
    }
}

#[cfg(test)]
mod tests;
