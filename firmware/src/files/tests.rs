//! Which kernel is taken, and what happens when the flash is no good.

use super::*;
use pnor_image::container::{self, Description};
use pnor_image::ffs::{Entry, Name, Origin as TableOrigin};
use pnor_image::flash::OutOfRange;
use proptest::prelude::*;

const BLOCK: usize = 0x1000;
const AREA: usize = 1 << 20;

/// Two load areas, smaller than those of a machine, and the note.
struct Machine {
    kernel: &'static [AtomicU64],
    initrd: &'static [AtomicU64],
    note: AtomicU64,
}

impl Memory for Machine {
    fn loaded(&self, range: Range<u64>) -> Option<Loaded> {
        let words = match range.start {
            0x2000_0000 => self.kernel,
            0x2800_0000 => self.initrd,
            _ => return None,
        };
        let base = range.start;
        Some(Loaded { base, words })
    }
}

impl Machine {
    fn new(kernel: &[u8]) -> Self {
        let leak = || -> &'static [AtomicU64] {
            // What an earlier boot left.
            Box::leak((0..AREA / 8).map(|_| AtomicU64::new(0)).collect())
        };
        let machine = Self {
            kernel: leak(),
            initrd: leak(),
            note: AtomicU64::new(0),
        };
        for (word, bytes) in machine.kernel.iter().zip(kernel.chunks(8)) {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(all), Ordering::Relaxed);
        }
        machine
    }

    fn find(&self, told: Told<'_>, flash: Option<&[u8]>) -> Result<Files, FilesError> {
        let found = flash.and_then(|mut flash| {
            ffs::find(&mut flash, ffs::Search::Usual)
                .expect("memory")
                .ok()
        });
        let mut flash = flash;
        let flash = flash.as_mut().zip(found.as_ref());
        find(self, &self.note, told, flash)
    }

    fn initrd(&self, files: &Files) -> Option<Vec<u8>> {
        let range = files.initrd.clone()?;
        let size = usize::try_from(range.end - range.start).unwrap();
        let mut bytes = vec![0; size];
        self.loaded(INITRD_AREA)?.read(0, &mut bytes)?;
        Some(bytes)
    }
}

const QEMU: Told<'static> = Told {
    is_qemu: true,
    initrd: None,
    reserved: &[],
    trust: Trust::Report,
};
const BOARD: Told<'static> = Told {
    is_qemu: false,
    ..QEMU
};

fn start(files: &Files) -> [u8; 6] {
    files.kernel.array(0).unwrap()
}

/// A flash of one side or, with the second list, of two.
fn flash(first: &[(&str, &[u8])], second: Option<&[(&str, &[u8])]>) -> Vec<u8> {
    const SIDE: usize = 0x40;
    let sides = 1 + usize::from(second.is_some());
    let mut bytes = vec![0xff; sides * SIDE * BLOCK];
    for (side, parts) in [Some(first), second].into_iter().flatten().enumerate() {
        let base = side * SIDE;
        let number = |value: usize| u32::try_from(value).unwrap();
        let entry =
            |name, base, size| Entry::new(Name::new(name).unwrap(), number(base), number(size));
        let mut entries = vec![entry(ffs::OWN_NAME, base, 1)];
        if sides > 1 {
            entries.push(entry(ffs::OTHER_SIDE_NAME, (1 - side) * SIDE, 1));
        }
        for (n, (name, content)) in parts.iter().enumerate() {
            let at = base + 1 + n * 0x18;
            entries.push(entry(name, at, 0x18));
            bytes[at * BLOCK..at * BLOCK + content.len()].copy_from_slice(content);
        }
        let table = Table {
            block_size: number(BLOCK),
            block_count: number(sides * SIDE),
            table_blocks: 1,
            entries,
        };
        let table = table.to_bytes().unwrap();
        bytes[base * BLOCK..base * BLOCK + table.len()].copy_from_slice(&table);
    }
    bytes
}

fn wrapped(data: &[u8]) -> Vec<u8> {
    container::unsigned(data, Description::of("BOOTKERNEL"))
}

#[test]
fn a_loaders_kernel_goes_before_the_flash() {
    let machine = Machine::new(b"loader");
    let good = flash(&[("BOOTKERNEL", b"kernel")], None);
    let initrd = 0x2800_0000..0x2800_0010;
    let told = Told {
        initrd: Some(&initrd),
        ..QEMU
    };
    let files = machine.find(told, Some(&good)).unwrap();
    assert_eq!((start(&files), files.origin), (*b"loader", Origin::Loader));
    assert_eq!(files.initrd, Some(initrd));
}

#[test]
fn the_flash_gives_kernel_and_initrd() {
    let kernel = [&b"kernel"[..], &[7; 70_001]].concat();
    for (name, kernel_part, initrd_part) in [
        ("ROOTFS", kernel.clone(), b"initrd of 19 bytes.".to_vec()),
        (
            "INITRAMFS",
            wrapped(&kernel),
            wrapped(b"initrd of 19 bytes."),
        ),
    ] {
        let machine = Machine::new(&[]);
        let image = flash(&[("BOOTKERNEL", &kernel_part), (name, &initrd_part)], None);
        let files = machine.find(QEMU, Some(&image)).unwrap();
        assert_eq!(files.origin, Origin::Flash);
        assert_eq!(files.kernel.words.len(), kernel.len().div_ceil(8));
        let mut bytes = vec![0; kernel.len() + 1];
        files.kernel.read(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0));
        assert!(bytes == kernel);
        assert_eq!(machine.initrd(&files).unwrap(), b"initrd of 19 bytes.");
    }
}

#[test]
fn after_a_reset_the_flash_is_read_again() {
    let machine = Machine::new(&[]);
    let good = flash(&[("BOOTKERNEL", b"kernel")], None);
    assert_eq!(
        machine.find(QEMU, Some(&good)).unwrap().origin,
        Origin::Flash
    );
    // The kernel used the memory, and there is no loader that would clear it.
    machine.kernel[0].store(0x1234, Ordering::Relaxed);
    let files = machine.find(QEMU, Some(&good)).unwrap();
    assert_eq!((start(&files), files.origin), (*b"kernel", Origin::Flash));
    let bad = flash(&[], None);
    assert_eq!(
        machine.find(QEMU, Some(&bad)).err(),
        Some(FilesError::Nothing)
    );
    assert_eq!(machine.find(QEMU, None).err(), Some(FilesError::Nothing));
}

#[test]
fn on_a_board_memory_comes_last() {
    let machine = Machine::new(b"memory");
    let good = flash(&[("BOOTKERNEL", b"kernel")], None);
    let files = machine.find(BOARD, Some(&good)).unwrap();
    assert_eq!((start(&files), files.origin), (*b"kernel", Origin::Flash));
    let machine = Machine::new(b"memory");
    for none in [None, Some(&flash(&[], None)[..])] {
        let files = machine.find(BOARD, none).unwrap();
        assert_eq!((start(&files), files.origin), (*b"memory", Origin::Loader));
    }
}

#[test]
fn without_a_flash_there_is_what_a_loader_gave() {
    let files = Machine::new(&[]).find(QEMU, None).unwrap();
    assert_eq!((start(&files), files.origin), ([0; 6], Origin::Loader));
}

#[test]
fn the_other_side_helps_when_this_one_is_damaged() {
    let kernel = wrapped(&[b'k'; 100]);
    let cut = &kernel[..50];
    let image = flash(
        &[("BOOTKERNEL", cut), ("ROOTFS", b"wrong")],
        Some(&[("BOOTKERNEL", b"second"), ("ROOTFS", b"right")]),
    );
    let machine = Machine::new(&[]);
    let files = machine.find(QEMU, Some(&image)).unwrap();
    assert_eq!(start(&files), *b"second");
    assert_eq!(machine.initrd(&files).unwrap(), b"right");
}

#[test]
fn a_bad_initrd_leaves_the_kernel() {
    let mut initrd = wrapped(b"initrd");
    initrd[5] = 9;
    let image = flash(&[("BOOTKERNEL", b"kernel"), ("ROOTFS", &initrd)], None);
    let files = Machine::new(&[]).find(QEMU, Some(&image)).unwrap();
    assert_eq!((start(&files), files.initrd), (*b"kernel", None));
}

#[test]
fn a_wrong_hash_counts_in_secure_mode() {
    let mut kernel = wrapped(b"kernel");
    kernel[4096] = b'K';
    let image = flash(&[("BOOTKERNEL", &kernel)], None);
    let files = Machine::new(&[]).find(QEMU, Some(&image)).unwrap();
    assert_eq!(start(&files), *b"Kernel");
    let secure = Told {
        trust: Trust::Enforce(None),
        ..QEMU
    };
    let machine = Machine::new(&[]);
    // Nothing was there before, so the firmware says what it would without a flash.
    let refused = machine.find(secure, Some(&image)).map(|files| files.origin);
    assert_ne!(refused, Ok(Origin::Flash));
}

#[test]
fn reserved_memory_is_left_alone() {
    let good = flash(&[("BOOTKERNEL", b"kernel")], None);
    let taken = Told {
        reserved: &[0x1000..0x2000, 0x27ff_f000..0x2900_0000],
        ..QEMU
    };
    let machine = Machine::new(&[]);
    assert_ne!(
        machine.find(taken, Some(&good)).unwrap().origin,
        Origin::Flash
    );
    assert_eq!(machine.kernel[0].load(Ordering::Relaxed), 0);
}

/// A flash that fails after its table.
struct Silent<'a>(&'a [u8]);

impl Flash for Silent<'_> {
    type Error = OutOfRangeText;

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), OutOfRangeText> {
        if at >= 0x4000 {
            return Err(OutOfRangeText);
        }
        self.0.read(at, buffer).map_err(|OutOfRange| OutOfRangeText)
    }
}

#[derive(Debug)]
struct OutOfRangeText;

impl fmt::Display for OutOfRangeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the BMC is silent")
    }
}

#[test]
fn a_flash_that_is_lost_on_the_way_leaves_no_kernel() {
    let image = flash(&[("BOOTKERNEL", &wrapped(&[b'k'; 50_000]))], None);
    let found = ffs::find(&mut &image[..], ffs::Search::Usual)
        .unwrap()
        .unwrap();
    assert_eq!(found.origin, TableOrigin::First);
    let machine = Machine::new(&[]);
    let mut silent = Silent(&image);
    let outcome = find(&machine, &machine.note, QEMU, Some((&mut silent, &found)));
    assert_ne!(outcome.map(|files| files.origin), Ok(Origin::Flash));
    assert_eq!(machine.note.load(Ordering::Relaxed), 0);
}

proptest! {
    #[test]
    fn pieces_of_any_length_arrive_in_order(pieces in prop::collection::vec(1..40usize, 0..20)) {
        let machine = Machine::new(&[]);
        let mut writer = Writer::new(machine.loaded(KERNEL_AREA).unwrap());
        let mut all = Vec::new();
        for length in pieces {
            let piece: Vec<u8> = (0..length).map(|n| (n * 3 + all.len()).to_le_bytes()[0] | 1).collect();
            writer.put(&piece);
            all.extend(piece);
        }
        writer.finish();
        let mut bytes = vec![0; all.len() + 8];
        machine.loaded(KERNEL_AREA).unwrap().read(0, &mut bytes).unwrap();
        prop_assert_eq!(&bytes[..all.len()], &all[..]);
        prop_assert!(bytes[all.len()..].iter().all(|byte| *byte == 0));
    }
}
