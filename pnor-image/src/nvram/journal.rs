//! A journal in the free space of NVRAM, so that a change that is cut off is there as a whole or not at all.
//!
//! Before NVRAM is changed, the new content of every erase block that the change touches is written to the end of the free
//! partition, with a record of it in the last bytes; afterwards the record's mark is cleared. Whoever finds a record that is
//! whole finishes the change ([`recover`]). The surprise: nobody else has to know. To skiboot and to an operating system
//! these bytes are free space, in which nothing is looked for; and as they may have changed NVRAM since, a record that does
//! not fit what is there is dropped.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use sha2::{Digest as _, Sha512};

use super::{FREE, HEADER_SIZE, partitions};
use crate::bytes::{array, be32, be64, part, put};
use crate::flash::OutOfRange;

/// Where NVRAM lasts.
pub trait Medium {
    /// What can go wrong.
    type Error;

    /// Makes what is read next owe nothing to what was read before.
    fn renew(&mut self) {}

    /// Reads from the place `at` of NVRAM on.
    ///
    /// # Errors
    /// The medium's.
    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes from the place `at` of NVRAM on, and returns when it will last.
    ///
    /// # Errors
    /// The medium's; the erase blocks that were to be written may hold anything then.
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), Self::Error>;
}

/// NVRAM in memory, as a copy to look at.
impl Medium for Vec<u8> {
    type Error = OutOfRange;

    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = part(self, at, into.len()).ok_or(OutOfRange)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), OutOfRange> {
        put(self, at, from).then_some(()).ok_or(OutOfRange)
    }
}

/// Begins a record. Another layout of the journal gets another mark.
const MARK: [u8; 8] = *b"NIDUSNV1";
/// Bytes of a record: mark, length of the journal's body (8 bytes), its SHA-512 together with these two, zeroes.
const RECORD_SIZE: usize = 128;
/// Where the hash is in it.
const HASH: usize = 16;
/// Bytes before each change in the body: where its erase block begins, its length, where the change begins and ends in
/// NVRAM (4 bytes each); then come the new erase block, and the old bytes of the change.
const CHANGE_HEADER: usize = 16;

/// Where the erase blocks of the flash lie in NVRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Bytes of NVRAM before the first erase block that begins in it.
    lead: usize,
    /// Bytes of an erase block.
    size: usize,
    /// Bytes of NVRAM.
    length: usize,
}

impl Blocks {
    /// The erase blocks of `size` bytes, when NVRAM begins at `at` in flash and has `length` bytes.
    pub fn new(at: u64, size: u64, length: usize) -> Self {
        let size = size.max(1);
        let lead = match at.checked_rem(size) {
            Some(over @ 1..) => size.saturating_sub(over),
            _ => 0,
        };
        let in_range = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            lead: in_range(lead),
            size: in_range(size),
            length,
        }
    }

    /// Bytes of NVRAM.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The part in NVRAM of the erase block that holds the byte `at`.
    fn holding(&self, at: usize) -> Range<usize> {
        let start = match at.checked_sub(self.lead) {
            None => return 0..self.lead.min(self.length),
            Some(over) => at.saturating_sub(over.checked_rem(self.size).unwrap_or(0)),
        };
        start..start.saturating_add(self.size).min(self.length)
    }

    /// All bytes of NVRAM in the erase blocks that hold a byte of `range`; empty if that is.
    pub fn cover(&self, range: Range<usize>) -> Range<usize> {
        match range.end.checked_sub(1) {
            Some(last) if range.start <= last => {
                self.holding(range.start).start..self.holding(last).end
            }
            _ => range.start..range.start,
        }
    }

    /// The end of the last erase block that is in NVRAM as a whole: there the journal ends.
    fn journal_end(&self) -> Option<usize> {
        let after_lead = self.length.checked_sub(self.lead)?;
        let whole = after_lead.saturating_sub(after_lead.checked_rem(self.size)?);
        (whole > 0).then(|| self.lead.saturating_add(whole))
    }

    /// Where the record is.
    fn record(&self) -> Option<usize> {
        self.journal_end()?.checked_sub(RECORD_SIZE)
    }
}

/// The bytes of NVRAM that nobody uses: those of a free partition at the end, without its header. Empty if there is none, or
/// if the partitions are not sound.
pub fn spare(nvram: &[u8]) -> Range<usize> {
    let none = nvram.len()..nvram.len();
    let Ok(found) = partitions(nvram) else {
        return none;
    };
    match found.last() {
        Some(last) if last.id == FREE => last.at.saturating_add(HEADER_SIZE)..nvram.len(),
        _ => none,
    }
}

/// What changes in one erase block.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    /// The part of the erase block that is in NVRAM.
    block: Range<usize>,
    /// From the first byte that changes to the last one; within the block.
    changed: Range<usize>,
    /// The block's new content.
    new: &'a [u8],
    /// What the changed bytes were.
    old: &'a [u8],
}

/// What is in an erase block when a change was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The change has not begun.
    Old,
    /// It was cut off while the block was erased or written.
    Torn,
    /// It is done.
    New,
    /// Somebody else wrote it.
    Foreign,
}

impl Change<'_> {
    /// Where the changed bytes are in the block.
    fn place(&self) -> Range<usize> {
        let start = self.block.start;
        self.changed.start.saturating_sub(start)..self.changed.end.saturating_sub(start)
    }

    /// The new content of the changed bytes.
    fn new_bytes(&self) -> &[u8] {
        self.new.get(self.place()).unwrap_or_default()
    }

    /// Compares with the content of the block. Erasing sets bits, writing clears them: a byte that lacks bits of the old one
    /// and of the new one was not left by the change.
    fn state(&self, block: &[u8]) -> State {
        let place = self.place();
        if block == self.new {
            return State::New;
        }
        let old = |at: usize, new: u8| {
            let in_change = at.checked_sub(place.start);
            in_change
                .and_then(|at| self.old.get(at).copied())
                .unwrap_or(new)
        };
        let mut state = State::Old;
        for (at, (&is, &new)) in block.iter().zip(self.new).enumerate() {
            let old = old(at, new);
            if is & old != old && is & new != new {
                return State::Foreign;
            }
            if is != old {
                state = State::Torn;
            }
        }
        state
    }
}

/// Finds what differs, erase block by erase block. `old` and `new` begin at the place `at` of NVRAM, and with whole blocks.
fn changes<'a>(blocks: &Blocks, at: usize, old: &'a [u8], new: &'a [u8]) -> Vec<Change<'a>> {
    let mut found = Vec::new();
    let end = at.saturating_add(old.len().min(new.len()));
    let mut start = at;
    while start < end {
        let block = start..blocks.holding(start).end.min(end);
        start = block.end.max(start.saturating_add(1));
        let within = block.start.saturating_sub(at)..block.end.saturating_sub(at);
        let (Some(old), Some(new)) = (old.get(within.clone()), new.get(within)) else {
            break;
        };
        let mut differing = old.iter().zip(new).enumerate();
        let mut differs = || differing.by_ref().find(|(_, (old, new))| old != new);
        let Some((first, _)) = differs() else {
            continue;
        };
        let mut last = first;
        while let Some((at, _)) = differs() {
            last = at;
        }
        let place = first..last.saturating_add(1);
        found.push(Change {
            changed: block.start.saturating_add(place.start)..block.start.saturating_add(place.end),
            block,
            new,
            old: old.get(place).unwrap_or_default(),
        });
    }
    found
}

/// Changes NVRAM: `old` is what its erase blocks from `at` on hold ([`Blocks::cover`]), `new` what they shall hold. `spare`
/// is what is free both before and after the change. What differs in there alone is nobody's, and is written last.
///
/// Returns whether the change is safe from being cut off: it is not if the journal does not fit into `spare`.
///
/// # Errors
/// The medium's. Then the change is there as a whole, or not at all, or a record of it: [`recover`] has to be called
/// before anything else is written.
pub fn change<M: Medium + ?Sized>(
    medium: &mut M,
    blocks: &Blocks,
    spare: &Range<usize>,
    at: usize,
    old: &[u8],
    new: &[u8],
) -> Result<bool, M::Error> {
    let (free, used): (Vec<_>, Vec<_>) = changes(blocks, at, old, new)
        .into_iter()
        .partition(|change| change.block.start >= spare.start);
    let apply = |medium: &mut M, changes: &[Change<'_>]| {
        changes
            .iter()
            .try_for_each(|change| medium.write(change.changed.start, change.new_bytes()))
    };
    let mut is_safe = true;
    if !used.is_empty() {
        let journal = journal_of(&used);
        match room_for(blocks, spare, journal.len()) {
            Some((start, record)) => {
                medium.write(start, &journal)?;
                apply(medium, &used)?;
                medium.write(record, &[0; MARK.len()])?;
            }
            None => {
                apply(medium, &used)?;
                is_safe = false;
            }
        }
    }
    apply(medium, &free)?;
    Ok(is_safe)
}

/// Where a journal of so many bytes begins, and where its record is; `None` if it would reach into erase blocks that hold
/// more than free space.
fn room_for(blocks: &Blocks, spare: &Range<usize>, length: usize) -> Option<(usize, usize)> {
    let end = blocks.journal_end()?;
    let start = end.checked_sub(length)?;
    (end <= spare.end && blocks.holding(start).start >= spare.start)
        .then_some((start, blocks.record()?))
}

/// Body and record of a journal.
fn journal_of(changes: &[Change<'_>]) -> Vec<u8> {
    let mut journal = Vec::new();
    for change in changes {
        let length = change.block.end.saturating_sub(change.block.start);
        for number in [
            change.block.start,
            length,
            change.changed.start,
            change.changed.end,
        ] {
            // NVRAM is far smaller than that, or the length of its partition, 32 bits of blocks, would not be one.
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            journal.extend_from_slice(&number.to_be_bytes());
        }
        journal.extend_from_slice(change.new);
        journal.extend_from_slice(change.old);
    }
    let mut record = [0; RECORD_SIZE];
    let length = (journal.len() as u64).to_be_bytes();
    let filled = put(&mut record, 0, &MARK)
        && put(&mut record, MARK.len(), &length)
        && put(&mut record, HASH, &hash(&length, &journal));
    debug_assert!(filled, "a record has room for its fields");
    journal.extend_from_slice(&record);
    journal
}

fn hash(length: &[u8; 8], body: &[u8]) -> [u8; 64] {
    let mut hasher = Sha512::new();
    hasher.update(MARK);
    hasher.update(length);
    hasher.update(body);
    hasher.finalize().into()
}

/// What a body says; `None` if it makes no sense. No change may reach into the journal itself, from `limit` on.
fn changes_in(body: &[u8], limit: usize) -> Option<Vec<Change<'_>>> {
    let mut found = Vec::new();
    let mut rest = body;
    let mut done = 0;
    while !rest.is_empty() {
        let number = |at| usize::try_from(be32(rest, at)?).ok();
        let (at, length, from, to) = (number(0)?, number(4)?, number(8)?, number(12)?);
        let end = at.checked_add(length)?;
        // In the order in which they are written, each block once.
        if at < done || end > limit || from < at || from >= to || to > end {
            return None;
        }
        done = end;
        let changed = to.checked_sub(from)?;
        let old_at = CHANGE_HEADER.checked_add(length)?;
        found.push(Change {
            block: at..end,
            changed: from..to,
            new: part(rest, CHANGE_HEADER, length)?,
            old: part(rest, old_at, changed)?,
        });
        rest = rest.get(old_at.checked_add(changed)?..)?;
    }
    Some(found)
}

/// What became of a change that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// There was none, or it had not begun.
    Nothing,
    /// It is finished now.
    Finished,
    /// It does not fit what is there: somebody else has written since. All was left as it is.
    Dropped,
}

/// Finishes a change that was cut off. To be called before NVRAM is looked at; costs one small read if there is nothing.
///
/// # Errors
/// The medium's; the change can be finished later.
pub fn recover<M: Medium + ?Sized>(medium: &mut M, blocks: &Blocks) -> Result<Recovered, M::Error> {
    let Some(at) = blocks.record() else {
        return Ok(Recovered::Nothing);
    };
    let mut record = [0; RECORD_SIZE];
    medium.read(at, &mut record)?;
    let body_length = be64(&record, MARK.len()).and_then(|length| usize::try_from(length).ok());
    let start = body_length.and_then(|length| at.checked_sub(length));
    let (Some(start), Some(MARK), Some(length), Some(wanted)) = (
        start,
        array(&record, 0),
        array::<8>(&record, MARK.len()),
        array::<64>(&record, HASH),
    ) else {
        return Ok(Recovered::Nothing);
    };
    let mut body = vec![0; at.saturating_sub(start)];
    medium.read(start, &mut body)?;
    if hash(&length, &body) != wanted {
        return Ok(Recovered::Nothing);
    }
    let Some(changes) = changes_in(&body, start) else {
        return Ok(Recovered::Nothing);
    };
    let mut states = states_of(&changes, medium)?;
    if !is_cut_off(&states) {
        // Nobody drops a journal because of what was read wrongly once.
        medium.renew();
        states = states_of(&changes, medium)?;
    }
    let is_ours = is_cut_off(&states);
    if is_ours {
        for (change, state) in changes.iter().zip(&states) {
            if *state != State::New {
                medium.write(change.block.start, change.new)?;
            }
        }
    }
    medium.write(at, &[0; MARK.len()])?;
    Ok(if is_ours {
        Recovered::Finished
    } else {
        Recovered::Dropped
    })
}

/// What is in the blocks of a journal.
fn states_of<M: Medium + ?Sized>(
    changes: &[Change<'_>],
    medium: &mut M,
) -> Result<Vec<State>, M::Error> {
    let mut states = Vec::new();
    for change in changes {
        let mut block = vec![0; change.new.len()];
        medium.read(change.block.start, &mut block)?;
        states.push(change.state(&block));
    }
    Ok(states)
}

/// Whether blocks are as a change leaves them that was cut off: done, then at most one in between, then not begun.
fn is_cut_off(states: &[State]) -> bool {
    let mut begun = states.iter().skip_while(|state| **state == State::New);
    begun
        .next()
        .is_none_or(|state| matches!(state, State::Torn | State::Old))
        && begun.all(|state| *state == State::Old)
}

#[cfg(test)]
mod tests;
