//! Tests of the table: what is written is read back, damage is named and contained, copies are found.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::bytes::be32;

const BLOCK: u32 = 0x1000;
const BLOCKS: u32 = 64;
const FLASH: u64 = 64 * 0x1000;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A flash of 64 blocks: table, three partitions, and the table's copy in the last block.
fn table(at: u32) -> Table {
    let mut own = Entry::new(name(OWN_NAME), at, 1);
    own.kind = Kind::Table;
    let mut backup = Entry::new(name(BACKUP_NAME), 63 - at, 1);
    backup.user.misc = flags::BACKUP;
    let mut payload = Entry::new(name("PAYLOAD"), 1, 8);
    payload.actual = 0x7123;
    payload.user.version = flags::SHA512_VERSION;
    payload.user.misc = flags::READ_ONLY;
    let mut nvram = Entry::new(name("NVRAM"), 9, 16);
    nvram.user.misc = flags::PRESERVED;
    let mut code = Entry::new(name("HBB"), 40, 9);
    code.user.integrity = flags::ECC;
    Table {
        block_size: BLOCK,
        block_count: BLOCKS,
        table_blocks: 1,
        entries: vec![own, payload, nvram, code, backup],
    }
}

fn flash() -> Vec<u8> {
    let mut flash = vec![0xff; usize::try_from(FLASH).expect("small")];
    for at in [0, 63] {
        let bytes = table(at).to_bytes().expect("fits");
        let at = usize::try_from(at * BLOCK).expect("small");
        flash[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    flash
}

fn search(flash: &[u8]) -> Result<Found, Notes> {
    let mut flash = flash;
    find(&mut flash, Search::Everywhere).expect("within the image")
}

/// Changes an entry of the first table and makes its check sum right again.
fn with_entry(index: usize, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut flash = flash();
    let at = HEADER_SIZE + index * ENTRY_SIZE;
    let entry = &mut flash[at..at + ENTRY_SIZE];
    change(entry);
    seal(entry);
    flash
}

#[test]
fn what_was_written_is_read_back() {
    let bytes = table(0).to_bytes().expect("fits");
    assert_eq!(bytes.len(), 0x1000);
    assert_eq!(Table::parse(&bytes, FLASH), Ok((table(0), vec![])));
    let read = table(0);
    let payload = read.get("PAYLOAD").expect("there");
    assert_eq!(read.extent(payload), (0x1000, 0x8000));
    assert_eq!(&payload.user.letters(), b"-L--R-----");
    assert_eq!(read.get("payload"), None);
}

#[test]
fn the_fields_are_where_others_look_for_them() {
    let bytes = table(0).to_bytes().expect("fits");
    let header: Vec<u32> = (0..7)
        .map(|word| be32(&bytes, 4 * word).expect("there"))
        .collect();
    assert_eq!(header, [0x5041_5254, 1, 1, 128, 5, 0x1000, 64]);
    let entry = &bytes[48 + 128..48 + 256];
    assert_eq!(&entry[..16], b"PAYLOAD\0\0\0\0\0\0\0\0\0");
    let words: Vec<u32> = (4..11)
        .map(|word| be32(entry, 4 * word).expect("there"))
        .collect();
    assert_eq!(words, [1, 8, u32::MAX, 2, 1, 0, 0x7123]);
    assert_eq!(&entry[0x3c..0x42], [0, 0, 0, 0, 0x80, 0x40]);
    for part in [&bytes[..48], entry] {
        let sum = part.chunks(4).fold([0; 4], |sum, word| {
            [
                sum[0] ^ word[0],
                sum[1] ^ word[1],
                sum[2] ^ word[2],
                sum[3] ^ word[3],
            ]
        });
        assert_eq!(sum, [0; 4]);
    }
}

#[test]
fn names_are_short_and_printable() {
    for bad in ["", "sixteen-letters!", "A B", "A\n", "caf\u{e9}"] {
        assert_eq!(Name::new(bad), None, "{bad}");
    }
    assert_eq!(name("fifteen-letters").as_str(), "fifteen-letters");
    assert_eq!(Name::read(*b"NVRAM\0garbage\0\0\0"), None);
}

#[test]
fn a_wrong_header_is_refused_for_its_reason() {
    let good = flash();
    let cases: [(usize, u32, HeaderError); 7] = [
        (0, 0x5041_5255, HeaderError::NoMagic),
        (4, 2, HeaderError::Version(2)),
        (8, 0x101, HeaderError::Sizes),
        (0xc, 64, HeaderError::EntrySize(64)),
        (0x10, 0x2000_0000, HeaderError::Sizes),
        (0x14, 0x1001, HeaderError::Sizes),
        (0x18, 0xffff_ffff, HeaderError::Sizes),
    ];
    for (at, value, error) in cases {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_be_bytes());
        if at != 0 {
            assert_eq!(
                Header::parse(&bad, FLASH),
                Err(HeaderError::CheckSum),
                "{at:#x}"
            );
            seal(&mut bad[..HEADER_SIZE]);
        }
        assert_eq!(Header::parse(&bad, FLASH), Err(error), "{at:#x}");
    }
    assert_eq!(Header::parse(&[0xff; 48], FLASH), Err(HeaderError::Erased));
    assert_eq!(
        Header::parse(&good[..47], FLASH),
        Err(HeaderError::Truncated)
    );
    assert_eq!(Header::parse(&good, FLASH - 1), Err(HeaderError::Sizes));
    assert_eq!(
        Table::parse(&good[..600], FLASH).map(|_| ()),
        Err(HeaderError::Truncated)
    );
}

#[test]
fn wrong_entries_are_named_and_the_others_stay() {
    let set = |at: usize, value: u32| {
        move |entry: &mut [u8]| entry[at..at + 4].copy_from_slice(&value.to_be_bytes())
    };
    let (payload, nvram) = (name("PAYLOAD"), name("NVRAM"));
    let cases = [
        (with_entry(1, set(0x14, 64)), Problem::Outside(payload)),
        (
            with_entry(1, set(0x14, u32::MAX)),
            Problem::Outside(payload),
        ),
        (
            with_entry(1, set(0x10, u32::MAX)),
            Problem::Outside(payload),
        ),
        (
            with_entry(2, set(0x10, 8)),
            Problem::Overlap(payload, nvram),
        ),
        (
            with_entry(1, set(0x14, 20)),
            Problem::Overlap(payload, nvram),
        ),
        (
            with_entry(1, set(0x10, 0)),
            Problem::Overlap(name(OWN_NAME), payload),
        ),
        (
            with_entry(2, |entry| entry[..8].copy_from_slice(b"PAYLOAD\0")),
            Problem::Twice(payload),
        ),
        (
            with_entry(1, set(0x28, u32::MAX)),
            Problem::ActualSize(payload),
        ),
        (with_entry(1, set(0, 0)), Problem::Damaged(1)),
    ];
    for (flash, problem) in cases {
        let (table, problems) = Table::parse(&flash, FLASH).expect("a table");
        assert_eq!(problems, [problem]);
        let expected = if matches!(problem, Problem::ActualSize(_)) {
            5
        } else {
            4
        };
        assert_eq!(table.entries.len(), expected, "{problem}");
    }
    let mut flash = flash();
    flash[HEADER_SIZE + ENTRY_SIZE + 5] ^= 1;
    let (_, problems) = Table::parse(&flash, FLASH).expect("a table");
    assert_eq!(problems, [Problem::Damaged(1)]);
}

#[test]
fn the_first_table_is_taken_when_it_is_sound() {
    let found = search(&flash()).expect("there");
    assert_eq!((found.table, found.origin), (table(0), Origin::First));
    assert!(found.problems.is_empty() && found.notes.is_empty());
}

#[test]
fn a_damaged_table_gives_way_to_its_copy() {
    // Header gone: the copy is found in the last block, by looking around.
    let mut damaged = flash();
    damaged[..0x1000].fill(0xff);
    let found = search(&damaged).expect("the copy");
    assert_eq!(
        (found.table, found.origin),
        (table(63), Origin::Copy(63 * 0x1000))
    );
    assert_eq!(found.notes, [(0, Err(HeaderError::Erased))]);
    // One entry wrong: the table says itself where its copy is.
    let mut damaged = flash();
    damaged[HEADER_SIZE + ENTRY_SIZE] ^= 1;
    let found = search(&damaged).expect("the copy");
    assert_eq!(found.origin, Origin::Copy(63 * 0x1000));
    assert_eq!(found.notes, [(0, Ok(vec![Problem::Damaged(1)]))]);
    // Both wrong: the first, without the entry.
    damaged[63 * 0x1000 + HEADER_SIZE + 2 * ENTRY_SIZE] ^= 1;
    let found = search(&damaged).expect("the first");
    assert_eq!(
        (found.origin, found.problems),
        (Origin::First, vec![Problem::Damaged(1)])
    );
    assert_eq!(found.notes, [(63 * 0x1000, Ok(vec![Problem::Damaged(2)]))]);
}

#[test]
fn a_table_that_is_not_where_it_says_is_not_a_copy() {
    let mut moved = flash();
    let copy = moved[63 * 0x1000..].to_vec();
    moved[..0x1000].fill(0);
    moved[63 * 0x1000..].fill(0);
    moved[20 * 0x1000..21 * 0x1000].copy_from_slice(&copy);
    assert_eq!(search(&moved), Err(vec![(0, Err(HeaderError::NoMagic))]));
    assert_eq!(search(&[]), Err(vec![(0, Err(HeaderError::Truncated))]));
}

#[test]
fn the_usual_places_are_few() {
    /// Counts reads.
    struct Counted<'a>(&'a [u8], usize);
    impl crate::flash::Flash for Counted<'_> {
        type Error = crate::flash::OutOfRange;
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Self::Error> {
            self.1 += 1;
            self.0.read(at, buffer)
        }
    }
    let erased = [0xff; 0x10000];
    let mut flash = Counted(&erased, 0);
    assert!(find(&mut flash, Search::Usual).expect("read").is_err());
    assert_eq!(flash.1, 2, "the beginning, and 0x8000 from either end");
    let good = self::flash();
    let mut flash = Counted(&good, 0);
    assert!(find(&mut flash, Search::Usual).expect("read").is_ok());
    assert_eq!(flash.1, 2, "header, and entries");
}

#[test]
fn too_many_entries_are_refused() {
    let mut table = table(0);
    let entry = table.entries[1];
    table.entries.resize(32, entry);
    assert_eq!(table.to_bytes(), Err(TooManyEntries));
    table.entries.truncate(31);
    assert!(table.to_bytes().is_ok());
}

/// How many mutated images a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(500))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_mutation_makes_partitions_that_lie(
        changes in prop::collection::vec((0usize..0x300, any::<u8>()), 0..8),
        sealed in any::<bool>(),
        both in any::<bool>(),
    ) {
        let mut flash = flash();
        for (at, value) in changes {
            flash[at] = value;
            if both {
                flash[63 * 0x1000 + at] = value;
            }
        }
        if sealed {
            for at in [0, 63 * 0x1000] {
                seal(&mut flash[at..at + HEADER_SIZE]);
                for index in 0..5 {
                    let at = at + HEADER_SIZE + index * ENTRY_SIZE;
                    seal(&mut flash[at..at + ENTRY_SIZE]);
                }
            }
        }
        if let Ok(found) = search(&flash) {
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for entry in &found.table.entries {
                let (at, size) = found.table.extent(entry);
                prop_assert!(at + size <= FLASH);
                prop_assert!(u64::from(entry.actual) <= size);
                if entry.kind != Kind::Logical && size > 0 {
                    prop_assert!(taken.iter().all(|&(from, to)| at + size <= from || at >= to));
                    taken.push((at, at + size));
                }
            }
            // What was read can be written, and is the same then.
            let bytes = found.table.to_bytes().expect("it was in a table of this size");
            let (again, problems) = Table::parse(&bytes, FLASH).expect("sound");
            prop_assert_eq!(again, found.table);
            prop_assert!(problems.is_empty());
        }
    }
}
