//! Tests of the journal on a model of a flash whose power goes at a chosen step.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{COMMON, FIRMWARE, check, format, set};
use super::*;

/// What a write consists of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Flash that is erased block by block and written page by page, by a BMC that keeps what is beside the change.
    Nor,
    /// QEMU's: every store reaches the file.
    Stores,
}

/// NVRAM in a flash, with neighbours on both sides.
#[derive(Clone)]
struct Flash {
    bytes: Vec<u8>,
    kind: Kind,
    block: usize,
    /// Where NVRAM begins.
    at: usize,
    length: usize,
    /// Steps that were made.
    steps: usize,
    /// The step at which the power goes, half way through it.
    cut: Option<usize>,
    seed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct PowerLost;

const PAGE: usize = 256;
const MARGIN: usize = 0x10000;

impl Flash {
    fn new(kind: Kind, block: usize, at: usize, nvram: &[u8]) -> Self {
        let mut bytes = vec![0x5a; at];
        bytes.extend_from_slice(nvram);
        bytes.resize(at + nvram.len() + MARGIN, 0xa5);
        bytes.truncate((at + nvram.len() + MARGIN) / block * block);
        Self {
            bytes,
            kind,
            block,
            at,
            length: nvram.len(),
            steps: 0,
            cut: None,
            seed: 0,
        }
    }

    fn blocks(&self) -> Blocks {
        Blocks::new(self.at as u64, self.block as u64, self.length)
    }

    fn nvram(&self) -> &[u8] {
        &self.bytes[self.at..self.at + self.length]
    }

    /// The power comes again.
    fn on(&self, cut: Option<usize>) -> Self {
        Self {
            steps: 0,
            cut,
            ..self.clone()
        }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13 | 1;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Whether the power goes in this step, and with it which share of the bits has changed, in 256ths.
    fn step(&mut self) -> Option<u64> {
        self.steps += 1;
        (self.cut == Some(self.steps)).then(|| self.random() >> 20 & 0xff)
    }

    /// Bytes with some of the bits of `from` set beside those of `target`.
    fn part_way(&mut self, range: Range<usize>, target: &[u8], share: u64) {
        for (at, &target) in range.zip(target) {
            let mut bits = 0;
            for bit in 0..8 {
                if self.random() >> 30 & 0xff < share {
                    bits |= 1 << bit;
                }
            }
            self.bytes[at] = target | bits;
        }
    }
}

impl Medium for Flash {
    type Error = PowerLost;

    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), PowerLost> {
        if self.cut.is_some_and(|cut| self.steps >= cut) {
            return Err(PowerLost);
        }
        into.copy_from_slice(&self.nvram()[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), PowerLost> {
        assert!(at + from.len() <= self.length, "beyond NVRAM");
        if self.cut.is_some_and(|cut| self.steps >= cut) {
            return Err(PowerLost);
        }
        let start = self.at + at;
        let end = start + from.len();
        if matches!(self.kind, Kind::Stores) {
            for (at, store) in (start..end).step_by(4).zip(from.chunks(4)) {
                if self.step().is_some() {
                    return Err(PowerLost);
                }
                self.bytes[at..at + store.len()].copy_from_slice(store);
            }
            return Ok(());
        }
        for block in (start / self.block * self.block..end).step_by(self.block) {
            let whole = block..block + self.block;
            let before = self.bytes[whole.clone()].to_vec();
            let mut target = before.clone();
            let (first, last) = (block.max(start), whole.end.min(end));
            target[first - block..last - block].copy_from_slice(&from[first - start..last - start]);
            if let Some(share) = self.step() {
                self.part_way(whole, &before, share);
                return Err(PowerLost);
            }
            self.bytes[whole.clone()].fill(0xff);
            for (at, page) in whole.step_by(PAGE).zip(target.chunks(PAGE)) {
                if let Some(share) = self.step() {
                    self.part_way(at..at + PAGE, page, share);
                    return Err(PowerLost);
                }
                self.bytes[at..at + PAGE].copy_from_slice(page);
            }
        }
        Ok(())
    }
}

/// The size of the partition on boards.
const SIZE: usize = 0x90000;

fn formatted(size: usize) -> Vec<u8> {
    let mut nvram = vec![0xff; size];
    format(&mut nvram).expect("large enough");
    set(&mut nvram, FIRMWARE, "nidus,mode", Some(b"papr")).expect("room");
    nvram
}

/// Writes `new` over what is there.
fn write(flash: &mut Flash, new: &[u8]) -> Result<bool, PowerLost> {
    let old = flash.nvram().to_vec();
    let spare = spare(&old).start.max(spare(new).start)..new.len();
    let blocks = flash.blocks();
    change(flash, &blocks, &spare, 0, &old, new)
}

/// What of NVRAM is somebody's.
fn used(nvram: &[u8]) -> &[u8] {
    &nvram[..spare(nvram).start]
}

/// Cuts the change to `new` off at every `stride`th step, and its recovery too, and looks at what is there afterwards.
/// Returns how many cuts were tried.
fn cut_everywhere(flash: &Flash, new: &[u8], stride: usize) -> usize {
    let old = flash.nvram().to_vec();
    let mut whole = flash.on(None);
    assert_eq!(write(&mut whole, new), Ok(true), "it has a journal");
    assert_eq!(used(whole.nvram()), used(new));
    let mut tried = 0;
    for cut in (1..=whole.steps).step_by(stride) {
        let mut flash = flash.on(Some(cut));
        flash.seed = (cut as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert_eq!(write(&mut flash, new), Err(PowerLost), "step {cut}");
        // The recovery is cut off as well, once at a random step.
        let mut steps = flash.on(None);
        let blocks = steps.blocks();
        recover(&mut steps, &blocks).expect("no cut");
        if steps.steps > 0 {
            let second = 1 + usize::try_from(flash.random() >> 8).expect("64 bits") % steps.steps;
            flash = flash.on(Some(second));
            assert_eq!(recover(&mut flash, &blocks), Err(PowerLost));
        }
        flash = flash.on(None);
        let recovered = recover(&mut flash, &blocks).expect("no cut");
        assert_ne!(recovered, Recovered::Dropped, "step {cut}");
        let now = flash.nvram();
        assert!(
            used(now) == used(&old) || used(now) == used(new),
            "step {cut} of {}: neither the old nor the new NVRAM, {recovered:?}",
            whole.steps
        );
        assert_eq!(recover(&mut flash, &blocks), Ok(Recovered::Nothing));
        tried += 1;
    }
    tried
}

/// NVRAM in which settings, a header and a long run of bytes differ.
fn changed(nvram: &[u8]) -> Vec<u8> {
    let mut new = nvram.to_vec();
    set(&mut new, FIRMWARE, "nidus,mode", Some(b"opal")).expect("room");
    set(&mut new, COMMON, "petitboot,timeout", Some(b"10")).expect("room");
    new[0x3ff0..0x6010].fill(0x77);
    new
}

#[test]
fn a_change_that_is_cut_off_at_any_step_is_there_as_a_whole_or_not_at_all() {
    let mut tried = 0;
    for (kind, size, block, at, stride) in [
        (Kind::Nor, 0x30000, 0x1000, 0x8000, 1),
        // Blocks that begin elsewhere than NVRAM, small and large ones.
        (Kind::Nor, 0x30000, 0x1000, 0x8800, 1),
        (Kind::Nor, SIZE, 0x10000, 0x2f_1000, 5),
        (Kind::Stores, 0x30000, 0x1000, 0x8000, 29),
    ] {
        let old = formatted(size);
        let flash = Flash::new(kind, block, at, &old);
        tried += cut_everywhere(&flash, &changed(&old), stride);
    }
    assert!(tried >= 1000, "{tried} cuts");
}

#[test]
fn neighbours_are_not_touched_and_a_change_of_nothing_writes_nothing() {
    let old = formatted(SIZE);
    let mut flash = Flash::new(Kind::Nor, 0x10000, 0x2f_1000, &old);
    assert_eq!(write(&mut flash, &old), Ok(true));
    assert_eq!(flash.steps, 0);
    assert_eq!(write(&mut flash, &changed(&old)), Ok(true));
    assert!(flash.bytes[..flash.at].iter().all(|&byte| byte == 0x5a));
    let behind = flash.at + flash.length;
    assert!(flash.bytes[behind..].iter().all(|&byte| byte == 0xa5));
    // What is free is written, too, when somebody changes it; but nothing is put into a journal for that.
    let mut new = flash.nvram().to_vec();
    new[0x40000] ^= 0xff;
    let before = flash.on(None);
    let mut flash = flash.on(None);
    assert_eq!(write(&mut flash, &new), Ok(true));
    assert_eq!(flash.nvram(), new);
    assert_eq!(flash.steps, 1 + 0x10000 / PAGE);
    assert_ne!(before.nvram(), new);
}

#[test]
fn without_free_space_the_change_is_made_and_said_to_be_unsafe() {
    for (size, block) in [
        // Free space of a header; of less than an erase block; erase blocks larger than NVRAM.
        (0x11010, 0x1000),
        (0x12000, 0x1000),
        (SIZE, 0x20_0000),
    ] {
        let old = formatted(size);
        let new = changed(&old);
        let at = if block > SIZE { 0x1000 } else { 0x8000 };
        let mut flash = Flash::new(Kind::Nor, block, at, &old);
        if block > SIZE {
            flash.bytes.resize(block, 0);
        }
        assert_eq!(write(&mut flash, &new), Ok(false), "{size:#x}");
        assert_eq!(flash.nvram(), new);
        let blocks = flash.blocks();
        assert_eq!(recover(&mut flash, &blocks), Ok(Recovered::Nothing));
    }
    // The last partition is somebody's.
    let mut full = formatted(SIZE);
    full[0x11000..0x11010].copy_from_slice(b"\xa0\0\x7f\0somebody's.\0");
    full[0x11001] = super::super::check_sum(&array(&full, 0x11000).expect("there"));
    check(&full).expect("sound");
    assert_eq!(spare(&full), SIZE..SIZE);
    let mut flash = Flash::new(Kind::Nor, 0x1000, 0x8000, &full);
    assert_eq!(write(&mut flash, &changed(&full)), Ok(false));
}

/// A flash whose power went when half of the blocks were written.
fn half_way() -> (Flash, Vec<u8>) {
    let old = formatted(SIZE);
    let new = changed(&old);
    let mut whole = Flash::new(Kind::Nor, 0x1000, 0x8000, &old);
    let flash = whole.on(None);
    write(&mut whole, &new).expect("no cut");
    for cut in (1..whole.steps).rev() {
        let mut flash = flash.on(Some(cut));
        assert_eq!(write(&mut flash, &new), Err(PowerLost));
        let is = |range: Range<usize>, nvram: &[u8]| flash.nvram()[range.clone()] == nvram[range];
        // The first blocks are new, the last ones are old, and the one between is neither.
        let between = 0x4000..0x5000;
        if is(0..0x4000, &new)
            && is(0x5000..0x7000, &old)
            && !is(between.clone(), &new)
            && !is(between, &old)
        {
            return (flash.on(None), new);
        }
    }
    panic!("no such step");
}

#[test]
fn what_somebody_else_wrote_since_stays() {
    let (flash, new) = half_way();
    let blocks = flash.blocks();
    let mut own = flash.clone();
    assert_eq!(recover(&mut own, &blocks), Ok(Recovered::Finished));
    assert_eq!(used(own.nvram()), used(&new));
    // Another firmware has formatted it; or a setting has changed in a block that was done, or that was not begun.
    let mut formatted = vec![0; SIZE];
    format(&mut formatted).expect("large enough");
    for (at, bytes) in [
        (0, &formatted[..0x11010]),
        (0x20, &b"x"[..]),
        (0x6008, &b"x"[..]),
    ] {
        let mut flash = flash.clone();
        let start = flash.at + at;
        flash.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        let before = flash.nvram()[..0x11010].to_vec();
        assert_eq!(
            recover(&mut flash, &blocks),
            Ok(Recovered::Dropped),
            "{at:#x}"
        );
        assert_eq!(flash.nvram()[..0x11010], before);
        assert_eq!(recover(&mut flash, &blocks), Ok(Recovered::Nothing));
    }
}

#[test]
fn the_journal_of_a_failed_write_is_finished_before_the_next_one() {
    let (mut flash, new) = half_way();
    let blocks = flash.blocks();
    // As the firmware does it when the BMC is back.
    recover(&mut flash, &blocks).expect("no cut");
    let mut next = flash.nvram().to_vec();
    next[0x2000..0x2004].fill(9);
    assert_eq!(write(&mut flash, &next), Ok(true));
    assert_eq!(flash.nvram()[0x2000..0x2004], [9; 4]);
    assert_eq!(flash.nvram()[0x3000..0x7000], new[0x3000..0x7000]);
}

#[test]
fn blocks_cover_ranges_wherever_nvram_begins() {
    let blocks = Blocks::new(0x8800, 0x1000, 0x4000);
    assert_eq!(blocks.cover(0..1), 0..0x800);
    assert_eq!(blocks.cover(0x7ff..0x801), 0..0x1800);
    assert_eq!(blocks.cover(0x3fff..0x4000), 0x3800..0x4000);
    assert_eq!(blocks.cover(0x123..0x123), 0x123..0x123);
    assert_eq!(blocks.journal_end(), Some(0x3800));
    assert_eq!(
        Blocks::new(0x8000, 0x1000, 0x4000).journal_end(),
        Some(0x4000)
    );
    assert_eq!(Blocks::new(0x8001, 0x4000, 0x4000).journal_end(), None);
    assert_eq!(Blocks::new(0, 0, 0).record(), None);
    assert_eq!(Blocks::new(u64::MAX, u64::MAX, 0x4000).journal_end(), None);
}

/// How many cut-off writes and hostile journals a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(100))
}

/// A journal, with some bytes changed and its hash made right again.
fn sealed(mut body: Vec<u8>, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = *value;
        }
    }
    let length = (body.len() as u64).to_be_bytes();
    let mut record = [0; RECORD_SIZE];
    record[..8].copy_from_slice(&MARK);
    record[8..16].copy_from_slice(&length);
    record[16..80].copy_from_slice(&hash(&length, &body));
    body.extend_from_slice(&record);
    body
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn random_changes_that_are_cut_off(
        edits in prop::collection::vec((0usize..0x11400, 1usize..0x1800, any::<u8>()), 1..4),
        (block, at) in prop::sample::select(vec![(0x1000usize, 0x8000usize), (0x1000, 0x8010), (0x2000, 0x9000), (0x10000, 0x1_8000)]),
        is_nor in any::<bool>(),
        size in prop::sample::select(vec![SIZE, 0x68000]),
        cut in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let old = formatted(size);
        let mut new = old.clone();
        for (at, length, value) in edits {
            // Any byte but those of the headers, which have to stay sound.
            for (at, byte) in new.iter_mut().enumerate().skip(at).take(length) {
                if ![0, 0x1000, 0x11000].contains(&(at & !0xf)) {
                    *byte = value;
                }
            }
        }
        let kind = if is_nor { Kind::Nor } else { Kind::Stores };
        let flash = Flash { seed, ..Flash::new(kind, block, at, &old) };
        let blocks = flash.blocks();
        let mut whole = flash.clone();
        prop_assert_eq!(write(&mut whole, &new), Ok(true));
        prop_assume!(whole.steps > 0);
        let mut cut_off = flash.on(Some(1 + cut.index(whole.steps)));
        prop_assert_eq!(write(&mut cut_off, &new), Err(PowerLost));
        let mut recovery = cut_off.on(None);
        prop_assert!(recover(&mut recovery, &blocks).is_ok());
        if recovery.steps > 0 {
            cut_off = cut_off.on(Some(1 + again.index(recovery.steps)));
            prop_assert_eq!(recover(&mut cut_off, &blocks), Err(PowerLost));
        }
        let mut now = cut_off.on(None);
        prop_assert_ne!(recover(&mut now, &blocks), Ok(Recovered::Dropped));
        prop_assert!(used(now.nvram()) == used(&old) || used(now.nvram()) == used(&new));
    }

    #[test]
    fn a_hostile_journal_writes_nothing_outside_of_what_it_names(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        header in prop::collection::vec((0usize..16, any::<u8>()), 0..4),
        torn in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let old = formatted(SIZE);
        let new = changed(&old);
        let mut flash = Flash::new(Kind::Stores, 0x1000, 0x8000, &old);
        let blocks = flash.blocks();
        let mut body = journal_of(&changes(&blocks, 0, &old, &new));
        body.truncate(body.len() - RECORD_SIZE);
        for (at, value) in header {
            body[at] = value;
        }
        let mut journal = sealed(body, &damage);
        if let Some((at, value)) = torn {
            let at = at.index(journal.len());
            journal[at] = value;
        }
        let start = flash.at + SIZE - journal.len();
        flash.bytes[start..start + journal.len()].copy_from_slice(&journal);
        let before = flash.nvram()[..SIZE - journal.len()].to_vec();
        let recovered = recover(&mut flash, &blocks).expect("no cut");
        if recovered != Recovered::Finished {
            prop_assert_eq!(&flash.nvram()[..SIZE - journal.len()], &before[..]);
        }
        prop_assert!(flash.bytes[..flash.at].iter().all(|&byte| byte == 0x5a));
        prop_assert_eq!(recover(&mut flash, &blocks), Ok(if recovered == Recovered::Nothing { recovered } else { Recovered::Nothing }));
    }
}
