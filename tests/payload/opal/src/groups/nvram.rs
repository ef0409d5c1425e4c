//! Writes to NVRAM without end, for a test that cuts them off; only when named. Each start first looks at what the last
//! one left: one generation as a whole. The surprise: this group does not end by itself, as long as writes succeed.

use opal_calls::calls::token as t;

use crate::call::{call, code};
use crate::mem::layout::BUFFER;
use crate::mem::{read_be64, write_be64};
use crate::report::{case, holds};
use crate::say;
use crate::start::Machine;

/// Where the words are that all say the number of their generation: in the operating system's partition, over three erase
/// blocks, of which the first and the last hold something else as well.
const AREA: u64 = 0x1c00;
const WORDS: u64 = 0x1800 / 8;
/// More than any host writes before it cuts.
const MOST: u64 = 10_000;

pub(super) fn run(_: &Machine) {
    let got = call(t::OPAL_READ_NVRAM, [BUFFER, WORDS * 8, AREA]);
    case("nvram/read", got, code::SUCCESS);
    let first = read_be64(BUFFER);
    let is_whole = (0..WORDS).all(|word| read_be64(BUFFER + word * 8) == first);
    holds("nvram/one-generation", is_whole);
    say!("nvram: found generation {first}");
    for generation in first + 1..=first + MOST {
        for word in 0..WORDS {
            write_be64(BUFFER + word * 8, generation);
        }
        let got = call(t::OPAL_WRITE_NVRAM, [BUFFER, WORDS * 8, AREA]);
        if got != code::SUCCESS {
            case("nvram/write", got, code::SUCCESS);
            return;
        }
        say!("nvram: generation {generation} is written");
    }
}
