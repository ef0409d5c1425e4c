//! What kernels and initrds are taken, and where they go.

use super::*;
use isa::addr::Ra;
use papr_services::guest_ram::Extent;
use proptest::prelude::*;

/// A partition that has `room` bytes from 0, and does not see the memory that things are loaded in.
fn extents(room: u64) -> [PartitionExtent; 1] {
    [PartitionExtent {
        gra: Gra(0),
        ra: Ra(1 << 30),
        len: room,
    }]
}
const ROOM: u64 = 0x1200_0000;

/// A vmlinux in small: two segments (the second with bss), a section table at the end.
fn vmlinux() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes());
    put(18, &21_u16.to_le_bytes());
    put(24, &0xc000_0000_0000_0010_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(40, &0x300_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    put(58, &64_u16.to_le_bytes());
    put(60, &2_u16.to_le_bytes());
    put(62, &1_u16.to_le_bytes());
    for (n, (offset, physical, filled, size)) in [
        (0x100_u64, 0_u64, 0x80_u64, 0x80_u64),
        (0x180, 0x10003, 0x45, 0x1009),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 64 + 56 * n;
        put(at, &1_u32.to_le_bytes());
        for (i, value) in [
            offset,
            0xc000_0000_0000_0000 + physical,
            physical,
            filled,
            size,
        ]
        .into_iter()
        .enumerate()
        {
            put(at + 8 + 8 * i, &value.to_le_bytes());
        }
    }
    put(0x344, &3_u32.to_le_bytes());
    for (n, byte) in file[0x100..0x200].iter_mut().enumerate() {
        *byte = u8::try_from(n).unwrap() | 1;
    }
    file
}

fn leak(bytes: usize) -> &'static [AtomicU64] {
    Box::leak((0..bytes / 8).map(|_| AtomicU64::new(0)).collect())
}

fn loaded(base: u64, bytes: &[u8]) -> Loaded {
    let words = leak(bytes.len().next_multiple_of(8));
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut all = [0; 8];
        all[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(all), Ordering::Relaxed);
    }
    Loaded { base, words }
}

/// A machine with a kernel file and, at 0x28000000, an initrd.
struct Machine {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

impl Memory for Machine {
    fn loaded(&self, range: Range<u64>) -> Option<Loaded> {
        match range.start {
            0x2000_0000 => {
                let mut area = self.kernel.clone();
                area.resize(area.len() + 64, 0);
                Some(loaded(range.start, &area))
            }
            0x2800_0000 => Some(loaded(range.start, &self.initrd)),
            _ => None,
        }
    }
}

/// As boot does it.
fn check(
    memory: &Machine,
    initrd: Option<Range<u64>>,
    extents: &[PartitionExtent],
) -> Result<Payload, PayloadError> {
    let kernel = memory.loaded(KERNEL_AREA).unwrap();
    Payload::read(memory, kernel, initrd, extents)
}

fn read(kernel: &[u8]) -> Result<Payload, PayloadError> {
    check(
        &Machine {
            kernel: kernel.to_vec(),
            initrd: vec![],
        },
        None,
        &extents(ROOM),
    )
}

#[test]
fn kernel_and_initrd_arrive_in_the_partition() {
    let initrd: Vec<u8> = (0..1003_u32).map(|n| n.to_le_bytes()[0]).collect();
    let machine = Machine {
        kernel: vmlinux(),
        initrd: initrd.clone(),
    };
    let payload = check(
        &machine,
        Some(0x2800_0000..0x2800_0000 + 1003),
        &extents(ROOM),
    )
    .unwrap();
    assert_eq!(payload.entry, Gra(KERNEL_AT + 0x10));
    assert_eq!(payload.kernel_end, Gra(KERNEL_AT + 0x10003 + 0x1009));
    assert_eq!(payload.initrd(), Some(TREE_AREA.end..TREE_AREA.end + 1003));

    let low = leak(0x80_0000);
    low.iter()
        .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
    let high = leak(0x2_0000);
    let extent = |gra, memory| Extent {
        gra: Gra(gra),
        ra: Ra(gra),
        memory,
    };
    let ram = GuestRam::new(&[extent(0, low), extent(TREE_AREA.end, high)]).unwrap();
    payload.place(&ram).unwrap();
    let bytes = |at, len| {
        let mut out = vec![0; len];
        ram.read(Gra(at), &mut out).unwrap();
        out
    };
    assert_eq!(bytes(KERNEL_AT, 0x80), machine.kernel[0x100..0x180]);
    assert_eq!(
        bytes(KERNEL_AT + 0x10003, 0x45),
        machine.kernel[0x180..0x1c5]
    );
    assert_eq!(
        bytes(KERNEL_AT + 0x10003 + 0x45, 0x1009 - 0x45),
        vec![0; 0x1009 - 0x45]
    );
    assert_eq!(bytes(KERNEL_AT + 0x10003 + 0x1009, 1), [0xff]); // not one byte more
    assert_eq!(bytes(TREE_AREA.end, 1003), initrd);
}

#[test]
fn what_was_found_is_named() {
    assert_eq!(read(&[0; 4096]).unwrap_err(), PayloadError::NothingThere);
    let gzip = read(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 1]).unwrap_err();
    assert!(gzip.to_string().contains("a gzip file (1f8b0800"), "{gzip}");
    let with = |at: usize, bytes: &[u8]| {
        let mut file = vmlinux();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        read(&file).unwrap_err()
    };
    assert_eq!(with(4, &[1]), PayloadError::Not64Bit);
    assert_eq!(with(5, &[2]), PayloadError::BigEndian);
    assert_eq!(with(18, &[62, 0]), PayloadError::OtherProcessor(62));
    assert_eq!(with(16, &[1, 0]), PayloadError::NotExecutable(1));
    assert_eq!(
        with(56, &[0, 0]),
        PayloadError::BadHeaders("no usable program headers")
    );
    assert_eq!(
        with(56, &[0xff, 0xff]),
        PayloadError::BadHeaders("no usable program headers")
    );
    assert_eq!(
        with(64 + 32, &u64::MAX.to_le_bytes()),
        PayloadError::Truncated
    );
    assert_eq!(
        with(64 + 40, &1_u64.to_le_bytes()),
        PayloadError::BadHeaders("a segment is larger in the file than in memory")
    );
    assert_eq!(
        with(64 + 40, &0x2_0000_u64.to_le_bytes()),
        PayloadError::BadHeaders("segments overlap")
    );
    assert_eq!(
        with(24, &[0x90]),
        PayloadError::BadHeaders("its entry is in no segment")
    );
    assert!(matches!(
        with(64 + 56 + 40, &0x0f00_0000_u64.to_le_bytes()),
        PayloadError::KernelTooLarge(_)
    ));
}

#[test]
fn a_truncated_file_is_noticed() {
    let file = vmlinux();
    for keep in [64, 0x100, 0x200, 0x344] {
        assert_eq!(
            read(&file[..keep]).unwrap_err(),
            PayloadError::Truncated,
            "{keep:#x}"
        );
    }
}

#[test]
fn an_initrd_must_fit_and_not_overlap() {
    let machine = |initrd| Machine {
        kernel: vmlinux(),
        initrd: vec![0; initrd],
    };
    let with =
        |range: Range<u64>, room| check(&machine(16), Some(range), &extents(room)).unwrap_err();
    assert_eq!(
        with(0x2000_01c0..0x2000_0300, ROOM),
        PayloadError::Overlap(0x2000_01c5, 0x2000_01c0)
    );
    assert_eq!(
        with(0x3100_0000..0x3200_0000, ROOM),
        PayloadError::InitrdMisplaced(0x3100_0000, 0x3200_0000)
    );
    assert_eq!(
        with(0x2800_0001..0x2800_0002, ROOM),
        PayloadError::InitrdMisplaced(0x2800_0001, 0x2800_0002)
    );
    assert_eq!(
        with(0x2800_0000..0x2800_0010, 0x1000_0008),
        PayloadError::InitrdTooLarge(16, 8)
    );
}

#[test]
fn an_initrd_that_the_partition_sees_stays_where_it_is() {
    let machine = Machine {
        kernel: vmlinux(),
        initrd: vec![0; 64],
    };
    let with = |gra, ra, len| {
        let [first] = extents(ROOM);
        let second = PartitionExtent {
            gra: Gra(gra),
            ra: Ra(ra),
            len,
        };
        check(&machine, Some(0x2800_0000..0x2800_0040), &[first, second])
    };
    let seen = with(0xc020_0000, 0x20_0000, 0x2fe0_0000).unwrap();
    assert_eq!(seen.initrd(), Some(0xe800_0000..0xe800_0040));
    assert!(seen.initrd.unwrap().copied.is_none());
    // Only half of it is there: it has to move.
    let copied = with(0xc020_0000, 0x20_0000, 0x2fe0_0000 - 0x800_0000 + 0x20).unwrap();
    assert_eq!(copied.initrd(), Some(TREE_AREA.end..TREE_AREA.end + 64));
    assert!(copied.initrd.unwrap().copied.is_some());
    // Where the kernel goes: neither can it stay nor be copied over itself.
    let low = [PartitionExtent {
        gra: Gra(0),
        ra: Ra(0x2800_0000),
        len: ROOM,
    }];
    let error = check(&machine, Some(0x2800_0000..0x2800_0040), &low).unwrap_err();
    assert_eq!(
        error,
        PayloadError::InitrdMisplaced(0x2800_0000, 0x2800_0040)
    );
}

proptest! {
    #[test]
    fn a_damaged_kernel_never_panics(damage in proptest::collection::vec((0usize..0x400, any::<u8>()), 0..6)) {
        let mut file = vmlinux();
        for (at, value) in damage {
            file[at] = value;
        }
        if let Ok(payload) = read(&file) {
            prop_assert!(payload.kernel_end.0 <= TREE_AREA.start);
            prop_assert!(payload.entry.0 >= KERNEL_AT && payload.entry < payload.kernel_end);
            let low = leak(0x2_0000);
            let extent = Extent { gra: Gra(KERNEL_AT), ra: Ra(KERNEL_AT), memory: low };
            let _ = payload.place(&GuestRam::new(&[extent]).unwrap());
        }
    }
}
