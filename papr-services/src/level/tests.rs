//! The table of levels, and the matrix that comes from it.

use super::{Level, NO_LEVELS, TABLE};

/// The matrix of reference "nested" 6.4, written out once more: own level, what is offered, levels of guests.
const MATRIX: [(Level, u64, &[u32]); 3] = [
    (Level::Power9, 0x4000_0000_0000_0000, &[0x0f00_0005]),
    (
        Level::Power10,
        0x6000_0000_0000_0000,
        &[0x0f00_0005, 0x0f00_0006],
    ),
    (
        Level::Power11,
        0x7000_0000_0000_0000,
        &[0x0f00_0005, 0x0f00_0006, 0x0f00_0007],
    ),
];

#[test]
fn the_table_is_the_matrix() {
    for (level, offered, guests) in MATRIX {
        assert_eq!(level.offered(), offered);
        for pvr in every_pvr() {
            let want = guests.contains(&pvr);
            let got = Level::accepted(pvr.into(), level.offered());
            assert_eq!(got.is_some(), want, "{pvr:#x} at {level}");
            assert!(got.is_none_or(|got| got.logical_pvr() == pvr && got <= level));
        }
    }
}

#[test]
fn a_guest_gets_what_the_partition_chose_and_nothing_else() {
    for chosen in (0..8).map(|bits: u64| bits << 60) {
        for pvr in every_pvr() {
            let row = TABLE.iter().find(|row| row.logical_pvr == pvr);
            let want = row.filter(|row| chosen & row.capability != 0);
            let got = Level::accepted(pvr.into(), chosen);
            assert_eq!(got, want.map(|row| row.level), "{pvr:#x} of {chosen:#x}");
        }
        let highest = TABLE.iter().rfind(|row| chosen & row.capability != 0);
        assert_eq!(Level::highest(chosen), highest.map(|row| row.level));
    }
    assert_eq!(Level::accepted(1 << 32 | 0x0f00_0006, !0), None);
}

fn every_pvr() -> impl Iterator<Item = u32> {
    TABLE.iter().map(|row| row.logical_pvr).chain(NO_LEVELS)
}

#[test]
fn rows_are_in_order_and_distinct() {
    assert_eq!(TABLE.map(|row| row.level), Level::ALL);
    for pair in TABLE.windows(2) {
        assert!(pair[0].level < pair[1].level && pair[0].logical_pvr < pair[1].logical_pvr);
        assert!(pair[0].capability > pair[1].capability);
        assert_eq!(pair[0].absent & pair[1].absent, pair[1].absent);
    }
    for row in TABLE {
        assert_eq!(row.level.row().logical_pvr, row.logical_pvr);
        assert_eq!(Level::from_word(row.word), Some(row.level));
        assert_eq!(row.capability.count_ones(), 1);
        assert!(!NO_LEVELS.contains(&row.logical_pvr));
    }
    assert_eq!(Level::from_word("POWER10"), None);
    assert_eq!(Level::from_word(""), None);
}

#[test]
fn nobody_gets_more_than_the_chip() {
    for chip in Level::ALL {
        assert_eq!(Level::granted(None, chip), Ok(chip));
        for asked in Level::ALL {
            let want = if asked <= chip { Ok(asked) } else { Err(asked) };
            assert_eq!(Level::granted(Some(asked), chip), want);
        }
    }
}
