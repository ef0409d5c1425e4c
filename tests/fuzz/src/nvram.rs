//! NVRAM: anything in it can be repaired, and a change that is cut off leaves the old or the new one.
//!
//! The surprise: the input is a list of edits of a good NVRAM, for bytes alone would hardly ever make a header.

use std::ops::Range;

use pnor_image::nvram::journal::{self, Blocks, Medium, Recovered};
use pnor_image::nvram::{self, COMMON, FIRMWARE, Outcome, Settings};

use crate::Bytes;

const SIZE: usize = 0x2_4000;
const BLOCK: usize = 0x1000;

/// A flash whose power goes after so many bytes; the erase block that is being written is left erased from there on.
struct Flash {
    bytes: Vec<u8>,
    /// Where NVRAM begins in it.
    at: usize,
    left: usize,
}

impl Medium for Flash {
    type Error = ();

    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), ()> {
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), ()> {
        let count = from.len().min(self.left);
        self.left -= count;
        self.bytes[at..at + count].copy_from_slice(&from[..count]);
        if count == from.len() {
            return Ok(());
        }
        if self.left == 0 && count.is_multiple_of(3) {
            let end = (self.at + at + count) / BLOCK * BLOCK + BLOCK - self.at;
            self.bytes[at + count..end.min(SIZE)].fill(0xff);
        }
        Err(())
    }
}

fn edit(bytes: &mut [u8], range: Range<usize>, value: u8) {
    if let Some(place) = bytes.get_mut(range) {
        place.fill(value);
    }
}

/// Edits, then a repair, then a change that is cut off.
pub(super) fn nvram(data: &[u8]) {
    let mut input = Bytes(data);
    let mut bytes = vec![0; SIZE];
    nvram::format(&mut bytes).expect("large enough");
    let set = |bytes: &mut [u8], id, value: &[u8]| nvram::set(bytes, id, "nidus,mode", Some(value));
    set(&mut bytes, FIRMWARE, b"papr").expect("room");
    let mut firmware_is_whole = true;
    let count = input.below(12);
    for _ in 0..count {
        let at = match input.byte() % 4 {
            0 => input.below(0x20),
            1 => 0x1000 + input.below(0x20),
            2 => 0x1_1000 + input.below(0x20),
            _ => input.below(SIZE),
        };
        let length = 1 + input.below(0x40);
        edit(&mut bytes, at..at + length, input.byte());
        firmware_is_whole &= at >= 0x1000;
    }
    let outcome = nvram::repair(&mut bytes).expect("large enough");
    let found = nvram::check(&bytes).expect("repaired");
    assert_eq!(found.iter().map(|part| part.length).sum::<usize>(), SIZE);
    let mode = |bytes: &[u8]| {
        let settings = Settings::of(bytes, FIRMWARE).expect("there");
        settings.get("nidus,mode").map(<[u8]>::to_vec)
    };
    if firmware_is_whole {
        assert_eq!(mode(&bytes), Some(b"papr".to_vec()), "{outcome:?}");
    }
    assert_eq!(nvram::repair(&mut bytes), Ok(Outcome::Sound));
    let _ = set(&mut bytes, COMMON, &[1; 8]);
    if set(&mut bytes, FIRMWARE, b"opal").is_ok() {
        assert_eq!(mode(&bytes), Some(b"opal".to_vec()));
    }
    cut_off(input, &bytes);
}

fn cut_off(mut input: Bytes<'_>, old: &[u8]) {
    let mut new = old.to_vec();
    let spare = journal::spare(old);
    for _ in 0..1 + input.below(4) {
        let at = input.below(SIZE);
        let length = 1 + input.below(2 * BLOCK);
        edit(&mut new, at..at + length, input.byte());
    }
    // What is free before and after it.
    let spare = spare.start.max(journal::spare(&new).start)..SIZE;
    let start = 0x8000 + 0x10 * usize::from(input.byte());
    let blocks = Blocks::new(start as u64, BLOCK as u64, SIZE);
    assert_eq!(blocks.cover(0..SIZE), 0..SIZE);
    let flash = |left| Flash {
        bytes: old.to_vec(),
        at: start,
        left,
    };
    let mut whole = flash(usize::MAX);
    let is_safe = journal::change(&mut whole, &blocks, &spare, 0, old, &new).expect("no cut");
    let used = ..spare.start;
    assert_eq!(whole.bytes[used], new[used]);
    assert_eq!(
        journal::recover(&mut whole, &blocks),
        Ok(Recovered::Nothing)
    );
    let mut cut = flash(input.below(8 * BLOCK));
    let is_done = journal::change(&mut cut, &blocks, &spare, 0, old, &new).is_ok();
    cut.left = usize::MAX;
    let recovered = journal::recover(&mut cut, &blocks).expect("the power is on");
    if is_safe {
        assert!(
            cut.bytes[used] == new[used] || !is_done && cut.bytes[used] == old[used],
            "neither: {recovered:?}"
        );
    }
    // Whatever is in the place of a journal.
    for place in cut.bytes.iter_mut().rev().take(0x200).rev() {
        *place ^= input.byte();
    }
    let _ = journal::recover(&mut cut, &blocks);
}
